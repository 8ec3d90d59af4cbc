//! Notifications: samples of a host in the notation of the protocol.

mod cpu;
mod disks;
mod fields;
mod networks;

use serde_json::Value;

use crate::procfs::meminfo::MemInfo;
use crate::procfs::processes::Process;
use crate::remote::collect::sample::{ProcessList, RemoteInventory, RemoteSample};
use crate::remote::protocol::events::fields::{Fields, two_decimals};

/// The protocol's limit of processes in a notification.
const MAX_PROCESSES: usize = 50;
/// Processor time in /proc is in ticks; every architecture shows user space 100 of them per second.
const USER_HZ: f64 = 100.0;

fn notification(event: &str, key: &str, mut fields: Fields) -> String {
    fields.put("ssh_key", Some(key.into()));
    envelope(event, &fields.finish().to_string())
}

fn envelope(event: &str, message: &str) -> String {
    format!(
        r#"{{"id":null,"method":"ssh.notification","params":[{{"event":"{event}","message":{message}}}]}}"#
    )
}

/// `connection`: the state of the session (`connected`, `waiting` for the next attempt, or `ended`), and the reason.
pub fn connection(key: &str, state: &str, reason: Option<&str>) -> String {
    let mut fields = Fields::default();
    fields.put("state", Some(state.into()));
    fields.put("reason", Some(reason.map_or(Value::Null, Value::from)));
    notification("connection", key, fields)
}

/// All notifications of a sample but `rough`. Events for which the host lacks the kernel file are left out.
pub fn of_sample(
    key: &str,
    inventory: &RemoteInventory,
    previous: &RemoteSample,
    now: &RemoteSample,
    seconds: f64,
) -> Vec<String> {
    let mut events = Vec::new();
    let mut add = |event: &str, fields: Fields| events.push(notification(event, key, fields));
    if let (Some(before), Some(stat)) = (&previous.stat, &now.stat) {
        let (total, each) = cpu::performance(before, stat);
        add("cpu_performance", with(&[("total", total), ("cpu_performance", each)]));
    }
    if let Some(info) = &now.meminfo {
        add("memory_performance", with(&[("memory", memory(info))]));
    }
    if let Some(seconds) = now.uptime_seconds {
        add("uptime", with(&[("uptime", uptime(seconds))]));
    }
    if let Some(load) = loadavg(now, true) {
        add("loadavg", with(&[("loadavg", load)]));
    }
    if !now.net_dev.is_empty() {
        let found = networks::interfaces(inventory, previous, now, seconds);
        let mut fields = with(&[("net_dev_total", found.total), ("net_dev", found.each)]);
        fields.count("omitted", Some(found.omitted as u64).filter(|omitted| *omitted > 0));
        add("net_dev", fields);
    }
    if let Some(snmp) = &now.snmp {
        let (tcp, udp) = networks::protocols(snmp);
        add("net_stat", with(&[("net_tcp", tcp), ("net_udp", udp)]));
    }
    if !now.zones_millicelsius.is_empty() {
        let mut zones = Fields::default();
        for (zone, millicelsius) in &now.zones_millicelsius {
            zones.put(&format!("zone{zone}"), Some((*millicelsius).into()));
        }
        add("temp", with(&[("temp_map", zones.finish())]));
    }
    if !now.diskstats.is_empty() || !inventory.filesystems.is_empty() {
        let mut fields = with(&[("disk_map", disks::each(inventory, previous, now, seconds))]);
        disks::totals(previous, now, seconds, &mut fields);
        add("disk", fields);
    }
    events
}

/// `rough`.
pub fn rough(
    key: &str,
    inventory: &RemoteInventory,
    previous: &RemoteSample,
    now: &RemoteSample,
    seconds: f64,
) -> String {
    let mut message = Fields::default();
    if let (Some(before), Some(stat)) = (&previous.stat, &now.stat) {
        let utilization = cpu::utilization(before, stat);
        message.put("cpu", Some(Fields::default().put("utilization", utilization).finish()));
    }
    if let Some(highest) = now.zones_millicelsius.iter().map(|(_, value)| *value).max() {
        let highest = Fields::default().put("highest_temp", Some(highest.into())).finish();
        message.put("temp", Some(highest));
    }
    message.put("loadavg", loadavg(now, false));
    if let Some(info) = &now.meminfo {
        let mut all = memory(info);
        let mut fields = Fields::default();
        for name in ["free_mem_occupy", "used_mem_occupy", "cached_swap_occupy"] {
            fields.put(name, all.get_mut(name).map(Value::take));
        }
        message.put("memory", Some(fields.finish()));
    }
    if !now.net_dev.is_empty() {
        message.put("net", Some(networks::interfaces(inventory, previous, now, seconds).total));
    }
    if !now.diskstats.is_empty() {
        let mut fields = Fields::default();
        disks::totals(previous, now, seconds, &mut fields);
        message.put("disk", Some(fields.finish()));
    }
    notification("rough", key, message)
}

/// `cpu_info`.
pub fn cpu_info(key: &str, inventory: &RemoteInventory) -> String {
    notification("cpu_info", key, with(&[("cpu_info", cpu::info(inventory))]))
}

/// `gpu`: the same fields as in `subscribe:detail` of `/usage`.
pub fn gpu(key: &str, inventory: &RemoteInventory) -> String {
    let gpus = serde_json::to_string(&inventory.gpus).unwrap_or_default();
    let key = Value::from(key);
    let message = format!(r#"{{"gpus":{gpus},"ssh_key":{key}}}"#);
    envelope("gpu", &message)
}

/// `process`: the processes that used the most processor time between two lists, then those with the most memory.
/// `None` without a previous list.
pub fn process(key: &str, inventory: &RemoteInventory, previous: &ProcessList) -> Option<String> {
    let now = &inventory.processes;
    let seconds = Some(now.uptime_seconds - previous.uptime_seconds)
        .filter(|seconds| *seconds > 0.0 && !previous.processes.is_empty())?;
    let mut used: Vec<(u64, u64, &Process)> =
        now.processes.iter().map(|process| usage_since(&previous.processes, process)).collect();
    let by_usage = std::iter::from_fn(|| {
        let keys = used.iter().map(|(ticks, pages, _)| (*ticks, *pages)).enumerate();
        let (at, _) = keys.max_by_key(|(_, key)| *key)?;
        Some(used.swap_remove(at))
    });
    let rows = by_usage.take(MAX_PROCESSES).map(|(ticks, pages, process)| {
        let mut fields = Fields::default();
        fields
            .count("pid", Some(process.pid.into()))
            .put("name", Some(String::from_utf8_lossy(&process.name).into()))
            .number("cpu", Some(100.0 * ticks as f64 / USER_HZ / seconds))
            .size("mem", Some(pages as f64 * inventory.page_size_bytes as f64));
        fields.finish()
    });
    let rows = Value::Array(rows.collect());
    Some(notification("process", key, with(&[("process", rows)])))
}

/// Ticks since the previous list, and resident pages. A new process has used all of its ticks since then; a PID that
/// belongs to another process now is a new process.
fn usage_since<'a>(previous: &[Process], process: &'a Process) -> (u64, u64, &'a Process) {
    let known = previous.binary_search_by_key(&process.pid, |known| known.pid);
    let known = known.ok().and_then(|at| previous.get(at));
    let same = known.filter(|known| known.start_ticks == process.start_ticks);
    let ticks = process.ticks.saturating_sub(same.map_or(0, |known| known.ticks));
    (ticks, process.resident_pages, process)
}

fn with(values: &[(&str, Value)]) -> Fields {
    let mut fields = Fields::default();
    for (name, value) in values {
        fields.put(name, Some(value.clone()));
    }
    fields
}

fn uptime(seconds: f64) -> Value {
    let seconds = seconds as u64;
    let mut fields = Fields::default();
    fields.count("up_day", Some(seconds / 86_400)).count("up_hour", Some(seconds / 3600 % 24));
    fields.count("up_min", Some(seconds / 60 % 60)).count("up_sec", Some(seconds % 60)).finish()
}

fn loadavg(sample: &RemoteSample, full: bool) -> Option<Value> {
    let load = sample.loadavg?;
    let mut fields = Fields::default();
    let processors = sample.online_processors().map(|count| count as f64);
    for (name, value) in [("one", load.one), ("five", load.five), ("fifteen", load.fifteen)] {
        fields.share_of(&format!("{name}_occupy"), Some(value), processors);
        if full {
            fields.put(name, Some(two_decimals(value)));
        }
    }
    if full {
        fields.count("running", Some(load.running)).count("active", Some(load.threads));
        fields.count("last_pid", Some(load.last_pid));
    }
    Some(fields.finish())
}

fn memory(info: &MemInfo) -> Value {
    let float = |bytes: Option<u64>| bytes.map(|bytes| bytes as f64);
    let total = Some(info.mem_total_bytes as f64);
    let available = info.available_bytes(None);
    let used = available.map(|available| info.mem_total_bytes.saturating_sub(available));
    let swap = float(info.swap_total_bytes);
    let mut fields = Fields::default();
    fields.size("total_mem", total).size("total_swap", swap);
    for (name, bytes, whole) in [
        ("free_mem", info.mem_free_bytes, total),
        ("available_mem", available, total),
        ("used_mem", used, total),
        ("buffer", info.buffers_bytes, total),
        ("cached", info.cached_bytes, total),
        ("dirty", info.dirty_bytes, total),
        ("free_swap", info.swap_free_bytes, swap),
        ("cached_swap", info.swap_cached_bytes, swap),
    ] {
        fields.size(name, float(bytes));
        fields.share_of(&format!("{name}_occupy"), float(bytes), whole);
    }
    fields.finish()
}

#[cfg(test)]
mod tests;
