//! Machine checks and hardware errors that firmware reports: arch/x86/kernel/cpu/mce, drivers/firmware/efi/cper.c, mm/memory-failure.c.
//! Real lines:
//!
//! ```text
//! mce: [Hardware Error]: Machine check events logged
//! mce: [Hardware Error]: CPU 2: Machine Check: 0 Bank 128: 00000000087f0022
//! mce: [Hardware Error]: CPU 3: Machine Check Exception: 5 Bank 4: be00000000100153
//! {1}[Hardware Error]: Hardware error from APEI Generic Hardware Error Source: 1
//! {1}[Hardware Error]: event severity: corrected
//! mce: Uncorrected hardware memory error in user-access at 1234567000
//! Memory failure: 0x12345: recovery action for dirty LRU page: Recovered
//! ```

use super::KernelEvent;
use crate::model::event::{EventKind, EventSeverity};

pub(super) fn classify(text: &str) -> Option<KernelEvent> {
    let (severity, class) = match text.strip_prefix("mce: ") {
        Some(rest) => of_processor(rest)?,
        None if text.starts_with("Memory failure: 0x")
            && text.contains(": recovery action for ") =>
        {
            (EventSeverity::Critical, "memory failure")
        }
        None => (of_firmware(text)?, "firmware"),
    };
    Some(KernelEvent::new(EventKind::MachineCheck, severity, "").class(class))
}

fn of_processor(rest: &str) -> Option<(EventSeverity, &'static str)> {
    if rest.starts_with("Uncorrected hardware memory error") {
        return Some((EventSeverity::Critical, "memory"));
    }
    let rest = rest.strip_prefix("[Hardware Error]: ")?;
    if rest.starts_with("Machine check events logged") {
        return Some((EventSeverity::Warning, "logged"));
    }
    let (_, rest) = rest.strip_prefix("CPU ")?.split_once(": Machine Check")?;
    match rest.starts_with(" Exception: ") {
        true => Some((EventSeverity::Critical, "exception")),
        false => rest.starts_with(": ").then_some((EventSeverity::Warning, "check")),
    }
}

/// The severity that firmware gives to an error.
fn of_firmware(text: &str) -> Option<EventSeverity> {
    let (sequence, rest) = text.strip_prefix('{')?.split_once("}[Hardware Error]: ")?;
    sequence.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
    match rest.strip_prefix("event severity: ")? {
        "corrected" | "info" => Some(EventSeverity::Warning),
        "recoverable" | "fatal" => Some(EventSeverity::Critical),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_events, assert_none};
    use super::*;

    #[test]
    fn finds_checks_with_severity() {
        let (kind, warning, critical) = ("machine_check", "warning", "critical");
        assert_events(
            classify,
            &[
                ("mce: [Hardware Error]: Machine check events logged", kind, warning, ""),
                (
                    "mce: [Hardware Error]: CPU 2: Machine Check: 0 Bank 128: 00000000087f0022",
                    kind,
                    warning,
                    "",
                ),
                (
                    "mce: [Hardware Error]: CPU 3: Machine Check Exception: 5 Bank 4: be00000000100153",
                    kind,
                    critical,
                    "",
                ),
                ("{1}[Hardware Error]: event severity: corrected", kind, warning, ""),
                ("{12}[Hardware Error]: event severity: recoverable", kind, critical, ""),
                (
                    "mce: Uncorrected hardware memory error in user-access at 1234567000",
                    kind,
                    critical,
                    "",
                ),
                (
                    "Memory failure: 0x12345: recovery action for dirty LRU page: Recovered",
                    kind,
                    critical,
                    "",
                ),
            ],
        );
    }

    #[test]
    fn ignores_details_and_start_of_handlers() {
        assert_none(
            classify,
            &[
                "mce: CPU supports 32 MCE banks",
                "mce: [Hardware Error]: TSC 0 ADDR 3f5f40 MISC 86",
                "{1}[Hardware Error]: Hardware error from APEI Generic Hardware Error Source: 1",
                "{1}[Hardware Error]:  section_type: memory error",
                "Memory failure: 0x12345: already hardware poisoned",
                "MCE: In-kernel MCE decoding enabled.",
            ],
        );
    }
}
