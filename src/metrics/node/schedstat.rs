//! Scheduler statistics: the collector schedstat.

use crate::metrics::Truncation;
use crate::metrics::encoder::{Encoder, Number, labels};
use crate::metrics::host::MAX_CPUS;
use crate::procfs::schedstat::CpuSchedStat;

type Family = (&'static str, &'static str, fn(&CpuSchedStat) -> Number);

const COUNTERS: [Family; 3] = [
    (
        "node_schedstat_running_seconds_total",
        "Time in which tasks ran on the CPU, in seconds.",
        |cpu| Number::Decimal(cpu.running_nanoseconds, 9),
    ),
    (
        "node_schedstat_waiting_seconds_total",
        "Sum of the times that tasks waited for the CPU, in seconds.",
        |cpu| Number::Decimal(cpu.waiting_nanoseconds, 9),
    ),
    ("node_schedstat_timeslices_total", "Number of timeslices that ran on the CPU.", |cpu| {
        cpu.timeslices.into()
    }),
];

pub(super) fn encode(encoder: &mut Encoder, cpus: &[CpuSchedStat], truncation: &mut Truncation) {
    let cpus: Vec<(String, &CpuSchedStat)> = truncation
        .limit("schedstat_cpus", cpus, MAX_CPUS)
        .iter()
        .map(|cpu| (labels(&[("cpu", &cpu.cpu.to_string())]), cpu))
        .collect();
    for (name, help, value) in COUNTERS {
        encoder.counter(name, help);
        for (labels, cpu) in &cpus {
            encoder.sample(labels, value(cpu));
        }
    }
}
