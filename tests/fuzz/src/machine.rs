//! Builds samples from the fuzzer's input: sections in the format that hosts print over SSH.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hm_agent::collector::gpu::nvidia::protocol::ProbeReply;
use hm_agent::collector::mount_filter::filter_mounts;
use hm_agent::collector::mounts::MountPoint;
use hm_agent::heartbeat::table::HeartbeatTable;
use hm_agent::model::devices::{Chip, Devices, Interface, InterfaceAttributes, Sensor};
use hm_agent::model::gpu::Gpus;
use hm_agent::model::host_info::HostInfo;
use hm_agent::model::status::AppSummary;
use hm_agent::model::{FileSystem, RawSample, Temperature};
use hm_agent::procfs;
use hm_agent::procfs::mountinfo;
use hm_agent::remote::collect::output::{MAX_PART_BYTES, OutputParser, OutputPart};
use hm_agent::sys::FsSize;
use hm_agent::util::text::parse_decimal;

use crate::program::text;

/// The marker in the seeds.
pub const MARKER: &str = "m3";

/// Splits the input into samples of sections. The last one may be incomplete.
pub fn samples(bytes: &[u8]) -> Vec<Vec<(String, Vec<u8>)>> {
    let mut samples = vec![Vec::new()];
    let parts = OutputParser::new(MARKER, MAX_PART_BYTES).push(bytes);
    for part in parts.unwrap_or_default() {
        match part {
            OutputPart::Section(name, body) => samples.last_mut().unwrap().push((name, body)),
            OutputPart::Async(..) => {}
            OutputPart::EndOfResponse => samples.push(Vec::new()),
        }
    }
    samples
}

/// The sample that the agent would collect on such a host.
pub fn raw_sample(sections: &[(String, Vec<u8>)]) -> RawSample {
    let mut sample = RawSample::default();
    let mut devices = Devices::default();
    for (name, body) in sections {
        match name.as_str() {
            "clock" => {
                let mut numbers = body.split(|byte| *byte == b' ' || *byte == b'\n');
                let mut number = || numbers.next().and_then(parse_decimal).unwrap_or_default();
                (sample.monotonic, sample.unix_seconds) =
                    (Duration::from_millis(number() & 0xff_ffff_ffff), number());
            }
            "hostname" => sample.hostname = Some(text(body)),
            "stat" => sample.stat = procfs::stat::parse(body).ok(),
            "meminfo" => sample.meminfo = procfs::meminfo::parse(body).ok(),
            "zoneinfo" => {
                sample.low_watermark_bytes = procfs::zoneinfo::parse_low_watermark_pages(body).ok();
            }
            "loadavg" => sample.loadavg = procfs::loadavg::parse(body).ok(),
            "uptime" => sample.uptime_seconds = procfs::uptime::parse(body).ok(),
            "pressure" => {
                sample.pressure.cpu = procfs::pressure::parse(body).ok();
                sample.pressure.io = sample.pressure.cpu;
            }
            "diskstats" => sample.diskstats = procfs::diskstats::parse(body).unwrap_or_default(),
            "net/dev" => sample.net_dev = procfs::net_dev::parse(body).unwrap_or_default(),
            "vmstat" => sample.vmstat = procfs::vmstat::parse(body).ok(),
            "file-nr" => sample.file_nr = procfs::file_nr::parse(body).ok(),
            "mounts" => sample.file_systems = file_systems(body),
            "names" => devices = self::devices(body),
            "gpus" => sample.gpus = gpus(body),
            "apps" => sample.heartbeats = std::sync::Arc::new(apps(body)),
            _ => {}
        }
    }
    sample.devices = Arc::new(devices);
    sample
}

pub fn host_info(sections: &[(String, Vec<u8>)]) -> HostInfo {
    let mut host = HostInfo::default();
    for (name, body) in sections {
        match name.as_str() {
            "cpuinfo" => host.cpu_model = procfs::cpuinfo::parse_model(body).unwrap_or_default(),
            "os-release" => host.os_release = procfs::os_release::parse(body),
            "hostname" => {
                let name = Some(text(body));
                (host.kernel, host.domain_name) = (name.clone(), name.clone());
                (host.kernel_version, host.os) = (name.clone(), name);
            }
            _ => {}
        }
    }
    host
}

fn file_systems(body: &[u8]) -> Vec<FileSystem> {
    let mounts = mountinfo::parse(body).unwrap_or_default();
    let mounts = filter_mounts(mounts, Path::new("/"));
    let numbers = body.len() as u64;
    let size = FsSize {
        total_bytes: numbers << (numbers % 50),
        free_bytes: numbers << (numbers % 47),
        available_bytes: numbers << (numbers % 43),
        files: numbers,
        files_free: numbers / 2,
        read_only: false,
    };
    mounts
        .into_iter()
        .map(|mount| MountPoint::new(Path::new("/"), mount).with_usage(size))
        .collect()
}

/// Each line is the name of a zone, of a chip and its sensor, and of an interface.
fn devices(body: &[u8]) -> Devices {
    let mut devices = Devices::default();
    for (at, line) in body.split(|byte| *byte == b'\n').enumerate() {
        let line = text(line);
        let name: Arc<str> = line.as_str().into();
        let celsius = line.len() as f64 / 3.0;
        devices.temperatures.push(Temperature { zone: at as u32, sensor: line.clone(), celsius });
        let sensor = Sensor {
            id: name.clone(),
            label: Some(name.clone()),
            celsius: Some(celsius),
            max_celsius: None,
            critical_celsius: Some(f64::from(at as u32)),
        };
        // Names are unique, like those of directories.
        if devices.chips.iter().all(|chip| chip.id != name) {
            devices.chips.push(Chip {
                id: name.clone(),
                name: Some(name.clone()),
                sensors: vec![sensor],
            });
            let attributes = InterfaceAttributes {
                address: line.clone(),
                alias: line.clone(),
                duplex: line,
                ..Default::default()
            };
            devices.interfaces.push(Interface {
                device: name.clone(),
                state: name,
                carrier: Some(true),
                attributes: attributes.into(),
            });
        }
    }
    devices
}

/// Parses a line of the GPU probe.
fn gpus(body: &[u8]) -> Arc<Gpus> {
    let mut line: ProbeReply = serde_json::from_slice(body).unwrap_or_default();
    // The agent numbers GPUs itself.
    (0..).zip(&mut line.gpus).for_each(|(index, gpu)| gpu.index = index);
    Arc::new(Gpus { each: line.gpus, ..Default::default() })
}

/// Each line is the id of an application.
fn apps(body: &[u8]) -> AppSummary {
    let mut table = HeartbeatTable::new(100);
    for id in body.split(|byte| *byte == b'\n') {
        // Fails when the table is full.
        let _ =
            table.heartbeat(&text(id), Duration::from_millis(body.len() as u64), Duration::ZERO);
    }
    table.summary(Duration::from_millis(body.len() as u64))
}
