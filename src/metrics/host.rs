//! Processors, load, the kernel and its pressure, under node_exporter's names.

use crate::limits;
use crate::metrics::encoder::{Kind, Number, Text, labels};
use crate::metrics::{Facts, LeftOut};
use crate::model::RawSample;
use crate::model::host_info::HostInfo;
use crate::procfs::os_release::OsRelease;
use crate::procfs::stat::{CpuTimes, Stat};

/// Ticks of `USER_HZ` are hundredths of a second.
fn ticks(value: u64) -> Number {
    Number::Fixed(value, 2)
}

/// The kernel's microseconds as seconds.
fn microseconds(value: u64) -> Number {
    Number::Fixed(value, 6)
}

pub(super) fn write(text: &mut Text, facts: &Facts<'_>, left_out: &mut LeftOut) {
    let reading = facts.reading;
    if let Some(stat) = &reading.stat {
        processors(text, stat, left_out);
        kernel(text, stat);
    }
    if let Some(load) = reading.loadavg {
        text.gauge("node_load1", "Load average of the last minute.").sample("", load.one);
        text.gauge("node_load5", "Load average of five minutes.").sample("", load.five);
        text.gauge("node_load15", "Load average of fifteen minutes.").sample("", load.fifteen);
    }
    text.gauge("node_time_seconds", "The wall clock, in seconds since 1970.")
        .sample("", microseconds(u64::try_from(facts.now.as_micros()).unwrap_or_default()));
    pressure(text, reading);
    if let Some(files) = reading.file_nr {
        text.gauge("node_filefd_allocated", "File handles in use.").sample("", files.allocated);
        text.gauge("node_filefd_maximum", "File handles there may be.").sample("", files.maximum);
    }
    names(text, facts.machine, reading.hostname.as_deref());
}

type Mode = (&'static str, fn(&CpuTimes) -> u64);

const MODES: [Mode; 8] = [
    ("idle", |times| times.idle),
    ("iowait", |times| times.iowait),
    ("irq", |times| times.irq),
    ("nice", |times| times.nice),
    ("softirq", |times| times.softirq),
    ("steal", |times| times.steal),
    ("system", |times| times.system),
    ("user", |times| times.user),
];

fn processors(text: &mut Text, stat: &Stat, left_out: &mut LeftOut) {
    let cpus = left_out.cap("processors", &stat.cpus, limits::METRICS_CPUS);
    let cpus: Vec<(String, &CpuTimes)> =
        cpus.iter().map(|(cpu, times)| (labels(&[("cpu", &cpu.to_string())]), times)).collect();
    text.counter("node_cpu_seconds_total", "Time of each processor in each mode, in seconds.");
    for (labels, times) in &cpus {
        for (mode, pick) in MODES {
            text.sample_with(labels, ("mode", mode), ticks(pick(times)));
        }
    }
    text.counter(
        "node_cpu_guest_seconds_total",
        "Time of each processor in guests, contained in user and nice, in seconds.",
    );
    for (labels, times) in &cpus {
        text.sample_with(labels, ("mode", "nice"), ticks(times.guest_nice));
        text.sample_with(labels, ("mode", "user"), ticks(times.guest));
    }
}

fn kernel(text: &mut Text, stat: &Stat) {
    text.counter("node_intr_total", "Interrupts served since boot.").sample_if("", stat.interrupts);
    text.counter("node_context_switches_total", "Context switches since boot.")
        .sample_if("", stat.context_switches);
    text.counter("node_forks_total", "Processes and threads created since boot.")
        .sample_if("", stat.forks);
    text.gauge("node_boot_time_seconds", "When the machine booted, in seconds since 1970.")
        .sample_if("", stat.boot_time_seconds);
    text.gauge("node_procs_running", "Threads that run or are ready to.")
        .sample_if("", stat.procs_running);
    text.gauge("node_procs_blocked", "Threads that wait for input or output.")
        .sample_if("", stat.procs_blocked);
}

fn pressure(text: &mut Text, reading: &RawSample) {
    let waiting = "Time in which at least one task waited, in seconds.";
    let stalled = "Time in which all tasks waited, in seconds.";
    let (cpu, memory, io) = (reading.pressure.cpu, reading.pressure.memory, reading.pressure.io);
    for (name, pressure) in [
        ("node_pressure_cpu_waiting_seconds_total", cpu),
        ("node_pressure_memory_waiting_seconds_total", memory),
        ("node_pressure_io_waiting_seconds_total", io),
    ] {
        let total = pressure.map(|pressure| microseconds(pressure.some.total_microseconds));
        text.counter(name, waiting).sample_if("", total);
    }
    for (name, pressure) in [
        ("node_pressure_memory_stalled_seconds_total", memory),
        ("node_pressure_io_stalled_seconds_total", io),
    ] {
        let full = pressure.and_then(|pressure| pressure.full);
        let total = full.map(|full| microseconds(full.total_microseconds));
        text.counter(name, stalled).sample_if("", total);
    }
}

fn names(text: &mut Text, machine: &HostInfo, hostname: Option<&str>) {
    let of = |name: &'static str, value: &Option<String>| (name, value.clone().unwrap_or_default());
    let uname = [
        of("domainname", &machine.domain_name),
        ("machine", std::env::consts::ARCH.to_owned()),
        ("nodename", hostname.unwrap_or_default().to_owned()),
        of("release", &machine.kernel),
        ("sysname", "Linux".to_owned()),
        of("version", &machine.kernel_version),
    ];
    let uname: Vec<(&str, &str)> = uname.iter().map(|(key, value)| (*key, &**value)).collect();
    text.gauge("node_uname_info", "The kernel and its names, as uname(2) says them; always 1.")
        .sample(&labels(&uname), 1u64);
    os(text, &machine.os_release);
}

fn os(text: &mut Text, os: &OsRelease) {
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
    text.gauge("node_os_info", "The distribution, as os-release(5) has it; always 1.")
        .sample(&info, 1u64);
    let short = labels(&[("id", &os.id), ("id_like", &os.id_like), ("name", &os.name)]);
    text.gauge("node_os_version", "Major and minor part of the distribution's version.")
        .sample_if(&short, version(&os.version_id));
}

/// `22.04.3` is 22.04.
fn version(id: &str) -> Option<f64> {
    let mut parts = id.split('.');
    let (major, minor) = (parts.next()?, parts.next().unwrap_or("0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !(digits(major) && digits(minor)) {
        return None;
    }
    format!("{major}.{minor}").parse().ok()
}

pub(super) fn vmstat(text: &mut Text, reading: &RawSample) {
    let Some(vmstat) = reading.vmstat else { return };
    for (name, value) in [
        ("node_vmstat_oom_kill", vmstat.oom_kill),
        ("node_vmstat_pgfault", vmstat.pgfault),
        ("node_vmstat_pgmajfault", vmstat.pgmajfault),
        ("node_vmstat_pgpgin", vmstat.pgpgin),
        ("node_vmstat_pgpgout", vmstat.pgpgout),
        ("node_vmstat_pswpin", vmstat.pswpin),
        ("node_vmstat_pswpout", vmstat.pswpout),
    ] {
        text.family(name, Kind::Untyped, "A counter of /proc/vmstat, since boot.")
            .sample_if("", value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_its_first_two_numbers() {
        assert_eq!(version("12"), Some(12.0));
        assert_eq!(version("22.04.3"), Some(22.04));
        for none in ["", "rolling", "1.x", "inf", "1e9", "-1", "1."] {
            assert_eq!(version(none), None, "{none}");
        }
    }
}
