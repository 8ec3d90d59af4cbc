//! Failures of the NVIDIA driver that have no XID. Real lines:
//!
//! ```text
//! NVRM: GPU 0000:00:03.0: RmInitAdapter failed! (0x22:0x65:884)
//! NVRM: RmInitAdapter failed! (0x62:0xffff:2477)
//! NVRM: API mismatch: the client has the version 550.54.14, but
//! nvidia-peermem nv_get_p2p_free_callback:127 ERROR detected invalid context, skipping further processing
//! NVRM: knvlinkCoreGetRemoteDeviceInfo_IMPL: NVLink: GPU0 … failed to train
//! ```

use super::KernelEvent;
use crate::model::event::{EventKind, EventSeverity};
use crate::model::pci_address::PciAddress;

pub(super) fn classify(text: &str) -> Option<KernelEvent> {
    let event =
        |severity, class| Some(KernelEvent::new(EventKind::GpuDriver, severity, "").class(class));
    if text.starts_with("nvidia-peermem ") {
        return match text.contains(" ERROR detected invalid context") {
            true => event(EventSeverity::Warning, "peermem"),
            false => None,
        };
    }
    let rest = text.strip_prefix("NVRM: ")?;
    if rest.starts_with("API mismatch: the client has the version") {
        return event(EventSeverity::Warning, "mismatch");
    }
    if rest.contains("NVLink") && rest.contains("failed to train") {
        return event(EventSeverity::Critical, "nvlink");
    }
    let (gpu, rest) = match rest.strip_prefix("GPU ").and_then(|rest| rest.split_once(": ")) {
        Some((address, rest)) => (PciAddress::parse(address), rest),
        None => (None, rest),
    };
    rest.starts_with("RmInitAdapter failed!").then(|| {
        let subject = gpu.map(|gpu| gpu.to_string()).unwrap_or_default();
        KernelEvent::new(EventKind::GpuDriver, EventSeverity::Critical, subject).class("init")
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_events, assert_none};
    use super::*;

    #[test]
    fn finds_failures() {
        let (kind, critical, warning) = ("gpu_driver", "critical", "warning");
        assert_events(
            classify,
            &[
                (
                    "NVRM: GPU 0000:00:03.0: RmInitAdapter failed! (0x22:0x65:884)",
                    kind,
                    critical,
                    "0000:00:03.0",
                ),
                ("NVRM: RmInitAdapter failed! (0x62:0xffff:2477)", kind, critical, ""),
                (
                    "NVRM: API mismatch: the client has the version 550.54.14, but",
                    kind,
                    warning,
                    "",
                ),
                ("NVRM: GPU0 NVLink: Link 3 failed to train", kind, critical, ""),
                (
                    "nvidia-peermem nv_get_p2p_free_callback:127 ERROR detected invalid context, skipping further processing",
                    kind,
                    warning,
                    "",
                ),
            ],
        );
    }

    #[test]
    fn ignores_other_lines() {
        assert_none(
            classify,
            &[
                "NVRM: GPU 0000:00:03.0: rm_init_adapter failed, device minor number 0",
                "NVRM: GPU0 RmInitAdapter: Cannot initialize GSP firmware RM",
                "NVRM: this kernel module has the version 550.90.07.  Please",
                "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  550.54.14",
                "nvidia-peermem nv_mem_client_init:1 registered",
            ],
        );
    }
}
