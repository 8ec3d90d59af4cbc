//! Clock of an Intel GPU and why it is reduced.

use std::path::{Path, PathBuf};

use crate::collector::file_reader::FileReader;
use crate::collector::gpu::drm::DrmDevice;
use crate::collector::gpu::hwmon::{MEGAHERTZ, number};

/// Parts of a GPU with a clock each; GPUs have at most 2 tiles with 2 parts.
const MAX_TILES: u32 = 4;
const MAX_PARTS: u32 = 4;

#[derive(Debug, Default)]
pub(super) struct ClockFiles {
    /// Current clock of the part that renders and computes.
    clock: Option<PathBuf>,
    throttle: Vec<ThrottleFiles>,
}

/// Files that contain 1 while a reason applies.
#[derive(Debug)]
struct ThrottleFiles {
    /// Whether any reason applies.
    status: PathBuf,
    /// With the name that NVML has for the reason.
    reasons: Vec<(PathBuf, &'static str)>,
}

impl ClockFiles {
    pub(super) fn find(at: &DrmDevice) -> Self {
        let parts = (0..MAX_TILES).flat_map(|tile| (0..MAX_PARTS).map(move |part| (tile, part)));
        let xe = parts.map(|(tile, part)| at.device.join(format!("tile{tile}/gt{part}/freq0")));
        let i915 = (0..MAX_PARTS).map(|part| at.card.join(format!("gt/gt{part}")));
        let clocks = [
            at.device.join("tile0/gt0/freq0/act_freq"),
            at.card.join("gt/gt0/rps_act_freq_mhz"),
            at.card.join("gt_act_freq_mhz"),
        ];
        let xe = xe.map(|part| (part.join("throttle"), ""));
        let throttle = xe.chain(i915.map(|part| (part, "throttle_")));
        Self {
            clock: clocks.into_iter().find(|file| file.exists()),
            throttle: throttle.filter_map(|(path, prefix)| throttle_files(&path, prefix)).collect(),
        }
    }

    /// 0 while the GPU is idle and the clock is switched off.
    pub(super) fn megahertz(&self, files: &mut FileReader) -> Option<u32> {
        let megahertz: u32 = number(files, self.clock.as_deref()?)?;
        MEGAHERTZ.contains(&megahertz.into()).then_some(megahertz)
    }

    /// `None` if the driver does not tell.
    pub(super) fn throttle_reasons(&self, files: &mut FileReader) -> Option<Vec<String>> {
        let mut found = None;
        for part in &self.throttle {
            let Some(is_throttled) = flag(files, &part.status) else { continue };
            let found: &mut Vec<String> = found.get_or_insert_default();
            for (file, reason) in part.reasons.iter().filter(|_| is_throttled) {
                let is_known = found.iter().any(|known| known == reason);
                if !is_known && flag(files, file) == Some(true) {
                    found.push((*reason).to_owned());
                }
            }
        }
        found
    }
}

/// The files `reason_…` with their prefix in a directory.
fn throttle_files(directory: &Path, prefix: &str) -> Option<ThrottleFiles> {
    let names = [format!("{prefix}status"), format!("{prefix}reason_status")];
    let status = names.iter().map(|name| directory.join(name)).find(|file| file.exists())?;
    let prefix = format!("{prefix}reason_");
    let entries = std::fs::read_dir(directory).ok()?.flatten();
    let reasons = entries.filter_map(|entry| {
        let name = entry.file_name();
        let reason = name.to_str()?.strip_prefix(&prefix)?;
        (reason != "status").then(|| (entry.path(), nvml_name(reason)))
    });
    let mut reasons: Vec<_> = reasons.collect();
    reasons.sort();
    Some(ThrottleFiles { status, reasons })
}

/// Limits of temperature are `thermal` and the mean `ratl`, in newer drivers also `soc_thermal`, `mem_thermal`, …; `prochot`
/// and `vr_thermalert` are signals of other components. All others limit power or current: `pl1`, `pl2`, `pl4`, `vr_tdc`, ….
fn nvml_name(reason: &str) -> &'static str {
    match reason {
        "prochot" | "vr_thermalert" => "hw_thermal_slowdown",
        "ratl" => "sw_thermal_slowdown",
        _ if reason.contains("thermal") => "sw_thermal_slowdown",
        _ => "sw_power_cap",
    }
}

fn flag(files: &mut FileReader, file: &Path) -> Option<bool> {
    number::<u32>(files, file).map(|value| value != 0)
}
