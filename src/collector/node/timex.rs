//! State of the clock discipline. The clock is one for all containers of a machine, so no file is read.

use std::io;

use crate::collector::host_files::HostFiles;
use crate::model::node::Measurement;
use crate::model::node::timex::{Pps, Timex};
use crate::sys;
use crate::util::error::Error;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    match sys::clock_state() {
        Ok((state, clock)) => Some(Measurement::Timex(timex(state, &clock))),
        // A system call filter, which does not change while this process runs.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
        Err(error) => {
            host.fail(Error::system("read the state of the clock".to_owned(), error));
            None
        }
    }
}

// The numbers have 32 bits on some architectures.
#[allow(clippy::useless_conversion)]
fn timex(state: i32, clock: &libc::timex) -> Timex {
    let unsigned = |value| u64::try_from(value).unwrap_or_default();
    let nanoseconds = |value| {
        let unit = if clock.status & libc::STA_NANO == 0 { 1000 } else { 1 };
        i64::from(value).saturating_mul(unit)
    };
    Timex {
        is_synchronized: state != libc::TIME_ERROR,
        offset_nanoseconds: nanoseconds(clock.offset),
        frequency_scaled_ppm: clock.freq.into(),
        max_error_microseconds: unsigned(clock.maxerror),
        estimated_error_microseconds: unsigned(clock.esterror),
        status: clock.status.cast_unsigned(),
        loop_time_constant: unsigned(clock.constant),
        tick_microseconds: unsigned(clock.tick),
        tai_offset_seconds: clock.tai,
        pps: Pps {
            frequency_scaled_ppm: clock.ppsfreq.into(),
            stability_scaled_ppm: clock.stabil.into(),
            jitter_nanoseconds: nanoseconds(clock.jitter),
            shift: clock.shift.cast_unsigned(),
            jitter_exceeded: unsigned(clock.jitcnt),
            calibrations: unsigned(clock.calcnt),
            calibration_errors: unsigned(clock.errcnt),
            stability_exceeded: unsigned(clock.stbcnt),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_the_unit_that_the_status_tells() {
        let Ok((_, mut clock)) = sys::clock_state() else { return };
        (clock.offset, clock.jitter, clock.status) = (-1500, 7, 0x40);
        let in_microseconds = timex(libc::TIME_ERROR, &clock);
        assert!(!in_microseconds.is_synchronized);
        assert_eq!(in_microseconds.offset_nanoseconds, -1_500_000);
        assert_eq!(in_microseconds.pps.jitter_nanoseconds, 7000);
        clock.status = 0x2001;
        let in_nanoseconds = timex(libc::TIME_INS, &clock);
        assert!(in_nanoseconds.is_synchronized, "a leap second is due");
        assert_eq!(in_nanoseconds.offset_nanoseconds, -1500);
        assert_eq!((in_nanoseconds.pps.jitter_nanoseconds, in_nanoseconds.status), (7, 0x2001));
    }
}
