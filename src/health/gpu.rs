//! Conditions of GPUs and of the NVIDIA driver.

use crate::health::conditions::{Condition, count_of, critical, warning, with_message};
use crate::health::{nvidia, xid};
use crate::metrics::xid_names;
use crate::model::finding::{Action, Component};
use crate::model::gpu::{DriverState, Gpu, Gpus, NvidiaDriver, Problem, Xid};
use crate::model::nvidia::RecoveryAction;

/// Reasons for reduced clocks that a healthy GPU does not have.
const THROTTLE_REASONS: [&str; 4] =
    ["hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"];
/// It is set one GPU after the other.
const PERSISTENCE_HOLD_S: u64 = 60;
/// A GPU may reduce its clocks for a moment.
const THROTTLE_HOLD_S: u64 = 600;

/// An error that the driver has reported counts for this long.
const XID_AGE_S: u64 = 86_400;

/// `expected`: number of GPUs of a healthy node. `now`: Unix seconds.
pub fn conditions(gpus: &Gpus, expected: Option<u64>, now: u64) -> Vec<Condition> {
    let mut found: Vec<Condition> = gpus.nvidia.iter().filter_map(driver).collect();
    found.extend(gpus.each.iter().flat_map(|each| gpu(each, now)));
    found.extend(without_persistence(gpus));
    found.extend(expected.and_then(|expected| missing(gpus, expected)));
    found
}

fn driver(driver: &NvidiaDriver) -> Option<Condition> {
    let (problem, action) = match driver.state {
        DriverState::NoDriver => ("not loaded", Action::Reboot),
        DriverState::VersionMismatch => {
            ("upgraded while loaded (library and kernel module differ)", Action::Reboot)
        }
        DriverState::Hung => ("does not respond", Action::Reboot),
        DriverState::Crashed => ("crashed", Action::None),
        DriverState::Unavailable => ("cannot be queried", Action::None),
        DriverState::Starting | DriverState::Ok | DriverState::NoGpu | DriverState::Suspended => {
            return None;
        }
    };
    let text = with_message(format!("NVIDIA driver {problem}"), driver.message.as_deref());
    Some(critical(Component::Driver, "nvidia", text).action(action))
}

fn gpu(gpu: &Gpu, now: u64) -> Vec<Condition> {
    let mut found = Vec::new();
    let values = &gpu.values;
    let problem = match gpu.problem {
        Some(Problem::Lost) => Some(("lost", Action::Reboot)),
        Some(Problem::Hung) => Some(("hung", Action::ResetGpu)),
        Some(Problem::Failed) => Some(("failed", Action::ResetGpu)),
        Some(Problem::Suspended) | None => None,
    };
    if let Some((problem, action)) = problem {
        let text = with_message(problem, gpu.message.as_deref());
        found.push(critical(Component::Gpu, problem, text).action(action));
    }
    if values.remapped_rows.is_some_and(|rows| rows.failed) {
        let failed = critical(Component::Gpu, "remap-failed", "row remapping failed");
        found.push(failed.action(Action::InspectHardware));
    }
    found.extend(nvidia::conditions(values));
    if let Some(count @ 1..) = values.retired_pages.and_then(|pages| pages.failed) {
        let text = format!("{} still in use", count_of(count, "bad memory page"));
        found.push(critical(Component::Gpu, "bad-pages", text).action(Action::InspectHardware));
    }
    if let Some(count @ 1..) = values.ecc.and_then(|ecc| ecc.volatile_uncorrected) {
        let text = count_of(count, "uncorrected memory error");
        found.push(critical(Component::Gpu, "ecc", text).action(Action::ResetGpu));
    }
    found.extend(throttled(gpu));
    if values.remapped_rows.is_some_and(|rows| rows.pending) {
        let text = "row remapping pending, GPU reset required";
        found.push(warning(Component::Gpu, "remap-pending", text).action(Action::ResetGpu));
    }
    if let Some(count @ 1..) = values.nvlink.and_then(|nvlink| nvlink.links_lost) {
        let text = format!("{} down", count_of(count.into(), "NVLink"));
        found.push(warning(Component::NvLink, "down", text).action(Action::ResetGpu));
    }
    if values.recovery_action != Some(RecoveryAction::None) {
        found.extend(gpu.xids.iter().filter_map(|error| reported(error, now)));
    }
    let device = format!("GPU {}", gpu.index);
    found.into_iter().map(|condition| condition.of(&*device)).collect()
}

/// An error that NVML has reported. The kernel log has more of them, but may not be readable.
fn reported(error: &Xid, now: u64) -> Option<Condition> {
    let is_recent = now.saturating_sub(error.last_unix_seconds) < XID_AGE_S;
    let code = u32::try_from(error.code).ok().filter(|_| is_recent)?;
    let action = xid::action(code)?;
    let text = format!("XID {code}, {}", xid_names::name(error.code));
    let found = critical(Component::Gpu, &format!("xid{code}"), text).action(action);
    Some(found.evidence(format!("reported {} by the driver", count_of(error.count, "time"))))
}

fn throttled(gpu: &Gpu) -> Option<Condition> {
    let reasons = gpu.values.clock_event_reasons.iter().flatten();
    let bad: Vec<_> = reasons
        .filter(|reason| THROTTLE_REASONS.contains(&reason.as_str()))
        .map(|reason| reason.replace('_', " "))
        .collect();
    if bad.is_empty() {
        return None;
    }
    let found = warning(Component::Gpu, "throttled", "slowed down by the hardware or by heat");
    let found = found.evidence(bad.join(", ")).held_for(THROTTLE_HOLD_S);
    Some(found.action(Action::InspectHardware))
}

/// A driver that keeps some GPUs awake is set up to keep all of them awake. In a container the mode may be off everywhere
/// although nvidia-persistenced runs.
fn without_persistence(gpus: &Gpus) -> Vec<Condition> {
    let is = |mode: bool| move |gpu: &&Gpu| gpu.values.persistence_mode == Some(mode);
    if !gpus.each.iter().any(|gpu| is(true)(&gpu)) {
        return Vec::new();
    }
    let off = gpus.each.iter().filter(is(false));
    let condition = |gpu: &Gpu| {
        let found = warning(Component::Gpu, "persistence", "persistence mode is off");
        let found = found.evidence("other GPUs have it on").held_for(PERSISTENCE_HOLD_S);
        found.of(format!("GPU {}", gpu.index)).restart("nvidia-persistenced")
    };
    off.map(condition).collect()
}

fn missing(gpus: &Gpus, expected: u64) -> Option<Condition> {
    // Until the driver has answered, no GPU is known.
    let is_starting = gpus.nvidia.as_ref().is_some_and(|it| it.state == DriverState::Starting);
    let works = |gpu: &&Gpu| matches!(gpu.problem, None | Some(Problem::Suspended));
    let count = gpus.each.iter().filter(works).count();
    if is_starting || count as u64 >= expected {
        return None;
    }
    let text = format!("{count} of {} work", count_of(expected, "GPU"));
    let found = critical(Component::Gpu, "missing", text).evidence("health.expected_gpus");
    Some(found.action(Action::Reboot))
}
