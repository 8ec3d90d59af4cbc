//! Where the probe is in its life, and how it goes on.

use std::time::Instant;

use crate::collector::gpu::nvidia::probe_process::{Ending, Probe};

/// Where the probe is.
pub enum Phase {
    /// None is wanted.
    Off,
    /// The next one is started then.
    Resting(Instant),
    /// It was asked then, and has not answered yet.
    Asked(Probe, Instant),
    /// It has answered.
    Idle(Probe),
    /// It was killed then, or ended by itself, and is not gone yet.
    Ending { ending: Ending, since: Instant, why: Why, named: bool },
}

/// Why a probe ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Another one is to take its place, or none.
    Replaced,
    /// It did not answer, or has said itself why it cannot.
    Failed,
    /// Nobody told it to.
    Crashed,
}

/// Kills a probe.
pub fn ending(probe: Probe, now: Instant, why: Why) -> Phase {
    Phase::Ending { ending: probe.kill(), since: now, why, named: false }
}

/// Asks a probe.
pub fn ask(mut probe: Probe, now: Instant) -> Phase {
    match probe.ask() {
        Ok(()) => Phase::Asked(probe, now),
        Err(_) => ending(probe, now, Why::Crashed),
    }
}
