//! Which GPM metrics are requested, and their units.

use gpu_probe::nvidia::Profiling;
use nvml_wrapper::enums::gpm::GpmMetricId::{self, *};

/// NVML_GPM_METRIC_* of nvml.h.
pub const METRICS: [GpmMetricId; 34] = [
    GraphicsUtil,
    SmUtil,
    SmOccupancy,
    IntegerUtil,
    AnyTensorUtil,
    DfmaTensorUtil,
    HmmaTensorUtil,
    ImmaTensorUtil,
    DramBwUtil,
    Fp64Util,
    Fp32Util,
    Fp16Util,
    PcieTxPerSec,
    PcieRxPerSec,
    NvlinkTotalTxPerSec,
    NvlinkTotalRxPerSec,
    Nvdec0Util,
    Nvdec1Util,
    Nvdec2Util,
    Nvdec3Util,
    Nvdec4Util,
    Nvdec5Util,
    Nvdec6Util,
    Nvdec7Util,
    Nvjpg0Util,
    Nvjpg1Util,
    Nvjpg2Util,
    Nvjpg3Util,
    Nvjpg4Util,
    Nvjpg5Util,
    Nvjpg6Util,
    Nvjpg7Util,
    Nvofa0Util,
    Nvofa1Util,
];

const NVDEC: [GpmMetricId; 8] = [
    Nvdec0Util, Nvdec1Util, Nvdec2Util, Nvdec3Util, Nvdec4Util, Nvdec5Util, Nvdec6Util, Nvdec7Util,
];
const NVJPG: [GpmMetricId; 8] = [
    Nvjpg0Util, Nvjpg1Util, Nvjpg2Util, Nvjpg3Util, Nvjpg4Util, Nvjpg5Util, Nvjpg6Util, Nvjpg7Util,
];
const NVOFA: [GpmMetricId; 2] = [Nvofa0Util, Nvofa1Util];

/// Converts the driver's percentages to ratios, and its MiB/s, which nvml-wrapper calls bytes, to bytes per second.
pub fn profiling(value: impl Fn(GpmMetricId) -> Option<f64>) -> Profiling {
    let ratio = |id| value(id).map(|percent| percent / 100.0);
    let bytes = |id| value(id).map(|mib| mib * f64::from(1u32 << 20));
    let engines = |ids: &[GpmMetricId]| {
        let ratios: Vec<f64> = ids.iter().map_while(|id| ratio(*id)).collect();
        (!ratios.is_empty()).then_some(ratios)
    };
    Profiling {
        graphics_engine_ratio: ratio(GraphicsUtil),
        sm_active_ratio: ratio(SmUtil),
        sm_occupancy_ratio: ratio(SmOccupancy),
        integer_ratio: ratio(IntegerUtil),
        tensor_ratio: ratio(AnyTensorUtil),
        tensor_dfma_ratio: ratio(DfmaTensorUtil),
        tensor_hmma_ratio: ratio(HmmaTensorUtil),
        tensor_imma_ratio: ratio(ImmaTensorUtil),
        dram_ratio: ratio(DramBwUtil),
        fp64_ratio: ratio(Fp64Util),
        fp32_ratio: ratio(Fp32Util),
        fp16_ratio: ratio(Fp16Util),
        pcie_transmitted_bytes_per_second: bytes(PcieTxPerSec),
        pcie_received_bytes_per_second: bytes(PcieRxPerSec),
        nvlink_transmitted_bytes_per_second: bytes(NvlinkTotalTxPerSec),
        nvlink_received_bytes_per_second: bytes(NvlinkTotalRxPerSec),
        nvdec_ratios: engines(&NVDEC),
        nvjpg_ratios: engines(&NVJPG),
        nvofa_ratios: engines(&NVOFA),
    }
}
