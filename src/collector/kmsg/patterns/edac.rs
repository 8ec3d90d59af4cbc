//! Memory errors that memory controllers count: drivers/edac/edac_mc.c. Real lines:
//!
//! ```text
//! EDAC MC1: 1 CE memory scrubbing error on CPU_SrcID#1_Ha#0_Chan#0_DIMM#0 (channel:0 slot:0 page:0xee30a0 offset:0x0 grain:32 …)
//! EDAC MC0: 1 UE memory read error on …
//! ```

use super::KernelEvent;
use crate::model::event::{EventKind, EventSeverity};

pub(super) fn classify(text: &str) -> Option<KernelEvent> {
    let (controller, rest) = text.strip_prefix("EDAC MC")?.split_once(": ")?;
    controller.parse::<u32>().ok()?;
    let mut words = rest.split(' ');
    words.next()?.parse::<u64>().ok()?;
    let severity = match words.next()? {
        "CE" => EventSeverity::Warning,
        "UE" => EventSeverity::Critical,
        _ => return None,
    };
    let slot = rest.split_once(" on ").and_then(|(_, slot)| slot.split(' ').next());
    let slot = slot.filter(|slot| !slot.is_empty()).map(str::to_owned);
    let subject = slot.unwrap_or_else(|| format!("MC{controller}"));
    Some(KernelEvent::new(EventKind::Edac, severity, subject))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_events, assert_none};
    use super::*;

    #[test]
    fn finds_memory_module() {
        let slot = "CPU_SrcID#1_Ha#0_Chan#0_DIMM#0";
        assert_events(
            classify,
            &[
                (
                    "EDAC MC1: 1 CE memory scrubbing error on CPU_SrcID#1_Ha#0_Chan#0_DIMM#0 (channel:0 slot:0 page:0xee30a0 offset:0x0 grain:32 syndrome:0x0)",
                    "edac",
                    "warning",
                    slot,
                ),
                ("EDAC MC0: 262 CE memory read error on DIMM_A1 (x)", "edac", "warning", "DIMM_A1"),
                ("EDAC MC0: 1 UE memory read error on DIMM_A1 (x)", "edac", "critical", "DIMM_A1"),
                ("EDAC MC2: 1 UE unknown", "edac", "critical", "MC2"),
            ],
        );
    }

    #[test]
    fn ignores_start_of_driver() {
        assert_none(
            classify,
            &[
                "EDAC MC0: Giving out device to module skx_edac controller Skylake",
                "EDAC MC: Ver: 3.0.0",
                "EDAC MCx: 1 UE memory read error on DIMM_A1",
                "EDAC i10nm: No hbm memory",
            ],
        );
    }
}
