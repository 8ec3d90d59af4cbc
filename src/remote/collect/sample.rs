//! Data of a remote host: a [`RemoteSample`] every two seconds, and a [`RemoteInventory`] of what changes less often.

use std::net::IpAddr;

use crate::model::gpu::Gpu;
use crate::procfs::diskstats::{self, DiskStat};
use crate::procfs::loadavg::{self, LoadAvg};
use crate::procfs::meminfo::{self, MemInfo};
use crate::procfs::mountinfo::{self, Mount};
use crate::procfs::net_dev::{self, NetDev};
use crate::procfs::processes::{self, Process};
use crate::procfs::processors::{self, CpuTopology, Processor};
use crate::procfs::snmp::{self, Snmp};
use crate::procfs::stat::{self, Stat};
use crate::procfs::{fields, lines, temperature, uptime};
use crate::remote::collect::df::{self, DfEntry};
use crate::remote::collect::{ip_address, nvidia_smi};
use crate::util::text::parse_decimal;

/// Limit for each list but that of processes; the rest is dropped. Some lists are compared item by item with each
/// other, so that their cost is quadratic.
const MAX_ITEMS: usize = 4096;

/// The sections of one response, by name.
#[derive(Debug, Default)]
pub struct Sections(pub Vec<(String, Vec<u8>)>);

impl Sections {
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, text)| &text[..])
    }
}

/// Counters and gauges of a host at one moment. What the host does not have is absent.
#[derive(Debug, Clone, Default)]
pub struct RemoteSample {
    pub uptime_seconds: Option<f64>,
    pub loadavg: Option<LoadAvg>,
    pub stat: Option<Stat>,
    pub meminfo: Option<MemInfo>,
    pub net_dev: Vec<NetDev>,
    pub snmp: Option<Snmp>,
    pub diskstats: Vec<DiskStat>,
    /// Number and temperature of thermal zones.
    pub zones_millicelsius: Vec<(u32, i64)>,
}

/// Properties of a host, as received last.
#[derive(Debug, Clone, Default)]
pub struct RemoteInventory {
    pub page_size_bytes: u64,
    pub processors: Vec<Processor>,
    pub topology: Vec<CpuTopology>,
    pub processes: ProcessList,
    /// Names of interfaces that are backed by hardware.
    pub physical_interfaces: Vec<Vec<u8>>,
    pub addresses: Vec<(Vec<u8>, IpAddr)>,
    pub mounts: Vec<Mount>,
    pub filesystems: Vec<DfEntry>,
    pub gpus: Vec<Gpu>,
}

/// Processes in order of their PIDs, and the uptime at which they were read.
#[derive(Debug, Clone, Default)]
pub struct ProcessList {
    pub uptime_seconds: f64,
    pub processes: Vec<Process>,
}

/// The parts of an inventory that a response has replaced.
#[derive(Debug, Default)]
pub struct InventoryChanges {
    /// There is a new list of processors.
    pub processors: bool,
    /// The list of processes before the new one.
    pub previous_processes: Option<ProcessList>,
}

impl RemoteSample {
    /// Parses the sections of a response. A section that is missing, empty or malformed is absent.
    pub fn parse(sections: &Sections) -> Self {
        let text = |name: &str| sections.get(name).filter(|text| !text.is_empty());
        let mut sample = Self {
            uptime_seconds: text("uptime").and_then(|text| uptime::parse(text).ok()),
            loadavg: text("loadavg").and_then(|text| loadavg::parse(text).ok()),
            stat: text("stat").and_then(|text| stat::parse(text).ok()),
            meminfo: text("meminfo").and_then(|text| meminfo::parse(text).ok()),
            net_dev: text("net/dev").and_then(|text| net_dev::parse(text).ok()).unwrap_or_default(),
            snmp: text("net/snmp").and_then(|text| snmp::parse(text).ok()),
            diskstats: text("diskstats")
                .and_then(|text| diskstats::parse(text).ok())
                .unwrap_or_default(),
            zones_millicelsius: lines(text("zones").unwrap_or_default())
                .filter_map(|(_, line)| zone(line))
                .collect(),
        };
        sample.net_dev.truncate(MAX_ITEMS);
        sample.diskstats.truncate(MAX_ITEMS);
        sample.zones_millicelsius.truncate(MAX_ITEMS);
        if let Some(stat) = &mut sample.stat {
            stat.cpus.truncate(MAX_ITEMS);
        }
        sample
    }

    /// Number of online processors, if known.
    pub fn online_processors(&self) -> Option<usize> {
        self.stat.as_ref().map(|stat| stat.cpus.len()).filter(|count| *count > 0)
    }
}

/// Parses number and temperature of a thermal zone.
fn zone(line: &[u8]) -> Option<(u32, i64)> {
    let mut fields = fields(line);
    let number = u32::try_from(parse_decimal(fields.next()?)?).ok()?;
    Some((number, temperature::parse_millicelsius(fields.next()?).ok()?))
}

impl RemoteInventory {
    /// Replaces what a response contains; `uptime` is that of its sample.
    pub fn update(&mut self, sections: &Sections, uptime: f64) -> InventoryChanges {
        let mut changes = InventoryChanges::default();
        if let Some(text) = sections.get("page-size") {
            self.page_size_bytes = parse_decimal(text.trim_ascii()).unwrap_or(4096);
        }
        if let Some(text) = sections.get("cpuinfo") {
            self.processors = bounded(processors::parse(text));
            changes.processors = !self.processors.is_empty();
        }
        if let Some(text) = sections.get("topology") {
            self.topology = bounded(processors::parse_topology(text));
        }
        if let Some(text) = sections.get("processes") {
            let mut processes = processes::parse(text);
            processes.sort_unstable_by_key(|process| process.pid);
            let list = ProcessList { uptime_seconds: uptime, processes };
            changes.previous_processes = Some(std::mem::replace(&mut self.processes, list));
        }
        if let Some(text) = sections.get("devices") {
            self.physical_interfaces =
                bounded(lines(text).map(|(_, line)| line.to_vec()).collect());
        }
        if let Some(text) = sections.get("addresses") {
            self.addresses = bounded(ip_address::parse(text));
        }
        if let Some(text) = sections.get("mounts") {
            self.mounts = bounded(mountinfo::parse(text).unwrap_or_default());
        }
        changes
    }

    /// Replaces what an asynchronous part contains. Returns whether it contains GPUs.
    pub fn update_async(&mut self, letter: u8, text: &[u8]) -> bool {
        match letter {
            b'd' => self.filesystems = bounded(df::parse(text)),
            b'g' => {
                self.gpus = bounded(nvidia_smi::parse(text));
                return !self.gpus.is_empty();
            }
            _ => {}
        }
        false
    }

    /// Whether `/proc/cpuinfo` does not contain the packages of all processors, so that `/sys` must be read for them.
    pub fn needs_topology(&self) -> bool {
        self.processors.iter().any(|processor| processor.package().is_none())
    }
}

fn bounded<T>(mut items: Vec<T>) -> Vec<T> {
    items.truncate(MAX_ITEMS);
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_malformed_sections_are_absent() {
        let sample = RemoteSample::parse(&Sections::default());
        assert!(sample.stat.is_none() && sample.zones_millicelsius.is_empty());
        assert!(sample.online_processors().is_none());
        let sections = [
            ("zones", "0 45000\n1 -274000\n2 -256000\n3 -5000\nx\n4 hot\n5 65261850\n"),
            ("stat", "nonsense"),
        ];
        let sections = sections.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
        let sample = RemoteSample::parse(&Sections(sections.into()));
        assert_eq!(sample.zones_millicelsius, [(0, 45_000), (3, -5_000)]);
        assert!(sample.stat.is_none());
    }
}
