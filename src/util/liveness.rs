//! Detects essential threads that hang. A thread reports when it starts to work and when it waits; it is stalled if it does not
//! report again in time. The main thread then stops sending watchdog messages, and the service manager restarts the agent.
//!
//! The sampler, the accept thread of each port and `hb-monitor` have a [`Liveness`]. The main thread needs none, because it is
//! the one that checks. Upstream connections, GPUs, filesystems, state files, hooks and SSH sessions have none: what they
//! wait for may take forever, they log it themselves, and a restarted agent would wait for the same.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A thread that works longer without a report is stalled. A sample takes milliseconds, and seconds on a machine that swaps.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The liveness of one thread.
pub struct Liveness {
    name: &'static str,
    epoch: Instant,
    /// Milliseconds since `epoch` after which the thread is stalled.
    stalled_at: AtomicU64,
}

impl Liveness {
    /// For a thread that is busy from now on.
    pub fn new(name: &'static str) -> Self {
        let liveness = Self { name, epoch: Instant::now(), stalled_at: AtomicU64::new(0) };
        liveness.busy();
        liveness
    }

    /// The thread's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The thread works, for at most [`STALL_TIMEOUT`].
    pub fn busy(&self) {
        self.idle(Some(Duration::ZERO));
    }

    /// The thread waits, for at most `timeout`; `None`: without a limit.
    pub fn idle(&self, timeout: Option<Duration>) {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let busy_at = timeout.map(|timeout| self.epoch.elapsed().saturating_add(timeout));
        let stalled_at = busy_at.map(|at| milliseconds(at.saturating_add(STALL_TIMEOUT)));
        self.stalled_at.store(stalled_at.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub fn is_stalled(&self) -> bool {
        self.is_stalled_after(self.epoch.elapsed())
    }

    fn is_stalled_after(&self, time: Duration) -> bool {
        time.as_millis() > u128::from(self.stalled_at.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_stalled_after_stall_timeout_of_work() {
        let liveness = Liveness::new("test");
        let (epoch, hour) = (liveness.epoch, Duration::from_secs(3600));
        // Relative to the last report, which was just now.
        let stalled_after = |time: Duration| liveness.is_stalled_after(epoch.elapsed() + time);
        liveness.busy();
        assert!(!liveness.is_stalled() && stalled_after(STALL_TIMEOUT + Duration::from_millis(2)));
        liveness.idle(Some(hour));
        assert!(
            !stalled_after(hour) && stalled_after(hour + STALL_TIMEOUT + Duration::from_millis(2))
        );
        liveness.idle(None);
        assert!(!stalled_after(Duration::from_secs(u64::from(u32::MAX))));
        liveness.busy();
        assert!(stalled_after(hour), "busy again");
    }
}
