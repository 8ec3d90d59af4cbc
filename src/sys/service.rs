//! System calls of `run --supervise`: signalfd, fork, setsid, flock.

use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout};

use crate::sys::poll::set_nonblocking;
use crate::sys::signals::{block, signal_set};

/// SIGTERM, SIGINT, SIGHUP and SIGCHLD, blocked and read from a descriptor.
pub struct AgentSupervisorSignals(SignalFd);

impl AgentSupervisorSignals {
    /// Blocks them in this thread.
    pub fn block() -> io::Result<Self> {
        let signals = signal_set(&[SIGTERM, SIGINT, SIGHUP, SIGCHLD]);
        block(&signals);
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(SignalFd::with_flags(&signals, flags)?))
    }

    /// The next pending signal.
    pub fn next(&self) -> Option<i32> {
        let info = self.0.read_signal().ok().flatten()?;
        i32::try_from(info.ssi_signo).ok()
    }
}

impl AsFd for AgentSupervisorSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Forks. Returns the child's PID in the parent and `None` in the child. Must be called while this thread is the only one:
/// the child would have the locks of the others and not their work.
pub fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: there is one thread, so the child is a whole copy.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Waits for a child to exit.
pub fn wait_child(child: Pid) {
    // Other errors mean that there is no such child.
    while waitpid(child, None) == Err(Errno::EINTR) {}
}

/// Leaves the terminal and its process group.
pub fn setsid() -> io::Result<()> {
    Ok(nix::unistd::setsid().map(drop)?)
}

/// Redirects standard input and output to /dev/null.
pub fn redirect_stdio_to_null() -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    Ok(dup2_stdout(&null)?)
}

pub fn redirect_stderr_to_stdout() -> io::Result<()> {
    Ok(dup2_stderr(io::stdout())?)
}

/// Result of [`try_lock`].
pub enum FileLock {
    /// Locked until it is dropped.
    Acquired(Flock<File>),
    /// Another process has locked the file.
    Busy(File),
}

/// Locks a file for as long as it is open; flock(2).
pub fn try_lock(file: File) -> io::Result<FileLock> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(locked) => Ok(FileLock::Acquired(locked)),
        Err((file, Errno::EWOULDBLOCK)) => Ok(FileLock::Busy(file)),
        Err((_, error)) => Err(error.into()),
    }
}

/// A pipe whose read end does not block; its write end does.
pub fn pipe_with_nonblocking_reader() -> io::Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    set_nonblocking(&reader)?;
    Ok((reader, writer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_lock_is_exclusive_until_file_is_closed() {
        let path = std::env::temp_dir().join(format!("hm-agent-lock-{}", std::process::id()));
        let open = || File::create(&path).unwrap();
        let first = try_lock(open()).unwrap();
        assert!(matches!(first, FileLock::Acquired(_)));
        assert!(matches!(try_lock(open()).unwrap(), FileLock::Busy(_)));
        drop(first);
        assert!(matches!(try_lock(open()).unwrap(), FileLock::Acquired(_)));
        std::fs::remove_file(&path).unwrap();
    }
}
