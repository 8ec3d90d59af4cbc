//! One point of time of all series, and its form in the file: 264 bytes, little-endian. The time in Unix seconds (u64), the series of
//! the node (f32, NaN: unknown), for each of 16 GPUs its identity (u32, 0: none) and its series (u16, 65 535: unknown), and a
//! checksum (CRC-32).

use flate2::Crc;

use crate::model::gpu::Gpu;
use crate::model::{Snapshot, TrafficRate};

/// Name and unit of the series of a node.
pub const NODE_SERIES: [(&str, &str); 7] = [
    ("cpu_percent", "percent"),
    ("memory_percent", "percent"),
    ("load1", "processes"),
    ("disk_read_bytes_per_second", "bytes_per_second"),
    ("disk_write_bytes_per_second", "bytes_per_second"),
    ("network_receive_bytes_per_second", "bytes_per_second"),
    ("network_transmit_bytes_per_second", "bytes_per_second"),
];

/// Name and unit of the series of each GPU, and the number that one unit is in the file.
pub const GPU_SERIES: [(&str, &str, f32); 5] = [
    ("gpu_utilization_percent", "percent", 100.0),
    ("gpu_memory_used_percent", "percent", 100.0),
    ("gpu_temperature_celsius", "celsius", 100.0),
    ("gpu_power_watts", "watts", 10.0),
    ("gpu_clock_mhz", "megahertz", 1.0),
];

/// More GPUs are not recorded.
pub const MAX_GPUS: usize = 16;

const GPU_BYTES: usize = 4 + 2 * GPU_SERIES.len();
const CHECKED_BYTES: usize = 8 + 4 * NODE_SERIES.len() + GPU_BYTES * MAX_GPUS;
pub const RECORD_BYTES: usize = CHECKED_BYTES + 4;
const UNKNOWN: u16 = u16::MAX;

pub type NodeValues = [Option<f32>; NODE_SERIES.len()];
pub type GpuValues = [Option<f32>; GPU_SERIES.len()];

#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub unix_seconds: u64,
    pub node: NodeValues,
    /// By identity, see [`gpu_identity`].
    pub gpus: Vec<(u32, GpuValues)>,
}

impl Record {
    pub fn of(snapshot: &Snapshot) -> Self {
        let gpus = snapshot.gpus.each.iter().take(MAX_GPUS);
        Self {
            unix_seconds: snapshot.unix_seconds,
            node: node_values(snapshot),
            gpus: gpus.map(|gpu| (gpu_identity(gpu), gpu_values(gpu))).collect(),
        }
    }

    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = Vec::with_capacity(RECORD_BYTES);
        bytes.extend(self.unix_seconds.to_le_bytes());
        for value in self.node {
            bytes.extend(value.unwrap_or(f32::NAN).to_le_bytes());
        }
        for (identity, values) in self.gpus.iter().take(MAX_GPUS) {
            bytes.extend(identity.to_le_bytes());
            for (value, (_, _, scale)) in values.iter().zip(GPU_SERIES) {
                bytes.extend(to_units(*value, scale).to_le_bytes());
            }
        }
        bytes.resize(CHECKED_BYTES, 0);
        bytes.extend(checksum(&bytes).to_le_bytes());
        let mut record = [0; RECORD_BYTES];
        record.copy_from_slice(&bytes);
        record
    }

    /// `None`: nothing, or something torn or foreign, is stored there.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (checked, sum) = bytes.split_at_checked(CHECKED_BYTES)?;
        if u32::from_le_bytes(sum.try_into().ok()?) != checksum(checked) {
            return None;
        }
        let (time, rest) = checked.split_first_chunk()?;
        let (node, gpus) = rest.split_at_checked(4 * NODE_SERIES.len())?;
        let mut values: NodeValues = Default::default();
        for (value, bytes) in values.iter_mut().zip(node.chunks_exact(4)) {
            let found = f32::from_le_bytes(bytes.try_into().ok()?);
            *value = Some(found).filter(|found| found.is_finite());
        }
        Some(Self {
            unix_seconds: u64::from_le_bytes(*time),
            node: values,
            gpus: gpus.chunks_exact(GPU_BYTES).filter_map(decode_gpu).collect(),
        })
    }
}

/// Identifies a GPU, also if its index changes: the checksum of its UUID, else of its PCI address.
pub fn gpu_identity(gpu: &Gpu) -> u32 {
    let name = gpu.uuid.as_ref().or(gpu.pci_address.as_ref()).unwrap_or(&gpu.name);
    checksum(name.as_bytes()).max(1)
}

fn decode_gpu(bytes: &[u8]) -> Option<(u32, GpuValues)> {
    let (identity, units) = bytes.split_first_chunk()?;
    let identity = u32::from_le_bytes(*identity);
    let mut values: GpuValues = Default::default();
    let stored = units.chunks_exact(2).zip(GPU_SERIES);
    for (value, (bytes, (_, _, scale))) in values.iter_mut().zip(stored) {
        let units = u16::from_le_bytes(bytes.try_into().ok()?);
        *value = (units != UNKNOWN).then(|| f32::from(units) / scale);
    }
    (identity != 0).then_some((identity, values))
}

/// Values beyond the range are stored as its ends.
fn to_units(value: Option<f32>, scale: f32) -> u16 {
    let units = |value: f32| (value * scale).round().clamp(0.0, f32::from(UNKNOWN - 1)) as u16;
    value.filter(|value| value.is_finite()).map_or(UNKNOWN, units)
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn node_values(snapshot: &Snapshot) -> NodeValues {
    let memory = snapshot.memory.and_then(|memory| percent(memory.used_bytes?, memory.total_bytes));
    let wires = || snapshot.networks.iter().filter(|network| network.name != "lo");
    let rate = |traffic: Option<TrafficRate>| traffic.map(|traffic| traffic.bytes_per_second);
    [
        snapshot.cpu.as_ref().map(|cpu| cpu.percent as f32),
        memory,
        snapshot.load.as_ref().map(|load| load.one as f32),
        sum(snapshot.disks.iter().map(|disk| disk.read_bytes_per_second)),
        sum(snapshot.disks.iter().map(|disk| disk.written_bytes_per_second)),
        sum(wires().map(|network| rate(network.receive))),
        sum(wires().map(|network| rate(network.transmit))),
    ]
}

fn gpu_values(gpu: &Gpu) -> GpuValues {
    let values = &gpu.values;
    let used = values.memory_used_bytes.zip(values.memory_total_bytes);
    [
        values.utilization_percent.map(|percent| percent as f32),
        used.and_then(|(used, total)| percent(used, total)),
        values.temperature_celsius.map(|celsius| celsius as f32),
        values.power_watts.map(|watts| watts as f32),
        values.sm_clock_mhz.map(|megahertz| megahertz as f32),
    ]
}

fn percent(part: u64, whole: u64) -> Option<f32> {
    (whole > 0).then(|| (part as f64 / whole as f64 * 100.0) as f32)
}

/// The sum of the values that are known; `None` if none is.
fn sum(values: impl Iterator<Item = Option<f64>>) -> Option<f32> {
    values.flatten().map(|value| value as f32).reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let node = [Some(12.5), None, Some(0.25), Some(3e9), Some(0.0), Some(1.0), None];
        let gpu = [Some(97.25), Some(0.0), None, Some(6_553.3), Some(1980.0)];
        Record { unix_seconds: 1_795_216_253, node, gpus: vec![(7, gpu), (9, Default::default())] }
    }

    #[test]
    fn decodes_what_it_encodes() {
        assert_eq!(Record::decode(&record().encode()), Some(record()));
        let many = Record { gpus: vec![(3, Default::default()); 20], ..record() };
        assert_eq!(Record::decode(&many.encode()).unwrap().gpus.len(), MAX_GPUS);
    }

    #[test]
    fn values_beyond_the_range_are_its_ends() {
        let gpu = [Some(-1.0), Some(1e9), Some(f32::NAN), Some(f32::INFINITY), Some(65_535.0)];
        let stored = Record { gpus: vec![(1, gpu)], ..record() };
        let found = Record::decode(&stored.encode()).unwrap().gpus[0].1;
        assert_eq!(found, [Some(0.0), Some(655.34), None, None, Some(65_534.0)]);
    }

    #[test]
    fn any_changed_byte_makes_a_record_unreadable() {
        let good = record().encode();
        for at in 0..RECORD_BYTES {
            let mut bad = good;
            bad[at] ^= 0x40;
            assert_eq!(Record::decode(&bad), None, "byte {at}");
            assert_eq!(Record::decode(&good[..at]), None, "cut at {at}");
        }
        assert_eq!(Record::decode(&[0; RECORD_BYTES]), None, "never written");
    }
}
