//! Processors that throttle because of their temperature: drivers/thermal/intel/therm_throt.c, one line per processor, limited to one
//! in five minutes each. Real lines:
//!
//! ```text
//! mce: CPU2: Package temperature above threshold, cpu clock throttled (total events = 12705)
//! CPU2: Core temperature/speed normal
//! ```

use super::KernelEvent;
use crate::model::event::{EventKind, EventSeverity};

pub(super) fn classify(text: &str) -> Option<KernelEvent> {
    let rest = text.strip_prefix("mce: ").unwrap_or(text);
    let (number, rest) = rest.strip_prefix("CPU")?.split_once(": ")?;
    number.parse::<u32>().ok()?;
    let (unit, rest) = rest.split_once(' ')?;
    // The processors of a package throttle together.
    let is_hot = matches!(unit, "Package" | "Core")
        && rest.starts_with("temperature above threshold, cpu clock throttled");
    is_hot.then(|| KernelEvent::new(EventKind::CpuThermal, EventSeverity::Warning, unit))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_events, assert_none};
    use super::*;

    #[test]
    fn finds_throttling() {
        let (kind, severity) = ("cpu_thermal", "warning");
        assert_events(
            classify,
            &[
                (
                    "mce: CPU2: Package temperature above threshold, cpu clock throttled (total events = 12705)",
                    kind,
                    severity,
                    "Package",
                ),
                (
                    "CPU12: Core temperature above threshold, cpu clock throttled (total events = 1)",
                    kind,
                    severity,
                    "Core",
                ),
            ],
        );
    }

    #[test]
    fn ignores_end_of_throttling() {
        assert_none(
            classify,
            &[
                "mce: CPU2: Package temperature/speed normal",
                "CPU0: Thermal monitoring enabled (TM1)",
                "CPUx: Core temperature above threshold, cpu clock throttled (total events = 1)",
            ],
        );
    }
}
