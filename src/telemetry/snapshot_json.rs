//! `/snapshot`: one object with the detailed `usage_update`, the host, the kernel's counters (which `/metrics` exposes under
//! names with units) and the agent itself.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;

use crate::model::host_info::HostInfo;
use crate::model::primary_gpu::Primary;
use crate::model::status::{CollectorStatus, PortStatus, ProcessStats};
use crate::model::{RawSample, Snapshot};
use crate::procfs::diskstats::DiskStat;
use crate::procfs::net_dev::{NetDev, Traffic};
use crate::telemetry::messages::{SystemDetail, UsageUpdate, json, system_detail, update};

/// The agent's own process and ports.
#[derive(Serialize)]
pub struct AgentStatus<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessStats>,
    pub ports: &'a [PortStatus],
}

#[derive(Serialize)]
struct SnapshotMessage<'a> {
    #[serde(flatten)]
    update: UsageUpdate<'a>,
    machine: MachineInfo<'a>,
    #[serde(flatten)]
    extra: Extra<'a>,
    #[serde(flatten)]
    agent: AgentStatus<'a>,
}

#[derive(Serialize)]
struct MachineInfo<'a> {
    hostname: &'a str,
    cpu_count: usize,
    cpu_model: &'a str,
    #[serde(flatten)]
    detail: SystemDetail<'a>,
}

pub fn snapshot(
    host: &HostInfo,
    raw: &RawSample,
    snapshot: &Snapshot,
    primary: Primary,
    agent: AgentStatus<'_>,
) -> String {
    let mut update = update(snapshot, primary, true);
    update.r#type = "snapshot";
    let machine = MachineInfo {
        hostname: snapshot.hostname.as_deref().unwrap_or_default(),
        cpu_count: snapshot.cpu.as_ref().map_or(0, |cpu| cpu.each_percent.len()),
        cpu_model: &host.cpu_model,
        detail: system_detail(host),
    };
    json(&SnapshotMessage { update, machine, extra: extra(raw), agent })
}

#[derive(Serialize)]
struct Extra<'a> {
    sample_seconds: f64,
    sources: Vec<SourceDetail>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    memory_bytes: BTreeMap<&'a str, u64>,
    counters: Counters<'a>,
    sensors: Vec<SensorDetail<'a>>,
    interfaces: Vec<InterfaceDetail<'a>>,
    file_systems_hung: usize,
}

#[derive(Serialize)]
struct SourceDetail {
    name: &'static str,
    success: bool,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_success_unix_seconds: Option<u64>,
}

/// Counted since boot.
#[derive(Serialize)]
struct Counters<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    boot_unix_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_switches: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forks: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interrupts: Option<u64>,
    disks: Vec<DiskCounters>,
    networks: Vec<NetworkCounters<'a>>,
}

#[derive(Serialize)]
struct DiskCounters {
    device: String,
    reads: u64,
    read_bytes: u64,
    writes: u64,
    written_bytes: u64,
    busy_milliseconds: u64,
}

#[derive(Serialize)]
struct NetworkCounters<'a> {
    device: Cow<'a, str>,
    receive: TrafficCounters,
    transmit: TrafficCounters,
}

#[derive(Serialize)]
struct TrafficCounters {
    bytes: u64,
    packets: u64,
    errors: u64,
    drops: u64,
}

#[derive(Serialize)]
struct SensorDetail<'a> {
    chip: &'a str,
    sensor: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    celsius: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_celsius: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    critical_celsius: Option<f64>,
}

#[derive(Serialize)]
struct InterfaceDetail<'a> {
    device: &'a str,
    state: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    carrier: Option<bool>,
    #[serde(skip_serializing_if = "str::is_empty")]
    address: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    speed_bytes_per_second: Option<u64>,
}

fn extra(raw: &RawSample) -> Extra<'_> {
    let lines = raw.meminfo.as_ref().map_or(&[][..], |info| &info.lines);
    let sizes = lines.iter().filter(|line| line.is_bytes);
    Extra {
        sample_seconds: raw.duration.as_secs_f64(),
        sources: raw.collectors.iter().map(source_detail).collect(),
        memory_bytes: sizes.map(|line| (&*line.name, line.value)).collect(),
        counters: counters(raw),
        sensors: sensors(raw),
        interfaces: interfaces(raw),
        file_systems_hung: raw.file_systems_stuck,
    }
}

fn source_detail(source: &CollectorStatus) -> SourceDetail {
    SourceDetail {
        name: source.name,
        success: source.success,
        seconds: source.duration.as_secs_f64(),
        last_success_unix_seconds: source.last_success_unix_seconds,
    }
}

fn counters(raw: &RawSample) -> Counters<'_> {
    let stat = raw.stat.as_ref();
    let disk = |disk: &'_ DiskStat| DiskCounters {
        device: String::from_utf8_lossy(&disk.name).into_owned(),
        reads: disk.reads,
        read_bytes: disk.read_bytes,
        writes: disk.writes,
        written_bytes: disk.written_bytes,
        busy_milliseconds: disk.busy_milliseconds,
    };
    Counters {
        boot_unix_seconds: stat.and_then(|stat| stat.boot_time_seconds),
        context_switches: stat.and_then(|stat| stat.context_switches),
        forks: stat.and_then(|stat| stat.forks),
        interrupts: stat.and_then(|stat| stat.interrupts),
        disks: crate::procfs::diskstats::whole_disks(&raw.diskstats).map(disk).collect(),
        networks: raw.net_dev.iter().map(network_counters).collect(),
    }
}

fn network_counters(net: &NetDev) -> NetworkCounters<'_> {
    let traffic = |traffic: &Traffic| TrafficCounters {
        bytes: traffic.bytes,
        packets: traffic.packets,
        errors: traffic.errors,
        drops: traffic.drops,
    };
    NetworkCounters {
        device: String::from_utf8_lossy(&net.name),
        receive: traffic(&net.receive),
        transmit: traffic(&net.transmit),
    }
}

fn sensors(raw: &RawSample) -> Vec<SensorDetail<'_>> {
    let chips = raw.devices.chips.iter();
    let each = chips.flat_map(|chip| chip.sensors.iter().map(move |sensor| (chip, sensor)));
    each.map(|(chip, sensor)| SensorDetail {
        chip: &chip.id,
        sensor: &sensor.id,
        label: sensor.label.as_deref(),
        celsius: sensor.celsius,
        max_celsius: sensor.max_celsius,
        critical_celsius: sensor.critical_celsius,
    })
    .collect()
}

fn interfaces(raw: &RawSample) -> Vec<InterfaceDetail<'_>> {
    let interfaces = raw.devices.interfaces.iter();
    interfaces
        .map(|each| InterfaceDetail {
            device: &each.device,
            state: &each.state,
            carrier: each.carrier,
            address: &each.attributes.address,
            mtu_bytes: each.attributes.mtu_bytes,
            speed_bytes_per_second: each.attributes.speed_bytes,
        })
        .collect()
}
