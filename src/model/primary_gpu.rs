//! `gpu.primary`: which GPU, or the aggregate of all, is reported in messages with fields for a single GPU.

use serde::Serialize;

use crate::model::gpu::{Gpu, Values};

/// Setting `gpu.primary`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Primary {
    /// The GPU with this index.
    Index(u32),
    /// Mean utilization and total memory of all GPUs.
    Aggregate,
}

/// GPU fields of messages for a single GPU. Memory is in MiB.
#[derive(Serialize, Default)]
pub struct PrimaryGpu {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_percent: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_mem_used_mb: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_mem_total_mb: Option<u64>,
}

pub fn primary_gpu(gpus: &[Gpu], primary: Primary) -> PrimaryGpu {
    match primary {
        Primary::Index(index) => {
            let Some(gpu) = gpus.iter().find(|gpu| gpu.index == index) else {
                return PrimaryGpu::default();
            };
            PrimaryGpu {
                gpu_percent: gpu.values.utilization_percent,
                gpu_mem_used_mb: gpu.values.memory_used_bytes.map(mib),
                gpu_mem_total_mb: gpu.values.memory_total_bytes.map(mib),
            }
        }
        Primary::Aggregate => {
            let percents: Vec<u64> = gpus
                .iter()
                .filter_map(|gpu| gpu.values.utilization_percent)
                .map(u64::from)
                .collect();
            let mean = (percents.iter().sum::<u64>() as f64 / percents.len() as f64).round();
            let sum = |pick: fn(&Values) -> Option<u64>| {
                gpus.iter().filter_map(|gpu| pick(&gpu.values)).reduce(u64::saturating_add).map(mib)
            };
            PrimaryGpu {
                gpu_percent: (!percents.is_empty()).then_some(mean as u32),
                gpu_mem_used_mb: sum(|values| values.memory_used_bytes),
                gpu_mem_total_mb: sum(|values| values.memory_total_bytes),
            }
        }
    }
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}
