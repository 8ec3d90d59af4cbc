//! What is said about the driver: in messages, and in the log.

use crate::collector::gpu::nvidia::protocol::Failure;
use crate::model::gpu::{DriverState, NvidiaDriver};

/// What NVML says, and what to do about it.
pub fn explained(failure: &Failure) -> String {
    let hint = match failure.state {
        DriverState::VersionMismatch => {
            "; the driver was upgraded: load its new kernel modules, or restart the machine"
        }
        DriverState::NoDriver => "; is NVIDIA's driver installed and loaded?",
        _ => "",
    };
    format!("{}{hint}", failure.message)
}

/// Into the log, when the state has changed.
pub fn say(nvidia: &NvidiaDriver, gpus: usize) {
    let message = nvidia.message.as_deref().unwrap_or_default();
    let version = |version: &Option<String>| version.clone().unwrap_or_else(|| "?".to_owned());
    match nvidia.state {
        DriverState::Ok => log::info!(
            "NVIDIA driver {} (CUDA {}): {gpus} GPUs",
            version(&nvidia.driver_version),
            version(&nvidia.cuda_version)
        ),
        DriverState::NoGpu => log::debug!("no NVIDIA GPU is here"),
        DriverState::Suspended => log::info!("all NVIDIA GPUs sleep, and are not woken"),
        DriverState::Starting => {}
        DriverState::NoDriver => log::warn!("no NVIDIA driver: {message}"),
        DriverState::VersionMismatch => {
            log::warn!("NVIDIA driver and library do not match: {message}")
        }
        DriverState::Hung => log::warn!("NVIDIA driver hangs: {message}"),
        DriverState::Crashed => log::warn!("{message}"),
        DriverState::Unavailable => log::warn!("NVIDIA GPUs cannot be asked: {message}"),
    }
}
