//! What the collectors of node_exporter's series measure, one file for each that has more than the content of a kernel file.

pub mod arp;
pub mod bonding;
pub mod btrfs;
pub mod conntrack;
pub mod cooling;
pub mod cpu;
pub mod cpufreq;
pub mod dmi;
pub mod edac;
pub mod entropy;
pub mod hwmon;
pub mod infiniband;
pub mod interrupts;
pub mod mdadm;
pub mod network_links;
pub mod nvme;
pub mod pci_device;
pub mod power_supply;
pub mod processes;
pub mod rapl;
pub mod systemd;
pub mod tcp_states;
pub mod textfile;
pub mod time;
pub mod timex;
pub mod udp_queues;
pub mod zfs;

use crate::model::node::arp::ArpEntries;
use crate::model::node::bonding::Bond;
use crate::model::node::btrfs::Btrfs;
use crate::model::node::conntrack::Conntrack;
use crate::model::node::cooling::Cooling;
use crate::model::node::cpu::Cpu;
use crate::model::node::cpufreq::CpuFreq;
use crate::model::node::dmi::Dmi;
use crate::model::node::edac::Edac;
use crate::model::node::entropy::Entropy;
use crate::model::node::hwmon::Hwmon;
use crate::model::node::infiniband::{Infiniband, InfinibandPortCounters};
use crate::model::node::interrupts::Interrupts;
use crate::model::node::mdadm::Mdadm;
use crate::model::node::network_links::NetworkLink;
use crate::model::node::nvme::Nvme;
use crate::model::node::pci_device::PciDevices;
use crate::model::node::power_supply::PowerSupplies;
use crate::model::node::processes::Processes;
use crate::model::node::rapl::Rapl;
use crate::model::node::systemd::Systemd;
use crate::model::node::tcp_states::TcpStates;
use crate::model::node::textfile::Textfile;
use crate::model::node::time::Time;
use crate::model::node::timex::Timex;
use crate::model::node::udp_queues::UdpQueuesByVersion;
use crate::model::node::zfs::Zfs;
use crate::procfs::netstat::Netstat;
use crate::procfs::nfs::Nfs;
use crate::procfs::schedstat::CpuSchedStat;
use crate::procfs::sockstat::Sockstat;
use crate::procfs::softnet_stat::SoftnetCpu;

/// What one collector measured.
#[derive(Debug, Clone, PartialEq)]
pub enum Measurement {
    Arp(Vec<ArpEntries>),
    Bonding(Vec<Bond>),
    Btrfs(Btrfs),
    Conntrack(Conntrack),
    Cooling(Cooling),
    Cpu(Cpu),
    CpuFreq(CpuFreq),
    Dmi(Dmi),
    Edac(Edac),
    Entropy(Entropy),
    /// Number of tasks found hung since boot.
    HungTasks(u64),
    Hwmon(Hwmon),
    Infiniband(Infiniband),
    InfinibandCounters(Vec<InfinibandPortCounters>),
    Interrupts(Interrupts),
    Mdadm(Mdadm),
    Netstat(Netstat),
    NetworkLinks(Vec<NetworkLink>),
    Nfs(Nfs),
    Nvme(Nvme),
    PciDevices(PciDevices),
    PowerSupplies(PowerSupplies),
    Processes(Processes),
    Rapl(Rapl),
    SchedStat(Vec<CpuSchedStat>),
    Sockstat(Sockstat),
    Softnet(Vec<SoftnetCpu>),
    Systemd(Systemd),
    TcpStates(TcpStates),
    Textfile(Textfile),
    Time(Time),
    Timex(Timex),
    UdpQueues(UdpQueuesByVersion),
    Zfs(Zfs),
}
