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
use crate::procfs::{ParseError, fields, lines, temperature, uptime};
use crate::remote::collect::df::{self, DfEntry};
use crate::remote::collect::{ip_address, nvidia_smi};
use crate::util::text::parse_decimal;

/// Limits of the sections that are kept: lines, and bytes of a line. The kernel limits the lists, but a host may print
/// anything: what exceeds a limit is dropped before it is stored, so that nothing of unlimited size is parsed or compared.
/// Some lists are compared item by item with each other, so that their cost is quadratic.
const LIMITS: [(&str, usize, usize); 15] = [
    ("page-size", 1, 64),
    ("uptime", 1, 128),
    ("loadavg", 1, 128),
    ("stat", MAX_ITEMS + 1, 512),
    ("meminfo", 256, 128),
    // All interfaces, because hardware may be the last of them; see `select_interfaces`.
    ("net/dev", usize::MAX, 512),
    ("net/snmp", 64, 4096),
    ("diskstats", MAX_ITEMS, 512),
    ("zones", 256, 64),
    ("processes", 32_768, 2048),
    ("cpuinfo", MAX_ITEMS * 64, 256),
    ("topology", MAX_ITEMS, 128),
    ("devices", MAX_ITEMS, 64),
    ("addresses", MAX_ITEMS, 512),
    ("mounts", MAX_ITEMS, 64 << 10),
];
/// Two paths and three numbers.
const MAX_DF_LINE_BYTES: usize = 10_000;
const MAX_GPUS: usize = 128;
const MAX_GPU_LINE_BYTES: usize = 1024;
const MAX_ITEMS: usize = 4096;

/// The sections of one response, by name, within their limits.
#[derive(Debug, Default)]
pub struct Sections(Vec<(&'static str, Vec<u8>)>);

impl Sections {
    /// Keeps a section that collect.sh prints. Another one, or a second one of the same name, is ignored.
    pub fn insert(&mut self, name: &str, text: Vec<u8>) {
        let limits = LIMITS.iter().find(|(known, ..)| *known == name);
        if let Some(&(name, max_lines, max_line_bytes)) = limits
            && self.get(name).is_none()
        {
            self.0.push((name, bounded_lines(text, max_lines, max_line_bytes)));
        }
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, text)| &text[..])
    }

    /// Uptime of the host.
    pub fn uptime_seconds(&self) -> Option<f64> {
        uptime::parse(self.get("uptime")?).ok()
    }
}

/// Drops lines that are too long, and those after the first `max_lines`.
fn bounded_lines(text: Vec<u8>, max_lines: usize, max_line_bytes: usize) -> Vec<u8> {
    let fits = |line: &[u8]| line.len() <= max_line_bytes;
    if lines(&text).all(|(at, line)| at <= max_lines && fits(line)) {
        return text;
    }
    let kept = lines(&text).map(|(_, line)| line).filter(|line| fits(line)).take(max_lines);
    kept.flat_map(|line| [line, b"\n"].concat()).collect()
}

/// Counters and gauges of a host at one moment. What the host does not have is absent.
#[derive(Debug, Clone, Default)]
pub struct RemoteSample {
    pub uptime_seconds: Option<f64>,
    pub loadavg: Option<LoadAvg>,
    pub stat: Option<Stat>,
    pub meminfo: Option<MemInfo>,
    /// Hardware is first.
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
    /// Names of interfaces that are backed by hardware, sorted.
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
    /// Parses the sections of a response from a host with these hardware interfaces. A section that is missing, empty or
    /// malformed is absent.
    pub fn parse(sections: &Sections, inventory: &RemoteInventory) -> Self {
        let text = |name: &str| sections.get(name).filter(|text| !text.is_empty());
        Self {
            uptime_seconds: sections.uptime_seconds(),
            loadavg: text("loadavg").and_then(|text| loadavg::parse(text).ok()),
            stat: text("stat").and_then(|text| stat::parse(text).ok()),
            meminfo: text("meminfo").and_then(|text| meminfo::parse(text).ok()),
            net_dev: text("net/dev")
                .and_then(|text| select_interfaces(text, inventory).ok())
                .unwrap_or_default(),
            snmp: text("net/snmp").and_then(|text| snmp::parse(text).ok()),
            diskstats: text("diskstats")
                .and_then(|text| diskstats::parse(text).ok())
                .unwrap_or_default(),
            zones_millicelsius: lines(text("zones").unwrap_or_default())
                .filter_map(|(_, line)| zone(line))
                .collect(),
        }
    }

    /// Number of online processors, if known.
    pub fn online_processors(&self) -> Option<usize> {
        self.stat.as_ref().map(|stat| stat.cpus.len()).filter(|count| *count > 0)
    }
}

/// Parses the hardware interfaces, and then others, up to [`MAX_ITEMS`].
fn select_interfaces(text: &[u8], inventory: &RemoteInventory) -> Result<Vec<NetDev>, ParseError> {
    let is_hardware = |name: &[u8]| inventory.is_hardware(name);
    let mut devices = net_dev::parse_matching(text, MAX_ITEMS, is_hardware)?;
    let left = MAX_ITEMS.saturating_sub(devices.len());
    devices.extend(net_dev::parse_matching(text, left, |name| !is_hardware(name))?);
    Ok(devices)
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
            self.processors = processors::parse(text);
            changes.processors = !self.processors.is_empty();
        }
        if let Some(text) = sections.get("topology") {
            self.topology = processors::parse_topology(text);
        }
        if let Some(text) = sections.get("processes") {
            let mut processes = processes::parse(text);
            processes.sort_unstable_by_key(|process| process.pid);
            let list = ProcessList { uptime_seconds: uptime, processes };
            changes.previous_processes = Some(std::mem::replace(&mut self.processes, list));
        }
        if let Some(text) = sections.get("devices") {
            self.physical_interfaces = lines(text).map(|(_, line)| line.to_vec()).collect();
            self.physical_interfaces.sort_unstable();
        }
        if let Some(text) = sections.get("addresses") {
            self.addresses = ip_address::parse(text);
        }
        if let Some(text) = sections.get("mounts") {
            let mount = |(at, line)| mountinfo::parse_line(at, line).ok().flatten();
            self.mounts = lines(text).filter_map(mount).collect();
        }
        changes
    }

    /// Replaces what an asynchronous part contains. Returns whether it contains GPUs.
    pub fn update_async(&mut self, letter: u8, text: Vec<u8>) -> bool {
        match letter {
            b'd' => {
                self.filesystems = df::parse(&bounded_lines(text, MAX_ITEMS, MAX_DF_LINE_BYTES));
            }
            b'g' => {
                self.gpus = nvidia_smi::parse(&bounded_lines(text, MAX_GPUS, MAX_GPU_LINE_BYTES));
                return !self.gpus.is_empty();
            }
            _ => {}
        }
        false
    }

    pub fn is_hardware(&self, interface: &[u8]) -> bool {
        self.physical_interfaces.binary_search_by(|name| name[..].cmp(interface)).is_ok()
    }

    /// Whether `/proc/cpuinfo` does not contain the packages of all processors, so that `/sys` must be read for them.
    pub fn needs_topology(&self) -> bool {
        self.processors.iter().any(|processor| processor.package().is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_malformed_sections_are_absent() {
        let inventory = RemoteInventory::default();
        let sample = RemoteSample::parse(&Sections::default(), &inventory);
        assert!(sample.stat.is_none() && sample.zones_millicelsius.is_empty());
        assert!(sample.online_processors().is_none());
        let sections = sections(&[
            ("zones", "0 45000\n1 -274000\n2 -256000\n3 -5000\nx\n4 hot\n5 65261850\n"),
            ("stat", "nonsense"),
        ]);
        let sample = RemoteSample::parse(&sections, &inventory);
        assert_eq!(sample.zones_millicelsius, [(0, 45_000), (3, -5_000)]);
        assert!(sample.stat.is_none());
    }

    fn sections(texts: &[(&str, &str)]) -> Sections {
        let mut sections = Sections::default();
        texts.iter().for_each(|(name, text)| sections.insert(name, text.as_bytes().to_vec()));
        sections
    }

    #[test]
    fn every_section_is_bounded_before_it_is_parsed() {
        let endless = "7 ".repeat(4 << 20 >> 2) + "\n";
        let many = "7\n".repeat(1 << 20);
        for (name, max_lines, max_line_bytes) in LIMITS {
            let mut sections = sections(&[(name, &format!("7\n{endless}8\n"))]);
            assert!(sections.get(name).unwrap().starts_with(b"7\n"), "{name}");
            assert!(sections.get(name).unwrap().len() <= 4, "{name} keeps a line that is too long");
            sections.insert(name, b"second".to_vec());
            assert_eq!(sections.0.len(), 1);
            let kept = self::sections(&[(name, &many)]).get(name).unwrap().len() / 2;
            assert_eq!(kept, max_lines.min(1 << 20), "{name}");
            assert!(max_line_bytes < 1 << 20);
        }
        assert!(sections(&[("unknown", "7\n")]).0.is_empty());
    }

    #[test]
    fn lists_of_a_hostile_host_are_bounded() {
        let mut inventory = RemoteInventory::default();
        let repeat = |line: &str| line.repeat((4 << 20) / line.len());
        let zeros = " 0".repeat(16);
        let texts = [
            ("stat", "cpu 1 1 1 1\n".to_owned() + &repeat("cpu0 1 1 1 1\n")),
            ("net/dev", "a\nb\n".to_owned() + &repeat(&format!("e:{zeros}\n"))),
            ("diskstats", repeat(&format!("1 1 x{zeros}\n"))),
            ("zones", repeat("0 1\n")),
            ("processes", repeat(&format!("1 (x) R{}\n", " 1".repeat(24)))),
            ("cpuinfo", repeat("processor:0\n")),
            ("topology", repeat("0 0 0 0\n")),
            ("devices", repeat("e\n")),
            ("addresses", repeat("1: e inet 10.0.0.1/8\n")),
            ("mounts", repeat("1 1 1:1 / / rw - x x rw\n")),
        ];
        let texts: Vec<_> = texts.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let sections = sections(&texts);
        inventory.update(&sections, 1.0);
        inventory.update_async(b'd', repeat("/ 1 1 1 1% /\n").into_bytes());
        inventory.update_async(b'g', repeat("0\n").into_bytes());
        let sample = RemoteSample::parse(&sections, &inventory);
        let lists = [
            ("cpus", sample.stat.unwrap().cpus.len(), MAX_ITEMS),
            ("interfaces", sample.net_dev.len(), MAX_ITEMS),
            ("disks", sample.diskstats.len(), MAX_ITEMS),
            ("zones", sample.zones_millicelsius.len(), 256),
            ("processes", inventory.processes.processes.len(), 32_768),
            ("processors", inventory.processors.len(), MAX_ITEMS),
            ("topology", inventory.topology.len(), MAX_ITEMS),
            ("devices", inventory.physical_interfaces.len(), MAX_ITEMS),
            ("addresses", inventory.addresses.len(), MAX_ITEMS),
            ("mounts", inventory.mounts.len(), MAX_ITEMS),
            ("filesystems", inventory.filesystems.len(), MAX_ITEMS),
            ("gpus", inventory.gpus.len(), MAX_GPUS),
        ];
        for (name, length, limit) in lists {
            assert_eq!(length, limit, "{name}");
        }
    }

    #[test]
    fn hardware_interfaces_come_first_among_thousands() {
        let zeros = " 0".repeat(16);
        let line = |name: &str| format!("{name}:{zeros}\n");
        let mut text = "a\nb\n".to_owned();
        (0..5000).for_each(|number| text += &line(&format!("veth{number}")));
        text += &(line("eth1") + &line("eth0"));
        let sections = sections(&[("net/dev", &text), ("devices", "eth1\neth0\n")]);
        let mut inventory = RemoteInventory::default();
        inventory.update(&sections, 1.0);
        let sample = RemoteSample::parse(&sections, &inventory);
        let names: Vec<&[u8]> = sample.net_dev.iter().map(|device| &device.name[..]).collect();
        assert_eq!(names[..3], [&b"eth1"[..], b"eth0", b"veth0"]);
        assert_eq!(names.len(), MAX_ITEMS);
    }

    #[test]
    fn malformed_mount_does_not_hide_the_others() {
        let mounts = "x\n27 1 8:1 / / rw - ext4 /dev/sda1 rw\n";
        let mut inventory = RemoteInventory::default();
        inventory.update(&sections(&[("mounts", mounts)]), 1.0);
        assert_eq!(inventory.mounts.len(), 1);
    }
}
