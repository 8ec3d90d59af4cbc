//! Timestamps of reports: the wall clock with small backward steps smoothed. A server stores reports by timestamp, so they
//! must be unique and in order.

use std::time::Duration;

/// Time servers step a clock back by less than this. Such a step does not set reports back, and a report's timestamp is
/// then wrong by no more than this, for twice as long.
const MAX_SMOOTHED_STEP: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub struct ReportClock {
    /// The last timestamp in Unix milliseconds, and when it was taken on the monotonic clock.
    last: Option<(u64, Duration)>,
}

impl ReportClock {
    /// The timestamp of a report in Unix milliseconds; `now` is on the monotonic clock. While the wall clock is behind the
    /// last timestamp, timestamps advance at half speed. A clock that was set back by more than [`MAX_SMOOTHED_STEP`] was
    /// wrong before and is followed; the second value is then the size of the step.
    pub fn next(&mut self, unix_milliseconds: u64, now: Duration) -> (u64, Option<Duration>) {
        let (last, at) = self.last.unwrap_or((0, now));
        let elapsed = u64::try_from(now.saturating_sub(at).as_millis()).unwrap_or(u64::MAX);
        let behind = last.saturating_add(elapsed).saturating_sub(unix_milliseconds);
        let set_back = Duration::from_millis(behind);
        let follow = set_back > MAX_SMOOTHED_STEP;
        let slow = last.saturating_add((elapsed / 2).max(1));
        let time = if follow { unix_milliseconds } else { unix_milliseconds.max(slow) };
        self.last = Some((time, now));
        (time, follow.then_some(set_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_795_216_252_000;

    /// Timestamps, in seconds after the first, of reports every 30 s by a clock that has these errors, in seconds.
    fn times(errors: &[i64]) -> Vec<f64> {
        let mut report_clock = ReportClock::default();
        let time = |(number, error): (u64, &i64)| {
            let clock = START.saturating_add_signed(error * 1000) + number * 30_000;
            let (time, _) = report_clock.next(clock, Duration::from_secs(1000 + number * 30));
            (time as f64 - START as f64) / 1000.0
        };
        (0..).zip(errors).map(time).collect()
    }

    #[test]
    fn follows_a_correct_clock_and_steps_forward() {
        assert_eq!(times(&[0, 0, 0, 0]), [0.0, 30.0, 60.0, 90.0]);
        assert_eq!(times(&[0, 3600, 3600]), [0.0, 3630.0, 3660.0]);
        assert_eq!(times(&[0, -1, 1, -2]), [0.0, 29.0, 61.0, 88.0], "always increasing");
    }

    #[test]
    fn runs_at_half_speed_after_a_small_step_back() {
        let back = [60, 60, 0, 0, 0, 0, 0];
        assert_eq!(times(&back), [60.0, 90.0, 105.0, 120.0, 135.0, 150.0, 180.0]);
        let times = times(&[0, -600, -600, -600, -600]);
        assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
    }

    #[test]
    fn follows_and_reports_a_large_step_back() {
        assert_eq!(times(&[7200, 7200, 0, 0]), [7200.0, 7230.0, 60.0, 90.0]);
        let mut clock = ReportClock::default();
        let (at, then) = (Duration::from_secs(1), Duration::from_secs(3));
        assert_eq!(clock.next(START, at), (START, None));
        let hour = Duration::from_secs(3602);
        assert_eq!(clock.next(START - 3_600_000, then), (START - 3_600_000, Some(hour)));
        assert_eq!(clock.next(START - 3_600_000, then).0, START - 3_599_999, "unique");
    }
}
