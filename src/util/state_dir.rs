//! Files in `state_dir`. If other users can write to the directory, their symbolic links are never followed and their pipes
//! never block the agent.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::Flock;

use crate::sys::service::{self, FileLock};
use crate::sys::users;

/// A process that is being started holds a copy of the agent's lock for milliseconds after the agent has exited.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);
const LOCK_RETRY: Duration = Duration::from_millis(20);
/// Files of one name that are kept aside.
const MAX_KEPT: usize = 10;

/// Creates the directory if it does not exist.
pub fn create_dir(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o750).create(directory)
}

/// Locks the directory for as long as the result exists. `None`: another agent has locked it. What is locked is a file that
/// other users cannot open, because read permission on the directory is enough to lock it.
pub fn lock_dir(directory: &Path) -> io::Result<Option<Flock<File>>> {
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match service::try_lock(open_lock(directory)?)? {
            FileLock::Acquired(file) => return Ok(Some(file)),
            FileLock::Busy(_) if Instant::now() >= deadline => return Ok(None),
            FileLock::Busy(_) => std::thread::sleep(LOCK_RETRY),
        }
    }
}

/// Whether the open file still has a name. What is written to a removed file is lost.
pub fn is_linked(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
}

fn open_lock(directory: &Path) -> io::Result<File> {
    let path = directory.join("lock");
    let owners = [users::effective_uid(), fs::metadata(directory)?.uid()];
    let is_own = |found: &fs::Metadata| {
        found.is_file() && owners.contains(&found.uid()) && found.nlink() == 1
    };
    match fs::symlink_metadata(&path) {
        Ok(found) if is_own(&found) => {
            let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
            OpenOptions::new().write(true).custom_flags(flags).open(&path)
        }
        // Another user created it, so that no agent can start.
        Ok(_) => create_file(&path, 0o600),
        Err(error) if error.kind() == ErrorKind::NotFound => create_file(&path, 0o600),
        Err(error) => Err(error),
    }
}

/// Creates an empty file for this user. An existing file of that name is removed first: a symbolic link would redirect the
/// writes, and another user's file would stay readable for that user.
pub fn create_file(path: &Path, mode: u32) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    let directory = path.parent().map(fs::metadata).transpose()?;
    if let Some(directory) = directory.filter(|found| found.uid() != users::effective_uid())
        && users::effective_uid() == 0
    {
        // An agent that root runs once must not leave files that the service cannot read. Root without CAP_CHOWN does.
        let _ = fchown(&file, Some(directory.uid()), Some(directory.gid()));
    }
    Ok(file)
}

/// Renames a file that cannot be used to `NAME.damaged`, so that its content is not lost. Older ones become `NAME.damaged.1`
/// and so on. Fails rather than to remove one.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let kept = next_kept_path(path)?;
    fs::rename(path, &kept)?;
    Ok(kept)
}

/// The same for a file that could not be renamed at first, before it is replaced.
pub fn set_aside_late(path: &Path) -> io::Result<()> {
    match set_aside(path) {
        Ok(kept) => {
            log::warn!("{} is renamed to {}", path.display(), kept.display());
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The same for a file that will be replaced: until then it keeps its name, too.
pub fn keep_copy(path: &Path) -> io::Result<PathBuf> {
    let kept = next_kept_path(path)?;
    fs::hard_link(path, &kept)?;
    Ok(kept)
}

fn next_kept_path(path: &Path) -> io::Result<PathBuf> {
    let kept = |number: usize| {
        let mut name = path.as_os_str().to_owned();
        name.push(".damaged");
        if number > 0 {
            name.push(format!(".{number}"));
        }
        PathBuf::from(name)
    };
    let exists = |number: &usize| fs::symlink_metadata(kept(*number)).is_ok();
    let free = (0..MAX_KEPT).find(|number| !exists(number)).ok_or_else(|| {
        io::Error::other(format!("{MAX_KEPT} damaged files are kept already, remove them"))
    })?;
    for number in (0..free).rev() {
        fs::rename(kept(number), kept(number + 1))?;
    }
    Ok(kept(0))
}

/// Returns when a rename in the directory is on disk.
pub fn sync_dir(directory: &Path) -> io::Result<()> {
    match File::open(directory)?.sync_all() {
        // Some file systems, e.g. over FUSE, cannot sync directories.
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}

/// Opens a regular file for reading. Rejects symbolic links and pipes; opening a pipe would block until a writer opens it.
pub fn open_file(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("not a regular file")),
    }
}

/// Fails if another user could replace a program in that directory, which then must not be run.
pub fn check_exclusive(directory: &Path) -> io::Result<()> {
    let metadata = fs::metadata(directory)?;
    let sticky = metadata.mode() & 0o1000 != 0;
    // In a sticky directory only the owner of a file can replace it.
    match metadata.mode() & 0o022 != 0 && !sticky
        || ![0, users::effective_uid()].contains(&metadata.uid())
    {
        true => Err(io::Error::other("other users can write there")),
        false => Ok(()),
    }
}

pub fn warn_if_world_writable(directory: &Path) {
    if fs::metadata(directory).is_ok_and(|metadata| metadata.mode() & 0o002 != 0) {
        log::warn!(
            "{} is world-writable: any user of this machine can change the agent's state; see state_dir",
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
            create_dir(&dir).unwrap();
            Self(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn replaces_symbolic_link_and_readable_file() {
        let dir = Dir::new("create");
        let (path, target) = (dir.0.join("file"), dir.0.join("target"));
        fs::write(&target, "precious").unwrap();
        symlink(&target, &path).unwrap();
        create_file(&path, 0o600).unwrap().write_all(b"new").unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let mut old = open_file(&path).unwrap();
        let file = create_file(&path, 0o600).unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        let mut read = String::new();
        old.read_to_string(&mut read).unwrap();
        assert_eq!(read, "new", "the replaced file is unchanged");
        assert!(create_file(&dir.0, 0o600).is_err());
    }

    #[test]
    fn rejects_symbolic_link_and_pipe_without_blocking() {
        let dir = Dir::new("open");
        let (link, pipe) = (dir.0.join("link"), dir.0.join("pipe"));
        symlink("/etc/passwd", &link).unwrap();
        assert!(open_file(&link).is_err());
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(open_file(&pipe).unwrap_err().to_string(), "not a regular file");
        assert_eq!(open_file(&dir.0.join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn locks_a_directory_for_one_agent() {
        let dir = Dir::new("lock");
        let locked = lock_dir(&dir.0).unwrap();
        assert!(locked.is_some() && lock_dir(&dir.0).unwrap().is_none());
        let mode = fs::metadata(dir.0.join("lock")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600, "no other user can lock it");
        drop(locked);
        assert!(lock_dir(&dir.0).unwrap().is_some());
    }

    #[test]
    fn replaces_what_is_no_lock_file() {
        let (dir, other) = (Dir::new("planted"), Dir::new("target"));
        let (path, target) = (dir.0.join("lock"), other.0.join("target"));
        fs::write(&target, "precious").unwrap();
        let pipe = || std::process::Command::new("mkfifo").arg(&path).status().unwrap().success();
        let plant: [&dyn Fn(); 4] = [
            &|| symlink(&target, &path).unwrap(),
            &|| fs::hard_link(&target, &path).unwrap(),
            &|| assert!(pipe()),
            &|| {
                fs::write(&path, "").unwrap();
                if users::effective_uid() == 0 {
                    std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
                }
            },
        ];
        for plant in plant {
            plant();
            assert!(lock_dir(&dir.0).unwrap().is_some());
            let lock = fs::symlink_metadata(&path).unwrap();
            assert!(lock.is_file() && lock.nlink() == 1 && lock.uid() == users::effective_uid());
            fs::remove_file(&path).unwrap();
        }
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    }

    #[test]
    fn files_of_root_belong_to_the_owner_of_the_directory() {
        if users::effective_uid() != 0 {
            return;
        }
        let dir = Dir::new("owner");
        std::os::unix::fs::chown(&dir.0, Some(65534), Some(65534)).unwrap();
        drop(lock_dir(&dir.0).unwrap());
        create_file(&dir.0.join("file"), 0o600).unwrap();
        for name in ["lock", "file"] {
            let found = fs::metadata(dir.0.join(name)).unwrap();
            assert_eq!((found.uid(), found.gid()), (65534, 65534), "{name}");
        }
    }

    #[test]
    fn keeps_ten_damaged_files_and_removes_none() {
        let dir = Dir::new("damaged");
        let path = dir.0.join("file");
        for number in 0..MAX_KEPT {
            fs::write(&path, number.to_string()).unwrap();
            assert_eq!(set_aside(&path).unwrap(), dir.0.join("file.damaged"));
        }
        let kept = |name: &str| fs::read_to_string(dir.0.join(name)).unwrap();
        assert_eq!((kept("file.damaged"), kept("file.damaged.9")), ("9".into(), "0".into()));
        fs::write(&path, "last").unwrap();
        assert!(set_aside(&path).is_err() && keep_copy(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "last");
    }

    #[test]
    fn rejects_directory_writable_by_group_or_others() {
        let dir = Dir::new("alone");
        let with = |mode| fs::set_permissions(&dir.0, fs::Permissions::from_mode(mode)).unwrap();
        for (mode, good) in
            [(0o750, true), (0o777, false), (0o1777, true), (0o702, false), (0o770, false)]
        {
            with(mode);
            assert_eq!(check_exclusive(&dir.0).is_ok(), good, "{mode:o}");
        }
    }
}
