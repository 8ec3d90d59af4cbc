//! Oopses and bugs that the kernel survives, and panics, which pstore keeps. Real lines:
//!
//! ```text
//! BUG: unable to handle page fault for address: ffffc90000000000
//! BUG: kernel NULL pointer dereference, address: 0000000000000008
//! general protection fault, probably for non-canonical address 0xdead000000000108: 0000 [#1] SMP NOPTI
//! Oops: 0002 [#1] PREEMPT SMP NOPTI
//! Internal error: Oops: 96000004 [#1] SMP
//! kernel BUG at mm/slub.c:305!
//! Kernel panic - not syncing: Fatal exception in interrupt
//! ```

use super::KernelEvent;
use crate::model::event::{EventKind, EventSeverity};

const BEGINNINGS: [(&str, &str); 8] = [
    ("BUG: unable to handle ", "fault"),
    ("BUG: kernel NULL pointer dereference", "fault"),
    ("Unable to handle kernel ", "fault"),
    ("general protection fault, ", "fault"),
    ("Oops: ", "oops"),
    ("Internal error: Oops", "oops"),
    ("kernel BUG at ", "bug"),
    ("Kernel panic - not syncing: ", "panic"),
];

pub(super) fn classify(text: &str) -> Option<KernelEvent> {
    let (_, class) = BEGINNINGS.iter().find(|(words, _)| text.starts_with(words))?;
    Some(KernelEvent::new(EventKind::Crash, EventSeverity::Critical, "").class(class))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_events, assert_none};
    use super::*;

    #[test]
    fn finds_bugs_of_the_kernel() {
        let lines = [
            "BUG: unable to handle page fault for address: ffffc90000000000",
            "BUG: kernel NULL pointer dereference, address: 0000000000000008",
            "Unable to handle kernel paging request at virtual address dead000000000108",
            "general protection fault, probably for non-canonical address 0xdead000000000108: 0000 [#1] SMP NOPTI",
            "Oops: 0002 [#1] PREEMPT SMP NOPTI",
            "Internal error: Oops: 96000004 [#1] SMP",
            "kernel BUG at mm/slub.c:305!",
            "Kernel panic - not syncing: Fatal exception in interrupt",
        ];
        assert_events(classify, &lines.map(|line| (line, "crash", "critical", "")));
    }

    #[test]
    fn ignores_faults_of_processes() {
        assert_none(
            classify,
            &[
                "traps: python[2911] general protection fault ip:7f61 sp:7ffc error:0 in libc.so.6",
                "BUG: Bad rss-counter state mm:00000000 type:MM_FILEPAGES val:1",
                "WARNING: CPU: 3 PID: 1 at kernel/events/core.c:1",
                "oops=panic in the command line",
            ],
        );
    }
}
