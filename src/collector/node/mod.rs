//! Collectors of what node_exporter shows, one file each, named as node_exporter names them and `collectors.disable` takes them.
//! They run on [`super::blocking_worker`], because firmware and drivers may answer slowly or never.
//!
//! [`crate::metrics::node`] has the series of each.

mod arp;
mod bonding;
mod btrfs;
mod conntrack;
mod cooling;
mod cpu;
mod cpufreq;
mod dmi;
mod edac;
mod entropy;
mod hwmon;
mod infiniband;
mod interrupts;
mod kernel_hung;
mod mdadm;
mod netclass_rtnl;
mod netstat;
mod nfs;
mod nvme;
mod pci_device;
mod power_supply;
mod processes;
mod rapl;
mod schedstat;
mod sockstat;
mod softnet;
pub mod systemd;
mod tcpstat;
mod textfile;
mod time;
mod timex;
mod udp_queues;
mod zfs;

use std::time::Duration;

use crate::collector::blocking_worker::ScheduledCollector;
use crate::collector::file_reader::FileReader;
use crate::collector::host_files::HostFiles;
use crate::collector::node::infiniband::counters::InfinibandCounters;
use crate::collector::node::systemd::SystemdCollector;
use crate::collector::node::textfile::TextfileCollector;
use crate::config::{CollectorsConfig, Roots};
use crate::model::node::Measurement;

/// Reads one part of the host.
pub trait Collector: Send {
    /// Returns `None` if the host has nothing of the kind. A file that cannot be read or parsed is recorded in `host`, which makes the
    /// collector fail; what the other files contain is returned nevertheless.
    fn collect(&mut self, host: &mut HostFiles) -> Option<Measurement>;
}

impl<F: FnMut(&mut HostFiles) -> Option<Measurement> + Send> Collector for F {
    fn collect(&mut self, host: &mut HostFiles) -> Option<Measurement> {
        self(host)
    }
}

/// When a collector runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    EverySample,
    /// With the first sample that is at least this long after its last run.
    Interval(Duration),
    /// With the first sample: for what does not change until the next boot.
    Once,
}

/// For what changes slowly, or costs more than a few files.
const SLOW: Pace = Pace::Interval(Duration::from_secs(60));

/// For counters that dashboards rate over a minute, in a file that is large on a machine with hundreds of CPUs.
const MEDIUM: Pace = Pace::Interval(Duration::from_secs(15));

/// Between two queries of systemd: so that an alert which compares 5 minutes has several values, and the first process of the machine
/// is rarely interrupted.
const SYSTEMD: Pace = Pace::Interval(Duration::from_secs(30));
/// For files of other programs, which are written once a minute or less often, and which Prometheus commonly reads every 15 s.
const TEXTFILE: Pace = Pace::Interval(Duration::from_secs(15));
/// A collector of [`COLLECTORS`].
pub struct Entry {
    pub name: &'static str,
    pub pace: Pace,
    pub new: fn(&CollectorsConfig) -> Box<dyn Collector>,
}

impl Entry {
    pub fn schedule(&self, roots: &Roots, config: &CollectorsConfig) -> ScheduledCollector {
        // Files that are read with every sample stay open, so that they can still be read when this process has run out of file
        // descriptors.
        let files = match self.pace {
            Pace::EverySample => FileReader::default(),
            Pace::Interval(_) | Pace::Once => FileReader::closing(),
        };
        let host = HostFiles::new(roots.clone(), files);
        ScheduledCollector::new(self.name, self.pace, (self.new)(config), host)
    }
}

/// All collectors, in the order in which they run: those of every sample first.
pub const COLLECTORS: &[Entry] = &[
    Entry { name: "arp", pace: Pace::EverySample, new: |_| Box::new(arp::collect) },
    Entry { name: "bonding", pace: Pace::EverySample, new: |_| Box::new(bonding::collect) },
    Entry { name: "conntrack", pace: Pace::EverySample, new: |_| Box::new(conntrack::collect) },
    Entry { name: "infiniband", pace: Pace::EverySample, new: |_| Box::new(infiniband::collect) },
    Entry { name: "kernel_hung", pace: Pace::EverySample, new: |_| Box::new(kernel_hung::collect) },
    Entry {
        name: "netclass_rtnl",
        pace: Pace::EverySample,
        new: |_| Box::new(netclass_rtnl::collect),
    },
    Entry { name: "netstat", pace: Pace::EverySample, new: |_| Box::new(netstat::collect) },
    Entry { name: "nfs", pace: Pace::EverySample, new: |_| Box::new(nfs::collect) },
    Entry { name: "rapl", pace: Pace::EverySample, new: |_| Box::new(rapl::collect) },
    Entry { name: "sockstat", pace: Pace::EverySample, new: |_| Box::new(sockstat::collect) },
    Entry { name: "softnet", pace: Pace::EverySample, new: |_| Box::new(softnet::collect) },
    Entry { name: "timex", pace: Pace::EverySample, new: |_| Box::new(timex::collect) },
    Entry { name: "udp_queues", pace: Pace::EverySample, new: |_| Box::new(udp_queues::collect) },
    Entry { name: "btrfs", pace: SLOW, new: |_| Box::new(btrfs::collect) },
    Entry { name: "cpu", pace: SLOW, new: |_| Box::new(cpu::collect) },
    Entry { name: "cpufreq", pace: SLOW, new: |_| Box::new(cpufreq::collect) },
    Entry { name: "dmi", pace: Pace::Once, new: |_| Box::new(dmi::collect) },
    Entry { name: "edac", pace: SLOW, new: |_| Box::new(edac::collect) },
    // Not `Once`: kernels before 5.18 count what programs take.
    Entry { name: "entropy", pace: SLOW, new: |_| Box::new(entropy::collect) },
    Entry { name: "hwmon", pace: SLOW, new: |_| Box::new(hwmon::collect) },
    Entry {
        name: "infiniband_counters",
        pace: SLOW,
        new: |_| Box::<InfinibandCounters>::default(),
    },
    Entry { name: "interrupts", pace: SLOW, new: |_| Box::new(interrupts::collect) },
    Entry { name: "mdadm", pace: SLOW, new: |_| Box::new(mdadm::collect) },
    Entry { name: "nvme", pace: SLOW, new: |_| Box::new(nvme::collect) },
    Entry { name: "pcidevice", pace: SLOW, new: |_| Box::new(pci_device::collect) },
    Entry { name: "powersupplyclass", pace: SLOW, new: |_| Box::new(power_supply::collect) },
    Entry { name: "processes", pace: SLOW, new: |_| Box::new(processes::collect) },
    Entry { name: "schedstat", pace: MEDIUM, new: |_| Box::new(schedstat::collect) },
    Entry { name: "systemd", pace: SYSTEMD, new: |_| Box::new(SystemdCollector::default()) },
    Entry { name: "tcpstat", pace: SLOW, new: |_| Box::new(tcpstat::collect) },
    Entry {
        name: "textfile",
        pace: TEXTFILE,
        new: |config| Box::new(TextfileCollector::new(config.textfile_directory.clone())),
    },
    Entry { name: "thermal_zone", pace: SLOW, new: |_| Box::new(cooling::collect) },
    Entry { name: "time", pace: SLOW, new: |_| Box::new(time::collect) },
    Entry { name: "zfs", pace: SLOW, new: |_| Box::new(zfs::collect) },
];

/// At most this many CPUs, as of those in `/proc/stat`.
const MAX_CPUS: usize = 1024;

/// Keeps the first `max` items and counts the others as truncated.
fn limit<T>(items: &mut Vec<T>, max: usize, truncated: &mut usize) {
    *truncated += items.len().saturating_sub(max);
    items.truncate(max);
}
