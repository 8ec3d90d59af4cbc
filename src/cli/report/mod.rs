//! Renders a snapshot as the text table that `hm-agent sample` prints.

pub mod gpus;

use std::fmt::Write;

use crate::model::Snapshot;
use crate::model::host_info::HostInfo;
use crate::procfs::pressure::Pressure;
use crate::util::text::escape_for_terminal;

/// CPUs per line of the table.
const CPUS_PER_LINE: usize = 8;

pub fn text(host: &HostInfo, snapshot: &Snapshot) -> String {
    let mut out = Table(String::new());
    header(&mut out, host, snapshot);
    cpus(&mut out, host, snapshot);
    memory(&mut out, snapshot);
    gpus::gpus(&mut out, snapshot);
    devices(&mut out, snapshot);
    heartbeats(&mut out, snapshot);
    upstreams(&mut out, snapshot);
    out.0
}

fn header(out: &mut Table, host: &HostInfo, snapshot: &Snapshot) {
    let mut facts = Vec::new();
    facts.extend(host.os.clone());
    facts.extend(host.kernel.as_ref().map(|kernel| format!("Linux {kernel}")));
    facts.extend(snapshot.uptime_seconds.map(|seconds| format!("up {}", duration(seconds))));
    out.row("host", &[snapshot.hostname.as_deref().unwrap_or("?"), &facts.join(", ")]);
}

fn cpus(out: &mut Table, host: &HostInfo, snapshot: &Snapshot) {
    let Some(cpu) = &snapshot.cpu else { return };
    let count = cpu.each_percent.len();
    let busy = format!("{:.1} %", cpu.percent);
    out.row("cpu", &[&busy, &format!("{count} × {}", host.cpu_model)]);
    for line in cpu.each_percent.chunks(CPUS_PER_LINE) {
        let each = line.iter().map(|(cpu, percent)| format!("{cpu:>3}:{percent:>4.0} %"));
        out.row("", &["", &each.collect::<Vec<_>>().join(" ")]);
    }
    if let Some(load) = snapshot.load {
        let averages = format!("{:.2} {:.2} {:.2}", load.one, load.five, load.fifteen);
        out.row("load", &[&averages, "1, 5, 15 minutes"]);
    }
    let pressure = snapshot.pressure;
    let some = |name: &str, pressure: Option<Pressure>| {
        pressure.map(|pressure| format!("{name} {:.1} %", pressure.some.avg10_percent))
    };
    let waiting: Vec<_> = [("cpu", pressure.cpu), ("memory", pressure.memory), ("io", pressure.io)]
        .into_iter()
        .filter_map(|(name, pressure)| some(name, pressure))
        .collect();
    if !waiting.is_empty() {
        out.row(
            "pressure",
            &[&waiting.join(", "), "share of time that some task waited, last 10 s"],
        );
    }
}

fn memory(out: &mut Table, snapshot: &Snapshot) {
    let Some(memory) = snapshot.memory else { return };
    if let Some(used) = memory.used_bytes {
        out.row(
            "memory",
            &[&percent(used, memory.total_bytes), &used_of_total(used, memory.total_bytes)],
        );
    }
    match memory.swap_total_bytes.zip(memory.swap_used_bytes) {
        Some((0, _)) | None => {}
        Some((total, used)) => {
            out.row("swap", &[&percent(used, total), &used_of_total(used, total)]);
        }
    }
    if let Some(kills) = snapshot.oom_kills.filter(|kills| *kills > 0) {
        out.row("oom kills", &[&kills.to_string(), "since boot"]);
    }
}

fn devices(out: &mut Table, snapshot: &Snapshot) {
    for disk in &snapshot.disks {
        let rate = |rate: Option<f64>| rate.map_or("?".to_owned(), per_second);
        let (read, write) = (rate(disk.read_bytes_per_second), rate(disk.written_bytes_per_second));
        let busy = disk.busy_percent.map_or(String::new(), |busy| format!(", busy {busy:.0} %"));
        out.row("disk", &[&disk.name, &format!("read {read}, write {write}{busy}")]);
    }
    for network in &snapshot.networks {
        if let Some((receive, transmit)) = network.receive.zip(network.transmit) {
            let (receive, transmit) =
                (per_second(receive.bytes_per_second), per_second(transmit.bytes_per_second));
            out.row("network", &[&network.name, &format!("in {receive}, out {transmit}")]);
        }
    }
    for fs in &snapshot.file_systems {
        let percent = fs.used_percent().map_or(String::new(), |used| format!(", {used:.0} %"));
        let read_only = if fs.read_only { ", read-only" } else { "" };
        let size = used_of_total(fs.used_bytes(), fs.total_bytes);
        let kind = format!("{size}{percent}, {} {}{read_only}", fs.fs_type, fs.device);
        out.row("files", &[&fs.mount_point, &kind]);
    }
    for each in &snapshot.temperatures {
        out.row("thermal", &[&format!("{:.1} °C", each.celsius), &each.sensor]);
    }
}

fn heartbeats(out: &mut Table, snapshot: &Snapshot) {
    for status in &snapshot.heartbeats.shown {
        let timeout = status.timeout.as_secs_f64();
        let mut text = format!(
            "{}, overdue ratio {:.2}, timeout {timeout} s",
            status.id, status.overdue_ratio
        );
        if let Some(remaining) = status.maintenance {
            text += &format!(", maintenance {} s", remaining.as_secs());
        }
        out.row("heartbeat", &[status.state.name(), &text]);
    }
    if snapshot.heartbeats.truncated > 0 {
        out.row("heartbeat", &["", &format!("and {} more", snapshot.heartbeats.truncated)]);
    }
}

fn upstreams(out: &mut Table, snapshot: &Snapshot) {
    for upstream in snapshot.upstreams.iter() {
        let ago = |at: u64| duration(snapshot.unix_seconds.saturating_sub(at) as f64);
        let mut how = vec![format!("for {}", ago(upstream.since_unix_seconds))];
        how.extend(
            upstream.last_response_unix_seconds.map(|at| format!("last response {} ago", ago(at))),
        );
        how.push(format!("{} queued", upstream.backlog));
        if upstream.dropped > 0 {
            how.push(format!("{} dropped", upstream.dropped));
        }
        how.extend(
            upstream.last_disconnect_reason.as_ref().map(|why| format!("last disconnect: {why}")),
        );
        out.row(&upstream.name, &[&upstream.state, &how.join(", ")]);
    }
}

struct Table(String);

impl Table {
    /// Appends a line with a name and two columns.
    fn row(&mut self, name: &str, [first, second]: &[&str; 2]) {
        self.line(name, &format!("{first:<20} {second}"));
    }

    /// Appends a line with a name and a text. Device and host names may contain terminal escape sequences.
    fn line(&mut self, name: &str, text: &str) {
        let line = format!("{name:<10} {}", escape_for_terminal(text));
        let _ = writeln!(self.0, "{}", line.trim_end());
    }
}

fn percent(part: u64, total: u64) -> String {
    format!("{:.1} %", 100.0 * part as f64 / total.max(1) as f64)
}

fn used_of_total(part: u64, total: u64) -> String {
    format!("{} of {}", format_bytes(part as f64), format_bytes(total as f64))
}

/// In decimal units, as the dashboard shows rates, and network and disk vendors state them.
fn per_second(bytes: f64) -> String {
    scaled(bytes, 1000.0, &["B/s", "kB/s", "MB/s", "GB/s"])
}

fn format_bytes(bytes: f64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

/// With the rounding of the dashboard: never more than three digits before the decimal point, unless the unit is the last one.
fn scaled(mut value: f64, base: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while value >= base * 0.9995 && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 99.95);
    format!("{value:.digits$} {}", units[unit])
}

fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0) as u64;
    let (days, hours, minutes) = (minutes / 1440, minutes / 60 % 24, minutes % 60);
    if days > 0 { format!("{days} d {hours} h") } else { format!("{hours} h {minutes} min") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_sizes_and_durations() {
        assert_eq!(format_bytes(0.0), "0 B");
        assert_eq!(format_bytes(1023.0), "1023 B");
        for (rate, text) in [
            (0.0, "0 B/s"),
            (999.0, "999 B/s"),
            (1000.0, "1.0 kB/s"),
            (1024.0, "1.0 kB/s"),
            (99_960.0, "100 kB/s"),
            (999_600.0, "1.0 MB/s"),
            (12_345_678.0, "12.3 MB/s"),
            (125e9, "125 GB/s"),
        ] {
            assert_eq!(per_second(rate), text);
        }
        assert_eq!(format_bytes(1536.0), "1.5 KiB");
        assert_eq!(format_bytes(252.0 * 1024f64.powi(3)), "252 GiB");
        assert_eq!(duration(59.0), "0 h 0 min");
        assert_eq!(duration(90061.0), "1 d 1 h");
    }

    #[test]
    fn escapes_control_characters_in_names() {
        let snapshot = Snapshot { hostname: Some("a\x1b[2J".into()), ..Default::default() };
        let text = text(&HostInfo::default(), &snapshot);
        assert!(text.contains(r"a\u{1b}[2J") && !text.contains('\x1b'), "{text}");
    }
}
