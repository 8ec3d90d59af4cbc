//! `/snapshot`: the detailed `usage_update`, the machine, the counters of the kernel that `/metrics` has under names with
//! units, and the agent itself, in one object.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;

use crate::metrics::{PortStatus, ProcessStats};
use crate::model::devices::CollectorStatus;
use crate::model::host_info::HostInfo;
use crate::model::primary_gpu::Primary;
use crate::model::{RawSample, Snapshot};
use crate::procfs::diskstats::DiskStat;
use crate::procfs::net_dev::{NetDev, Traffic};
use crate::telemetry::messages::{SystemDetail, UsageUpdate, json, system_detail, update};

/// What the agent knows of itself beside its samples.
#[derive(Serialize)]
pub struct OwnStatus<'a> {
    /// Its process, where it can be seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessStats>,
    /// What is listened on.
    pub ports: &'a [PortStatus],
}

#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    update: UsageUpdate<'a>,
    machine: MachineInfo<'a>,
    #[serde(flatten)]
    more: MoreDetail<'a>,
    #[serde(flatten)]
    own: OwnStatus<'a>,
}

#[derive(Serialize)]
struct MachineInfo<'a> {
    hostname: &'a str,
    cpu_count: usize,
    cpu_model: &'a str,
    #[serde(flatten)]
    detail: SystemDetail<'a>,
}

/// Everything in one object: the detailed `usage_update`, the machine, what only `/metrics` tells besides, and the
/// agent itself.
pub fn whole(
    machine: &HostInfo,
    reading: &RawSample,
    snapshot: &Snapshot,
    primary: Primary,
    own: OwnStatus<'_>,
) -> String {
    let mut update = update(snapshot, primary, true);
    update.r#type = "snapshot";
    let machine = MachineInfo {
        hostname: snapshot.hostname.as_deref().unwrap_or_default(),
        cpu_count: snapshot.cpu.as_ref().map_or(0, |cpu| cpu.each_percent.len()),
        cpu_model: &machine.cpu_model,
        detail: system_detail(machine),
    };
    json(&Whole { update, machine, more: more_detail(reading), own })
}

#[derive(Serialize)]
struct MoreDetail<'a> {
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

/// Since boot.
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

fn more_detail(reading: &RawSample) -> MoreDetail<'_> {
    let lines = reading.meminfo.as_ref().map_or(&[][..], |info| &info.lines);
    let sizes = lines.iter().filter(|line| line.is_bytes);
    MoreDetail {
        sample_seconds: reading.duration.as_secs_f64(),
        sources: reading.collectors.iter().map(source_detail).collect(),
        memory_bytes: sizes.map(|line| (&*line.name, line.value)).collect(),
        counters: counters(reading),
        sensors: sensors(reading),
        interfaces: interfaces(reading),
        file_systems_hung: reading.file_systems_stuck,
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

fn counters(reading: &RawSample) -> Counters<'_> {
    let stat = reading.stat.as_ref();
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
        disks: crate::procfs::diskstats::whole_disks(&reading.diskstats).map(disk).collect(),
        networks: reading.net_dev.iter().map(network_counters).collect(),
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

fn sensors(reading: &RawSample) -> Vec<SensorDetail<'_>> {
    let chips = reading.devices.chips.iter();
    let each = chips.flat_map(|chip| chip.sensors.iter().map(move |sensor| (chip, sensor)));
    each.map(|(chip, sensor)| SensorDetail {
        chip: &chip.chip,
        sensor: &sensor.sensor,
        label: sensor.label.as_deref(),
        celsius: sensor.celsius,
        max_celsius: sensor.max_celsius,
        critical_celsius: sensor.critical_celsius,
    })
    .collect()
}

fn interfaces(reading: &RawSample) -> Vec<InterfaceDetail<'_>> {
    let interfaces = reading.devices.interfaces.iter();
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
