//! `gpu_metrics` of an AMD GPU: a binary table of sensors, which the GPU's firmware fills.
//!
//! Format: kernel `drivers/gpu/drm/amd/include/kgd_pp_interface.h`, `struct gpu_metrics_v1_3` to `v1_9`. Numbers are
//! little-endian and naturally aligned. The table begins with its size (16 bits), a format and a content revision (8 bits
//! each). A number whose bits are all set was not filled.
//!
//! Revisions are not extensions of each other, so a table is decoded only if revision and size are those of a known
//! structure. Format 2 and 3 belong to integrated GPUs, with units that depend on the model; their sensors are in hwmon.

mod layout;

use crate::procfs::ParseError;
use crate::procfs::gpu_metrics::layout::Attribute;

/// XGMI links of a GPU.
pub const XGMI_LINKS: usize = 8;

/// The values that the agent uses. Counters have run since the driver was loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GpuMetrics {
    /// Content revision of format 1.
    pub revision: u8,
    pub hotspot_celsius: Option<u64>,
    pub memory_celsius: Option<u64>,
    pub socket_watts: Option<u64>,
    pub gfx_percent: Option<u64>,
    pub memory_percent: Option<u64>,
    /// Units of 2^-16 J with Instincts since the MI200; others have units of their own.
    pub energy_units: Option<u64>,
    /// Bits `SMU_THROTTLER_*` in the driver's `amdgpu_smu.h`. Revision 1.3 only.
    pub throttle_bits: Option<u64>,
    pub throttle: ThrottleCounters,
    pub pcie: PcieCounters,
    /// Lanes.
    pub xgmi_width: Option<u64>,
    pub xgmi_gigabits_per_second: Option<u64>,
    pub xgmi: [XgmiLink; XGMI_LINKS],
    /// The fastest of the graphics clocks.
    pub gfx_clock_mhz: Option<u64>,
    pub memory_clock_mhz: Option<u64>,
    pub partitions: Option<u64>,
}

/// Cycles of the firmware's control loop, and those in which each limit was effective.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThrottleCounters {
    pub cycles: Option<u64>,
    /// PROCHOT: another component signals overheating.
    pub prochot: Option<u64>,
    /// Package power tracking.
    pub power: Option<u64>,
    pub socket_thermal: Option<u64>,
    pub regulator_thermal: Option<u64>,
    pub memory_thermal: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PcieCounters {
    /// Transitions from the normal state to link recovery.
    pub recoveries: Option<u64>,
    pub replays: Option<u64>,
    pub replay_rollovers: Option<u64>,
    pub naks_sent: Option<u64>,
    pub naks_received: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct XgmiLink {
    /// 1 if the link is up.
    pub status: Option<u64>,
    pub read_kib: Option<u64>,
    pub written_kib: Option<u64>,
}

pub fn parse(table: &[u8]) -> Result<GpuMetrics, ParseError> {
    let malformed = |expected| ParseError::new(1, expected, table.get(..4).unwrap_or(table));
    let Some(([low, high, format, content], _)) = table.split_first_chunk() else {
        return Err(malformed("a table header"));
    };
    let size = u16::from_le_bytes([*low, *high]);
    let table = table.get(..usize::from(size)).ok_or_else(|| malformed("a complete table"))?;
    if (*format, *content) == (1, 9) {
        return parse_attributes(table).ok_or_else(|| malformed("a list of attributes"));
    }
    let known = layout::find(*format, *content, size);
    let fields = known.ok_or_else(|| malformed("a known revision of its size"))?;
    let mut metrics = GpuMetrics { revision: *content, ..GpuMetrics::default() };
    for field in fields {
        let values = table.get(field.offset..).unwrap_or_default();
        metrics.set(field.attribute, values.chunks_exact(field.width).take(field.count));
    }
    Ok(metrics)
}

/// Revision 1.9: after the number of attributes, each one has a code (64 bits: 10 of the number of values, 10 of the
/// attribute, 4 of the type, 8 of the unit) and its values, without padding.
fn parse_attributes(table: &[u8]) -> Option<GpuMetrics> {
    let (count, mut rest) = table.get(4..)?.split_first_chunk()?;
    let mut metrics = GpuMetrics { revision: 9, ..GpuMetrics::default() };
    for _ in 0..u32::from_le_bytes(*count) {
        let (code, values) = rest.split_first_chunk()?;
        let code = u64::from_le_bytes(*code);
        let width = *[1, 1, 2, 2, 4, 4, 8, 8].get(usize::try_from(code >> 20 & 0xf).ok()?)?;
        let length = usize::try_from(code & 0x3ff).ok()?.checked_mul(width)?;
        let (values, after) = values.split_at_checked(length)?;
        if let Some(attribute) = layout::ATTRIBUTES.get(usize::try_from(code >> 10 & 0x3ff).ok()?) {
            metrics.set(*attribute, values.chunks_exact(width));
        }
        rest = after;
    }
    Some(metrics)
}

/// `None` if all bits are set.
fn number(bytes: &[u8]) -> Option<u64> {
    let is_filled = bytes.iter().any(|byte| *byte != 0xff);
    is_filled.then(|| bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

impl GpuMetrics {
    fn set<'a>(&mut self, attribute: Attribute, values: impl Iterator<Item = &'a [u8]>) {
        let mut values = values.map(number);
        if let Some(set) = attribute.xgmi() {
            for (link, value) in self.xgmi.iter_mut().zip(values) {
                set(link, value);
            }
        } else if attribute == Attribute::GfxClock {
            self.gfx_clock_mhz = values.flatten().max();
        } else if let Some(field) = self.scalar(attribute) {
            *field = values.next().flatten();
        }
    }

    fn scalar(&mut self, attribute: Attribute) -> Option<&mut Option<u64>> {
        Some(match attribute {
            Attribute::Hotspot => &mut self.hotspot_celsius,
            Attribute::MemoryTemperature => &mut self.memory_celsius,
            Attribute::SocketPower => &mut self.socket_watts,
            Attribute::GfxActivity => &mut self.gfx_percent,
            Attribute::MemoryActivity => &mut self.memory_percent,
            Attribute::Energy => &mut self.energy_units,
            Attribute::ThrottleBits => &mut self.throttle_bits,
            Attribute::Cycles => &mut self.throttle.cycles,
            Attribute::Prochot => &mut self.throttle.prochot,
            Attribute::PowerLimit => &mut self.throttle.power,
            Attribute::SocketThermal => &mut self.throttle.socket_thermal,
            Attribute::RegulatorThermal => &mut self.throttle.regulator_thermal,
            Attribute::MemoryThermal => &mut self.throttle.memory_thermal,
            Attribute::PcieRecoveries => &mut self.pcie.recoveries,
            Attribute::PcieReplays => &mut self.pcie.replays,
            Attribute::PcieReplayRollovers => &mut self.pcie.replay_rollovers,
            Attribute::PcieNaksSent => &mut self.pcie.naks_sent,
            Attribute::PcieNaksReceived => &mut self.pcie.naks_received,
            Attribute::XgmiWidth => &mut self.xgmi_width,
            Attribute::XgmiSpeed => &mut self.xgmi_gigabits_per_second,
            Attribute::MemoryClock => &mut self.memory_clock_mhz,
            Attribute::Partitions => &mut self.partitions,
            Attribute::XgmiRead
            | Attribute::XgmiWritten
            | Attribute::XgmiStatus
            | Attribute::GfxClock
            | Attribute::Unused => return None,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
