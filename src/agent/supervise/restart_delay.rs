//! How long a dead agent stays dead: pure.

use std::time::Duration;

use crate::limits;

/// Doubles from one end to the next, up to a limit.
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: limits::RESTART.0 }
    }
}

impl Backoff {
    /// How long to wait after one that has `lived` so long.
    pub fn after(&mut self, lived: Duration) -> Duration {
        if lived >= limits::STEADY {
            self.next = limits::RESTART.0;
        }
        let wait = self.next;
        self.next = (2 * wait).min(limits::RESTART.1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_to_a_minute_and_begins_anew_after_a_good_life() {
        let mut backoff = Backoff::default();
        let short = limits::STEADY - Duration::from_millis(1);
        let waits: Vec<_> = (0..8).map(|_| backoff.after(short).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.after(limits::STEADY).as_secs(), 1);
        assert_eq!(backoff.after(Duration::ZERO).as_secs(), 2);
    }
}
