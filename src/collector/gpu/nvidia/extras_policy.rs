//! When the probe leaves out the calls for optional values: a library that crashes with every probe may do so in one of them. The time is a
//! parameter.

use std::time::{Duration, Instant};

/// Probes that crash in succession, each before it was stable.
const MAX_EARLY_CRASHES: u32 = 2;
/// How long the calls are left out.
const RETRY_AFTER: Duration = Duration::from_secs(3600);

#[derive(Default)]
pub(super) struct ExtrasPolicy {
    early_crashes: u32,
    left_out_since: Option<Instant>,
}

impl ExtrasPolicy {
    /// Whether the probe that is started now shall leave them out.
    pub(super) fn on_start(&mut self, now: Instant) -> bool {
        if self.is_retry_due(now) {
            self.left_out_since = None;
            // One more crash is enough to leave them out again.
            self.early_crashes = MAX_EARLY_CRASHES - 1;
        } else if self.early_crashes >= MAX_EARLY_CRASHES && self.left_out_since.is_none() {
            self.left_out_since = Some(now);
            log::warn!(
                "the GPU probe crashed repeatedly: profiling metrics and states that need newer calls are left out for an hour"
            );
        }
        self.left_out_since.is_some()
    }

    pub(super) fn on_early_crash(&mut self) {
        self.early_crashes = self.early_crashes.saturating_add(1);
    }

    pub(super) fn on_stable(&mut self) {
        self.early_crashes = 0;
    }

    /// Whether a probe without them should be replaced.
    pub(super) fn is_retry_due(&self, now: Instant) -> bool {
        self.left_out_since.is_some_and(|since| now >= since + RETRY_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_calls_out_after_two_crashes_and_retries_after_an_hour() {
        let (mut policy, start) = (ExtrasPolicy::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        policy.on_early_crash();
        assert!(!policy.on_start(start));
        policy.on_early_crash();
        assert!(policy.on_start(after(1)));
        policy.on_stable();
        assert!(policy.on_start(after(3000)) && !policy.is_retry_due(after(3600)));
        assert!(policy.is_retry_due(after(3601)) && !policy.on_start(after(3601)));
        policy.on_early_crash();
        assert!(policy.on_start(after(3602)));
    }

    #[test]
    fn single_crash_does_not_matter() {
        let (mut policy, now) = (ExtrasPolicy::default(), Instant::now());
        for _ in 0..5 {
            policy.on_early_crash();
            policy.on_stable();
            assert!(!policy.on_start(now));
        }
    }
}
