//! Where each revision of the table has its values.

use crate::procfs::gpu_metrics::XgmiLink;

/// A value of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attribute {
    Hotspot,
    MemoryTemperature,
    SocketPower,
    GfxActivity,
    MemoryActivity,
    Energy,
    ThrottleBits,
    Cycles,
    Prochot,
    PowerLimit,
    SocketThermal,
    RegulatorThermal,
    MemoryThermal,
    PcieRecoveries,
    PcieReplays,
    PcieReplayRollovers,
    PcieNaksSent,
    PcieNaksReceived,
    XgmiWidth,
    XgmiSpeed,
    XgmiRead,
    XgmiWritten,
    XgmiStatus,
    GfxClock,
    MemoryClock,
    Partitions,
    Unused,
}
use Attribute::*;

type SetLink = fn(&mut XgmiLink, Option<u64>);

impl Attribute {
    /// How to set a value that each XGMI link has.
    pub(super) fn xgmi(self) -> Option<SetLink> {
        match self {
            XgmiRead => Some(|link, value| link.read_kib = value),
            XgmiWritten => Some(|link, value| link.written_kib = value),
            XgmiStatus => Some(|link, value| link.status = value),
            _ => None,
        }
    }
}

/// Numbers of `width` bytes.
pub(super) struct Field {
    pub(super) attribute: Attribute,
    pub(super) offset: usize,
    pub(super) width: usize,
    pub(super) count: usize,
}

const fn one(attribute: Attribute, offset: usize, width: usize) -> Field {
    Field { attribute, offset, width, count: 1 }
}

const fn array(attribute: Attribute, offset: usize, width: usize, count: usize) -> Field {
    Field { attribute, offset, width, count }
}

/// Values of the revision, unless its structure has another size.
pub(super) fn find(format: u8, content: u8, size: u16) -> Option<&'static [Field]> {
    match (format, content, size) {
        (1, 3, 120) => Some(&V1_3),
        (1, 4, 288) => Some(&V1_4),
        (1, 5, 360) => Some(&V1_5),
        (1, 6, 1664) => Some(&V1_6),
        // They differ in the length of the partitions' statistics, which come last.
        (1, 7, 2208) | (1, 8, 3872) => Some(&V1_7),
        _ => None,
    }
}

/// MI100, MI200, and Radeons since the RX 5000.
const V1_3: [Field; 9] = [
    one(Hotspot, 6, 2),
    one(MemoryTemperature, 8, 2),
    one(GfxActivity, 16, 2),
    one(MemoryActivity, 18, 2),
    one(SocketPower, 22, 2),
    one(Energy, 24, 8),
    one(GfxClock, 54, 2),
    one(MemoryClock, 58, 2),
    one(ThrottleBits, 112, 8),
];

/// MI300 with Linux 6.6 and 6.7.
const V1_4: [Field; 15] = [
    one(Hotspot, 4, 2),
    one(MemoryTemperature, 6, 2),
    one(SocketPower, 10, 2),
    one(GfxActivity, 12, 2),
    one(MemoryActivity, 14, 2),
    one(Energy, 24, 8),
    one(XgmiWidth, 52, 2),
    one(XgmiSpeed, 54, 2),
    one(PcieRecoveries, 80, 8),
    one(PcieReplays, 88, 8),
    one(PcieReplayRollovers, 96, 8),
    array(XgmiRead, 104, 8, 8),
    array(XgmiWritten, 168, 8, 8),
    array(GfxClock, 240, 2, 8),
    one(MemoryClock, 280, 2),
];

/// MI300 since Linux 6.8.
const V1_5: [Field; 17] = [
    one(Hotspot, 4, 2),
    one(MemoryTemperature, 6, 2),
    one(SocketPower, 10, 2),
    one(GfxActivity, 12, 2),
    one(MemoryActivity, 14, 2),
    one(Energy, 88, 8),
    one(XgmiWidth, 116, 2),
    one(XgmiSpeed, 118, 2),
    one(PcieRecoveries, 144, 8),
    one(PcieReplays, 152, 8),
    one(PcieReplayRollovers, 160, 8),
    one(PcieNaksSent, 168, 4),
    one(PcieNaksReceived, 172, 4),
    array(XgmiRead, 176, 8, 8),
    array(XgmiWritten, 240, 8, 8),
    array(GfxClock, 312, 2, 8),
    one(MemoryClock, 352, 2),
];

/// MI300 since Linux 6.12.
const V1_6: [Field; 24] = [
    one(Hotspot, 4, 2),
    one(MemoryTemperature, 6, 2),
    one(SocketPower, 10, 2),
    one(GfxActivity, 12, 2),
    one(MemoryActivity, 14, 2),
    one(Energy, 16, 8),
    one(Cycles, 32, 4),
    one(Prochot, 36, 4),
    one(PowerLimit, 40, 4),
    one(SocketThermal, 44, 4),
    one(RegulatorThermal, 48, 4),
    one(MemoryThermal, 52, 4),
    one(XgmiWidth, 64, 2),
    one(XgmiSpeed, 66, 2),
    one(PcieRecoveries, 96, 8),
    one(PcieReplays, 104, 8),
    one(PcieReplayRollovers, 112, 8),
    one(PcieNaksSent, 120, 4),
    one(PcieNaksReceived, 124, 4),
    array(XgmiRead, 128, 8, 8),
    array(XgmiWritten, 192, 8, 8),
    array(GfxClock, 264, 2, 8),
    one(MemoryClock, 304, 2),
    one(Partitions, 306, 2),
];

/// MI300 since Linux 6.14, and with revision 1.8 MI350 since Linux 6.16.
const V1_7: [Field; 25] = [
    one(Hotspot, 4, 2),
    one(MemoryTemperature, 6, 2),
    one(SocketPower, 10, 2),
    one(GfxActivity, 12, 2),
    one(MemoryActivity, 14, 2),
    one(Energy, 24, 8),
    one(Cycles, 40, 4),
    one(Prochot, 44, 4),
    one(PowerLimit, 48, 4),
    one(SocketThermal, 52, 4),
    one(RegulatorThermal, 56, 4),
    one(MemoryThermal, 60, 4),
    one(XgmiWidth, 72, 2),
    one(XgmiSpeed, 74, 2),
    one(PcieRecoveries, 104, 8),
    one(PcieReplays, 112, 8),
    one(PcieReplayRollovers, 120, 8),
    one(PcieNaksSent, 128, 4),
    one(PcieNaksReceived, 132, 4),
    array(XgmiRead, 136, 8, 8),
    array(XgmiWritten, 200, 8, 8),
    array(XgmiStatus, 264, 2, 8),
    array(GfxClock, 296, 2, 8),
    one(MemoryClock, 336, 2),
    one(Partitions, 338, 2),
];

/// Revision 1.9, in the order of `enum amdgpu_metrics_attr_id`. Later ones are not used; their numbers have changed.
pub(super) const ATTRIBUTES: [Attribute; 39] = [
    Hotspot,
    MemoryTemperature,
    Unused, // temperature of the voltage regulator
    SocketPower,
    GfxActivity,
    MemoryActivity,
    Unused, // bandwidth of the memory
    Energy,
    Unused, // time stamp of the driver
    Cycles,
    Prochot,
    PowerLimit,
    SocketThermal,
    RegulatorThermal,
    MemoryThermal,
    Unused, // locked clocks
    Unused, // PCIe width
    Unused, // PCIe speed
    XgmiWidth,
    XgmiSpeed,
    Unused, // accumulated activity of the engines
    Unused, // accumulated activity of the memory
    Unused, // accumulated PCIe bandwidth
    Unused, // PCIe bandwidth
    PcieRecoveries,
    PcieReplays,
    PcieReplayRollovers,
    PcieNaksSent,
    PcieNaksReceived,
    XgmiRead,
    XgmiWritten,
    XgmiStatus,
    Unused, // time stamp of the firmware
    GfxClock,
    Unused, // SoC clock
    Unused, // video clock
    Unused, // display clock
    MemoryClock,
    Partitions,
];
