//! The pid file. Its lock decides which process owns it: the kernel releases the lock however a process ends, while the number
//! in the file may be another process's by now.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;

use crate::sys::service;
use crate::util::error::Error;

/// A locked pid file; removed when it is dropped.
pub struct PidFile {
    path: PathBuf,
    file: Flock<File>,
}

impl PidFile {
    /// Locks the file, which may be a stale one, and writes this process's number. The error names the process that has
    /// locked it.
    pub fn create(path: PathBuf) -> Result<Self, Error> {
        let fail = |error| Error::system(format!("lock pid file {}", path.display()), error);
        loop {
            match service::try_lock(open(&path).map_err(fail)?).map_err(fail)? {
                Err(file) => return Err(fail(io::Error::other(owner(&file)))),
                // Between open and lock, the owner may have removed it.
                Ok(file) if is_at(&file, &path) => {
                    let created = Self { path, file };
                    created.write()?;
                    return Ok(created);
                }
                Ok(_) => {}
            }
        }
    }

    fn write(&self) -> Result<(), Error> {
        let number = format!("{}\n", std::process::id());
        let written =
            self.file.set_len(0).and_then(|()| self.file.write_all_at(number.as_bytes(), 0));
        written.map_err(|error| {
            Error::system(format!("write pid file {}", self.path.display()), error)
        })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if is_at(&self.file, &self.path) {
            // If it cannot be removed it is a stale one, which the next process takes over.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Not truncated: it may be another process's. Opening a named pipe must not block.
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o644);
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path)
}

fn owner(mut file: &File) -> String {
    let mut number = String::new();
    // For the error text only. The file is empty while its owner starts.
    let _ = Read::by_ref(&mut file).take(20).read_to_string(&mut number);
    let is_number = number.trim().bytes().all(|byte| byte.is_ascii_digit());
    format!("held by running process {}", if is_number { number.trim() } else { "" })
}

/// Whether `path` still names this file.
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
    fn pid_file_is_exclusive_and_stale_one_is_taken_over() {
        let path = std::env::temp_dir().join(format!("hm-agent-pid-{}", std::process::id()));
        fs::write(&path, "999999999\n").unwrap();
        let first = PidFile::create(path.clone()).unwrap();
        let own = std::process::id();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{own}\n"));
        let refused = PidFile::create(path.clone()).map(drop).unwrap_err().to_string();
        assert!(refused.ends_with(&format!("held by running process {own}")), "{refused}");
        drop(first);
        assert!(!path.exists());
        let second = PidFile::create(path.clone()).unwrap();
        // Another process's by now.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(second);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        fs::remove_file(&path).unwrap();
    }
}
