//! Values that the driver of AMD GPUs has.

use serde::{Deserialize, Serialize};

use crate::gpu::of_options;

of_options! {
/// Cycles of the firmware's control loop since the driver was loaded, and those in which a limit reduced the clocks. The
/// share of two differences is the share of time.
#[derive(Copy, Eq)]
ThrottleCycles {
    total: u64,
/// Power of the package.
    power: u64,
    socket_thermal: u64,
    memory_thermal: u64,
    regulator_thermal: u64,
/// Another component signals overheating (PROCHOT).
    prochot: u64,
}}

of_options! {
/// Links to other GPUs.
#[derive(Eq)]
Xgmi {
/// Lanes of a link.
    link_width: u32,
/// Of a lane.
    gigabits_per_second: u32,
    links: Vec<XgmiLink>,
}}

/// A link with traffic. Bytes are counted since the driver was loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct XgmiLink {
    pub link: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub written_bytes: Option<u64>,
}

of_options! {
/// How an Instinct is divided into logical GPUs. Its values are those of the whole GPU.
#[derive(Eq)]
Partitions {
    count: u32,
/// `SPX` (one), `DPX`, `TPX`, `QPX` or `CPX` (one for each compute chip).
    compute_mode: String,
/// `NPS1` (all memory for each) to `NPS8`.
    memory_mode: String,
}}
