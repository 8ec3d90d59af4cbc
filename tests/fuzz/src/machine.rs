//! A machine made of the fuzzer's text: sections in the form in which a host prints them over SSH.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hm_agent::collector::gpu::nvidia::protocol::ProbeReply;
use hm_agent::collector::mount_filter::filter_mounts;
use hm_agent::collector::mounts::MountPoint;
use hm_agent::heartbeat::table::HeartbeatTable;
use hm_agent::model::devices::{Chip, Devices, InterfaceAttributes, Interface, Sensor};
use hm_agent::model::gpu::Gpus;
use hm_agent::model::{FileSystem, RawSample, Temperature};
use hm_agent::procfs;
use hm_agent::procfs::mountinfo;
use hm_agent::remote::collect::output::{MAX_PART_BYTES, OutputParser, OutputPart};
use hm_agent::sys::FsSize;
use hm_agent::model::host_info::HostInfo;

use crate::program::text;

/// The mark that the seeds have.
pub const MARKER: &str = "m3";

/// The sections of each look; what is not whole is the last one.
pub fn looks(bytes: &[u8]) -> Vec<Vec<(String, Vec<u8>)>> {
    let mut looks = vec![Vec::new()];
    let parts = OutputParser::new(MARKER, MAX_PART_BYTES).push(bytes);
    for part in parts.unwrap_or_default() {
        match part {
            OutputPart::Section(name, body) => looks.last_mut().unwrap().push((name, body)),
            OutputPart::Async(..) => {}
            OutputPart::EndOfResponse => looks.push(Vec::new()),
        }
    }
    looks
}

/// What the agent would have read there.
pub fn reading(sections: &[(String, Vec<u8>)]) -> RawSample {
    let mut reading = RawSample::default();
    let mut devices = Devices::default();
    for (name, body) in sections {
        match name.as_str() {
            "clock" => {
                let mut numbers = body.split(|byte| *byte == b' ' || *byte == b'\n');
                let mut number = || numbers.next().and_then(hm_agent::util::text::parse_decimal).unwrap_or_default();
                (reading.monotonic, reading.unix_seconds) =
                    (Duration::from_millis(number() & 0xff_ffff_ffff), number());
            }
            "hostname" => reading.hostname = Some(text(body)),
            "stat" => reading.stat = procfs::stat::parse(body).ok(),
            "meminfo" => reading.meminfo = procfs::meminfo::parse(body).ok(),
            "zoneinfo" => {
                reading.low_watermark_bytes =
                    procfs::zoneinfo::parse_low_watermark_pages(body).ok();
            }
            "loadavg" => reading.loadavg = procfs::loadavg::parse(body).ok(),
            "uptime" => reading.uptime_seconds = procfs::uptime::parse(body).ok(),
            "pressure" => {
                reading.pressure.cpu = procfs::pressure::parse(body).ok();
                reading.pressure.io = reading.pressure.cpu;
            }
            "diskstats" => reading.diskstats = procfs::diskstats::parse(body).unwrap_or_default(),
            "net/dev" => reading.net_dev = procfs::net_dev::parse(body).unwrap_or_default(),
            "vmstat" => reading.vmstat = procfs::vmstat::parse(body).ok(),
            "file-nr" => reading.file_nr = procfs::file_nr::parse(body).ok(),
            "mounts" => reading.file_systems = file_systems(body),
            "names" => devices = named(body),
            "gpus" => reading.gpus = gpus(body),
            "apps" => reading.heartbeats = apps(body).into(),
            _ => {}
        }
    }
    reading.devices = Arc::new(devices);
    reading
}

/// What is the same in each look.
pub fn machine(sections: &[(String, Vec<u8>)]) -> HostInfo {
    let mut machine = HostInfo::default();
    for (name, body) in sections {
        match name.as_str() {
            "cpuinfo" => machine.cpu_model = procfs::cpuinfo::parse_model(body).unwrap_or_default(),
            "os-release" => machine.os_release = procfs::os_release::parse(body),
            "hostname" => {
                let name = Some(text(body));
                (machine.kernel, machine.domain_name) = (name.clone(), name.clone());
                (machine.kernel_version, machine.os) = (name.clone(), name);
            }
            _ => {}
        }
    }
    machine
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
    mounts.into_iter().map(|mount| MountPoint::new(Path::new("/"), mount).with_usage(size)).collect()
}

/// A line is the name of a zone, of a chip and its sensor, and of an interface.
fn named(body: &[u8]) -> Devices {
    let mut devices = Devices::default();
    for (at, line) in body.split(|byte| *byte == b'\n').enumerate() {
        let line = text(line);
        let name: Arc<str> = line.as_str().into();
        let celsius = line.len() as f64 / 3.0;
        devices.temperatures.push(Temperature { zone: at as u32, sensor: line.clone(), celsius });
        let sensor = Sensor {
            sensor: name.clone(),
            label: Some(name.clone()),
            celsius: Some(celsius),
            max_celsius: None,
            critical_celsius: Some(f64::from(at as u32)),
        };
        // Directories of one directory: their names differ.
        if devices.chips.iter().all(|chip| chip.chip != name) {
            devices.chips.push(Chip {
                chip: name.clone(),
                name: Some(name.clone()),
                sensors: vec![sensor],
            });
            let fixed = InterfaceAttributes {
                address: line.clone(),
                alias: line.clone(),
                duplex: line,
                ..Default::default()
            };
            let (state, fixed) = (name.clone(), fixed.into());
            devices.interfaces.push(Interface { device: name, state, carrier: Some(true), fixed });
        }
    }
    devices
}

/// A line of the probe.
fn gpus(body: &[u8]) -> Arc<Gpus> {
    let mut line: ProbeReply = serde_json::from_slice(body).unwrap_or_default();
    // The agent's own numbers.
    (0..).zip(&mut line.gpus).for_each(|(index, gpu)| gpu.index = index);
    Arc::new(Gpus { each: line.gpus, ..Default::default() })
}

/// A line is the id of an application.
fn apps(body: &[u8]) -> Vec<hm_agent::model::status::AppStatus> {
    let mut watch = HeartbeatTable::new(100);
    for id in body.split(|byte| *byte == b'\n') {
        // The hundred-and-first is refused.
        let _ = watch.beat(&text(id), Duration::from_millis(body.len() as u64), Duration::ZERO);
    }
    watch.statuses(Duration::from_millis(body.len() as u64))
}
