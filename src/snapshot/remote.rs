//! What is known of another host, as it comes over SSH: a [`Look`] every two seconds, and what changes less often.

use std::net::IpAddr;

use super::gpu::Gpu;
use crate::limits;
use crate::parse::df::Size;
use crate::parse::diskstats::{self, DiskStat};
use crate::parse::loadavg::{self, LoadAvg};
use crate::parse::meminfo::{self, MemInfo};
use crate::parse::mountinfo::{self, Mount};
use crate::parse::net_dev::{self, NetDev};
use crate::parse::processes::{self, Process};
use crate::parse::processors::{self, Place, Processor};
use crate::parse::remote::TooMuch;
use crate::parse::snmp::{self, Snmp};
use crate::parse::stat::{self, Stat};
use crate::parse::{decimal, df, fields, ip_address, lines, nvidia_smi, uptime};

/// What was printed of a look, by name.
#[derive(Debug, Default)]
pub struct Sections(pub Vec<(String, Vec<u8>)>);

impl Sections {
    /// Another one. A host that prints more than a look has is refused.
    pub fn push(&mut self, name: String, text: Vec<u8>) -> Result<(), TooMuch> {
        let bytes = self.0.iter().map(|(_, text)| text.len()).sum::<usize>() + text.len();
        if self.0.len() >= limits::REMOTE_PARTS || bytes > limits::REMOTE_LOOK_BYTES {
            return Err(TooMuch);
        }
        self.0.push((name, text));
        Ok(())
    }

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
    pub places: Vec<Place>,
    /// With the uptime at which they were read.
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
        Self {
            uptime_seconds: text("uptime").and_then(|text| uptime::parse(text).ok()),
            loadavg: text("loadavg").and_then(|text| loadavg::parse(text).ok()),
            stat: text("stat")
                .and_then(|text| stat::parse(text).ok())
                .filter(|stat| stat.cpus.len() <= limits::REMOTE_THINGS),
            meminfo: text("meminfo").and_then(|text| meminfo::parse(text).ok()),
            net_dev: text("net/dev")
                .and_then(|text| net_dev::parse(text).ok())
                .map_or_else(Vec::new, possible),
            snmp: text("net/snmp").and_then(|text| snmp::parse(text).ok()),
            diskstats: text("diskstats")
                .and_then(|text| diskstats::parse(text).ok())
                .map_or_else(Vec::new, possible),
            zones: possible(
                lines(text("zones").unwrap_or_default())
                    .filter_map(|(_, line)| zone(line))
                    .collect(),
            ),
        }
    }

    /// Processors that are online; `None` where that is not known.
    pub fn processors(&self) -> Option<usize> {
        self.stat.as_ref().map(|stat| stat.cpus.len()).filter(|count| *count > 0)
    }
}

/// A list, unless it is longer than any host's.
fn possible<T>(list: Vec<T>) -> Vec<T> {
    if list.len() > limits::REMOTE_THINGS { Vec::new() } else { list }
}

/// Number and thousandths of a degree; firmware without a reading says absolute zero, or less.
fn zone(line: &[u8]) -> Option<(u32, i64)> {
    let mut fields = fields(line);
    let number = u32::try_from(decimal(fields.next()?)?).ok()?;
    let text = std::str::from_utf8(fields.next()?).ok()?;
    let temperature = text.trim().parse().ok().filter(|degrees| *degrees > -273_000);
    Some((number, temperature?))
}

impl Host {
    /// Takes over what a look told beside its counters; `uptime` is the look's.
    pub fn take(&mut self, sections: &Sections, uptime: f64) -> News {
        let mut news = News::default();
        if let Some(text) = sections.get("hello") {
            self.page_bytes = decimal(text.trim_ascii()).unwrap_or(4096);
        }
        if let Some(text) = sections.get("cpuinfo") {
            self.processors = possible(processors::parse(text));
            news.processors = !self.processors.is_empty();
        }
        if let Some(text) = sections.get("topology") {
            self.places = possible(processors::parse_places(text));
        }
        if let Some(text) = sections.get("processes") {
            let list = (uptime, processes::parse(text));
            news.processes = Some(std::mem::replace(&mut self.processes, list));
        }
        if let Some(text) = sections.get("devices") {
            self.devices = possible(lines(text).map(|(_, line)| line.to_vec()).collect());
        }
        if let Some(text) = sections.get("addresses") {
            self.addresses = possible(ip_address::parse(text));
        }
        if let Some(text) = sections.get("mounts") {
            self.mounts = mountinfo::parse(text).map_or_else(|_| Vec::new(), possible);
        }
        news
    }

    /// Takes over what went on beside a look. Whether GPUs were among it.
    pub fn take_aside(&mut self, letter: u8, text: &[u8]) -> bool {
        match letter {
            b'd' => self.sizes = possible(df::parse(text)),
            b'g' => {
                self.gpus = possible(nvidia_smi::parse(text));
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

    #[test]
    fn parts_that_each_were_short_enough_could_take_a_hundred_megabytes() {
        let mut sections = Sections::default();
        let mut parts = (0..).map(|at| sections.push(at.to_string(), vec![0; 1 << 20]));
        assert_eq!(parts.position(|pushed| pushed.is_err()), Some(8));
        let mut sections = Sections::default();
        let mut parts = (0..).map(|at| sections.push(at.to_string(), Vec::new()));
        assert_eq!(parts.position(|pushed| pushed.is_err()), Some(limits::REMOTE_PARTS));
    }

    #[test]
    fn lists_longer_than_any_hosts_kept_a_processor_busy() {
        let most = limits::REMOTE_THINGS;
        let look = |count: usize| {
            let cpus = |at: usize| format!("cpu{at} 1 1 1 1\n");
            let interface = |at: usize| format!("e{at}: {}\n", "1 ".repeat(16));
            let stat = "cpu 1 1 1 1\n".to_owned() + &(0..count).map(cpus).collect::<String>();
            let net: String =
                "a|b\nc|d\n".to_owned() + &(0..count).map(interface).collect::<String>();
            let sections = [("stat", stat), ("net/dev", net)];
            let sections = sections.map(|(name, text)| (name.to_owned(), text.into_bytes()));
            Look::new(&Sections(sections.into()))
        };
        let (whole, longer) = (look(most), look(most + 1));
        assert_eq!((whole.processors(), whole.net_dev.len()), (Some(most), most));
        assert!(longer.stat.is_none() && longer.net_dev.is_empty());
        let mut host = Host::default();
        let sizes = |count| "/dev/a 3 2 1 66% /\n".repeat(count);
        host.take_aside(b'd', sizes(most).as_bytes());
        assert_eq!(host.sizes.len(), most);
        host.take_aside(b'd', sizes(most + 1).as_bytes());
        assert!(host.sizes.is_empty());
    }
}
