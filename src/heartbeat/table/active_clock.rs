//! The table's clock: it stands still while nobody listens. What an application sends to an agent that was stopped, frozen
//! with its container, or kept from the processor arrives late, or not at all, and that is not the application's fault.

use std::time::Duration;

use crate::limits;

/// The clock.
#[derive(Debug)]
pub struct ActiveClock {
    /// What the other one showed at the last look.
    seen: Duration,
    /// How long nobody listened.
    lost: Duration,
}

impl ActiveClock {
    /// Of an agent that listens from now on.
    pub fn new(now: Duration) -> Self {
        Self { seen: now, lost: Duration::ZERO }
    }

    /// The time, by a clock that never jumps and goes on all the while.
    pub fn now(&mut self, monotonic: Duration) -> Duration {
        let since = monotonic.saturating_sub(self.seen);
        self.seen = self.seen.max(monotonic);
        if since > limits::HEARTBEAT_DEAF {
            self.lost += since;
        }
        self.seen - self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(looks: &[u64]) -> Vec<u64> {
        let mut clock = ActiveClock::new(Duration::from_secs(100));
        let show = |at: &u64| clock.now(Duration::from_secs(*at)).as_secs();
        looks.iter().map(show).collect()
    }

    #[test]
    fn it_goes_while_somebody_looks_and_stands_still_else() {
        assert_eq!(shown(&[100, 101, 102, 105, 106]), [100, 101, 102, 105, 106]);
        assert_eq!(shown(&[101, 161, 162, 163]), [101, 101, 102, 103], "a minute is lost");
        assert_eq!(shown(&[104, 108, 109, 200, 201]), [100, 100, 101, 101, 102]);
    }

    #[test]
    fn it_does_not_go_back() {
        assert_eq!(shown(&[102, 101, 103]), [102, 102, 103]);
    }
}
