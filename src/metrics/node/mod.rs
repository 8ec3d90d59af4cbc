//! Series of the collectors of [`crate::collector::node`], under node_exporter's names, one file each.

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
mod systemd;
mod tcpstat;
mod time;
mod timex;
mod udp_queues;
mod zfs;

use crate::metrics::Truncation;
use crate::metrics::encoder::Encoder;
use crate::model::node::Measurement;

pub(super) fn encode(
    encoder: &mut Encoder,
    measurement: &Measurement,
    truncation: &mut Truncation,
) {
    match measurement {
        Measurement::Arp(measured) => arp::encode(encoder, measured, truncation),
        Measurement::Bonding(measured) => bonding::encode(encoder, measured, truncation),
        Measurement::Btrfs(btrfs) => btrfs::encode(encoder, btrfs, truncation),
        Measurement::Conntrack(conntrack) => conntrack::encode(encoder, conntrack),
        Measurement::Cooling(cooling) => cooling::encode(encoder, cooling, truncation),
        Measurement::Cpu(cpu) => cpu::encode(encoder, cpu, truncation),
        Measurement::CpuFreq(cpufreq) => cpufreq::encode(encoder, cpufreq, truncation),
        Measurement::Dmi(dmi) => dmi::encode(encoder, dmi),
        Measurement::Edac(edac) => edac::encode(encoder, edac, truncation),
        Measurement::Entropy(entropy) => entropy::encode(encoder, entropy),
        Measurement::HungTasks(tasks) => kernel_hung::encode(encoder, *tasks),
        Measurement::Hwmon(hwmon) => hwmon::encode(encoder, hwmon, truncation),
        Measurement::Infiniband(measured) => infiniband::encode(encoder, measured, truncation),
        Measurement::InfinibandCounters(ports) => infiniband::encode_counters(encoder, ports),
        Measurement::Interrupts(interrupts) => {
            interrupts::encode(encoder, interrupts, truncation);
        }
        Measurement::Mdadm(mdadm) => mdadm::encode(encoder, mdadm),
        Measurement::Netstat(measured) => netstat::encode(encoder, measured),
        Measurement::NetworkLinks(measured) => netclass_rtnl::encode(encoder, measured, truncation),
        Measurement::Nfs(measured) => nfs::encode(encoder, measured),
        Measurement::Nvme(nvme) => nvme::encode(encoder, nvme, truncation),
        Measurement::PciDevices(devices) => pci_device::encode(encoder, devices, truncation),
        Measurement::PowerSupplies(supplies) => power_supply::encode(encoder, supplies, truncation),
        Measurement::Processes(processes) => processes::encode(encoder, processes),
        Measurement::Rapl(rapl) => rapl::encode(encoder, rapl),
        Measurement::SchedStat(cpus) => schedstat::encode(encoder, cpus, truncation),
        Measurement::Sockstat(measured) => sockstat::encode(encoder, measured),
        Measurement::Softnet(measured) => softnet::encode(encoder, measured, truncation),
        Measurement::Systemd(systemd) => systemd::encode(encoder, systemd, truncation),
        Measurement::TcpStates(measured) => tcpstat::encode(encoder, measured),
        // See `crate::metrics::textfile`.
        Measurement::Textfile(_) => {}
        Measurement::Time(time) => time::encode(encoder, time),
        Measurement::Timex(clock) => timex::encode(encoder, clock),
        Measurement::UdpQueues(measured) => udp_queues::encode(encoder, measured),
        Measurement::Zfs(zfs) => zfs::encode(encoder, zfs, truncation),
    }
}
