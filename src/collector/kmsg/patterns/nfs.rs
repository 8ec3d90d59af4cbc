//! Servers of network filesystems that do not respond: net/sunrpc/clnt.c, fs/nfs, Lustre. Real lines:
//!
//! ```text
//! nfs: server 10.0.0.3 not responding, timed out
//! nfs: server 10.0.0.3 OK
//! NFS: nfs4_reclaim_open_state: Lock reclaim failed!
//! Lustre: fs-OST0001-osc-ffff9: Connection to fs-OST0001 (at 192.0.2.9@tcp) was lost; in progress operations using this service will wait for recovery to complete
//! Lustre: fs-OST0001-osc-ffff9: Connection restored to  (at 192.0.2.9@tcp)
//! ```

use super::KernelEvent;
use crate::model::event::{EventKind, EventSeverity};

pub(super) fn classify(text: &str) -> Option<KernelEvent> {
    let event = |severity, subject: &str, class| {
        Some(KernelEvent::new(EventKind::Nfs, severity, subject).class(class))
    };
    if let Some(rest) = text.strip_prefix("nfs: server ") {
        let (server, state) = rest.split_once(' ')?;
        return match state {
            "OK" => event(EventSeverity::Info, server, "ok"),
            state if state.starts_with("not responding") => {
                event(EventSeverity::Warning, server, "lost")
            }
            _ => None,
        };
    }
    if text.starts_with("NFS: ") && text.ends_with(": Lock reclaim failed!") {
        return event(EventSeverity::Warning, "", "reclaim");
    }
    let (target, message) = text.strip_prefix("Lustre: ")?.split_once(": Connection ")?;
    if message.starts_with("restored to ") {
        return event(EventSeverity::Info, target, "ok");
    }
    let is_lost = message.starts_with("to ") && message.contains(" was lost; ");
    is_lost.then(|| event(EventSeverity::Warning, target, "lost"))?
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_events, assert_none};
    use super::*;

    #[test]
    fn finds_server() {
        let (kind, warning, target) = ("nfs", "warning", "fs-OST0001-osc-ffff9");
        assert_events(
            classify,
            &[
                ("nfs: server 10.0.0.3 not responding, timed out", kind, warning, "10.0.0.3"),
                ("nfs: server 10.0.0.3 not responding, still trying", kind, warning, "10.0.0.3"),
                ("nfs: server 10.0.0.3 OK", kind, "info", "10.0.0.3"),
                ("NFS: nfs4_reclaim_open_state: Lock reclaim failed!", kind, warning, ""),
                (
                    "Lustre: fs-OST0001-osc-ffff9: Connection to fs-OST0001 (at 192.0.2.9@tcp) was lost; in progress operations using this service will wait for recovery to complete",
                    kind,
                    warning,
                    target,
                ),
                (
                    "Lustre: fs-OST0001-osc-ffff9: Connection restored to  (at 192.0.2.9@tcp)",
                    kind,
                    "info",
                    target,
                ),
            ],
        );
    }

    #[test]
    fn ignores_other_lines() {
        assert_none(
            classify,
            &[
                "NFS: Registering the id_resolver key type",
                "nfs: server 10.0.0.3 is fine",
                "Lustre: Lustre: Build Version: 2.15.3",
                "Lustre: Skipped 1 previous similar message",
                "nfsd: last server has exited, flushing export cache",
            ],
        );
    }
}
