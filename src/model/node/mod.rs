//! What the collectors of node_exporter's series measure, one file for each that has more than the content of a kernel file.

pub mod arp;
pub mod bonding;
pub mod conntrack;
pub mod edac;
pub mod entropy;
pub mod hwmon;
pub mod infiniband;
pub mod interrupts;
pub mod mdadm;
pub mod network_links;
pub mod processes;
pub mod timex;
pub mod udp_queues;

use crate::model::node::arp::ArpEntries;
use crate::model::node::bonding::Bond;
use crate::model::node::conntrack::Conntrack;
use crate::model::node::edac::Edac;
use crate::model::node::entropy::Entropy;
use crate::model::node::hwmon::Hwmon;
use crate::model::node::infiniband::{Infiniband, InfinibandPortCounters};
use crate::model::node::interrupts::Interrupts;
use crate::model::node::mdadm::Mdadm;
use crate::model::node::network_links::NetworkLink;
use crate::model::node::processes::Processes;
use crate::model::node::timex::Timex;
use crate::model::node::udp_queues::UdpQueuesByVersion;
use crate::procfs::netstat::Netstat;
use crate::procfs::schedstat::CpuSchedStat;
use crate::procfs::sockstat::Sockstat;
use crate::procfs::softnet_stat::SoftnetCpu;

/// What one collector measured.
#[derive(Debug, Clone, PartialEq)]
pub enum Measurement {
    Arp(Vec<ArpEntries>),
    Bonding(Vec<Bond>),
    Conntrack(Conntrack),
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
    Processes(Processes),
    SchedStat(Vec<CpuSchedStat>),
    Sockstat(Sockstat),
    Softnet(Vec<SoftnetCpu>),
    Timex(Timex),
    UdpQueues(UdpQueuesByVersion),
}
