//! Processes: the collector processes.

use crate::metrics::encoder::{Encoder, labels};
use crate::model::node::processes::Processes;

type Family = (&'static str, &'static str, fn(&Processes) -> Option<u64>);

const GAUGES: [Family; 4] = [
    ("node_processes_threads", "Number of threads.", |processes| processes.threads),
    ("node_processes_max_threads", "Maximum number of threads.", |processes| processes.max_threads),
    ("node_processes_pids", "Number of processes.", |processes| processes.pids),
    ("node_processes_max_processes", "Maximum process id. Threads have one too.", |processes| {
        processes.max_pids
    }),
];

pub(super) fn encode(encoder: &mut Encoder, processes: &Processes) {
    for (name, help, value) in GAUGES {
        encoder.gauge(name, help).sample_if("", value(processes));
    }
    encoder.gauge("node_processes_state", "Number of processes in each state that occurs.");
    for (state, count) in &processes.states {
        encoder.sample(&labels(&[("state", &state.to_string())]), *count);
    }
}
