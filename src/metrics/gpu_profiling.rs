//! Profiling metrics (GPM) under DCGM's names: ratios from 0 to 1, and bytes per second. In MIG mode they are those of the GPU
//! instances.

use crate::metrics::encoder::Encoder;
use crate::metrics::gpu::instances;
use crate::model::gpu::Gpu;
use crate::model::nvidia::Profiling;

type Family = (&'static str, &'static str, fn(&Profiling) -> Option<f64>);

const FAMILIES: [Family; 16] = [
    ("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "Ratio of time the graphics engine is active.", |p| {
        p.graphics_engine_ratio
    }),
    ("DCGM_FI_PROF_SM_ACTIVE", "Ratio of cycles an SM has at least one warp assigned.", |p| {
        p.sm_active_ratio
    }),
    ("DCGM_FI_PROF_SM_OCCUPANCY", "Ratio of warps resident on an SM.", |p| p.sm_occupancy_ratio),
    ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "Ratio of cycles any tensor pipe is active.", |p| {
        p.tensor_ratio
    }),
    (
        "DCGM_FI_PROF_PIPE_TENSOR_IMMA_ACTIVE",
        "Ratio of cycles the tensor pipe (IMMA, integer) is active.",
        |p| p.tensor_imma_ratio,
    ),
    (
        "DCGM_FI_PROF_PIPE_TENSOR_HMMA_ACTIVE",
        "Ratio of cycles the tensor pipe (HMMA, 16 bits) is active.",
        |p| p.tensor_hmma_ratio,
    ),
    (
        "DCGM_FI_PROF_PIPE_TENSOR_DFMA_ACTIVE",
        "Ratio of cycles the tensor pipe (DFMA, 64 bits) is active.",
        |p| p.tensor_dfma_ratio,
    ),
    (
        "DCGM_FI_PROF_DRAM_ACTIVE",
        "Ratio of cycles the device memory interface is sending or receiving data.",
        |p| p.dram_ratio,
    ),
    ("DCGM_FI_PROF_PIPE_FP64_ACTIVE", "Ratio of cycles the FP64 pipes are active.", |p| {
        p.fp64_ratio
    }),
    ("DCGM_FI_PROF_PIPE_FP32_ACTIVE", "Ratio of cycles the FP32 pipes are active.", |p| {
        p.fp32_ratio
    }),
    ("DCGM_FI_PROF_PIPE_FP16_ACTIVE", "Ratio of cycles the FP16 pipes are active.", |p| {
        p.fp16_ratio
    }),
    ("DCGM_FI_PROF_PIPE_INT_ACTIVE", "Ratio of cycles the integer pipes are active.", |p| {
        p.integer_ratio
    }),
    ("DCGM_FI_PROF_PCIE_TX_BYTES", "Data sent over PCIe (in bytes/s).", |p| {
        p.pcie_transmitted_bytes_per_second
    }),
    ("DCGM_FI_PROF_PCIE_RX_BYTES", "Data received over PCIe (in bytes/s).", |p| {
        p.pcie_received_bytes_per_second
    }),
    ("DCGM_FI_PROF_NVLINK_TX_BYTES", "Data sent over NVLink (in bytes/s).", |p| {
        p.nvlink_transmitted_bytes_per_second
    }),
    ("DCGM_FI_PROF_NVLINK_RX_BYTES", "Data received over NVLink (in bytes/s).", |p| {
        p.nvlink_received_bytes_per_second
    }),
];

type Engines = (&'static str, usize, &'static str, fn(&Profiling) -> Option<&Vec<f64>>);

/// The name has the engine's number before `_ACTIVE`.
const ENGINES: [Engines; 3] = [
    ("DCGM_FI_PROF_NVDEC", 8, "Ratio of time this video decoder is active.", |p| {
        p.nvdec_ratios.as_ref()
    }),
    ("DCGM_FI_PROF_NVJPG", 8, "Ratio of time this JPEG engine is active.", |p| {
        p.nvjpg_ratios.as_ref()
    }),
    ("DCGM_FI_PROF_NVOFA", 2, "Ratio of time this optical flow engine is active.", |p| {
        p.nvofa_ratios.as_ref()
    }),
];

pub(super) fn encode(encoder: &mut Encoder, named: &[(String, &Gpu)]) {
    let mut profiles: Vec<(String, &Profiling)> = Vec::new();
    for (labels, gpu) in named {
        let of_gpu = gpu.values.profiling.as_ref().map(|found| (labels.clone(), found));
        let of_instances = instances(labels, gpu)
            .into_iter()
            .filter_map(|(labels, instance)| Some((labels, instance.profiling.as_ref()?)));
        profiles.extend(of_gpu.into_iter().chain(of_instances));
    }
    for (name, help, value) in FAMILIES {
        encoder.gauge(name, help);
        for (labels, profile) in &profiles {
            encoder.sample_if(labels, value(profile));
        }
    }
    for (prefix, count, help, ratios) in ENGINES {
        for engine in 0..count {
            encoder.gauge(&format!("{prefix}{engine}_ACTIVE"), help);
            for (labels, profile) in &profiles {
                encoder
                    .sample_if(labels, ratios(profile).and_then(|each| each.get(engine).copied()));
            }
        }
    }
}
