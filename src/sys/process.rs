//! Processes: memfd, descriptors, names, signals to children.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl::set_name;
use nix::sys::signal::{Signal, kill, killpg};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, gethostname, getppid};

use crate::sys::check;

/// Creates a file in memory that can be executed through `/proc/self/fd`; closed on exec.
pub fn create_memfd(name: &CStr) -> io::Result<File> {
    // Kernels from 6.3 on want this flag for a file that is executed; older ones reject it.
    const MFD_EXEC: MFdFlags = MFdFlags::from_bits_retain(0x10);
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFD_EXEC).or_else(|error| match error {
        Errno::EINVAL => memfd_create(name, MFdFlags::MFD_CLOEXEC),
        _ => Err(error),
    })?;
    Ok(File::from(fd))
}

/// The host name; `None` if it is empty.
pub fn hostname() -> Option<String> {
    let name = gethostname().ok()?;
    let name = name.to_string_lossy();
    let name = name.trim_ascii();
    (!name.is_empty()).then(|| name.to_owned())
}

/// Sets close-on-exec on every descriptor but the standard three: programs that this process starts must not inherit what
/// its own parent left open.
pub fn set_cloexec_on_inherited_fds() -> io::Result<()> {
    let first = libc::STDERR_FILENO + 1;
    // SAFETY: it takes no pointers.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, first, libc::c_int::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if result == 0 {
        return Ok(());
    }
    // Before Linux 5.11.
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_str().and_then(|number| number.parse().ok());
        if let Some(number) = number.filter(|number| *number >= first) {
            // SAFETY: it takes no pointers.
            check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
        }
    }
    Ok(())
}

/// Lets a program inherit a descriptor under its own number.
pub fn inherit_in(command: &mut Command, fd: &impl AsRawFd) {
    let number = fd.as_raw_fd();
    // SAFETY: it takes no pointers.
    let inherit = move || check(unsafe { libc::fcntl(number, libc::F_SETFD, 0) }).map(drop);
    // SAFETY: it runs between fork and exec, allocates nothing and makes system calls only.
    unsafe { command.pre_exec(inherit) };
}

/// The file with this number, which the parent has passed with [`inherit_in`]. Must be called once.
pub fn inherited_file(number: i32) -> File {
    // SAFETY: nothing else in this process knows the descriptor.
    unsafe { File::from_raw_fd(number) }
}

/// `CLOCK_MONOTONIC` as the kernel reports it to every process: clock_gettime(2).
pub fn monotonic_clock() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}

/// Names this thread; the main thread's name is what ps shows.
pub fn set_thread_name(name: &CStr) {
    // It fails only for an invalid pointer.
    let _ = set_name(name);
}

/// Whether `process` is still this process's parent.
pub(super) fn is_parent(process: u32) -> bool {
    u32::try_from(getppid().as_raw()) == Ok(process)
}

/// Exits without running destructors, in which a library could block.
pub fn exit_immediately(code: i32) -> ! {
    // SAFETY: it takes no pointers and does not return.
    unsafe { libc::_exit(code) }
}

/// Kills the process group of a child that has not been waited for yet, so that its PID cannot be reused.
pub fn kill_process_group(leader: u32) {
    if let Some(leader) = child_pid(leader) {
        // It fails only when the group has no process left.
        let _ = killpg(leader, Signal::SIGKILL);
    }
}

/// Sends a signal to a child that has not been waited for yet.
pub fn send_signal(child: u32, signal: i32) {
    if let (Some(child), Ok(signal)) = (child_pid(child), Signal::try_from(signal)) {
        // It fails only when the child has exited.
        let _ = kill(child, signal);
    }
}

/// A PID that kill(2) does not take for a group or for every process; `None` for those.
pub(super) fn child_pid(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().filter(|number| *number > 1).map(Pid::from_raw)
}
