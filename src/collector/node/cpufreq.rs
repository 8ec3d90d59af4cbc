//! Frequencies of the CPUs, from `/sys/devices/system/cpu/cpu*/cpufreq` (kernel `Documentation/admin-guide/pm/cpufreq.rst`). Virtual
//! machines have none.
//!
//! The current frequency of x86 is that of `/proc/cpuinfo`. The kernel computes both from the same counters, but before Linux 5.19 a
//! read of `scaling_cur_freq` waits for 10 or 20 ms, and one of `/proc/cpuinfo` once for all CPUs (`arch/x86/kernel/cpu/aperfmperf.c`).

use std::collections::HashMap;
use std::path::Path;

use crate::collector::host_files::HostFiles;
use crate::collector::node::{MAX_CPUS, limit};
use crate::model::node::Measurement;
use crate::model::node::cpufreq::{CpuFreq, CpuFrequency};
use crate::procfs::processors;
use crate::util::text::parse_decimal;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let directory = host.sys("devices/system/cpu");
    let mut cpufreq = CpuFreq::default();
    let mut numbers = host.numbers(&directory, "cpu");
    limit(&mut numbers, MAX_CPUS, &mut cpufreq.truncated);
    // A CPU without a cpufreq driver has no such directory.
    numbers.retain(|number| directory.join(format!("cpu{number}/cpufreq")).is_dir());
    if numbers.is_empty() {
        return None;
    }
    let current = current_khz(host);
    let read = |number| {
        let path = directory.join(format!("cpu{number}/cpufreq"));
        read_cpu(host, &path, number, current.get(&number).copied())
    };
    cpufreq.cpus = numbers.into_iter().map(read).collect();
    Some(Measurement::CpuFreq(cpufreq))
}

/// Frequencies of `/proc/cpuinfo`, in kHz. Empty on other architectures than x86.
fn current_khz(host: &mut HostFiles) -> HashMap<u64, u64> {
    let processors = host.parse(&host.proc("cpuinfo"), |text| Ok(processors::parse(text)));
    let frequency = |processor: &processors::Processor| {
        let khz = processor.fraction("cpu MHz")? * 1000.0;
        Some((processor.number.into(), khz.round() as u64))
    };
    processors.iter().flatten().filter_map(frequency).collect()
}

/// A CPU that is offline refuses to be read, and some drivers print `<unsupported>` or `<unknown>`.
fn read_cpu(host: &mut HostFiles, path: &Path, cpu: u64, current_khz: Option<u64>) -> CpuFrequency {
    let mut khz = |name: &str| parse_decimal(host.line(&path.join(name))?.as_bytes());
    CpuFrequency {
        cpu,
        scaling_min_khz: khz("scaling_min_freq"),
        scaling_max_khz: khz("scaling_max_freq"),
        hardware_min_khz: khz("cpuinfo_min_freq"),
        hardware_max_khz: khz("cpuinfo_max_freq"),
        current_khz: current_khz.or_else(|| khz("scaling_cur_freq")),
        governor: host.line(&path.join("scaling_governor")),
        available_governors: host
            .line(&path.join("scaling_available_governors"))
            .unwrap_or_default(),
    }
}
