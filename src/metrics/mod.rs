//! Prometheus exposition of a sample, as served on `/metrics`. Pure: data in, text out.
//!
//! Host metrics have the names, labels and units of node_exporter and GPU metrics those of dcgm-exporter, so existing
//! dashboards and alerts work. The agent's own metrics are named `hm_agent_*`. Unknown values are absent. The number of
//! devices of each kind is limited; what exceeds the limit is counted in `hm_agent_metrics_truncated`.

mod agent;
mod devices;
mod encoder;
mod filesystems;
mod format;
mod gpu;
mod gpu_amd;
mod gpu_events;
mod gpu_health;
mod gpu_links;
mod gpu_nvidia;
mod gpu_process;
mod gpu_profiling;
mod gpu_status;
mod health;
mod host;
mod memory;
mod node;
mod textfile;
pub(crate) mod xid_names;

use std::time::Duration;

use crate::metrics::encoder::Encoder;
pub use crate::metrics::format::Format;
use crate::model::RawSample;
use crate::model::finding::HealthReport;
use crate::model::host_info::HostInfo;
use crate::model::status::{PortStatus, ProcessStats};

/// Input of [`render`].
pub struct Exposition<'a> {
    pub sample: &'a RawSample,
    pub host: &'a HostInfo,
    /// Wall clock, since 1970.
    pub now: Duration,
    /// Time between samples.
    pub interval: Duration,
    /// Number of samples since the agent started.
    pub samples: u64,
    /// The agent's own process; `None` if `/proc` cannot be read.
    pub process: Option<ProcessStats>,
    pub ports: &'a [PortStatus],
    pub health: &'a HealthReport,
    /// `gpu.hostname_label`.
    pub gpu_hostname_label: &'a str,
}

/// Renders the sample in `format`.
pub fn render(input: &Exposition<'_>, format: Format) -> String {
    let mut encoder = Encoder::new(format);
    let mut truncation = Truncation::default();
    host::encode(&mut encoder, input, &mut truncation);
    memory::encode(&mut encoder, input.sample);
    devices::encode(&mut encoder, input.sample, &mut truncation);
    for measurement in &input.sample.measurements {
        node::encode(&mut encoder, measurement, &mut truncation);
    }
    gpu::encode(&mut encoder, input, &mut truncation);
    agent::encode(&mut encoder, input, &mut truncation);
    health::encode(&mut encoder, input.health, &mut truncation);
    // After the agent's own families, which take precedence.
    textfile::encode(&mut encoder, input.sample, &mut truncation);
    truncation.encode(&mut encoder);
    encoder.finish()
}

/// Limits how many devices of each kind are exposed, because every series costs memory in each server that stores it.
#[derive(Default)]
struct Truncation(Vec<(&'static str, usize)>);

impl Truncation {
    /// The first `max` items; counts the others as truncated.
    fn limit<'a, T>(&mut self, kind: &'static str, items: &'a [T], max: usize) -> &'a [T] {
        self.add(kind, items.len().saturating_sub(max));
        items.get(..max).unwrap_or(items)
    }

    fn add(&mut self, kind: &'static str, count: usize) {
        match self.0.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, sum)) => *sum += count,
            None => self.0.push((kind, count)),
        }
    }

    fn encode(&self, encoder: &mut Encoder) {
        encoder.gauge(
            "hm_agent_metrics_truncated",
            "Number of items that are not exposed because there are more than the limit of their kind.",
        );
        for (kind, count) in &self.0 {
            encoder.sample_with_label("", ("kind", kind), *count);
        }
    }
}
