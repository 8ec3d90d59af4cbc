//! Makes calls that the driver takes long for less often. Their last values are kept meanwhile.

use std::time::{Duration, Instant};

use gpu_probe::nvidia::SlowCall;

/// A group of calls that takes longer is slow. Those that the driver answers from memory take less than a millisecond.
const SLOW: Duration = Duration::from_millis(20);
/// Slow calls take at most this fraction of the time.
const MAX_SHARE: u32 = 100;
/// Slow calls are made at least this often.
const MAX_INTERVAL: Duration = Duration::from_secs(300);

/// A group of calls and its last result.
pub struct Paced<T> {
    calls: &'static str,
    min_interval: Duration,
    started: Option<Instant>,
    /// The shorter of the last two durations: a single one can be that of a busy machine.
    duration: Duration,
    last_duration: Option<Duration>,
    value: Option<T>,
}

impl<T> Paced<T> {
    pub fn new(calls: &'static str, min_interval: Duration) -> Self {
        Self {
            calls,
            min_interval,
            started: None,
            duration: Duration::ZERO,
            last_duration: None,
            value: None,
        }
    }

    pub fn is_due(&self, now: Instant) -> bool {
        self.started.is_none_or(|started| now >= started + self.interval())
    }

    /// Stores what the calls returned.
    pub fn set(&mut self, value: T, started: Instant, ended: Instant) {
        let duration = ended.saturating_duration_since(started);
        self.duration = self.last_duration.map_or(Duration::ZERO, |last| last.min(duration));
        (self.started, self.last_duration, self.value) =
            (Some(started), Some(duration), Some(value));
    }

    pub fn value(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// `None` unless the calls are slow.
    pub fn slow_call(&self) -> Option<SlowCall> {
        self.is_slow().then(|| SlowCall {
            calls: self.calls.to_owned(),
            seconds: self.duration.as_secs_f64(),
            interval_seconds: Some(self.interval().as_secs_f64()),
        })
    }

    fn is_slow(&self) -> bool {
        self.duration > SLOW
    }

    fn interval(&self) -> Duration {
        match self.is_slow() {
            true => (self.duration * MAX_SHARE).min(MAX_INTERVAL).max(self.min_interval),
            false => self.min_interval,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn slow_calls_are_made_less_often_until_fast_again() {
        let start = Instant::now();
        let mut paced = Paced::new("fields", Duration::ZERO);
        assert!(paced.is_due(start) && paced.value().is_none());
        paced.set(1, start, start + 500 * MS);
        assert!(paced.is_due(start + 501 * MS) && paced.slow_call().is_none(), "one is not enough");
        let second = start + 1000 * MS;
        paced.set(2, second, second + 50 * MS);
        assert!(!paced.is_due(second + 4999 * MS) && paced.is_due(second + 5000 * MS));
        let slow = paced.slow_call().unwrap();
        assert_eq!((slow.calls.as_str(), slow.seconds), ("fields", 0.05));
        assert_eq!(slow.interval_seconds, Some(5.0));
        let third = second + 5000 * MS;
        paced.set(3, third, third + MS);
        assert!(paced.is_due(third + MS) && paced.slow_call().is_none());
        assert_eq!(paced.value(), Some(&3));
    }

    #[test]
    fn interval_has_lower_and_upper_limit() {
        let start = Instant::now();
        let minute = Duration::from_secs(60);
        let mut paced = Paced::new("health", minute);
        for duration in [MS, 30 * MS, 30 * MS] {
            paced.set((), start, start + duration);
            assert_eq!(paced.interval(), minute);
        }
        for _ in 0..2 {
            paced.set((), start, start + 9000 * MS);
        }
        assert_eq!(paced.interval(), MAX_INTERVAL);
    }
}
