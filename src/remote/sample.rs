//! What is known of another host, as it comes over SSH: a [`Look`] every two seconds, and what changes less often.

use std::net::IpAddr;

use crate::limits;
use crate::model::gpu::Gpu;
use crate::procfs::diskstats;
use crate::procfs::diskstats::DiskStat;
use crate::procfs::loadavg;
use crate::procfs::loadavg::LoadAvg;
use crate::procfs::meminfo;
use crate::procfs::meminfo::MemInfo;
use crate::procfs::mountinfo;
use crate::procfs::mountinfo::Mount;
use crate::procfs::net_dev;
use crate::procfs::net_dev::NetDev;
use crate::procfs::processes;
use crate::procfs::processes::Process;
use crate::procfs::processors;
use crate::procfs::processors::{CpuTopology, Processor};
use crate::procfs::snmp;
use crate::procfs::snmp::Snmp;
use crate::procfs::stat;
use crate::procfs::stat::Stat;
use crate::procfs::{fields, lines, uptime};
use crate::remote::df::Size;
use crate::remote::{df, ip_address, nvidia_smi};
use crate::util::text::parse_decimal;

/// What was printed of a look, by name.
#[derive(Debug, Default)]
pub struct Sections(pub Vec<(String, Vec<u8>)>);

impl Sections {
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, text)| &text[..])
    }
}

/// A host's counters at one moment. What it does not have is absent.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)] // named after their files
pub struct Look {
    pub uptime_seconds: Option<f64>,
    pub loadavg: Option<LoadAvg>,
    pub stat: Option<Stat>,
    pub meminfo: Option<MemInfo>,
    pub net_dev: Vec<NetDev>,
    pub snmp: Option<Snmp>,
    pub diskstats: Vec<DiskStat>,
    /// Thermal zones, in thousandths of a degree.
    pub zones: Vec<(u32, i64)>,
}

/// What a host is, as it was last told.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct Host {
    pub page_bytes: u64,
    pub processors: Vec<Processor>,
    pub places: Vec<CpuTopology>,
    /// With the uptime at which they were read, by number.
    pub processes: (f64, Vec<Process>),
    /// Interfaces that are hardware.
    pub devices: Vec<Vec<u8>>,
    pub addresses: Vec<(Vec<u8>, IpAddr)>,
    pub mounts: Vec<Mount>,
    pub sizes: Vec<Size>,
    pub gpus: Vec<Gpu>,
}

/// What a look told beside its counters.
#[derive(Debug, Default)]
pub struct News {
    /// There is a list of processors.
    pub processors: bool,
    /// There is a list of processes; this is the one before it.
    pub processes: Option<(f64, Vec<Process>)>,
}

impl Look {
    /// Reads what was printed, by name. What cannot be understood is absent.
    pub fn new(sections: &Sections) -> Self {
        let text = |name: &str| sections.get(name).filter(|text| !text.is_empty());
        let mut look = Self {
            uptime_seconds: text("uptime").and_then(|text| uptime::parse(text).ok()),
            loadavg: text("loadavg").and_then(|text| loadavg::parse(text).ok()),
            stat: text("stat").and_then(|text| stat::parse(text).ok()),
            meminfo: text("meminfo").and_then(|text| meminfo::parse(text).ok()),
            net_dev: text("net/dev").and_then(|text| net_dev::parse(text).ok()).unwrap_or_default(),
            snmp: text("net/snmp").and_then(|text| snmp::parse(text).ok()),
            diskstats: text("diskstats")
                .and_then(|text| diskstats::parse(text).ok())
                .unwrap_or_default(),
            zones: lines(text("zones").unwrap_or_default())
                .filter_map(|(_, line)| zone(line))
                .collect(),
        };
        look.net_dev.truncate(limits::REMOTE_THINGS);
        look.diskstats.truncate(limits::REMOTE_THINGS);
        look.zones.truncate(limits::REMOTE_THINGS);
        if let Some(stat) = &mut look.stat {
            stat.cpus.truncate(limits::REMOTE_THINGS);
        }
        look
    }

    /// Processors that are online; `None` where that is not known.
    pub fn processors(&self) -> Option<usize> {
        self.stat.as_ref().map(|stat| stat.cpus.len()).filter(|count| *count > 0)
    }
}

/// Number and thousandths of a degree; firmware without a reading says absolute zero, or less.
fn zone(line: &[u8]) -> Option<(u32, i64)> {
    let mut fields = fields(line);
    let number = u32::try_from(parse_decimal(fields.next()?)?).ok()?;
    let text = std::str::from_utf8(fields.next()?).ok()?;
    let temperature = text.trim().parse().ok().filter(|degrees| *degrees > -273_000);
    Some((number, temperature?))
}

impl Host {
    /// Takes over what a look told beside its counters; `uptime` is the look's.
    pub fn take(&mut self, sections: &Sections, uptime: f64) -> News {
        let mut news = News::default();
        if let Some(text) = sections.get("hello") {
            self.page_bytes = parse_decimal(text.trim_ascii()).unwrap_or(4096);
        }
        if let Some(text) = sections.get("cpuinfo") {
            self.processors = few(processors::parse(text));
            news.processors = !self.processors.is_empty();
        }
        if let Some(text) = sections.get("topology") {
            self.places = few(processors::parse_topology(text));
        }
        if let Some(text) = sections.get("processes") {
            let mut list = processes::parse(text);
            list.sort_unstable_by_key(|one| one.pid);
            let list = (uptime, list);
            news.processes = Some(std::mem::replace(&mut self.processes, list));
        }
        if let Some(text) = sections.get("devices") {
            self.devices = few(lines(text).map(|(_, line)| line.to_vec()).collect());
        }
        if let Some(text) = sections.get("addresses") {
            self.addresses = few(ip_address::parse(text));
        }
        if let Some(text) = sections.get("mounts") {
            self.mounts = few(mountinfo::parse(text).unwrap_or_default());
        }
        news
    }

    /// Takes over what went on beside a look. Whether GPUs were among it.
    pub fn take_aside(&mut self, letter: u8, text: &[u8]) -> bool {
        match letter {
            b'd' => self.sizes = few(df::parse(text)),
            b'g' => {
                self.gpus = few(nvidia_smi::parse(text));
                return !self.gpus.is_empty();
            }
            _ => {}
        }
        false
    }

    /// Whether processors must be placed by what `/sys` says of them.
    pub fn wants_places(&self) -> bool {
        self.processors.iter().any(|one| one.number("physical id").is_none())
    }
}

/// No more than a real host has.
fn few<T>(mut things: Vec<T>) -> Vec<T> {
    things.truncate(limits::REMOTE_THINGS);
    things
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_does_not_have_is_absent() {
        let look = Look::new(&Sections::default());
        assert!(look.stat.is_none() && look.zones.is_empty() && look.processors().is_none());
        let sections = [("zones", "0 45000\n1 -274000\n3 -5000\nx\n4 hot\n"), ("stat", "nonsense")];
        let sections = sections.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
        let look = Look::new(&Sections(sections.into()));
        assert_eq!(look.zones, [(0, 45_000), (3, -5_000)]);
        assert!(look.stat.is_none());
    }
}
