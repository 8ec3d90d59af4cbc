//! CPUs, load, kernel counters, pressure and host identity under node_exporter's names.

use crate::metrics::encoder::{Encoder, Number, labels};
use crate::metrics::{Exposition, Truncation};
use crate::model::RawSample;
use crate::model::host_info::HostInfo;
use crate::procfs::os_release::OsRelease;
use crate::procfs::stat::{CpuTimes, Stat};

/// Each CPU has ten series, and three of the scheduler.
pub(super) const MAX_CPUS: usize = 1024;

pub(super) fn encode(encoder: &mut Encoder, input: &Exposition<'_>, truncation: &mut Truncation) {
    let sample = input.sample;
    if let Some(stat) = &sample.stat {
        cpus(encoder, stat, truncation);
        kernel(encoder, stat);
    }
    if let Some(load) = sample.loadavg {
        encoder.gauge("node_load1", "1m load average.").sample("", load.one);
        encoder.gauge("node_load5", "5m load average.").sample("", load.five);
        encoder.gauge("node_load15", "15m load average.").sample("", load.fifteen);
    }
    let now = u64::try_from(input.now.as_micros()).unwrap_or_default();
    encoder
        .gauge("node_time_seconds", "System time in seconds since the epoch (1970).")
        .sample("", microseconds(now));
    pressure(encoder, sample);
    if let Some(files) = sample.file_nr {
        encoder
            .gauge("node_filefd_allocated", "Number of allocated file handles.")
            .sample("", files.allocated);
        encoder
            .gauge("node_filefd_maximum", "Maximum number of file handles.")
            .sample("", files.maximum);
    }
    identity(encoder, input.host, sample.hostname.as_deref());
}

/// Ticks of `USER_HZ`, which are hundredths of a second.
fn ticks(value: u64) -> Number {
    Number::Decimal(value, 2)
}

fn microseconds(value: u64) -> Number {
    Number::Decimal(value, 6)
}

type CpuMode = (&'static str, fn(&CpuTimes) -> u64);

const MODES: [CpuMode; 8] = [
    ("idle", |times| times.idle),
    ("iowait", |times| times.iowait),
    ("irq", |times| times.irq),
    ("nice", |times| times.nice),
    ("softirq", |times| times.softirq),
    ("steal", |times| times.steal),
    ("system", |times| times.system),
    ("user", |times| times.user),
];

fn cpus(encoder: &mut Encoder, stat: &Stat, truncation: &mut Truncation) {
    let cpus: Vec<(String, &CpuTimes)> = truncation
        .limit("cpus", &stat.cpus, MAX_CPUS)
        .iter()
        .map(|(cpu, times)| (labels(&[("cpu", &cpu.to_string())]), times))
        .collect();
    encoder.counter("node_cpu_seconds_total", "Seconds the CPUs spent in each mode.");
    for (labels, times) in &cpus {
        for (mode, value) in MODES {
            encoder.sample_with_label(labels, ("mode", mode), ticks(value(times)));
        }
    }
    encoder.counter(
        "node_cpu_guest_seconds_total",
        "Seconds the CPUs spent running virtual machines. Included in the modes user and nice.",
    );
    for (labels, times) in &cpus {
        encoder.sample_with_label(labels, ("mode", "nice"), ticks(times.guest_nice));
        encoder.sample_with_label(labels, ("mode", "user"), ticks(times.guest));
    }
}

fn kernel(encoder: &mut Encoder, stat: &Stat) {
    encoder
        .counter("node_intr_total", "Total number of interrupts serviced.")
        .sample_if("", stat.interrupts);
    encoder
        .counter("node_context_switches_total", "Total number of context switches.")
        .sample_if("", stat.context_switches);
    encoder.counter("node_forks_total", "Total number of forks.").sample_if("", stat.forks);
    encoder
        .gauge("node_boot_time_seconds", "Unix time at which the machine booted.")
        .sample_if("", stat.boot_time_seconds);
    encoder
        .gauge("node_procs_running", "Number of threads that are running or runnable.")
        .sample_if("", stat.procs_running);
    encoder
        .gauge("node_procs_blocked", "Number of threads blocked on I/O.")
        .sample_if("", stat.procs_blocked);
}

fn pressure(encoder: &mut Encoder, sample: &RawSample) {
    let waiting = "Total time in seconds that at least one task waited for the resource.";
    let stalled = "Total time in seconds that all tasks waited for the resource.";
    let (cpu, memory, io) = (sample.pressure.cpu, sample.pressure.memory, sample.pressure.io);
    for (name, pressure) in [
        ("node_pressure_cpu_waiting_seconds_total", cpu),
        ("node_pressure_memory_waiting_seconds_total", memory),
        ("node_pressure_io_waiting_seconds_total", io),
    ] {
        let total = pressure.map(|pressure| microseconds(pressure.some.total_microseconds));
        encoder.counter(name, waiting).sample_if("", total);
    }
    for (name, pressure) in [
        ("node_pressure_memory_stalled_seconds_total", memory),
        ("node_pressure_io_stalled_seconds_total", io),
    ] {
        let full = pressure.and_then(|pressure| pressure.full);
        let total = full.map(|full| microseconds(full.total_microseconds));
        encoder.counter(name, stalled).sample_if("", total);
    }
    encoder
        .counter(
            "node_pressure_irq_stalled_seconds_total",
            "Total time in seconds that interrupts took from tasks.",
        )
        .sample_if("", sample.pressure.irq.map(|irq| microseconds(irq.total_microseconds)));
}

fn identity(encoder: &mut Encoder, host: &HostInfo, hostname: Option<&str>) {
    let uname = labels(&[
        ("domainname", host.domain_name.as_deref().unwrap_or_default()),
        ("machine", std::env::consts::ARCH),
        ("nodename", hostname.unwrap_or_default()),
        ("release", host.kernel.as_deref().unwrap_or_default()),
        ("sysname", "Linux"),
        ("version", host.kernel_version.as_deref().unwrap_or_default()),
    ]);
    encoder
        .gauge("node_uname_info", "Kernel identification from uname(2). The value is always 1.")
        .sample(&uname, 1u64);
    os(encoder, &host.os_release);
}

fn os(encoder: &mut Encoder, os: &OsRelease) {
    if *os == OsRelease::default() {
        return;
    }
    let info = labels(&[
        ("build_id", &os.build_id),
        ("id", &os.id),
        ("id_like", &os.id_like),
        ("image_id", &os.image_id),
        ("image_version", &os.image_version),
        ("name", &os.name),
        ("pretty_name", &os.pretty_name),
        ("variant", &os.variant),
        ("variant_id", &os.variant_id),
        ("version", &os.version),
        ("version_codename", &os.version_codename),
        ("version_id", &os.version_id),
    ]);
    encoder
        .gauge("node_os_info", "Distribution from os-release(5). The value is always 1.")
        .sample(&info, 1u64);
    let short = labels(&[("id", &os.id), ("id_like", &os.id_like), ("name", &os.name)]);
    encoder
        .gauge("node_os_version", "Major and minor version of the distribution.")
        .sample_if(&short, version(&os.version_id));
}

/// Major and minor version as a number: `22.04.3` becomes 22.04.
fn version(id: &str) -> Option<f64> {
    let mut parts = id.split('.');
    let (major, minor) = (parts.next()?, parts.next().unwrap_or("0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !(digits(major) && digits(minor)) {
        return None;
    }
    format!("{major}.{minor}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_major_and_minor_version() {
        assert_eq!(version("12"), Some(12.0));
        assert_eq!(version("22.04.3"), Some(22.04));
        for none in ["", "rolling", "1.x", "inf", "1e9", "-1", "1."] {
            assert_eq!(version(none), None, "{none}");
        }
    }
}
