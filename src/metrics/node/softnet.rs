//! Packets that each CPU received: the collector softnet.

use crate::metrics::Truncation;
use crate::metrics::encoder::{Encoder, labels};
use crate::metrics::host::MAX_CPUS;
use crate::procfs::softnet_stat::SoftnetCpu;

type Family = (&'static str, &'static str, fn(&SoftnetCpu) -> Option<u32>);

const COUNTERS: [Family; 6] = [
    ("node_softnet_processed_total", "Number of packets processed.", |cpu| Some(cpu.processed)),
    (
        "node_softnet_dropped_total",
        "Number of packets dropped because the backlog was full.",
        |cpu| Some(cpu.dropped),
    ),
    (
        "node_softnet_times_squeezed_total",
        "Number of times processing stopped while packets were waiting, because its budget was used up.",
        |cpu| Some(cpu.times_squeezed),
    ),
    (
        "node_softnet_cpu_collision_total",
        "Number of times the lock of a transmit queue was held by another CPU.",
        |cpu| Some(cpu.cpu_collision),
    ),
    (
        "node_softnet_received_rps_total",
        "Number of times another CPU passed packets to this one (receive packet steering).",
        |cpu| cpu.received_rps,
    ),
    (
        "node_softnet_flow_limit_count_total",
        "Number of packets dropped because their flow was over its limit.",
        |cpu| cpu.flow_limit_count,
    ),
];

pub(super) fn encode(encoder: &mut Encoder, cpus: &[SoftnetCpu], truncation: &mut Truncation) {
    let named: Vec<(String, &SoftnetCpu)> = truncation
        .limit("softnet_cpus", cpus, MAX_CPUS)
        .iter()
        .map(|cpu| (labels(&[("cpu", &cpu.cpu.to_string())]), cpu))
        .collect();
    for (name, help, value) in COUNTERS {
        encoder.counter(name, help);
        for (labels, cpu) in &named {
            encoder.sample_if(labels, value(cpu));
        }
    }
    encoder.gauge("node_softnet_backlog_len", "Number of packets in the backlog.");
    for (labels, cpu) in &named {
        encoder.sample_if(labels, cpu.backlog_packets);
    }
}
