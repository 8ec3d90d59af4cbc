//! Tasks that hang and processors that are locked up: kernel/hung_task.c, kernel/watchdog.c, kernel/rcu. Real lines:
//!
//! ```text
//! INFO: task kcompactd1:1177 blocked for more than 120 seconds.
//! watchdog: BUG: soft lockup - CPU#18 stuck for 27s! [python3:2254956]
//! watchdog: CPU3: Watchdog detected hard LOCKUP on cpu 3
//! NMI watchdog: Watchdog detected hard LOCKUP on cpu 0
//! rcu: INFO: rcu_sched detected stalls on CPUs/tasks:
//! ```

use super::{KernelEvent, word};
use crate::model::event::{EventKind, EventSeverity};

pub(super) fn classify(text: &str) -> Option<KernelEvent> {
    if let Some(rest) = text.strip_prefix("INFO: task ") {
        // The name may contain spaces. With the PID, the repetitions of one task every two minutes are one event.
        let (task, rest) = rest.rsplit_once(" blocked ")?;
        rest.contains("for more than ").then_some(())?;
        return Some(KernelEvent::new(EventKind::HungTask, EventSeverity::Warning, task));
    }
    let lockup = |severity, cpu: &str, class| {
        let subject = if cpu.is_empty() { String::new() } else { format!("CPU {cpu}") };
        Some(KernelEvent::new(EventKind::Lockup, severity, subject).class(class))
    };
    if let Some(rest) = text.strip_prefix("rcu: INFO: ").or_else(|| text.strip_prefix("INFO: rcu_"))
    {
        let is_stall = rest.contains("detected stalls on CPUs")
            || rest.contains("self-detected stall on CPU")
            || rest.contains("detected expedited stalls on CPUs");
        return is_stall.then(|| lockup(EventSeverity::Warning, "", "rcu"))?;
    }
    let rest = text.strip_prefix("NMI ").unwrap_or(text).strip_prefix("watchdog: ")?;
    if let Some(rest) = rest.strip_prefix("BUG: soft lockup - CPU#") {
        return lockup(EventSeverity::Critical, word(rest), "soft");
    }
    let rest = match rest.strip_prefix("CPU") {
        Some(rest) => rest.split_once(": ")?.1,
        None => rest,
    };
    let cpu = rest.strip_prefix("Watchdog detected hard LOCKUP on cpu ")?;
    lockup(EventSeverity::Critical, word(cpu), "hard")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_events, assert_none};
    use super::*;

    #[test]
    fn finds_task_and_processor() {
        let (kind, warning, critical) = ("lockup", "warning", "critical");
        assert_events(
            classify,
            &[
                (
                    "INFO: task kcompactd1:1177 blocked for more than 120 seconds.",
                    "hung_task",
                    warning,
                    "kcompactd1:1177",
                ),
                (
                    "INFO: task jbd2/dm-0-8:300 blocked in I/O wait for more than 122 seconds.",
                    "hung_task",
                    warning,
                    "jbd2/dm-0-8:300",
                ),
                (
                    "watchdog: BUG: soft lockup - CPU#18 stuck for 27s! [python3:2254956]",
                    kind,
                    critical,
                    "CPU 18",
                ),
                (
                    "NMI watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [a:1]",
                    kind,
                    critical,
                    "CPU 1",
                ),
                ("watchdog: Watchdog detected hard LOCKUP on cpu 3", kind, critical, "CPU 3"),
                ("watchdog: CPU3: Watchdog detected hard LOCKUP on cpu 3", kind, critical, "CPU 3"),
                ("NMI watchdog: Watchdog detected hard LOCKUP on cpu 0", kind, critical, "CPU 0"),
                ("rcu: INFO: rcu_sched detected stalls on CPUs/tasks:", kind, warning, ""),
                ("rcu: INFO: rcu_preempt self-detected stall on CPU", kind, warning, ""),
            ],
        );
    }

    #[test]
    fn ignores_other_lines() {
        assert_none(
            classify,
            &[
                "NMI watchdog: Enabled. Permanently consumes one hw-PMU counter.",
                "watchdog: Delayed init of the lockup detector failed: -19",
                "INFO: task a:1 is fine",
                "rcu: INFO: Start-test grace-period state: g-1111 f0x0",
                "rcu: Hierarchical RCU implementation.",
                "Future hung task reports are suppressed, see sysctl kernel.hung_task_warnings",
            ],
        );
    }
}
