//! The pid file: one process at a time has it, and whoever finds it without one takes it over.
//!
//! What counts is the lock, which the kernel takes back from whoever ends, however that comes; a number may long be another
//! process'.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::sys::service;
use crate::util::error::Error;

/// A pid file that is ours.
pub struct PidFile {
    path: PathBuf,
    /// Open as long as it is.
    locked: File,
}

impl PidFile {
    /// Takes the file. The error names who has it.
    pub fn take(path: PathBuf) -> Result<Self, Error> {
        let fail = |error| Error::system(format!("take the pid file {}", path.display()), error);
        loop {
            let mut locked = open(&path).map_err(fail)?;
            if !service::lock(&locked).map_err(fail)? {
                let mut number = String::new();
                // It is only shown. Nothing is there while the other one is just beginning.
                let _ = (&mut locked).take(20).read_to_string(&mut number);
                let is_number = number.trim().bytes().all(|byte| byte.is_ascii_digit());
                let other = if is_number { number.trim() } else { "" };
                let why = io::Error::other(format!("process {other} has it and runs"));
                return Err(fail(why));
            }
            // Between opening and locking, the one who had it may have removed it.
            if is_at(&locked, &path) {
                return Ok(Self { path, locked });
            }
        }
    }

    /// Writes this process' number. Readers find all of it or what was there before.
    pub fn write(&mut self) -> Result<(), Error> {
        let own = std::process::id();
        let mut new = self.path.clone().into_os_string();
        new.push(format!(".{own}"));
        let new = PathBuf::from(new);
        let replace = || {
            // One that an earlier process of this number left; in containers they all have the same.
            let _ = fs::remove_file(&new);
            let mut file = open(&new)?;
            // Before it is seen: who comes next finds this lock or the one on the old file.
            service::lock(&file)?;
            file.write_all(format!("{own}\n").as_bytes())?;
            fs::rename(&new, &self.path)?;
            Ok(file)
        };
        self.locked = replace().map_err(|error| {
            let _ = fs::remove_file(&new);
            Error::system(format!("write the pid file {}", self.path.display()), error)
        })?;
        Ok(())
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if is_at(&self.locked, &self.path) {
            // Where it cannot be removed it is a stale one, which the next process takes over.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    // What is there may be stale, and is not to be emptied before it is ours. A pipe in its place is not waited for.
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o644);
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path)
}

/// Whether that is the file one finds there.
fn is_at(file: &File, path: &Path) -> bool {
    let same = |file: fs::Metadata, found: fs::Metadata| {
        (file.dev(), file.ino()) == (found.dev(), found.ino())
    };
    file.metadata().is_ok_and(|file| fs::metadata(path).is_ok_and(|found| same(file, found)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_has_it_and_a_stale_one_is_taken_over() {
        let path = std::env::temp_dir().join(format!("hm-agent-pid-{}", std::process::id()));
        fs::write(&path, "999999999\n").unwrap();
        let mut first = PidFile::take(path.clone()).unwrap();
        first.write().unwrap();
        let own = std::process::id();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{own}\n"));
        let refused = PidFile::take(path.clone()).map(drop).unwrap_err().to_string();
        assert!(refused.ends_with(&format!("process {own} has it and runs")), "{refused}");
        drop(first);
        assert!(!path.exists());
        let second = PidFile::take(path.clone()).unwrap();
        // Somebody else's by now.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(second);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        fs::remove_file(&path).unwrap();
    }
}
