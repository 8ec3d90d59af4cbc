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
pub struct Liveness {
    name: &'static str,
    epoch: Instant,
    /// When it is late, in milliseconds of `epoch`.
    late_at: AtomicU64,
}

impl Liveness {
    /// Of a thread that begins to work now.
    pub fn new(name: &'static str) -> Self {
        let liveness = Self { name, epoch: Instant::now(), late_at: AtomicU64::new(0) };
        liveness.busy();
        liveness
    }

    /// The thread's.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// It works from now on, for [`limits::VITAL`] at most.
    pub fn busy(&self) {
        self.idle(Some(Duration::ZERO));
    }

    /// It waits from now on, for so long at most; `None`: until something happens.
    pub fn idle(&self, timeout: Option<Duration>) {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let back = timeout.map(|timeout| self.epoch.elapsed().saturating_add(timeout));
        let late_at = back.map(|back| milliseconds(back.saturating_add(limits::VITAL)));
        self.late_at.store(late_at.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether it should be back by now.
    pub fn is_stalled(&self) -> bool {
        self.is_stalled_after(self.epoch.elapsed())
    }

    fn is_stalled_after(&self, time: Duration) -> bool {
        time.as_millis() > u128::from(self.late_at.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_works_must_be_back_soon_and_who_rests_when_it_said() {
        let liveness = Liveness::new("test");
        let (epoch, hour) = (liveness.epoch, Duration::from_secs(3600));
        // Counted from when it was said, which was just now.
        let stalled_after = |time: Duration| liveness.is_stalled_after(epoch.elapsed() + time);
        liveness.busy();
        assert!(!liveness.is_stalled() && stalled_after(limits::VITAL + Duration::from_millis(2)));
        liveness.idle(Some(hour));
        assert!(
            !stalled_after(hour) && stalled_after(hour + limits::VITAL + Duration::from_millis(2))
        );
        liveness.idle(None);
        assert!(!stalled_after(Duration::from_secs(u64::from(u32::MAX))));
        liveness.busy();
        assert!(stalled_after(hour), "it is back, and works");
    }
}
