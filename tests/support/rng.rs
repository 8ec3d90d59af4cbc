//! Pseudo-random numbers that can be repeated.

use hm_agent::util::logger::unix_seconds;

/// Marsaglia's xorshift.
pub struct Rng {
    pub seed: u64,
    state: u64,
}

impl Rng {
    /// Seeded by `HM_SEED`, or by the time.
    pub fn new() -> Self {
        Self::of(
            std::env::var("HM_SEED").map_or_else(|_| unix_seconds(), |text| text.parse().unwrap()),
        )
    }

    pub fn of(seed: u64) -> Self {
        // Without the multiplication, neighbouring seeds would start with similar numbers.
        Self { seed, state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % limit
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}
