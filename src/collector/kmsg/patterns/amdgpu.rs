//! The amdgpu driver. Before Linux 5.7 the lines had no second `amdgpu: `. Real lines:
//!
//! ```text
//! amdgpu 0000:03:00.0: amdgpu: GPU reset begin!
//! amdgpu 0000:03:00.0: amdgpu: GPU reset(2) succeeded!
//! amdgpu 0000:03:00.0: amdgpu: ring gfx_0.0.0 timeout, signaled seq=1234, emitted seq=1236
//! [drm:amdgpu_job_timedout [amdgpu]] *ERROR* ring gfx_0.0.0 timeout, signaled seq=1234, emitted seq=1236
//! amdgpu 0000:de:ad.0: amdgpu: socket: 0 2 uncorrectable hardware errors detected in gfx block
//! amdgpu 0000:c3:00.0: amdgpu: no uncorrectable hardware errors detected in umc block
//! amdgpu 0000:03:00.0: amdgpu: Fatal error during GPU init
//! ```

use super::{KernelEvent, of_pci_device};
use crate::model::event::{EventKind, EventSeverity};

const TIMED_OUT: &str = "[drm:amdgpu_job_timedout [amdgpu]] *ERROR* ";

pub(super) fn classify(text: &str) -> Option<KernelEvent> {
    let (address, rest) = match text.strip_prefix(TIMED_OUT) {
        Some(rest) => ("", rest),
        None => of_pci_device(text, "amdgpu")?,
    };
    let rest = rest.strip_prefix("amdgpu: ").unwrap_or(rest);
    let (severity, class) = if rest.starts_with("GPU reset begin!") {
        (EventSeverity::Critical, "reset")
    } else if rest.starts_with("GPU reset(") && rest.contains(" succeeded!") {
        (EventSeverity::Info, "reset done")
    } else if rest.starts_with("ring ") && rest.contains(" timeout") {
        (EventSeverity::Critical, "timeout")
    } else if has_uncorrectable_errors(rest) {
        (EventSeverity::Critical, "memory")
    } else if rest.starts_with("Fatal error during GPU init") {
        (EventSeverity::Critical, "init")
    } else {
        return None;
    };
    Some(KernelEvent::new(EventKind::AmdGpu, severity, address).class(class))
}

/// The number of errors comes before the words; after a query without errors, newer drivers print `no` or 0.
fn has_uncorrectable_errors(rest: &str) -> bool {
    let Some((before, _)) = rest.split_once(" uncorrectable hardware errors detected") else {
        return false;
    };
    let number = before.split(|c: char| !c.is_ascii_alphanumeric()).rfind(|word| *word != "new");
    number.and_then(|number| number.parse().ok()).is_some_and(|number: u64| number > 0)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_events, assert_none};
    use super::*;

    #[test]
    fn finds_resets_timeouts_and_errors() {
        let (kind, critical, gpu) = ("amd_gpu", "critical", "0000:03:00.0");
        assert_events(
            classify,
            &[
                ("amdgpu 0000:03:00.0: amdgpu: GPU reset begin!", kind, critical, gpu),
                ("amdgpu 0000:03:00.0: amdgpu: GPU reset begin!. Source:  1", kind, critical, gpu),
                ("amdgpu 0000:03:00.0: amdgpu: GPU reset(2) succeeded!", kind, "info", gpu),
                (
                    "amdgpu 0000:03:00.0: amdgpu: ring gfx_0.0.0 timeout, signaled seq=1234, emitted seq=1236",
                    kind,
                    critical,
                    gpu,
                ),
                (
                    "[drm:amdgpu_job_timedout [amdgpu]] *ERROR* ring gfx_0.0.0 timeout, signaled seq=1234, emitted seq=1236",
                    kind,
                    critical,
                    "",
                ),
                (
                    "amdgpu 0000:03:00.0: amdgpu: socket: 0 2 uncorrectable hardware errors detected in gfx block",
                    kind,
                    critical,
                    gpu,
                ),
                (
                    "amdgpu 0000:03:00.0: 1048560 uncorrectable hardware errors detected in umc block",
                    kind,
                    critical,
                    gpu,
                ),
                (
                    "amdgpu 0000:03:00.0: amdgpu: {12} socket: 0, die: 1, 3 new uncorrectable hardware errors detected in umc block",
                    kind,
                    critical,
                    gpu,
                ),
                ("amdgpu 0000:03:00.0: amdgpu: Fatal error during GPU init", kind, critical, gpu),
            ],
        );
    }

    #[test]
    fn ignores_other_lines() {
        assert_none(
            classify,
            &[
                "amdgpu 0000:c3:00.0: amdgpu: no uncorrectable hardware errors detected in umc block",
                "amdgpu 0000:c3:00.0: amdgpu: 0 uncorrectable hardware errors detected in umc block",
                "amdgpu 0000:c3:00.0: amdgpu: 1 correctable hardware errors detected in gfx block",
                "amdgpu 0000:03:00.0: amdgpu: SMU is initialized successfully!",
                "amdgpu 0000:03:00.0: ring gfx uses VM inv eng 0 on hub 0",
                "[drm] amdgpu kernel modesetting enabled.",
            ],
        );
    }
}
