//! `/monitor`: values of events, compared with the kernel files of the host, which is this machine.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::monitor::Monitor;
use crate::support::sshd::{CC, PASSWORD, Sshd};
use crate::support::wait_until;
use serde_json::Value;

/// Maximum age of an event when it is received.
const MAX_DELAY: Duration = Duration::from_secs(3);

/// This machine's kernel files at one moment.
struct FilesSnapshot {
    at: Instant,
    files: Vec<String>,
}

const FILES: [&str; 7] = [
    "/proc/stat",
    "/proc/meminfo",
    "/proc/loadavg",
    "/proc/uptime",
    "/proc/net/dev",
    "/proc/net/snmp",
    "/proc/diskstats",
];

impl FilesSnapshot {
    fn now() -> Self {
        let at = Instant::now();
        Self {
            at,
            files: FILES.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect(),
        }
    }

    /// A field of the first line that begins with `line` and has a number there; field 0 is the first one.
    fn number(&self, file: &str, line: &str, field: usize) -> f64 {
        let text = &self.files[FILES.iter().position(|known| *known == file).unwrap()];
        let mut lines = text.lines().map(str::trim_start).filter(|text| text.starts_with(line));
        // /proc/net/snmp has a line of names before each line of numbers.
        let line =
            lines.find(|line| line.split_whitespace().nth(field).unwrap().parse::<f64>().is_ok());
        line.unwrap().split_whitespace().nth(field).unwrap().parse().unwrap()
    }
}

/// Snapshots taken during the test.
struct SnapshotLog(Vec<FilesSnapshot>);

impl SnapshotLog {
    /// Asserts that a value lies between those before and after the event, with a tolerance.
    fn assert_contains(
        &self,
        at: Instant,
        reported: f64,
        tolerance: f64,
        actual: impl Fn(&FilesSnapshot) -> f64,
    ) {
        let before =
            self.0.iter().rfind(|snapshot| snapshot.at + MAX_DELAY < at).unwrap_or(&self.0[0]);
        let after = self.0.iter().find(|snapshot| snapshot.at > at).unwrap();
        let within: Vec<f64> = self
            .0
            .iter()
            .filter(|snapshot| snapshot.at >= before.at && snapshot.at <= after.at)
            .map(&actual)
            .collect();
        let (min, max) = (
            within.iter().copied().fold(f64::INFINITY, f64::min) - tolerance,
            within.iter().copied().fold(f64::NEG_INFINITY, f64::max) + tolerance,
        );
        assert!((min..=max).contains(&reported), "{reported} is not between {min} and {max}");
    }
}

/// A size in bytes, and its maximal rounding error.
fn size(object: &Value, name: &str) -> (f64, f64) {
    let units = ["B", "KB", "MB", "GB", "TB"];
    let unit = object[format!("{name}_unit")].as_str().unwrap();
    let unit = 1024f64.powi(units.iter().position(|known| *known == unit).unwrap() as i32);
    (object[name].as_f64().unwrap() * unit, 0.0051 * unit)
}

#[test]
#[ignore = "needs root and sshd"]
fn values_equal_those_of_kernel_files() {
    let sshd = Sshd::start(&[CC]);
    let monitor = Monitor::start(&[]);
    let mut client = monitor.connect();
    let done = AtomicBool::new(false);
    let (snapshots, events) = std::thread::scope(|scope| {
        let snapshots = scope.spawn(|| {
            let mut log = vec![FilesSnapshot::now()];
            while !done.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(50));
                log.push(FilesSnapshot::now());
            }
            log.push(FilesSnapshot::now()); // after the last event
            log
        });
        client.start(&[sshd.host("cc", Some(PASSWORD))]);
        let mut events = client.collect_events(Duration::from_secs(9));
        // A busy machine needs more time.
        wait_until("samples", || {
            let count = |name| events.iter().filter(|(_, event)| event["event"] == name).count();
            let is_enough = count("uptime") >= 2 && count("disk") >= 2 && count("process") >= 1;
            if !is_enough {
                events.extend(client.collect_events(Duration::from_secs(2)));
            }
            is_enough.then_some(())
        });
        done.store(true, Ordering::Relaxed);
        (SnapshotLog(snapshots.join().unwrap()), events)
    });
    let of = |name: &'static str| {
        let found: Vec<(Instant, Value)> = events
            .iter()
            .filter(|(_, event)| event["event"] == name)
            .map(|(at, event)| (*at, event["message"].clone()))
            .collect();
        let fewest = if ["process", "cpu_info"].contains(&name) { 1 } else { 2 };
        assert!(found.len() >= fewest, "{name}: {}", found.len());
        found
    };
    for (at, event) in of("cpu_performance") {
        let total = &event["total"];
        let unit = match total["total_time_unit"].as_str().unwrap() {
            "S" => 1.0,
            "M" => 60.0,
            "H" => 3600.0,
            _ => 86_400.0,
        };
        let ticks = |snapshot: &FilesSnapshot| {
            (1..=8).map(|at| snapshot.number("/proc/stat", "cpu ", at)).sum::<f64>() / 100.0
        };
        // The kernel may decrease iowait.
        snapshots.assert_contains(
            at,
            total["total_time"].as_f64().unwrap() * unit,
            0.0051 * unit + 1.0,
            ticks,
        );
    }
    compare_cpu_shares(&snapshots, &of("cpu_performance"));
    for (at, event) in of("memory_performance") {
        let memory = &event["memory"];
        for (name, line) in [
            ("total_mem", "MemTotal:"),
            ("free_mem", "MemFree:"),
            ("available_mem", "MemAvailable:"),
            ("buffer", "Buffers:"),
            ("cached", "Cached:"),
            ("dirty", "Dirty:"),
            ("total_swap", "SwapTotal:"),
            ("free_swap", "SwapFree:"),
            ("cached_swap", "SwapCached:"),
        ] {
            let (reported, rounding) = size(memory, name);
            // Other values change between two snapshots.
            let fluctuation = if name.starts_with("total") { 0.0 } else { 256.0 * 1_048_576.0 };
            snapshots.assert_contains(at, reported, rounding + fluctuation, |snapshot| {
                1024.0 * snapshot.number("/proc/meminfo", line, 1)
            });
        }
        let (total, used) = (size(memory, "total_mem").0, size(memory, "used_mem").0);
        let (free, available) = (size(memory, "free_mem").0, size(memory, "available_mem").0);
        assert!((used + available - total).abs() < total * 0.01, "{memory}");
        assert!(
            (memory["free_mem_occupy"].as_f64().unwrap() - free / total).abs() < 0.01,
            "{memory}"
        );
    }
    for (at, event) in of("uptime") {
        let part = |name: &str| event["uptime"][name].as_f64().unwrap();
        let reported = part("up_day") * 86_400.0
            + part("up_hour") * 3600.0
            + part("up_min") * 60.0
            + part("up_sec");
        snapshots
            .assert_contains(at, reported, 1.0, |snapshot| snapshot.number("/proc/uptime", "", 0));
    }
    for (at, event) in of("loadavg") {
        for (field, name) in ["one", "five", "fifteen"].into_iter().enumerate() {
            snapshots.assert_contains(
                at,
                event["loadavg"][name].as_f64().unwrap(),
                0.001,
                |snapshot| snapshot.number("/proc/loadavg", "", field),
            );
        }
    }
    for (at, event) in of("net_dev") {
        let lo = &event["net_dev"]["lo"];
        for (name, field) in
            [("down_bytes", 1), ("down_packets", 2), ("up_bytes", 9), ("up_packets", 10)]
        {
            snapshots.assert_contains(at, lo[name].as_f64().unwrap(), 0.0, |snapshot| {
                snapshot.number("/proc/net/dev", "lo:", field)
            });
        }
    }
    for (at, event) in of("net_stat") {
        for (name, field) in [
            ("active_opens", 5),
            ("passive_opens", 6),
            ("in_segments", 10),
            ("out_segments", 11),
            ("re_trans_segments", 12),
        ] {
            snapshots.assert_contains(
                at,
                event["net_tcp"][name].as_f64().unwrap(),
                0.0,
                |snapshot| snapshot.number("/proc/net/snmp", "Tcp:", field),
            );
        }
        for (name, field) in [("in_datagrams", 1), ("out_datagrams", 4)] {
            snapshots.assert_contains(
                at,
                event["net_udp"][name].as_f64().unwrap(),
                0.0,
                |snapshot| snapshot.number("/proc/net/snmp", "Udp:", field),
            );
        }
    }
    let (_, net) = of("net_dev").remove(0);
    let lo = &net["net_dev"]["lo"];
    assert!(lo["ip"].as_array().unwrap().contains(&"127.0.0.1".into()), "{lo}");
    assert!(lo["virtual"] == true && lo["name"] == "lo", "{lo}");
    compare_processors(&of("cpu_info")[0].1["cpu_info"]);
    compare_disks(&snapshots, &of("disk"));
    compare_processes(&sshd, &of("process"));
}

/// Compares means over all events: the exact period of a single event is not known.
fn compare_cpu_shares(snapshots: &SnapshotLog, events: &[(Instant, Value)]) {
    let of = |name: &str| {
        let each = events.iter().skip(1).map(|(_, event)| event["total"][name].as_f64().unwrap());
        each.sum::<f64>() / (events.len() - 1) as f64
    };
    let (start, end) = (events[0].0, events[events.len() - 1].0);
    let near = |at: Instant| snapshots.0.iter().find(|snapshot| snapshot.at > at).unwrap();
    let since = |field: usize| {
        let at = |snapshot: &FilesSnapshot| snapshot.number("/proc/stat", "cpu ", field);
        at(near(end)) - at(near(start))
    };
    let all: f64 = (1..=8).map(since).sum();
    let (user, system) = (since(1) + since(2), since(3) + since(6) + since(7));
    for (name, actual) in [
        ("user", user),
        ("system", system),
        ("free", since(4)),
        ("utilization", user + system + since(8)),
    ] {
        let (reported, actual) = (of(name), 100.0 * actual / all);
        assert!((reported - actual).abs() < 12.0, "{name}: {reported} % for {actual} %");
    }
}

/// All processors of this machine are reported, with their names.
fn compare_processors(packages: &Value) {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let mut actual: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("processor"))
        .filter_map(|line| line.split(": ").nth(1))
        .collect();
    let mut reported = Vec::new();
    for package in packages.as_object().unwrap().values() {
        let name = package["model_name"].as_str().unwrap();
        assert!(text.contains(name) || cfg!(target_arch = "aarch64"), "{name}");
        for core in package["cpu_core_info"].as_object().unwrap().values() {
            reported
                .extend(core["cpu_processor_info"].as_object().unwrap().keys().map(String::as_str));
        }
    }
    actual.sort_unstable();
    reported.sort_unstable();
    assert_eq!(reported, actual, "{packages}");
}

fn compare_disks(snapshots: &SnapshotLog, events: &[(Instant, Value)]) {
    let disk = |line: &str| line.split_whitespace().nth(2).unwrap().to_owned();
    let diskstats = snapshots.0[0].files.last().unwrap();
    let names: Vec<String> = diskstats.lines().map(disk).collect();
    let mut compared = 0;
    for (at, event) in events {
        for (name, reported) in event["disk_map"].as_object().unwrap() {
            if !names.contains(name) {
                continue;
            }
            compared += 1;
            for (name_of, field) in [("read", 5), ("write", 9)] {
                let (reported, rounding) = size(reported, name_of);
                snapshots.assert_contains(*at, reported, rounding, |snapshot| {
                    let lines = snapshot.files.last().unwrap().lines();
                    let mut line = lines.filter(|line| disk(line) == *name);
                    512.0
                        * line
                            .next()
                            .unwrap()
                            .split_whitespace()
                            .nth(field)
                            .unwrap()
                            .parse::<f64>()
                            .unwrap()
                });
            }
        }
    }
    assert!(compared >= events.len(), "too few disks were compared");
    let root =
        events.iter().rev().flat_map(|(_, event)| event["disk_map"].as_object().unwrap().values());
    let root = root.into_iter().find(|disk| disk["mount"] == "/").unwrap();
    let df = std::process::Command::new("df").args(["-P", "-k", "/"]).output().unwrap();
    let df = String::from_utf8(df.stdout).unwrap();
    let df: Vec<&str> = df.lines().nth(1).unwrap().split_whitespace().collect();
    for (name, field) in [("total", 1), ("used", 2), ("free", 3)] {
        let (reported, actual) = (size(root, name).0, df[field].parse::<f64>().unwrap() * 1024.0);
        // Other processes write meanwhile.
        assert!(
            (reported - actual).abs() < 2.0 * 1024f64.powi(3),
            "{name}: {reported} for {actual}"
        );
    }
    assert_eq!(root["dev_name"], df[0].trim_start_matches("/dev/"));
}

/// The shell that runs collect.sh is a process of the host. Compares its memory with that of the same process outside of the
/// host's PID namespace.
fn compare_processes(sshd: &Sshd, events: &[(Instant, Value)]) {
    let mut compared = 0;
    for process in sshd.processes() {
        let host_pid = process.split(' ').next().unwrap();
        let status =
            std::fs::read_to_string(format!("/proc/{host_pid}/status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_whitespace().nth(if name == "NSpid:" { 2 } else { 1 }))
        };
        let (Some(pid), Some(name), Some(rss)) = (field("NSpid:"), field("Name:"), field("VmRSS:"))
        else {
            continue;
        };
        let rows = events.last().unwrap().1["process"].as_array().unwrap();
        let Some(row) = rows.iter().find(|row| row["pid"].as_u64() == pid.parse().ok()) else {
            continue;
        };
        assert_eq!(row["name"], name);
        let (reported, actual) = (size(row, "mem").0, rss.parse::<f64>().unwrap() * 1024.0);
        assert!((reported - actual).abs() <= 0.25 * actual, "{reported} for {actual}: {row}");
        assert!(
            row["cpu"].as_f64().is_some_and(|percent| (0.0..=110.0).contains(&percent)),
            "{row}"
        );
        compared += 1;
    }
    assert!(compared >= 2, "collect.sh and sshd are processes of the host");
}
