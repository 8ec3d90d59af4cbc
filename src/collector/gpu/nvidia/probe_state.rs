//! State machine of the probe process.

use std::time::Instant;

use crate::collector::gpu::nvidia::probe_process::{ProbeProcess, StoppingProcess};

pub(super) enum ProbeState {
    /// No probe is needed.
    Disabled,
    /// The next probe is started at this time.
    Backoff(Instant),
    /// A request was sent at this time and the reply is outstanding.
    Querying(ProbeProcess, Instant),
    /// All requests are answered.
    Idle(ProbeProcess),
    /// The probe was killed or exited, and is not reaped yet. `logged`: that it cannot be killed is logged.
    Stopping { process: StoppingProcess, since: Instant, reason: StopReason, logged: bool },
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum StopReason {
    /// Settings or GPUs changed: another probe is started, or none is needed.
    Replaced,
    /// Timeout, malformed reply, or a failure that the probe reported itself.
    Failed,
    /// The probe exited by itself.
    Crashed,
}

impl ProbeState {
    /// Sends a request to an idle probe.
    pub(super) fn query(mut probe: ProbeProcess, now: Instant) -> Self {
        match probe.request() {
            Ok(()) => Self::Querying(probe, now),
            Err(_) => Self::stop(probe, now, StopReason::Crashed),
        }
    }

    /// Kills a probe.
    pub(super) fn stop(probe: ProbeProcess, now: Instant, reason: StopReason) -> Self {
        Self::Stopping { process: probe.kill(), since: now, reason, logged: false }
    }
}
