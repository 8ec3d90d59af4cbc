//! Notifications: what a host's looks mean, as the peer's clients read it.

use serde_json::Value;

use crate::procfs::meminfo::MemInfo;
use crate::procfs::processes::Process;
use crate::remote::protocol::fields::{Fields, two_decimals};
use crate::remote::protocol::{cpu, disks, networks};
use crate::remote::sample::{Host, Look};

/// At most so many processes are told.
const PROCESSES: usize = 50;

/// A notification of what `fields` hold.
fn notification(event: &str, key: &str, mut fields: Fields) -> String {
    fields.put("ssh_key", Some(key.into()));
    framed(event, &fields.done().to_string())
}

fn framed(event: &str, message: &str) -> String {
    format!(
        r#"{{"id":null,"method":"ssh.notification","params":[{{"event":"{event}","message":{message}}}]}}"#
    )
}

/// How it stands with the session: `connected`, or `waiting` for another try and why.
pub fn connection(key: &str, state: &str, reason: Option<&str>) -> String {
    let mut fields = Fields::default();
    fields.put("state", Some(state.into()));
    fields.put("reason", Some(reason.map_or(Value::Null, Value::from)));
    notification("connection", key, fields)
}

/// Everything that comes with each look, but `rough`. Events for which the host lacks the file are left out.
pub fn of_look(key: &str, host: &Host, earlier: &Look, now: &Look, seconds: f64) -> Vec<String> {
    let mut events = Vec::new();
    let mut add = |event: &str, fields: Fields| events.push(notification(event, key, fields));
    if let (Some(before), Some(stat)) = (&earlier.stat, &now.stat) {
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
        let (total, each) = networks::devices(host, earlier, now, seconds);
        add("net_dev", with(&[("net_dev_total", total), ("net_dev", each)]));
    }
    if let Some(snmp) = &now.snmp {
        let (tcp, udp) = networks::protocols(snmp);
        add("net_stat", with(&[("net_tcp", tcp), ("net_udp", udp)]));
    }
    if !now.zones.is_empty() {
        let mut zones = Fields::default();
        for (zone, degrees) in &now.zones {
            zones.put(&format!("zone{zone}"), Some((*degrees).into()));
        }
        add("temp", with(&[("temp_map", zones.done())]));
    }
    if !now.diskstats.is_empty() || !host.sizes.is_empty() {
        let mut fields = with(&[("disk_map", disks::each(host, earlier, now, seconds))]);
        disks::totals(earlier, now, seconds, &mut fields);
        add("disk", fields);
    }
    events
}

/// `rough`.
pub fn rough(key: &str, host: &Host, earlier: &Look, now: &Look, seconds: f64) -> String {
    let mut message = Fields::default();
    if let (Some(before), Some(stat)) = (&earlier.stat, &now.stat) {
        let utilization = cpu::utilization(before, stat);
        message.put("cpu", Some(Fields::default().put("utilization", utilization).done()));
    }
    if let Some(highest) = now.zones.iter().map(|(_, degrees)| *degrees).max() {
        let highest = Fields::default().put("highest_temp", Some(highest.into())).done();
        message.put("temp", Some(highest));
    }
    message.put("loadavg", loadavg(now, false));
    if let Some(info) = &now.meminfo {
        let mut all = memory(info);
        let mut fields = Fields::default();
        for name in ["free_mem_occupy", "used_mem_occupy", "cached_swap_occupy"] {
            fields.put(name, all.get_mut(name).map(Value::take));
        }
        message.put("memory", Some(fields.done()));
    }
    if !now.net_dev.is_empty() {
        message.put("net", Some(networks::devices(host, earlier, now, seconds).0));
    }
    if !now.diskstats.is_empty() {
        let mut fields = Fields::default();
        disks::totals(earlier, now, seconds, &mut fields);
        message.put("disk", Some(fields.done()));
    }
    notification("rough", key, message)
}

/// `cpu_info`.
pub fn cpu_info(key: &str, host: &Host) -> String {
    notification("cpu_info", key, with(&[("cpu_info", cpu::info(host))]))
}

/// `gpu`: the fields of `subscribe:detail`.
pub fn gpu(key: &str, host: &Host) -> String {
    // As text: to turn them into values first would be all their fields' code a second time.
    let gpus = serde_json::to_string(&host.gpus).unwrap_or_default();
    let key = Value::from(key);
    let message = format!(r#"{{"gpus":{gpus},"ssh_key":{key}}}"#);
    framed("gpu", &message)
}

/// `process`: those that took the most processor time between two lists, and then those with the most memory.
/// None without a list to compare with.
pub fn process(key: &str, host: &Host, earlier: &(f64, Vec<Process>)) -> Option<String> {
    let ((then, before), (when, now)) = (earlier, &host.processes);
    let seconds = Some(when - then).filter(|seconds| *seconds > 0.0 && !before.is_empty())?;
    let mut used: Vec<(u64, u64, &Process)> = Vec::with_capacity(now.len());
    for one in now {
        let known = before.binary_search_by_key(&one.pid, |known| known.pid);
        let known = known.ok().and_then(|at| before.get(at));
        let same = known.filter(|known| known.start_ticks == one.start_ticks);
        // One that is new has used all that it has within this time.
        let earlier = same.map_or(0, |known| known.ticks);
        used.push((one.ticks.saturating_sub(earlier), one.resident_pages, one));
    }
    let most = std::iter::from_fn(|| {
        let keys = used.iter().map(|(ticks, pages, _)| (*ticks, *pages)).enumerate();
        let (at, _) = keys.max_by_key(|(_, key)| *key)?;
        Some(used.swap_remove(at))
    });
    let rows = most.take(PROCESSES).map(|(ticks, _, one)| {
        let mut fields = Fields::default();
        fields
            .count("pid", Some(one.pid.into()))
            .put("name", Some(String::from_utf8_lossy(&one.name).into()))
            // Ticks are hundredths of a second.
            .number("cpu", Some(ticks as f64 / seconds))
            .size("mem", Some(one.resident_pages as f64 * host.page_bytes as f64));
        fields.done()
    });
    let rows = Value::Array(rows.collect());
    Some(notification("process", key, with(&[("process", rows)])))
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
    fields.count("up_min", Some(seconds / 60 % 60)).count("up_sec", Some(seconds % 60)).done()
}

fn loadavg(look: &Look, in_full: bool) -> Option<Value> {
    let load = look.loadavg?;
    let mut fields = Fields::default();
    let processors = look.processors().map(|count| count as f64);
    for (name, value) in [("one", load.one), ("five", load.five), ("fifteen", load.fifteen)] {
        fields.share_of(&format!("{name}_occupy"), Some(value), processors);
        if in_full {
            fields.put(name, Some(two_decimals(value)));
        }
    }
    if in_full {
        fields.count("running", Some(load.running)).count("active", Some(load.threads));
        fields.count("last_pid", Some(load.last_pid));
    }
    Some(fields.done())
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
    fields.done()
}

#[cfg(test)]
mod tests;
