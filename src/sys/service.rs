//! What a process needs that stays in the background and looks after another one.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::sys::check;
use crate::sys::signals::signal_set;

/// Signals that are read, and not obeyed.
pub struct Signals(OwnedFd);

impl Signals {
    /// From now on these wait until they are read: SIGTERM, SIGINT, SIGHUP, and that of a child's end.
    pub fn block() -> io::Result<Self> {
        let wanted = signal_set(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD]);
        // SAFETY: the set is initialised and only read; a descriptor that comes back is ours alone.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const wanted, std::ptr::null_mut());
            let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
            let fd = check(libc::signalfd(-1, &raw const wanted, flags))?;
            Ok(Self(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// The next one, if there is one.
    pub fn next(&self) -> Option<i32> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: there is room for the information.
        let read = unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        // SAFETY: all of it was filled in.
        let info = (usize::try_from(read) == Ok(size)).then(|| unsafe { info.assume_init() })?;
        i32::try_from(info.ssi_signo).ok()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Goes on as two processes: the number of the other one in the first, nothing in the second. To be asked for while there is
/// no thread but this one: of the others the second process would have the locks and not the work.
pub fn fork() -> io::Result<Option<u32>> {
    // SAFETY: there is one thread, so the second process is a whole copy.
    let child = check(unsafe { libc::fork() })?;
    Ok(u32::try_from(child).ok().filter(|child| *child > 0))
}

/// Waits for a child to end.
pub fn wait_for(child: u32) {
    let Ok(child) = libc::pid_t::try_from(child) else { return };
    // SAFETY: it takes no status. There is nothing to do about a child that cannot be waited for.
    while unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) } == -1
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

/// Leaves the terminal and whoever is told its signals.
pub fn lead_session() -> io::Result<()> {
    // SAFETY: it takes no pointers.
    check(unsafe { libc::setsid() }).map(drop)
}

/// From now on the three standard streams lead nowhere. The error is that /dev/null cannot be had.
pub fn silence() -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for number in [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: it takes no pointers; nobody owns this process' standard descriptors.
        check(unsafe { libc::dup2(null.as_raw_fd(), number) })?;
    }
    Ok(())
}

/// Locks a file as long as it is open; flock(2). Whether nobody else has.
pub fn lock(file: &File) -> io::Result<bool> {
    // SAFETY: it takes no pointers.
    match check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Month (from 0), day, hour, minute and second of a time, where this machine is.
pub fn local_time(unix_seconds: u64) -> [i32; 5] {
    // As wide as the C library has it: after 2038, where that is 32 bits, stamps are wrong.
    let time = unix_seconds as _;
    let mut parts = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: the time is initialised, and there is room for its parts, for which zeroes are valid. The C library reads the
    // environment for it, which nobody changes.
    let parts = unsafe {
        libc::localtime_r(&raw const time, parts.as_mut_ptr());
        parts.assume_init()
    };
    [parts.tm_mon, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_for_one_and_ends_with_its_file() {
        let path = std::env::temp_dir().join(format!("hm-agent-lock-{}", std::process::id()));
        let open = || File::create(&path).unwrap();
        let first = open();
        assert!(lock(&first).unwrap());
        assert!(!lock(&open()).unwrap());
        drop(first);
        assert!(lock(&open()).unwrap());
        std::fs::remove_file(&path).unwrap();
    }
}
