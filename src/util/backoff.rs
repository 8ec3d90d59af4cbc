//! Exponential backoff, used by everything that retries.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// Delays between attempts: `jitter · min(cap, base·2ⁿ)`. With a random jitter, a thousand agents whose server restarts
/// do not reconnect at the same moment.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    attempts: u32,
}

impl Backoff {
    /// The first delay is at most `base`; no delay exceeds `cap`.
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, attempts: 0 }
    }

    /// The delay before the next attempt. `jitter` is from 0 to 1; 1 gives the full delay. The result is never shorter
    /// than `min_delay`, which is spread by up to a fifth, because a server gives all its clients the same one.
    pub fn next_delay(&mut self, jitter: f64, min_delay: Duration) -> Duration {
        let factor = 1u32.checked_shl(self.attempts).unwrap_or(u32::MAX);
        self.attempts = self.attempts.saturating_add(1);
        let delay = self.base.saturating_mul(factor).min(self.cap);
        let spread = min_delay.mul_f64(0.2 * jitter);
        delay.mul_f64(jitter).max(min_delay.saturating_add(spread))
    }

    /// The delay where only this process retries, so that jitter would be of no use.
    pub fn next_full_delay(&mut self) -> Duration {
        self.next_delay(1.0, Duration::ZERO)
    }

    /// Starts again from `base`, after a success.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// A random number from 0 to 1. The standard library seeds its hashers from the system's random number generator, so no
/// two agents get the same sequence.
pub fn random_unit() -> f64 {
    let number = RandomState::new().build_hasher().finish();
    (number >> 11) as f64 / (1u64 << 53) as f64
}

/// Jitter from 0.5 to 1, where an early retry would be useless.
pub fn half_jitter(random: f64) -> f64 {
    0.5 + 0.5 * random
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn delays_double_up_to_cap_and_scale_with_jitter() {
        let mut backoff = Backoff::new(s(3.0), s(60.0));
        let longest: Vec<f64> =
            (0..8).map(|_| backoff.next_delay(1.0, Duration::ZERO).as_secs_f64()).collect();
        assert_eq!(longest, [3.0, 6.0, 12.0, 24.0, 48.0, 60.0, 60.0, 60.0]);
        assert_eq!(backoff.next_delay(0.0, Duration::ZERO), Duration::ZERO);
        assert_eq!(backoff.next_delay(0.5, Duration::ZERO), s(30.0));
        backoff.reset();
        assert_eq!(backoff.next_delay(1.0, Duration::ZERO), s(3.0));
        for _ in 0..100 {
            assert!(backoff.next_delay(1.0, Duration::ZERO) <= s(60.0), "after 100 attempts");
        }
    }

    #[test]
    fn min_delay_is_respected_and_spread() {
        let mut backoff = Backoff::new(s(3.0), s(60.0));
        assert_eq!(backoff.next_delay(0.0, s(100.0)), s(100.0));
        assert_eq!(backoff.next_delay(1.0, s(100.0)), s(120.0));
    }

    #[test]
    fn random_unit_is_from_0_to_1_and_varies() {
        let numbers: Vec<f64> = (0..100).map(|_| random_unit()).collect();
        assert!(numbers.iter().all(|number| (0.0..1.0).contains(number)));
        assert!(numbers.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
