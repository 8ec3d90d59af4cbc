//! Settings of GPUs.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::layers::Settings;
use crate::model::primary_gpu::Primary;

/// `gpu.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuConfig {
    pub source: GpuSource,
    /// `None`: the library in the standard directories.
    pub nvml_library: Option<PathBuf>,
    pub primary: Primary,
    /// A driver that does not answer within it counts as hung.
    pub timeout: Duration,
    /// Label with the host name in GPU metrics.
    pub hostname_label: &'static str,
}

/// `gpu.source`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuSource {
    /// Every supported GPU.
    Auto,
    /// NVIDIA only, even if no device is found.
    Nvml,
    Nothing,
}

impl GpuConfig {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            source: match settings.text("gpu.source") {
                Some("none") => GpuSource::Nothing,
                Some("nvml") => GpuSource::Nvml,
                _ => GpuSource::Auto,
            },
            nvml_library: settings.parsed("gpu.nvml_library"),
            primary: settings.parsed("gpu.primary").map_or(Primary::Aggregate, Primary::Index),
            timeout: settings.seconds("gpu.timeout"),
            hostname_label: match settings.text("gpu.hostname_label") {
                Some("hostname") => "hostname",
                _ => "Hostname",
            },
        }
    }
}
