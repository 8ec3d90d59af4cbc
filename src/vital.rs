//! Whether a thread that the agent cannot do without gets on: it says when it begins to work and when it rests. Who is not back
//! in time hangs.
//!
//! The sampler has one, without which all values stand still; each port, which would let nobody in; and the thread that sees
//! applications fall overdue. The main thread needs none, since it is the one that looks. Links to servers, GPUs, file systems and
//! SSH sessions have none: what they wait for may take for ever, they say so themselves, and a new agent would wait for it
//! again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::limits;

/// One thread's.
pub struct Vital {
    name: &'static str,
    epoch: Instant,
    /// When it is late, in milliseconds of `epoch`.
    late_at: AtomicU64,
}

impl Vital {
    /// Of a thread that begins to work now.
    pub fn new(name: &'static str) -> Self {
        let vital = Self { name, epoch: Instant::now(), late_at: AtomicU64::new(0) };
        vital.works();
        vital
    }

    /// The thread's.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// It works from now on, for [`limits::VITAL`] at most.
    pub fn works(&self) {
        self.rests(Some(Duration::ZERO));
    }

    /// It waits from now on, for so long at most; `None`: until something happens.
    pub fn rests(&self, timeout: Option<Duration>) {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let back = timeout.map(|timeout| self.epoch.elapsed().saturating_add(timeout));
        let late_at = back.map(|back| milliseconds(back.saturating_add(limits::VITAL)));
        self.late_at.store(late_at.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether it should be back by now.
    pub fn is_late(&self) -> bool {
        self.is_late_after(self.epoch.elapsed())
    }

    fn is_late_after(&self, time: Duration) -> bool {
        time.as_millis() > u128::from(self.late_at.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_works_must_be_back_soon_and_who_rests_when_it_said() {
        let vital = Vital::new("test");
        let (epoch, hour) = (vital.epoch, Duration::from_secs(3600));
        // Counted from when it was said, which was just now.
        let late_after = |time: Duration| vital.is_late_after(epoch.elapsed() + time);
        vital.works();
        assert!(!vital.is_late() && late_after(limits::VITAL + Duration::from_millis(2)));
        vital.rests(Some(hour));
        assert!(!late_after(hour) && late_after(hour + limits::VITAL + Duration::from_millis(2)));
        vital.rests(None);
        assert!(!late_after(Duration::from_secs(u64::from(u32::MAX))));
        vital.works();
        assert!(late_after(hour), "it is back, and works");
    }
}
