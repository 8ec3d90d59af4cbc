//! Problems that NVIDIA GPUs report themselves. Keep in step with `nvidiaAlerts` in `src/telemetry/dashboard/alerts.js`.

use crate::model::gpu::Values;
use crate::model::health_problem::Severity;
use crate::model::nvidia::{Fabric, FabricHealth, FabricState, RecoveryAction};

pub fn problems(values: &Values) -> Vec<(Severity, String)> {
    let mut problems = Vec::new();
    let mut add = |severity, text: &str| problems.push((severity, text.to_owned()));
    if let Some(action) = values.recovery_action.and_then(recommended) {
        add(Severity::Critical, &format!("the driver recommends: {action}"));
    }
    if values.sram_ecc.and_then(|ecc| ecc.threshold_exceeded) == Some(true) {
        add(Severity::Critical, "more SRAM errors than the limit for a replacement");
    }
    if values.row_remap_banks.is_some_and(|banks| banks.none > 0) {
        add(Severity::Warning, "a memory bank has no spare rows left");
    }
    if values.retired_pages.and_then(|pages| pages.pending) == Some(true) {
        add(Severity::Warning, "page retirement pending, GPU reset required");
    }
    if let Some((severity, text)) = values.fabric.as_ref().and_then(fabric) {
        add(severity, text);
    }
    let compute = values.confidential_compute.unwrap_or_default();
    if (compute.enabled, compute.ready) == (Some(true), Some(false)) {
        add(Severity::Warning, "confidential computing is not ready");
    }
    problems
}

/// A recommendation other than to do nothing.
fn recommended(action: RecoveryAction) -> Option<String> {
    let text = match action {
        RecoveryAction::None => return None,
        RecoveryAction::GpuReset => "GPU reset",
        RecoveryAction::NodeReboot => "node reboot",
        RecoveryAction::DrainP2p => "drain P2P",
        RecoveryAction::DrainAndReset => "drain and reset",
        RecoveryAction::RecoverImexDomain => "recover the IMEX domain",
        RecoveryAction::Unknown(code) => return Some(format!("action {code}")),
    };
    Some(text.to_owned())
}

/// CUDA does not start on a GPU that is not registered.
fn fabric(fabric: &Fabric) -> Option<(Severity, &'static str)> {
    match (fabric.state?, fabric.error_code, fabric.health) {
        (FabricState::NotStarted, ..) => Some((
            Severity::Warning,
            "not registered at the NVLink fabric: is the fabric manager running?",
        )),
        (FabricState::Completed, Some(_), _) => {
            Some((Severity::Critical, "registration at the NVLink fabric failed"))
        }
        (FabricState::Completed, _, Some(FabricHealth::Unhealthy)) => {
            Some((Severity::Critical, "NVLink fabric unhealthy"))
        }
        (FabricState::Completed, _, Some(FabricHealth::LimitedCapacity)) => {
            Some((Severity::Warning, "NVLink fabric has limited capacity"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::nvidia::{ConfidentialCompute, RetiredPages, RowRemapBanks, SramEcc};

    fn texts(values: &Values) -> Vec<String> {
        problems(values)
            .into_iter()
            .map(|(severity, text)| format!("{severity:?} {text}"))
            .collect()
    }

    fn with_fabric(
        state: FabricState,
        error_code: Option<u32>,
        health: Option<FabricHealth>,
    ) -> Values {
        let fabric = Fabric { state: Some(state), error_code, health, ..Fabric::default() };
        Values { fabric: Some(fabric), ..Values::default() }
    }

    #[test]
    fn healthy_gpu_has_no_problems() {
        let values = Values {
            recovery_action: Some(RecoveryAction::None),
            sram_ecc: Some(SramEcc { threshold_exceeded: Some(false), ..SramEcc::default() }),
            row_remap_banks: Some(RowRemapBanks { max: 640, ..RowRemapBanks::default() }),
            confidential_compute: Some(ConfidentialCompute {
                enabled: Some(false),
                ready: Some(false),
            }),
            ..with_fabric(FabricState::Completed, None, Some(FabricHealth::Healthy))
        };
        assert_eq!(texts(&values), [""; 0]);
        assert_eq!(texts(&with_fabric(FabricState::NotSupported, None, None)), [""; 0]);
        assert_eq!(texts(&with_fabric(FabricState::InProgress, None, None)), [""; 0]);
    }

    #[test]
    fn names_each_problem() {
        let values = Values {
            recovery_action: Some(RecoveryAction::NodeReboot),
            sram_ecc: Some(SramEcc { threshold_exceeded: Some(true), ..SramEcc::default() }),
            row_remap_banks: Some(RowRemapBanks { none: 1, ..RowRemapBanks::default() }),
            retired_pages: Some(RetiredPages { pending: Some(true), ..RetiredPages::default() }),
            confidential_compute: Some(ConfidentialCompute {
                enabled: Some(true),
                ready: Some(false),
            }),
            ..with_fabric(FabricState::Completed, Some(999), None)
        };
        assert_eq!(
            texts(&values),
            [
                "Critical the driver recommends: node reboot",
                "Critical more SRAM errors than the limit for a replacement",
                "Warning a memory bank has no spare rows left",
                "Warning page retirement pending, GPU reset required",
                "Critical registration at the NVLink fabric failed",
                "Warning confidential computing is not ready",
            ]
        );
        let unhealthy = with_fabric(FabricState::Completed, None, Some(FabricHealth::Unhealthy));
        assert_eq!(texts(&unhealthy), ["Critical NVLink fabric unhealthy"]);
        assert_eq!(texts(&with_fabric(FabricState::NotStarted, None, None)).len(), 1);
        assert_eq!(recommended(RecoveryAction::Unknown(9)).as_deref(), Some("action 9"));
    }
}
