//! What the GPU probe writes: one line of JSON for each line that it reads.
//!
//! Both ends are built together; the version is there for the one that is run by hand.

use serde::{Deserialize, Serialize};

use crate::model::gpu::{DriverState, Gpu};

/// The version of this format.
pub const VERSION: u32 = 1;

/// One line.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// [`VERSION`].
    pub version: u32,
    /// Why there is nothing else; the probe ends after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Nobody has answered yet, and this is only to say which errors were reported.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// E.g. `550.54.14`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_version: Option<String>,
    /// E.g. `12.4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda_version: Option<String>,
    /// How many GPUs the driver lists and does not let us see.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub denied: usize,
    /// By index. Names of processes are absent; `xids` are those since the previous line.
    #[serde(default)]
    pub gpus: Vec<Gpu>,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// NVML cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What that comes to.
    pub state: DriverState,
    /// What NVML says.
    pub message: String,
}
