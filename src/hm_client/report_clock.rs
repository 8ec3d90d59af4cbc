//! The times under which reports are delivered: the wall clock's, without its small steps back. A server files reports
//! by their time, and two of the same time, or a later one before an earlier one, are a record that nobody can read.

use std::time::Duration;

use crate::limits;

/// The times that were given.
#[derive(Debug, Default)]
pub struct MonotonicTimestamps {
    /// The last one, Unix milliseconds, and when that was.
    last: Option<(u64, Duration)>,
}

impl MonotonicTimestamps {
    /// The time of a report that is taken `now`, Unix milliseconds. While the clock is behind what was given, the
    /// time goes on at half its speed. A clock that was set back further was wrong, and is obeyed: then the second
    /// value says how far back the time goes.
    pub fn next(&mut self, unix_milliseconds: u64, now: Duration) -> (u64, Option<Duration>) {
        let (last, at) = self.last.unwrap_or((0, now));
        let elapsed = u64::try_from(now.saturating_sub(at).as_millis()).unwrap_or(u64::MAX);
        let behind = last.saturating_add(elapsed).saturating_sub(unix_milliseconds);
        let set_back = Duration::from_millis(behind);
        let wrong = set_back > limits::CLOCK_SET_BACK;
        let slow = last.saturating_add((elapsed / 2).max(1));
        let time = if wrong { unix_milliseconds } else { unix_milliseconds.max(slow) };
        self.last = Some((time, now));
        (time, wrong.then_some(set_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_795_216_252_000;

    /// Reports every 30 s by a clock that is wrong by so many seconds at each: their times, in seconds from the first.
    fn times(errors: &[i64]) -> Vec<f64> {
        let mut stamps = MonotonicTimestamps::default();
        let time = |(number, error): (u64, &i64)| {
            let clock = START.saturating_add_signed(error * 1000) + number * 30_000;
            let (time, _) = stamps.next(clock, Duration::from_secs(1000 + number * 30));
            (time as f64 - START as f64) / 1000.0
        };
        (0..).zip(errors).map(time).collect()
    }

    #[test]
    fn a_clock_that_goes_right_or_forward_is_believed() {
        assert_eq!(times(&[0, 0, 0, 0]), [0.0, 30.0, 60.0, 90.0]);
        assert_eq!(times(&[0, 3600, 3600]), [0.0, 3630.0, 3660.0]);
        assert_eq!(times(&[0, -1, 1, -2]), [0.0, 29.0, 61.0, 88.0], "no report is before another");
    }

    #[test]
    fn a_small_step_back_is_made_up_for_slowly() {
        let back = [60, 60, 0, 0, 0, 0, 0];
        assert_eq!(times(&back), [60.0, 90.0, 105.0, 120.0, 135.0, 150.0, 180.0]);
        let times = times(&[0, -600, -600, -600, -600]);
        assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
    }

    #[test]
    fn a_clock_that_was_wrong_by_far_is_obeyed_and_that_is_said() {
        assert_eq!(times(&[7200, 7200, 0, 0]), [7200.0, 7230.0, 60.0, 90.0]);
        let mut stamps = MonotonicTimestamps::default();
        let (at, then) = (Duration::from_secs(1), Duration::from_secs(3));
        assert_eq!(stamps.next(START, at), (START, None));
        let hour = Duration::from_secs(3602);
        assert_eq!(stamps.next(START - 3_600_000, then), (START - 3_600_000, Some(hour)));
        assert_eq!(stamps.next(START - 3_600_000, then).0, START - 3_599_999, "each its own");
    }
}
