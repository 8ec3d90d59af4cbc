//! GPUs: NVIDIA through the GPU probe, AMD and Intel through sysfs. [`state::GpuState`] holds the latest result.

use std::time::Duration;

mod amd;
mod drm;
mod hwmon;
mod intel;
mod kernel_xids;
pub mod nvidia;
mod processes;
pub mod state;

/// Time between full scans for GPUs. GPUs are rarely hot-plugged.
const RESCAN_INTERVAL: Duration = Duration::from_secs(60);
