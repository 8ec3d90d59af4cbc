//! The pid file. Its lock decides which process owns it: the kernel releases the lock however a process ends, while the number
//! in the file may be another process's by now.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;

use crate::sys::service::{self, FileLock};
use crate::sys::users::effective_uid;
use crate::util::error::Error;

/// flock(2) is open to every user that can read the file, and a user that keeps it locked prevents every further start.
const MODE: u32 = 0o600;

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
                FileLock::Busy(file) => return Err(fail(io::Error::other(owner(&file)))),
                // Between open and lock, the owner may have removed it.
                FileLock::Acquired(file) if is_at(&file, &path) => {
                    let created = Self { path, file };
                    created.write()?;
                    return Ok(created);
                }
                FileLock::Acquired(_) => {}
            }
        }
    }

    fn write(&self) -> Result<(), Error> {
        let number = format!("{}\n", std::process::id());
        // A file of an earlier version may have another mode.
        let written = self.file.set_permissions(Permissions::from_mode(MODE));
        // Truncated last: a reader must not find an empty file in place of a stale one.
        let written = written.and_then(|()| self.file.write_all_at(number.as_bytes(), 0));
        let written = written.and_then(|()| self.file.set_len(number.len() as u64));
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
    options.read(true).write(true).create(true).truncate(false).mode(MODE);
    let file = options.custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path)?;
    let metadata = file.metadata()?;
    // In a directory that others can write to, another user may have created it: to block the start, to choose the number that
    // an init script signals, or, with a hard link, to have another file of this user overwritten. No link: just removed.
    let is_own = metadata.is_file() && metadata.uid() == effective_uid() && metadata.nlink() <= 1;
    match is_own {
        true => Ok(file),
        false => Err(io::Error::other("not a regular file of this user with a single name")),
    }
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
    file.metadata()
        .is_ok_and(|file| fs::symlink_metadata(path).is_ok_and(|found| same(file, found)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn pid_file_is_exclusive_and_stale_one_is_taken_over() {
        let path = std::env::temp_dir().join(format!("hm-agent-pid-{}", std::process::id()));
        fs::write(&path, "999999999\n").unwrap();
        let first = PidFile::create(path.clone()).unwrap();
        let own = std::process::id();
        assert_eq!(
            fs::metadata(&path).unwrap().mode() & 0o777,
            0o600,
            "other users cannot lock it"
        );
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

    #[test]
    fn refuses_links_and_files_that_are_not_regular() {
        let directory = std::env::temp_dir().join(format!("hm-agent-pids-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let (target, path) = (directory.join("target"), directory.join("pid"));
        fs::write(&target, "kept").unwrap();
        let link_to_target: [fn(&Path, &Path) -> io::Result<()>; 2] =
            [|target, path| fs::hard_link(target, path), |target, path| symlink(target, path)];
        for link in link_to_target {
            link(&target, &path).unwrap();
            assert!(PidFile::create(path.clone()).is_err());
            fs::remove_file(&path).unwrap();
        }
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let refused = PidFile::create(path.clone()).map(drop).unwrap_err().to_string();
        assert!(refused.ends_with("not a regular file of this user with a single name"));
        assert_eq!(fs::read_to_string(&target).unwrap(), "kept");
        fs::remove_dir_all(&directory).unwrap();
    }
}
