//! What `/metrics` answers: the last sample as text that Prometheus, and everything that speaks its format, reads.
//!
//! Series of the machine have the names, labels and units of node_exporter, those of GPUs dcgm-exporter's: existing
//! dashboards and alerts find them. What the agent knows of itself is `hm_agent_*`. What is not known is absent, and
//! of everything there are only so many: what is left out is counted. Pure: data in, text out.

pub mod agent;
pub mod devices;
pub mod encoder;
pub mod gpu;
pub mod host;
pub mod memory;

use std::time::Duration;

pub use crate::metrics::encoder::Format;
use crate::metrics::encoder::Text;
use crate::model::RawSample;
use crate::model::host_info::HostInfo;

/// All that is told.
pub struct Facts<'a> {
    /// The last sample.
    pub reading: &'a RawSample,
    /// What does not change.
    pub machine: &'a HostInfo,
    /// The wall clock, since 1970.
    pub now: Duration,
    /// Time between samples.
    pub interval: Duration,
    /// Samples so far.
    pub samples: u64,
    /// The agent's own process, where it can be seen.
    pub process: Option<Process>,
    /// What is listened on.
    pub ports: &'a [PortStatus],
}

/// The agent's own process.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[allow(missing_docs)]
pub struct Process {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub threads: u64,
    pub open_files: u64,
    pub max_files: u64,
    pub start_unix_seconds: f64,
}

/// A port and what came and went through it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PortStatus {
    /// `usage`, `heartbeat`.
    pub name: &'static str,
    /// Open connections.
    pub connections: u64,
    /// Connections that were let in since the agent started.
    pub accepted: u64,
    /// Bytes that came.
    pub received_bytes: u64,
    /// Bytes that went.
    pub sent_bytes: u64,
    /// What was refused, by reason.
    pub refused: Vec<(&'static str, u64)>,
}

/// The text, behind what is there already.
pub fn render(facts: &Facts<'_>, format: Format, out: Vec<u8>) -> Vec<u8> {
    let mut text = Text::new(format, out);
    let mut left_out = LeftOut::default();
    host::write(&mut text, facts, &mut left_out);
    memory::write(&mut text, facts.reading);
    devices::write(&mut text, facts.reading, &mut left_out);
    gpu::write(&mut text, facts.reading, &mut left_out);
    agent::write(&mut text, facts, &mut left_out);
    left_out.write(&mut text);
    text.finish()
}

/// What there is more of than is told.
#[derive(Default)]
struct LeftOut(Vec<(&'static str, usize)>);

impl LeftOut {
    /// The first `most` of them.
    fn cap<'a, T>(&mut self, what: &'static str, all: &'a [T], most: usize) -> &'a [T] {
        self.add(what, all.len().saturating_sub(most));
        all.get(..most).unwrap_or(all)
    }

    fn add(&mut self, what: &'static str, count: usize) {
        match self.0.iter_mut().find(|(known, _)| *known == what) {
            Some((_, sum)) => *sum += count,
            None => self.0.push((what, count)),
        }
    }

    fn write(&self, text: &mut Text) {
        text.gauge(
            "hm_agent_metrics_left_out",
            "Things beyond the number of their kind that is told.",
        );
        for (what, count) in &self.0 {
            text.sample_with("", ("kind", what), *count);
        }
    }
}
