//! Disks, file systems, network interfaces and temperatures, under node_exporter's names.

use crate::limits;
use crate::metrics::LeftOut;
use crate::metrics::encoder::{Number, Text, labels};
use crate::model::devices::{Chip, Interface, Sensor};
use crate::model::{FileSystem, RawSample};
use crate::procfs::diskstats::DiskStat;
use crate::procfs::net_dev::NetDev;

pub(super) fn write(text: &mut Text, reading: &RawSample, left_out: &mut LeftOut) {
    let disks: Vec<&DiskStat> =
        reading.diskstats.iter().filter(|disk| !is_minor(&disk.name)).collect();
    self::disks(text, left_out.cap("disks", &disks, limits::METRICS_DEVICES));
    let file_systems = left_out.cap("file_systems", &reading.file_systems, limits::METRICS_DEVICES);
    self::file_systems(text, file_systems);
    traffic(text, left_out.cap("networks", &reading.net_dev, limits::METRICS_DEVICES));
    let devices = &reading.devices;
    left_out.add("sysfs", devices.truncated);
    interfaces(text, &devices.interfaces);
    chips(text, &devices.chips);
    text.gauge("node_thermal_zone_temp", "Temperature of a thermal zone, in degrees Celsius.");
    for zone in &devices.temperatures {
        let labels = labels(&[("type", &zone.sensor), ("zone", &zone.zone.to_string())]);
        text.sample(&labels, zone.celsius);
    }
}

/// Memory and loop devices, floppies, and partitions of the usual disks: node_exporter leaves them out as well.
fn is_minor(name: &[u8]) -> bool {
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
    Number::Fixed(value, 3)
}

type DiskFamily = (&'static str, &'static str, fn(&DiskStat) -> Option<Number>);

const DISK_COUNTERS: [DiskFamily; 16] = [
    ("node_disk_reads_completed_total", "Reads completed.", |disk| Some(disk.reads.into())),
    ("node_disk_reads_merged_total", "Reads joined with others.", |disk| {
        Some(disk.reads_merged.into())
    }),
    ("node_disk_read_bytes_total", "Bytes read.", |disk| Some(disk.read_bytes.into())),
    ("node_disk_read_time_seconds_total", "Time of all reads together, in seconds.", |disk| {
        Some(milliseconds(disk.read_milliseconds))
    }),
    ("node_disk_writes_completed_total", "Writes completed.", |disk| Some(disk.writes.into())),
    ("node_disk_writes_merged_total", "Writes joined with others.", |disk| {
        Some(disk.writes_merged.into())
    }),
    ("node_disk_written_bytes_total", "Bytes written.", |disk| Some(disk.written_bytes.into())),
    ("node_disk_write_time_seconds_total", "Time of all writes together, in seconds.", |disk| {
        Some(milliseconds(disk.write_milliseconds))
    }),
    ("node_disk_io_time_seconds_total", "Time with a request in flight, in seconds.", |disk| {
        Some(milliseconds(disk.busy_milliseconds))
    }),
    (
        "node_disk_io_time_weighted_seconds_total",
        "Time with requests in flight, times their number, in seconds.",
        |disk| Some(milliseconds(disk.weighted_milliseconds)),
    ),
    ("node_disk_discards_completed_total", "Discards completed.", |disk| {
        disk.discards.map(|discards| discards.completed.into())
    }),
    ("node_disk_discards_merged_total", "Discards joined with others.", |disk| {
        disk.discards.map(|discards| discards.merged.into())
    }),
    ("node_disk_discarded_sectors_total", "Sectors of 512 bytes given back.", |disk| {
        disk.discards.map(|discards| discards.sectors.into())
    }),
    (
        "node_disk_discard_time_seconds_total",
        "Time of all discards together, in seconds.",
        |disk| disk.discards.map(|discards| milliseconds(discards.milliseconds)),
    ),
    ("node_disk_flush_requests_total", "Flushes completed.", |disk| {
        disk.flushes.map(|(count, _)| count.into())
    }),
    (
        "node_disk_flush_requests_time_seconds_total",
        "Time of all flushes together, in seconds.",
        |disk| disk.flushes.map(|(_, time)| milliseconds(time)),
    ),
];

fn disks(text: &mut Text, disks: &[&DiskStat]) {
    let named: Vec<(String, &DiskStat)> = disks
        .iter()
        .map(|disk| (labels(&[("device", &String::from_utf8_lossy(&disk.name))]), *disk))
        .collect();
    for (name, help, pick) in DISK_COUNTERS {
        text.counter(name, help);
        for (labels, disk) in &named {
            text.sample_if(labels, pick(disk));
        }
    }
    text.gauge("node_disk_io_now", "Requests in flight.");
    for (labels, disk) in &named {
        text.sample(labels, disk.in_flight);
    }
    text.gauge("node_disk_info", "A disk and its number; always 1.");
    for (device, disk) in &named {
        let (major, minor) = disk.number;
        let number = labels(&[("major", &major.to_string()), ("minor", &minor.to_string())]);
        text.sample(&format!("{device},{number}"), 1u64);
    }
}

type FileSystemFamily = (&'static str, &'static str, fn(&FileSystem) -> u64);

const FILE_SYSTEM_GAUGES: [FileSystemFamily; 6] = [
    ("node_filesystem_size_bytes", "Size, in bytes.", |fs| fs.total_bytes),
    ("node_filesystem_free_bytes", "Not in use, in bytes.", |fs| fs.free_bytes),
    ("node_filesystem_avail_bytes", "What ordinary users can still write, in bytes.", |fs| {
        fs.available_bytes
    }),
    ("node_filesystem_files", "Inodes.", |fs| fs.files),
    ("node_filesystem_files_free", "Inodes not in use.", |fs| fs.files_free),
    ("node_filesystem_readonly", "1: mounted read-only.", |fs| fs.read_only.into()),
];

fn file_systems(text: &mut Text, file_systems: &[FileSystem]) {
    let named: Vec<(String, &FileSystem)> = file_systems
        .iter()
        .map(|fs| {
            let labels = labels(&[
                ("device", &fs.device),
                ("fstype", &fs.fs_type),
                ("mountpoint", &fs.mount_point),
            ]);
            (labels, fs)
        })
        .collect();
    for (name, help, pick) in FILE_SYSTEM_GAUGES {
        text.gauge(name, help);
        for (labels, fs) in &named {
            text.sample(labels, pick(fs));
        }
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

fn traffic(text: &mut Text, networks: &[NetDev]) {
    let named: Vec<(String, &NetDev)> = networks
        .iter()
        .map(|net| (labels(&[("device", &String::from_utf8_lossy(&net.name))]), net))
        .collect();
    for (name, pick) in NET_COUNTERS {
        text.counter(name, "A column of /proc/net/dev.");
        for (labels, net) in &named {
            text.sample(labels, pick(net));
        }
    }
}

type InterfaceFamily = (&'static str, &'static str, fn(&Interface) -> Option<u64>);

const INTERFACE_GAUGES: [InterfaceFamily; 6] = [
    ("node_network_up", "1: the interface says that it is up.", |each| {
        Some(u64::from(&*each.state == "up"))
    }),
    ("node_network_carrier", "1: there is a carrier.", |each| each.carrier.map(u64::from)),
    ("node_network_mtu_bytes", "The longest packet, in bytes.", |each| each.attributes.mtu_bytes),
    ("node_network_speed_bytes", "Speed, in bytes per second.", |each| each.attributes.speed_bytes),
    ("node_network_transmit_queue_length", "Packets that may wait to be sent.", |each| {
        each.attributes.transmit_queue_length
    }),
    ("node_network_protocol_type", "The kernel's number of its kind.", |each| {
        each.attributes.protocol_type
    }),
];

fn interfaces(text: &mut Text, interfaces: &[Interface]) {
    let named: Vec<(String, &Interface)> =
        interfaces.iter().map(|each| (labels(&[("device", &each.device)]), each)).collect();
    for (name, help, pick) in INTERFACE_GAUGES {
        text.gauge(name, help);
        for (labels, each) in &named {
            text.sample_if(labels, pick(each));
        }
    }
    text.gauge("node_network_info", "What an interface says of itself in words; always 1.");
    for each in interfaces {
        let info = labels(&[
            ("address", &each.attributes.address),
            ("broadcast", &each.attributes.broadcast),
            ("device", &each.device),
            ("duplex", &each.attributes.duplex),
            ("ifalias", &each.attributes.alias),
            ("operstate", &each.state),
        ]);
        text.sample(&info, 1u64);
    }
}

type SensorFamily = (&'static str, &'static str, fn(&Sensor) -> Option<f64>);

const SENSOR_GAUGES: [SensorFamily; 3] = [
    ("node_hwmon_temp_celsius", "Temperature, in degrees Celsius.", |sensor| sensor.celsius),
    ("node_hwmon_temp_max_celsius", "From here on it is too warm, in degrees Celsius.", |sensor| {
        sensor.max_celsius
    }),
    (
        "node_hwmon_temp_crit_celsius",
        "From here on it is shut down or damaged, in degrees Celsius.",
        |sensor| sensor.critical_celsius,
    ),
];

fn chips(text: &mut Text, chips: &[Chip]) {
    let each = chips.iter().flat_map(|chip| chip.sensors.iter().map(move |sensor| (chip, sensor)));
    let named: Vec<(String, &Sensor)> = each
        .map(|(chip, sensor)| (labels(&[("chip", &chip.chip), ("sensor", &sensor.sensor)]), sensor))
        .collect();
    for (name, help, pick) in SENSOR_GAUGES {
        text.gauge(name, help);
        for (labels, sensor) in &named {
            text.sample_if(labels, pick(sensor));
        }
    }
    text.gauge("node_hwmon_chip_names", "What a chip's driver calls it; always 1.");
    for chip in chips {
        let name = chip.name.as_deref();
        let name = name.map(|name| labels(&[("chip", &chip.chip), ("chip_name", name)]));
        text.sample(&name.unwrap_or_else(|| labels(&[("chip", &chip.chip)])), 1u64);
    }
    text.gauge("node_hwmon_sensor_label", "What a sensor measures; always 1.");
    for chip in chips {
        for sensor in &chip.sensors {
            let Some(label) = &sensor.label else { continue };
            let label =
                labels(&[("chip", &chip.chip), ("label", label), ("sensor", &sensor.sensor)]);
            text.sample(&label, 1u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_and_memory_are_no_disks_as_with_node_exporter() {
        for minor in ["ram0", "loop12", "fd0", "sda1", "hdb2", "vda15", "xvdf1", "nvme0n1p2"] {
            assert!(is_minor(minor.as_bytes()), "{minor}");
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
            assert!(!is_minor(disk.as_bytes()), "{disk}");
        }
    }
}
