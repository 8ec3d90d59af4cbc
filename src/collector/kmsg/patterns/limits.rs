//! Tables and limits of the kernel that are exhausted. Real lines:
//!
//! ```text
//! VFS: file-max limit 1000000 reached
//! cgroup: fork rejected by pids controller in /hm-agent-test-19066-0
//! nf_conntrack: nf_conntrack: table full, dropping packet
//! neighbour: arp_cache: neighbor table overflow!
//! ```

use super::{KernelEvent, word};
use crate::model::event::{EventKind, EventSeverity};

pub(super) fn classify(text: &str) -> Option<KernelEvent> {
    let event =
        |subject: &str| Some(KernelEvent::new(EventKind::Limit, EventSeverity::Warning, subject));
    if let Some(rest) = text.strip_prefix("VFS: file-max limit ") {
        return rest.ends_with(" reached").then(|| event("file-max"))?;
    }
    if let Some(group) = text.strip_prefix("cgroup: fork rejected by pids controller in ") {
        return event(group);
    }
    if let Some(rest) = text.strip_prefix("nf_conntrack: ") {
        let rest = rest.strip_prefix("nf_conntrack: ").unwrap_or(rest);
        return rest.starts_with("table full").then(|| event("nf_conntrack"))?;
    }
    let (table, rest) = text.strip_prefix("neighbour: ")?.split_once(": ")?;
    rest.starts_with("neighbor table overflow!").then(|| event(word(table)))?
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_events, assert_none};
    use super::*;

    #[test]
    fn finds_limit() {
        let (kind, severity) = ("limit", "warning");
        assert_events(
            classify,
            &[
                ("VFS: file-max limit 1000000 reached", kind, severity, "file-max"),
                (
                    "cgroup: fork rejected by pids controller in /hm-agent-test-19066-0",
                    kind,
                    severity,
                    "/hm-agent-test-19066-0",
                ),
                (
                    "nf_conntrack: nf_conntrack: table full, dropping packet",
                    kind,
                    severity,
                    "nf_conntrack",
                ),
                (
                    "nf_conntrack: table full in netns 4026531840, dropping packet",
                    kind,
                    severity,
                    "nf_conntrack",
                ),
                ("neighbour: arp_cache: neighbor table overflow!", kind, severity, "arp_cache"),
            ],
        );
    }

    #[test]
    fn ignores_other_lines() {
        assert_none(
            classify,
            &[
                "VFS: Dquot-cache hash table entries: 512 (order 0, 4096 bytes)",
                "nf_conntrack: default automatic helper assignment has been turned off",
                "neighbour: ndisc_cache: created",
                "cgroup: Disabling memory control group subsystem",
            ],
        );
    }
}
