//! Files in `state_dir`. Where others may write there, too, nothing is written through what they put in the way, and nothing
//! that they put there is waited for.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::sys::users;

/// Makes the directory, if it is not there.
pub fn make(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o750).create(directory)
}

/// A new, empty file for this user alone. What has that name goes first: a link would lead the writer elsewhere, and
/// somebody else's file would stay theirs to read.
pub fn create(path: &Path, mode: u32) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => OpenOptions::new().write(true).create_new(true).mode(mode).open(path),
    }
}

/// Opens a file to be read. A link is none, and a pipe, for which a writer would be waited for, neither.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no file")),
    }
}

/// Why a program in that directory is not to be run: somebody else could have put another one in its place.
pub fn check_alone(directory: &Path) -> io::Result<()> {
    let found = fs::metadata(directory)?;
    let sticky = found.mode() & 0o1000 != 0;
    match found.mode() & 0o002 != 0 && !sticky
        || ![0, users::effective_uid()].contains(&found.uid())
    {
        true => Err(io::Error::other("other users can write there")),
        false => Ok(()),
    }
}

/// Says in the log if everybody can write there.
pub fn remark(directory: &Path) {
    if fs::metadata(directory).is_ok_and(|found| found.mode() & 0o002 != 0) {
        log::warn!(
            "{}: every user of this machine can write there, and have the agent believe what it finds; see state_dir",
            directory.display()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("hm-state-{name}-{}", std::process::id()));
            make(&dir).unwrap();
            Self(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn nothing_is_written_through_a_link_or_into_what_somebody_else_can_read() {
        let dir = Dir::new("create");
        let (path, target) = (dir.0.join("file"), dir.0.join("target"));
        fs::write(&target, "precious").unwrap();
        symlink(&target, &path).unwrap();
        create(&path, 0o600).unwrap().write_all(b"new").unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let mut theirs = open(&path).unwrap();
        let file = create(&path, 0o600).unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        let mut read = String::new();
        theirs.read_to_string(&mut read).unwrap();
        assert_eq!(read, "new", "the old one stays what it was");
        assert!(create(&dir.0, 0o600).is_err());
    }

    #[test]
    fn a_link_is_not_followed_and_a_pipe_not_waited_for() {
        let dir = Dir::new("open");
        let (link, pipe) = (dir.0.join("link"), dir.0.join("pipe"));
        symlink("/etc/passwd", &link).unwrap();
        assert!(open(&link).is_err());
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(open(&pipe).unwrap_err().to_string(), "it is no file");
        assert_eq!(open(&dir.0.join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn no_program_is_run_from_where_others_can_write() {
        let dir = Dir::new("alone");
        let with = |mode| fs::set_permissions(&dir.0, fs::Permissions::from_mode(mode)).unwrap();
        for (mode, good) in [(0o750, true), (0o777, false), (0o1777, true), (0o702, false)] {
            with(mode);
            assert_eq!(check_alone(&dir.0).is_ok(), good, "{mode:o}");
        }
    }
}
