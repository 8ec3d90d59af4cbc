//! Numbers that look random and can be had again.

use hm_agent::util::logger::unix_seconds;

/// Marsaglia's xorshift.
pub struct Rng {
    pub seed: u64,
    state: u64,
}

impl Rng {
    /// Of `HM_SEED`, or of the time.
    pub fn new() -> Self {
        Self::of(
            std::env::var("HM_SEED").map_or_else(|_| unix_seconds(), |text| text.parse().unwrap()),
        )
    }

    pub fn of(seed: u64) -> Self {
        // Neighbouring seeds would begin alike.
        Self { seed, state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % limit
    }

    /// As a pack of cards is.
    pub fn shuffle<T>(&mut self, cards: &mut [T]) {
        for last in (1..cards.len()).rev() {
            cards.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}
