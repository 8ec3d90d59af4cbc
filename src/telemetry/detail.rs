//! Fields that `subscribe:detail` adds to `usage_update`.
//!
//! Sizes are in bytes, percentages have one decimal, rates are per second.

use serde::Serialize;

use crate::model::gpu::{Gpu, NvidiaDriver};
use crate::model::status::AppStatus;
use crate::model::status::UpstreamStatus;
use crate::model::{DiskRate, FileSystem, NetRate, Pressures, Snapshot, TrafficRate};
use crate::procfs::pressure::{Pressure, Stall};

#[derive(Serialize)]
pub(super) struct UsageDetail<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    uptime_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cpus: Vec<CpuDetail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    load: Option<LoadDetail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    swap_total_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    swap_used_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oom_kills: Option<u64>,
    pressure: PressureDetail,
    disks: Vec<DiskDetail<'a>>,
    networks: Vec<NetworkDetail<'a>>,
    file_systems: Vec<FileSystemDetail<'a>>,
    temperatures: Vec<TemperatureDetail<'a>>,
    /// Serialized as the model defines it, like `gpus` and `links`.
    #[serde(skip_serializing_if = "Option::is_none")]
    nvidia: Option<&'a NvidiaDriver>,
    gpus: &'a [Gpu],
    heartbeats: Vec<HeartbeatDetail<'a>>,
    /// Number of applications that are left out.
    #[serde(skip_serializing_if = "is_zero")]
    heartbeats_truncated: usize,
    links: &'a [UpstreamStatus],
}

#[derive(Serialize)]
struct HeartbeatDetail<'a> {
    app_id: &'a str,
    state: &'a str,
    /// Overdue ratio: time since the last heartbeat ÷ timeout.
    od: f64,
    granted_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    maintenance_seconds: Option<f64>,
}

#[derive(Serialize)]
struct CpuDetail {
    cpu: u32,
    percent: f64,
}

#[derive(Serialize)]
struct LoadDetail {
    one: f64,
    five: f64,
    fifteen: f64,
}

#[derive(Serialize)]
struct PressureDetail {
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<ResourceDetail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<ResourceDetail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    io: Option<ResourceDetail>,
}

#[derive(Serialize)]
struct ResourceDetail {
    some: StallDetail,
    #[serde(skip_serializing_if = "Option::is_none")]
    full: Option<StallDetail>,
}

#[derive(Serialize)]
struct StallDetail {
    avg10_percent: f64,
    avg60_percent: f64,
    avg300_percent: f64,
    total_microseconds: u64,
}

#[derive(Serialize)]
struct DiskDetail<'a> {
    device: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_bytes_per_second: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_bytes_per_second: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reads_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    writes_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    busy_percent: Option<f64>,
}

#[derive(Serialize)]
struct NetworkDetail<'a> {
    device: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    receive: Option<TrafficDetail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transmit: Option<TrafficDetail>,
}

#[derive(Serialize)]
struct TrafficDetail {
    bytes_per_second: u64,
    packets_per_second: f64,
    errors_per_second: f64,
    drops_per_second: f64,
}

#[derive(Serialize)]
struct FileSystemDetail<'a> {
    mount_point: &'a str,
    device: &'a str,
    r#type: &'a str,
    read_only: bool,
    total_bytes: u64,
    used_bytes: u64,
    available_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    used_percent: Option<f64>,
}

#[derive(Serialize)]
struct TemperatureDetail<'a> {
    zone: u32,
    sensor: &'a str,
    celsius: f64,
}

pub(super) fn usage_detail(snapshot: &Snapshot) -> UsageDetail<'_> {
    let each_cpu = snapshot.cpu.as_ref().map_or(&[][..], |cpu| &cpu.each_percent);
    UsageDetail {
        uptime_seconds: snapshot.uptime_seconds,
        cpus: each_cpu
            .iter()
            .map(|(cpu, percent)| CpuDetail { cpu: *cpu, percent: one_decimal(*percent) })
            .collect(),
        load: snapshot.load.map(|load| LoadDetail {
            one: load.one,
            five: load.five,
            fifteen: load.fifteen,
        }),
        swap_total_bytes: snapshot.memory.and_then(|memory| memory.swap_total_bytes),
        swap_used_bytes: snapshot.memory.and_then(|memory| memory.swap_used_bytes),
        oom_kills: snapshot.oom_kills,
        pressure: pressure_detail(&snapshot.pressure),
        disks: snapshot.disks.iter().map(disk_detail).collect(),
        networks: snapshot.networks.iter().map(network_detail).collect(),
        file_systems: snapshot.file_systems.iter().map(file_system_detail).collect(),
        temperatures: snapshot
            .temperatures
            .iter()
            .map(|each| TemperatureDetail {
                zone: each.zone,
                sensor: &each.sensor,
                celsius: one_decimal(each.celsius),
            })
            .collect(),
        nvidia: snapshot.gpus.nvidia.as_ref(),
        gpus: &snapshot.gpus.each,
        heartbeats: snapshot.heartbeats.shown.iter().map(heartbeat_detail).collect(),
        heartbeats_truncated: snapshot.heartbeats.truncated,
        links: &snapshot.upstreams,
    }
}

fn pressure_detail(pressure: &Pressures) -> PressureDetail {
    let stall = |stall: Stall| StallDetail {
        avg10_percent: stall.avg10_percent,
        avg60_percent: stall.avg60_percent,
        avg300_percent: stall.avg300_percent,
        total_microseconds: stall.total_microseconds,
    };
    let resource = |pressure: Option<Pressure>| {
        pressure.map(|pressure| ResourceDetail {
            some: stall(pressure.some),
            full: pressure.full.map(stall),
        })
    };
    PressureDetail {
        cpu: resource(pressure.cpu),
        memory: resource(pressure.memory),
        io: resource(pressure.io),
    }
}

fn disk_detail(disk: &DiskRate) -> DiskDetail<'_> {
    DiskDetail {
        device: &disk.name,
        read_bytes_per_second: disk.read_bytes_per_second.map(whole),
        write_bytes_per_second: disk.written_bytes_per_second.map(whole),
        reads_per_second: disk.reads_per_second.map(one_decimal),
        writes_per_second: disk.writes_per_second.map(one_decimal),
        busy_percent: disk.busy_percent.map(one_decimal),
    }
}

fn network_detail(network: &NetRate) -> NetworkDetail<'_> {
    let traffic = |rate: TrafficRate| TrafficDetail {
        bytes_per_second: whole(rate.bytes_per_second),
        packets_per_second: one_decimal(rate.packets_per_second),
        errors_per_second: one_decimal(rate.errors_per_second),
        drops_per_second: one_decimal(rate.drops_per_second),
    };
    NetworkDetail {
        device: &network.name,
        receive: network.receive.map(traffic),
        transmit: network.transmit.map(traffic),
    }
}

fn file_system_detail(file_system: &FileSystem) -> FileSystemDetail<'_> {
    FileSystemDetail {
        mount_point: &file_system.mount_point,
        device: &file_system.device,
        r#type: &file_system.fs_type,
        read_only: file_system.read_only,
        total_bytes: file_system.total_bytes,
        used_bytes: file_system.used_bytes(),
        available_bytes: file_system.available_bytes,
        used_percent: file_system.used_percent().map(one_decimal),
    }
}

fn heartbeat_detail(status: &AppStatus) -> HeartbeatDetail<'_> {
    HeartbeatDetail {
        app_id: &status.id,
        state: status.state.name(),
        od: (status.overdue_ratio * 100.0).floor() / 100.0,
        granted_seconds: status.timeout.as_secs_f64(),
        maintenance_seconds: status.maintenance.map(|left| left.as_secs_f64().ceil()),
    }
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

fn whole(value: f64) -> u64 {
    value.round() as u64
}

pub(super) fn one_decimal(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
