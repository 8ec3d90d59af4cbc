//! Disks, network interfaces and temperatures under node_exporter's names.

use std::collections::HashMap;

use crate::metrics::encoder::{Encoder, Number, labels};
use crate::metrics::{Truncation, filesystems};
use crate::model::RawSample;
use crate::model::devices::{Chip, Interface, Sensor};
use crate::procfs::diskstats::{self, DiskStat};
use crate::procfs::net_dev::NetDev;

/// Maximum number of disks, of filesystems and of network interfaces; each has about twenty series.
pub(super) const MAX_DEVICES: usize = 256;

pub(super) fn encode(encoder: &mut Encoder, sample: &RawSample, truncation: &mut Truncation) {
    let devices = &sample.devices;
    let mut disks: Vec<&DiskStat> =
        sample.diskstats.iter().filter(|disk| !is_ignored(&disk.name)).collect();
    prioritize(&mut disks, |disk| diskstats::is_stacked(&disk.name));
    self::disks(encoder, truncation.limit("disks", &disks, MAX_DEVICES));
    filesystems::encode(encoder, sample, truncation);
    // Sysfs lists hardware first, and traffic has the names only.
    let ranks: HashMap<&[u8], usize> =
        devices.interfaces.iter().map(|each| each.device.as_bytes()).zip(0..).collect();
    let mut networks: Vec<&NetDev> = sample.net_dev.iter().collect();
    prioritize(&mut networks, |net| ranks.get(&net.name[..]).copied().unwrap_or(usize::MAX));
    traffic(encoder, truncation.limit("network_interfaces", &networks, MAX_DEVICES));
    truncation.add("sysfs", devices.truncated);
    interfaces(encoder, &devices.interfaces);
    chips(encoder, &devices.chips);
    encoder.gauge("node_thermal_zone_temp", "Zone temperature in Celsius.");
    for zone in &devices.temperatures {
        let labels = labels(&[("type", &zone.sensor), ("zone", &zone.zone.to_string())]);
        encoder.sample(&labels, zone.celsius);
    }
}

/// Sorts items by rank if there are too many for all of them, so that those of containers are left out.
pub(super) fn prioritize<T, K: Ord>(items: &mut [T], rank: impl Fn(&T) -> K) {
    if items.len() > MAX_DEVICES {
        items.sort_by_key(rank);
    }
}

/// RAM disks, loop devices, floppies and partitions, which node_exporter ignores by default too.
fn is_ignored(name: &[u8]) -> bool {
    let digits = name.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (base, number) = name.split_at(name.len() - digits);
    let is_nvme = |base: &[u8]| {
        let parts = base.strip_prefix(b"nvme").and_then(|rest| rest.strip_suffix(b"p"));
        let mut parts = parts.unwrap_or_default().split(|&byte| byte == b'n');
        let mut is_number = || {
            parts.next().is_some_and(|part| !part.is_empty() && part.iter().all(u8::is_ascii_digit))
        };
        is_number() && is_number() && parts.next().is_none()
    };
    let is_partition = match base {
        [b'h' | b's' | b'v', b'd', b'a'..=b'z'] | [b'x', b'v', b'd', b'a'..=b'z'] => true,
        base => is_nvme(base),
    };
    !number.is_empty() && (is_partition || [&b"ram"[..], b"loop", b"fd"].contains(&base))
}

fn milliseconds(value: u64) -> Number {
    Number::Decimal(value, 3)
}

type DiskFamily = (&'static str, &'static str, fn(&DiskStat) -> Option<Number>);

const DISK_COUNTERS: [DiskFamily; 16] = [
    ("node_disk_reads_completed_total", "Number of reads completed.", |disk| {
        Some(disk.reads.into())
    }),
    ("node_disk_reads_merged_total", "Number of reads merged.", |disk| {
        Some(disk.reads_merged.into())
    }),
    ("node_disk_read_bytes_total", "Number of bytes read.", |disk| Some(disk.read_bytes.into())),
    ("node_disk_read_time_seconds_total", "Time spent by all reads, in seconds.", |disk| {
        Some(milliseconds(disk.read_milliseconds))
    }),
    ("node_disk_writes_completed_total", "Number of writes completed.", |disk| {
        Some(disk.writes.into())
    }),
    ("node_disk_writes_merged_total", "Number of writes merged.", |disk| {
        Some(disk.writes_merged.into())
    }),
    ("node_disk_written_bytes_total", "Number of bytes written.", |disk| {
        Some(disk.written_bytes.into())
    }),
    ("node_disk_write_time_seconds_total", "Time spent by all writes, in seconds.", |disk| {
        Some(milliseconds(disk.write_milliseconds))
    }),
    (
        "node_disk_io_time_seconds_total",
        "Time during which at least one I/O was in progress, in seconds.",
        |disk| Some(milliseconds(disk.busy_milliseconds)),
    ),
    (
        "node_disk_io_time_weighted_seconds_total",
        "Time weighted by the number of I/Os in progress, in seconds.",
        |disk| Some(milliseconds(disk.weighted_milliseconds)),
    ),
    ("node_disk_discards_completed_total", "Number of discards completed.", |disk| {
        disk.discards.map(|discards| discards.completed.into())
    }),
    ("node_disk_discards_merged_total", "Number of discards merged.", |disk| {
        disk.discards.map(|discards| discards.merged.into())
    }),
    ("node_disk_discarded_sectors_total", "Number of sectors of 512 bytes discarded.", |disk| {
        disk.discards.map(|discards| discards.sectors.into())
    }),
    ("node_disk_discard_time_seconds_total", "Time spent by all discards, in seconds.", |disk| {
        disk.discards.map(|discards| milliseconds(discards.milliseconds))
    }),
    ("node_disk_flush_requests_total", "Number of flush requests completed.", |disk| {
        disk.flushes.map(|(count, _)| count.into())
    }),
    (
        "node_disk_flush_requests_time_seconds_total",
        "Time spent by all flush requests, in seconds.",
        |disk| disk.flushes.map(|(_, time)| milliseconds(time)),
    ),
];

fn disks(encoder: &mut Encoder, disks: &[&DiskStat]) {
    let named: Vec<(String, &DiskStat)> = disks
        .iter()
        .map(|disk| (labels(&[("device", &String::from_utf8_lossy(&disk.name))]), *disk))
        .collect();
    for (name, help, value) in DISK_COUNTERS {
        encoder.counter(name, help);
        for (labels, disk) in &named {
            encoder.sample_if(labels, value(disk));
        }
    }
    encoder.gauge("node_disk_io_now", "Number of I/Os in progress.");
    for (labels, disk) in &named {
        encoder.sample(labels, disk.in_flight);
    }
    encoder.gauge(
        "node_disk_info",
        "Major and minor number of the block device. The value is always 1.",
    );
    for (device, disk) in &named {
        let (major, minor) = disk.number;
        let number = labels(&[("major", &major.to_string()), ("minor", &minor.to_string())]);
        encoder.sample(&format!("{device},{number}"), 1u64);
    }
}

type NetFamily = (&'static str, fn(&NetDev) -> u64);

const NET_COUNTERS: [NetFamily; 16] = [
    ("node_network_receive_bytes_total", |net| net.receive.bytes),
    ("node_network_receive_packets_total", |net| net.receive.packets),
    ("node_network_receive_errs_total", |net| net.receive.errors),
    ("node_network_receive_drop_total", |net| net.receive.drops),
    ("node_network_receive_fifo_total", |net| net.receive.fifo),
    ("node_network_receive_frame_total", |net| net.receive_frame),
    ("node_network_receive_compressed_total", |net| net.receive.compressed),
    ("node_network_receive_multicast_total", |net| net.receive_multicast),
    ("node_network_transmit_bytes_total", |net| net.transmit.bytes),
    ("node_network_transmit_packets_total", |net| net.transmit.packets),
    ("node_network_transmit_errs_total", |net| net.transmit.errors),
    ("node_network_transmit_drop_total", |net| net.transmit.drops),
    ("node_network_transmit_fifo_total", |net| net.transmit.fifo),
    ("node_network_transmit_colls_total", |net| net.collisions),
    ("node_network_transmit_carrier_total", |net| net.carrier),
    ("node_network_transmit_compressed_total", |net| net.transmit.compressed),
];

fn traffic(encoder: &mut Encoder, networks: &[&NetDev]) {
    let named: Vec<(String, &NetDev)> = networks
        .iter()
        .map(|net| (labels(&[("device", &String::from_utf8_lossy(&net.name))]), *net))
        .collect();
    for (name, value) in NET_COUNTERS {
        encoder.counter(name, "Column of /proc/net/dev.");
        for (labels, net) in &named {
            encoder.sample(labels, value(net));
        }
    }
}

type InterfaceFamily = (&'static str, &'static str, fn(&Interface) -> Option<u64>);

const INTERFACE_GAUGES: [InterfaceFamily; 6] = [
    ("node_network_up", "Whether the operational state of the interface is up.", |interface| {
        Some(u64::from(&*interface.state == "up"))
    }),
    ("node_network_carrier", "Whether the physical link is up.", |interface| {
        interface.carrier.map(u64::from)
    }),
    ("node_network_mtu_bytes", "MTU in bytes.", |interface| interface.attributes.mtu_bytes),
    ("node_network_speed_bytes", "Link speed in bytes per second.", |interface| {
        interface.attributes.speed_bytes
    }),
    (
        "node_network_transmit_queue_length",
        "Length of the transmit queue in packets.",
        |interface| interface.attributes.transmit_queue_length,
    ),
    (
        "node_network_protocol_type",
        "Protocol type (ARPHRD_*): 1 is Ethernet, 772 is loopback.",
        |interface| interface.attributes.protocol_type,
    ),
];

fn interfaces(encoder: &mut Encoder, interfaces: &[Interface]) {
    let named: Vec<(String, &Interface)> = interfaces
        .iter()
        .map(|interface| (labels(&[("device", &interface.device)]), interface))
        .collect();
    for (name, help, value) in INTERFACE_GAUGES {
        encoder.gauge(name, help);
        for (labels, interface) in &named {
            encoder.sample_if(labels, value(interface));
        }
    }
    encoder.gauge(
        "node_network_info",
        "Address, duplex mode and state of the interface. The value is always 1.",
    );
    for interface in interfaces {
        let admin_state = match interface.attributes.is_admin_up {
            Some(true) => "up",
            Some(false) => "down",
            None => "unknown",
        };
        let info = labels(&[
            ("address", &interface.attributes.address),
            ("adminstate", admin_state),
            ("broadcast", &interface.attributes.broadcast),
            ("device", &interface.device),
            ("duplex", &interface.attributes.duplex),
            ("ifalias", &interface.attributes.alias),
            ("operstate", &interface.state),
        ]);
        encoder.sample(&info, 1u64);
    }
}

type SensorFamily = (&'static str, &'static str, fn(&Sensor) -> Option<f64>);

const SENSOR_GAUGES: [SensorFamily; 3] = [
    ("node_hwmon_temp_celsius", "Temperature in Celsius.", |sensor| sensor.celsius),
    (
        "node_hwmon_temp_max_celsius",
        "Upper limit of the operating temperature, in Celsius.",
        |sensor| sensor.max_celsius,
    ),
    ("node_hwmon_temp_crit_celsius", "Critical temperature, in Celsius.", |sensor| {
        sensor.critical_celsius
    }),
];

fn chips(encoder: &mut Encoder, chips: &[Chip]) {
    let each = chips.iter().flat_map(|chip| chip.sensors.iter().map(move |sensor| (chip, sensor)));
    let named: Vec<(String, &Sensor)> = each
        .map(|(chip, sensor)| (labels(&[("chip", &chip.id), ("sensor", &sensor.id)]), sensor))
        .collect();
    for (name, help, value) in SENSOR_GAUGES {
        encoder.gauge(name, help);
        for (labels, sensor) in &named {
            encoder.sample_if(labels, value(sensor));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignores_partitions_and_ram_disks_like_node_exporter() {
        for ignored in ["ram0", "loop12", "fd0", "sda1", "hdb2", "vda15", "xvdf1", "nvme0n1p2"] {
            assert!(is_ignored(ignored.as_bytes()), "{ignored}");
        }
        for disk in [
            "sda",
            "vda",
            "nvme0n1",
            "nvme10n12",
            "dm-0",
            "md127",
            "sr0",
            "mmcblk0p2",
            "zram0",
            "p1",
            "",
        ] {
            assert!(!is_ignored(disk.as_bytes()), "{disk}");
        }
    }
}
