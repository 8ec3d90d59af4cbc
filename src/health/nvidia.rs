//! Problems that NVIDIA GPUs report themselves. Keep in step with `nvidiaAlerts` in `src/telemetry/dashboard/alerts.js`.

use crate::health::conditions::{Condition, critical, warning};
use crate::model::finding::{Action, Component};
use crate::model::gpu::Values;
use crate::model::nvidia::{Fabric, FabricHealth, FabricState, RecoveryAction};

/// A GPU registers within a minute or two after the fabric manager has started.
const FABRIC_HOLD_S: u64 = 180;
pub(super) const FABRIC_MANAGER: &str = "nvidia-fabricmanager";

pub fn conditions(values: &Values) -> Vec<Condition> {
    let gpu = Component::Gpu;
    let mut found = Vec::new();
    found.extend(values.recovery_action.and_then(recommended));
    if values.sram_ecc.and_then(|ecc| ecc.threshold_exceeded) == Some(true) {
        let text = "more SRAM errors than the limit for a replacement";
        found.push(critical(gpu, "sram", text).action(Action::InspectHardware));
    }
    if values.row_remap_banks.is_some_and(|banks| banks.none > 0) {
        let text = "a memory bank has no spare rows left";
        found.push(warning(gpu, "spare-rows", text).action(Action::InspectHardware));
    }
    if values.retired_pages.and_then(|pages| pages.pending) == Some(true) {
        let text = "page retirement pending, GPU reset required";
        found.push(warning(gpu, "retirement-pending", text).action(Action::ResetGpu));
    }
    found.extend(values.fabric.as_ref().and_then(fabric));
    let compute = values.confidential_compute.unwrap_or_default();
    if (compute.enabled, compute.ready) == (Some(true), Some(false)) {
        found.push(warning(gpu, "confidential", "confidential computing is not ready"));
    }
    found
}

/// A recommendation other than to do nothing.
fn recommended(action: RecoveryAction) -> Option<Condition> {
    let found =
        |text: &str| critical(Component::Gpu, "recovery", format!("the driver recommends: {text}"));
    Some(match action {
        RecoveryAction::None => return None,
        RecoveryAction::GpuReset => found("GPU reset").action(Action::ResetGpu),
        RecoveryAction::NodeReboot => found("node reboot").action(Action::Reboot),
        RecoveryAction::DrainP2p => found("drain P2P").action(Action::Drain),
        RecoveryAction::DrainAndReset => found("drain and reset").action(Action::Drain),
        RecoveryAction::RecoverImexDomain => {
            found("recover the IMEX domain").restart("nvidia-imex")
        }
        RecoveryAction::Unknown(code) => found(&format!("action {code}")),
    })
}

/// CUDA does not start on a GPU that is not registered.
fn fabric(fabric: &Fabric) -> Option<Condition> {
    let at = Component::Fabric;
    match (fabric.state?, fabric.error_code, fabric.health) {
        (FabricState::NotStarted, ..) => {
            let text = "not registered at the NVLink fabric: is the fabric manager running?";
            Some(warning(at, "registration", text).restart(FABRIC_MANAGER).held_for(FABRIC_HOLD_S))
        }
        (FabricState::Completed, Some(code), _) => {
            let failed = critical(at, "registration", "registration at the NVLink fabric failed");
            Some(failed.restart(FABRIC_MANAGER).evidence(format!("error {code}")))
        }
        (FabricState::Completed, _, Some(FabricHealth::Unhealthy)) => {
            let text = "NVLink fabric unhealthy";
            Some(critical(at, "unhealthy", text).action(Action::InspectHardware))
        }
        (FabricState::Completed, _, Some(FabricHealth::LimitedCapacity)) => {
            Some(warning(at, "capacity", "NVLink fabric has limited capacity"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::nvidia::{ConfidentialCompute, RetiredPages, RowRemapBanks, SramEcc};

    fn texts(values: &Values) -> Vec<String> {
        let found = conditions(values).into_iter();
        found.map(|it| format!("{:?} {}", it.finding.severity, it.finding.summary)).collect()
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
        let unknown = recommended(RecoveryAction::Unknown(9)).unwrap().finding;
        assert_eq!(unknown.summary, "the driver recommends: action 9");
        let drain = Values { recovery_action: Some(RecoveryAction::DrainAndReset), ..values };
        assert_eq!(conditions(&drain)[0].finding.action, Action::Drain);
    }
}
