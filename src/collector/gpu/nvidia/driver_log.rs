//! Messages and log lines about the driver.

use crate::collector::gpu::nvidia::protocol::ProbeFailure;
use crate::model::gpu::{DriverState, NvidiaDriver};

/// NVML's error message with a hint how to fix it.
pub(super) fn describe(failure: &ProbeFailure) -> String {
    let hint = match failure.state {
        DriverState::VersionMismatch => {
            "; the driver was upgraded: load its new kernel modules or reboot"
        }
        DriverState::NoDriver => "; is the NVIDIA driver installed and loaded?",
        _ => "",
    };
    format!("{}{hint}", failure.message)
}

/// Logs a change of the driver's state.
pub(super) fn log_state(driver: &NvidiaDriver, gpus: usize) {
    let message = driver.message.as_deref().unwrap_or_default();
    let version = |version: &Option<String>| version.clone().unwrap_or_else(|| "?".to_owned());
    match driver.state {
        DriverState::Ok => log::info!(
            "NVIDIA driver {} (CUDA {}): {gpus} GPUs",
            version(&driver.driver_version),
            version(&driver.cuda_version)
        ),
        DriverState::NoGpu => log::debug!("no NVIDIA GPU found"),
        DriverState::Suspended => log::info!("all NVIDIA GPUs are suspended"),
        DriverState::Starting => {}
        DriverState::NoDriver => log::warn!("no NVIDIA driver: {message}"),
        DriverState::VersionMismatch => {
            log::warn!("NVIDIA driver and library versions do not match: {message}");
        }
        DriverState::Hung => log::warn!("NVIDIA driver hangs: {message}"),
        DriverState::Crashed => log::warn!("{message}"),
        DriverState::Unavailable => log::warn!("NVIDIA GPUs cannot be queried: {message}"),
    }
}
