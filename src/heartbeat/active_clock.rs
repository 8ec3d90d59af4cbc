//! The clock of the heartbeat table. It stands still while the agent does not run: heartbeats sent to an agent that was
//! stopped, frozen with its container, or starved of CPU time arrive late or not at all, and that must not make an
//! application overdue.

use std::time::Duration;

/// The monitor thread reads the clock every second. A longer gap between two readings means that the process was paused. A
/// pause below the threshold cannot make a punctual application overdue: that takes three timeouts, which are 3 s at least.
pub const PAUSE_THRESHOLD: Duration = Duration::from_secs(3);

/// A monotonic clock without the time in which the process was paused.
#[derive(Debug)]
pub struct ActiveClock {
    /// The monotonic time of the last reading.
    last_reading: Duration,
    paused_total: Duration,
}

impl ActiveClock {
    /// A clock of a process that runs from `now` on.
    pub fn new(now: Duration) -> Self {
        Self { last_reading: now, paused_total: Duration::ZERO }
    }

    /// Converts a monotonic time to active time.
    pub fn now(&mut self, monotonic: Duration) -> Duration {
        let elapsed = monotonic.saturating_sub(self.last_reading);
        self.last_reading = self.last_reading.max(monotonic);
        if elapsed > PAUSE_THRESHOLD {
            self.paused_total += elapsed;
        }
        self.last_reading - self.paused_total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn active_seconds(readings: &[u64]) -> Vec<u64> {
        let mut clock = ActiveClock::new(Duration::from_secs(100));
        let read = |at: &u64| clock.now(Duration::from_secs(*at)).as_secs();
        readings.iter().map(read).collect()
    }

    #[test]
    fn excludes_gaps_longer_than_pause_threshold() {
        assert_eq!(active_seconds(&[100, 101, 102, 105, 106]), [100, 101, 102, 105, 106]);
        assert_eq!(active_seconds(&[101, 161, 162, 163]), [101, 101, 102, 103], "1 min pause");
        assert_eq!(active_seconds(&[104, 108, 109, 200, 201]), [100, 100, 101, 101, 102]);
    }

    #[test]
    fn never_goes_back() {
        assert_eq!(active_seconds(&[102, 101, 103]), [102, 102, 103]);
    }
}
