//! syslog(2): the kernel log, for a process that has `CAP_SYSLOG` but no `/dev/kmsg`, as in a container.

use std::io;

use nix::time::{ClockId, clock_gettime};

use crate::sys::check;

/// Actions of syslog(2). Others would consume or clear the log.
const READ_ALL: libc::c_int = 3;
const SIZE_BUFFER: libc::c_int = 10;

/// Reads the last bytes of the log as text, as many as fit, and returns their number. They may begin within a line.
pub fn read_kernel_log(buffer: &mut [u8]) -> io::Result<usize> {
    let length = libc::c_int::try_from(buffer.len()).unwrap_or(libc::c_int::MAX);
    // SAFETY: the kernel writes at most `length` bytes into the buffer, which has as many.
    let read = check(unsafe { libc::klogctl(READ_ALL, buffer.as_mut_ptr().cast(), length) })?;
    Ok(usize::try_from(read).unwrap_or_default())
}

/// Size of the kernel's buffer, in bytes.
pub fn kernel_log_size() -> io::Result<usize> {
    // SAFETY: this action ignores the buffer.
    let size = check(unsafe { libc::klogctl(SIZE_BUFFER, std::ptr::null_mut(), 0) })?;
    Ok(usize::try_from(size).unwrap_or_default())
}

/// Microseconds since boot on the clock that the kernel log uses, which stops while the machine is suspended.
pub fn monotonic_microseconds() -> u64 {
    microseconds(ClockId::CLOCK_MONOTONIC)
}

/// Microseconds since boot, including the time that the machine was suspended.
pub fn microseconds_since_boot() -> u64 {
    microseconds(ClockId::CLOCK_BOOTTIME)
}

fn microseconds(clock: ClockId) -> u64 {
    let Ok(time) = clock_gettime(clock) else { return 0 };
    let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
    let nanoseconds = u64::try_from(time.tv_nsec()).unwrap_or_default();
    seconds.saturating_mul(1_000_000).saturating_add(nanoseconds / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_advance() {
        let (monotonic, boot) = (monotonic_microseconds(), microseconds_since_boot());
        assert!(monotonic > 0 && boot >= monotonic);
        assert!(monotonic_microseconds() >= monotonic);
    }

    /// Without `CAP_SYSLOG`, the kernel denies it.
    #[test]
    fn reads_at_most_what_fits() {
        let mut buffer = [0; 100];
        match read_kernel_log(&mut buffer) {
            Ok(read) => assert!(read <= buffer.len() && kernel_log_size().unwrap() > 0),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
    }
}
