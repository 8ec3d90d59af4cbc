//! State of the kernel's clock discipline.

use std::io;

use crate::sys::check;

/// Reads the state of the system clock, adjtimex(2). Changes nothing, so the kernel demands no capability. Returns the clock's
/// state (`TIME_OK` to `TIME_ERROR`) and its parameters.
///
/// System call filters permit one of the two calls, or none (`EPERM`): those of container runtimes before 2020 permit neither
/// without `CAP_SYS_TIME`, those after clock_adjtime(2) only.
pub fn clock_state() -> io::Result<(i32, libc::timex)> {
    // SAFETY: all members are numbers, for which zero is valid. `modes` 0 sets nothing.
    let mut clock: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes to `clock` only.
    let state = check(unsafe { libc::clock_adjtime(libc::CLOCK_REALTIME, &raw mut clock) });
    let state = state.or_else(|_| {
        // SAFETY: as above.
        check(unsafe { libc::adjtimex(&raw mut clock) })
    });
    Ok((state?, clock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_clock_or_is_not_permitted_to() {
        match clock_state() {
            Ok((state, clock)) => {
                assert!((libc::TIME_OK..=libc::TIME_ERROR).contains(&state), "{state}");
                // 10 ms at USER_HZ, in microseconds; at most a tenth more or less.
                assert!((9_000..=11_000).contains(&clock.tick), "{}", clock.tick);
            }
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EPERM)),
        }
    }
}
