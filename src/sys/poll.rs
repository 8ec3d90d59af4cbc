//! poll(2) and eventfd(2).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{self, EfdFlags};

/// A counter in the kernel that threads can poll: readable from [`EventFd::notify`] until [`EventFd::reset`].
pub struct EventFd(eventfd::EventFd);

impl EventFd {
    /// Creates one that is not readable yet.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(eventfd::EventFd::from_flags(flags)?))
    }

    /// Wakes every thread that polls it.
    pub fn notify(&self) {
        // It fails only when the counter is full, and then it is readable already.
        let _ = self.0.write(1);
    }

    /// Makes it unreadable.
    pub fn reset(&self) {
        // It fails only when the counter is 0 already.
        let _ = self.0.read();
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The condition of a descriptor that ends a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// It can be read, or the peer has closed.
    Readable,
    /// It can be written, or the peer has closed.
    Writable,
    /// The mount table has changed since the last poll: proc_pid_mounts(5).
    Priority,
}

/// Waits until one of the descriptors is ready, at most `timeout` (`None`: without limit). Returns which are ready; none
/// after a timeout or an interruption by a signal.
pub fn wait<const N: usize>(
    fds: [(BorrowedFd<'_>, Interest); N],
    timeout: Option<Duration>,
) -> [bool; N] {
    let mut polled = fds.map(|(fd, interest)| {
        let flags = match interest {
            Interest::Readable => PollFlags::POLLIN,
            Interest::Writable => PollFlags::POLLOUT,
            Interest::Priority => PollFlags::POLLPRI,
        };
        PollFd::new(fd, flags)
    });
    // Rounded up: with a rounded-down timeout the caller would spin until its deadline.
    let timeout = timeout.map_or(PollTimeout::NONE, |timeout| {
        let milliseconds = timeout.as_nanos().div_ceil(1_000_000);
        PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)
    });
    let ready = poll(&mut polled, timeout).unwrap_or(0);
    polled.map(|fd| ready > 0 && fd.revents() != Some(PollFlags::empty()))
}

/// Waits until one of the descriptors can be read; see [`wait`].
pub fn wait_readable<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    timeout: Option<Duration>,
) -> [bool; N] {
    wait(fds.map(|fd| (fd, Interest::Readable)), timeout)
}

/// Makes reads and writes of a pipe fail with `WouldBlock` instead of waiting.
pub fn set_nonblocking(pipe: impl AsFd) -> io::Result<()> {
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eventfd_is_readable_between_notify_and_reset() {
        let event = EventFd::new().expect("an eventfd");
        assert_eq!(wait_readable([event.as_fd()], Some(Duration::ZERO)), [false]);
        event.notify();
        assert_eq!(wait_readable([event.as_fd()], None), [true]);
        event.reset();
        assert_eq!(wait_readable([event.as_fd()], Some(Duration::ZERO)), [false]);
    }
}
