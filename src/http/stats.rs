//! What came and went through a port, counted since the agent started.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::metrics::PortStatus;
use crate::util::deadline_stream::Traffic;

/// Why something was refused: the status of the answer, and its name for people and series.
const REASONS: [(&str, &str); 11] = [
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

/// What a WebSocket is closed for, by us.
const CLOSED: &str = "closed";

/// The counters of one port.
#[derive(Default)]
pub struct Counters {
    /// Bytes.
    pub traffic: Traffic,
    accepted: AtomicU64,
    ended: AtomicU64,
    refused: [AtomicU64; REASONS.len()],
    closed: AtomicU64,
}

impl Counters {
    /// A connection was let in; it is open until what comes back is dropped.
    pub fn enter(&self) -> OpenGuard<'_> {
        self.accepted.fetch_add(1, Relaxed);
        OpenGuard(self)
    }

    /// Something was answered with this status, e.g. `404 Not Found`; only refusals count.
    pub fn answered(&self, status: &str) {
        let reason = REASONS.iter().position(|(number, _)| status.starts_with(number));
        if let Some(reason) = reason {
            self.refused[reason].fetch_add(1, Relaxed);
        }
    }

    /// A WebSocket was closed, and not by its client's wish.
    pub fn closed(&self) {
        self.closed.fetch_add(1, Relaxed);
    }

    /// How it stands with the port of this name.
    pub fn status(&self, name: &'static str) -> PortStatus {
        // In this order: a connection that ends meanwhile must not end before it began.
        let ended = self.ended.load(Relaxed);
        let accepted = self.accepted.load(Relaxed);
        let mut refused: Vec<(&'static str, u64)> = Vec::with_capacity(REASONS.len());
        let counts = REASONS.iter().zip(&self.refused).map(|((_, name), count)| (*name, count));
        for (reason, count) in counts.chain([(CLOSED, &self.closed)]) {
            let count = count.load(Relaxed);
            match refused.last_mut() {
                Some((last, sum)) if *last == reason => *sum += count,
                _ => refused.push((reason, count)),
            }
        }
        let rejected_by_code = REASONS
            .iter()
            .zip(&self.refused)
            .map(|((code, _), count)| (*code, count.load(Relaxed)));
        PortStatus {
            name,
            rejected_by_code: rejected_by_code.collect(),
            websockets_closed: self.closed.load(Relaxed),
            connections: accepted.saturating_sub(ended),
            accepted,
            received_bytes: self.traffic.received(),
            sent_bytes: self.traffic.sent(),
            refused,
        }
    }
}

/// An open connection.
pub struct OpenGuard<'a>(&'a Counters);

impl Drop for OpenGuard<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_by_reason_and_connections_until_they_end() {
        let counters = Counters::default();
        let one = counters.enter();
        drop(counters.enter());
        counters.answered("404 Not Found");
        counters.answered("411 Length Required");
        counters.answered("413 Content Too Large");
        counters.answered("200 OK");
        counters.closed();
        let status = counters.status("usage");
        assert_eq!((status.connections, status.accepted), (1, 2));
        let count = |reason| status.refused.iter().find(|(name, _)| *name == reason).unwrap().1;
        assert_eq!((count("not_found"), count("body"), count("closed")), (1, 2, 1));
        assert_eq!(status.refused.len(), REASONS.len(), "two have one name, and there is one more");
        drop(one);
        assert_eq!(counters.status("usage").connections, 0);
    }
}
