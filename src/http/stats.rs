//! Counters of a port since the agent started.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::model::status::PortStatus;
use crate::util::deadline_stream::ByteCounters;

/// Error statuses that are counted, with the reason that `/snapshot` shows for each.
const REJECTIONS: [(&str, &str); 11] = [
    ("400", "bad_request"),
    ("401", "unauthorized"),
    ("403", "forbidden"),
    ("404", "not_found"),
    ("405", "method"),
    ("408", "slow"),
    ("411", "body"),
    ("413", "body"),
    ("426", "no_websocket"),
    ("431", "large"),
    ("503", "busy"),
];
/// The reason in `/snapshot` for WebSocket sessions that the agent has closed.
const WEBSOCKETS_CLOSED: &str = "closed";

#[derive(Default)]
pub struct ListenerStats {
    pub bytes: ByteCounters,
    accepted: AtomicU64,
    closed: AtomicU64,
    rejected: [AtomicU64; REJECTIONS.len()],
    websockets_closed: AtomicU64,
}

impl ListenerStats {
    /// Counts a connection as open until the guard is dropped.
    pub fn connection_opened(&self) -> OpenGuard<'_> {
        self.accepted.fetch_add(1, Relaxed);
        OpenGuard(self)
    }

    /// Counts a response if its status, e.g. `404 Not Found`, is an error.
    pub fn record_status(&self, status: &str) {
        let mut counters = REJECTIONS.iter().zip(&self.rejected);
        if let Some((_, count)) = counters.find(|((code, _), _)| status.starts_with(code)) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Counts a WebSocket session that the agent has closed.
    pub fn record_websocket_closed(&self) {
        self.websockets_closed.fetch_add(1, Relaxed);
    }

    /// The current values, for the port of this name.
    pub fn status(&self, name: &'static str) -> PortStatus {
        // In this order: a connection that closes in between must not be counted as closed before it is counted as accepted.
        let closed = self.closed.load(Relaxed);
        let accepted = self.accepted.load(Relaxed);
        let websockets_closed = self.websockets_closed.load(Relaxed);
        let rejected = REJECTIONS.iter().zip(&self.rejected);
        let counts: Vec<_> = rejected.map(|(names, count)| (names, count.load(Relaxed))).collect();
        let mut refused: Vec<(&'static str, u64)> = Vec::with_capacity(counts.len() + 1);
        for ((_, reason), count) in &counts {
            match refused.last_mut() {
                Some((last, sum)) if last == reason => *sum += count,
                _ => refused.push((reason, *count)),
            }
        }
        refused.push((WEBSOCKETS_CLOSED, websockets_closed));
        PortStatus {
            name,
            connections: accepted.saturating_sub(closed),
            accepted,
            received_bytes: self.bytes.received(),
            sent_bytes: self.bytes.sent(),
            refused,
            rejected_by_code: counts.iter().map(|((code, _), count)| (*code, *count)).collect(),
            websockets_closed,
        }
    }
}

/// An open connection.
pub struct OpenGuard<'a>(&'a ListenerStats);

impl Drop for OpenGuard<'_> {
    fn drop(&mut self) {
        self.0.closed.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_rejections_by_code_and_open_connections() {
        let stats = ListenerStats::default();
        let one = stats.connection_opened();
        drop(stats.connection_opened());
        stats.record_status("404 Not Found");
        stats.record_status("411 Length Required");
        stats.record_status("413 Content Too Large");
        stats.record_status("200 OK");
        stats.record_websocket_closed();
        let status = stats.status("usage");
        assert_eq!((status.connections, status.accepted), (1, 2));
        let nonzero = |mut counts: Vec<(&'static str, u64)>| {
            counts.retain(|(_, count)| *count > 0);
            counts
        };
        assert_eq!(nonzero(status.refused), [("not_found", 1), ("body", 2), ("closed", 1)]);
        assert_eq!(nonzero(status.rejected_by_code), [("404", 1), ("411", 1), ("413", 1)]);
        assert_eq!(status.websockets_closed, 1);
        drop(one);
        assert_eq!(stats.status("usage").connections, 0);
    }
}
