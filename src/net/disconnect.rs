//! Why an upstream connection cannot be established or has ended.

use std::fmt;
use std::mem::discriminant;
use std::time::Duration;

/// Upper bound for `Retry-After`: a server that asks for a day may be misconfigured.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// Delay after a failure that an operator must fix: wrong token, wrong certificate, wrong protocol.
const PERMANENT_FAILURE_DELAY: Duration = Duration::from_secs(30);
/// Delay after a failure of infrastructure that takes seconds to recover: DNS, a proxy, a 5xx from a load balancer.
const INFRASTRUCTURE_FAILURE_DELAY: Duration = Duration::from_secs(5);

/// Text from a peer is already escaped for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DisconnectReason {
    Dns(String),
    /// TCP connect failed, e.g. "connection refused".
    Unreachable(String),
    /// TCP connect, proxy, TLS or WebSocket handshake timed out.
    Timeout(&'static str),
    /// Invalid certificate, or the server does not speak TLS.
    Tls(String),
    Proxy(String),
    /// HTTP status instead of a WebSocket upgrade, `Retry-After`, and the body.
    Http(u16, Option<Duration>, String),
    /// WebSocket close, with code and reason.
    Closed(String),
    /// The TCP connection broke.
    Lost(String),
    /// A request was not answered within this time.
    Unanswered(Duration),
    /// The server answered pings before, and has sent nothing for this time.
    NoPong(Duration),
    Protocol(String),
    /// The server rejects this node.
    Rejected(String),
}

impl DisconnectReason {
    /// Minimum delay before the next attempt. Failures that do not go away soon are not retried at the usual pace.
    pub fn min_retry_delay(&self) -> Duration {
        match self {
            Self::Http(_, Some(retry_after), _) => (*retry_after).min(MAX_RETRY_AFTER),
            Self::Http(200..500, None, _)
            | Self::Tls(_)
            | Self::Protocol(_)
            | Self::Rejected(_) => PERMANENT_FAILURE_DELAY,
            Self::Http(..) | Self::Dns(_) | Self::Proxy(_) => INFRASTRUCTURE_FAILURE_DELAY,
            _ => Duration::ZERO,
        }
    }

    /// Label value in metrics, and key in `/usage` and `/snapshot`.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Dns(_) => "dns",
            Self::Unreachable(_) => "unreachable",
            Self::Timeout(_) => "timeout",
            Self::Tls(_) => "tls",
            Self::Proxy(_) => "proxy",
            Self::Http(..) => "http",
            Self::Closed(_) => "closed",
            Self::Lost(_) => "lost",
            Self::Unanswered(_) => "unanswered",
            Self::NoPong(_) => "no_pong",
            Self::Protocol(_) => "protocol",
            Self::Rejected(_) => "refused",
        }
    }

    /// Whether the log needs no second line for `other`. The texts may differ.
    pub fn same_kind(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Http(one, ..), Self::Http(two, ..)) => one == two,
            _ => discriminant(self) == discriminant(other),
        }
    }
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(why) => write!(f, "DNS lookup failed: {why}"),
            Self::Unreachable(why) => write!(f, "connect failed: {why}"),
            Self::Timeout(step) => write!(f, "{step} timed out"),
            Self::Tls(why) => write!(f, "TLS handshake failed: {why}"),
            Self::Proxy(why) => write!(f, "proxy: {why}"),
            Self::Http(status, _, body) => {
                write!(f, "HTTP status {status} instead of a WebSocket upgrade: {body}")
            }
            Self::Closed(why) => write!(f, "closed by server{why}"),
            Self::Lost(why) => write!(f, "connection lost: {why}"),
            Self::Unanswered(timeout) => write!(f, "response timeout ({} s)", timeout.as_secs()),
            Self::NoPong(timeout) => write!(f, "pong timeout ({} s)", timeout.as_secs()),
            Self::Protocol(why) => write!(f, "protocol error: {why}"),
            Self::Rejected(why) => write!(f, "node rejected: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_delay_depends_on_reason() {
        let seconds = |reason: DisconnectReason| reason.min_retry_delay().as_secs();
        let http = |status, retry_after: Option<u64>| {
            DisconnectReason::Http(status, retry_after.map(Duration::from_secs), String::new())
        };
        assert_eq!(seconds(http(503, Some(1_000_000))), 3600);
        assert_eq!((seconds(http(503, None)), seconds(http(401, None))), (5, 30));
        assert_eq!(seconds(DisconnectReason::Lost(String::new())), 0);
        assert_eq!(seconds(DisconnectReason::Tls(String::new())), 30);
        assert_eq!(seconds(DisconnectReason::Dns(String::new())), 5);
    }

    #[test]
    fn same_kind_ignores_texts_but_not_http_status() {
        let http = |status| DisconnectReason::Http(status, None, format!("{status}"));
        assert!(http(502).same_kind(&http(502)) && !http(502).same_kind(&http(401)));
        let lost = |why: &str| DisconnectReason::Lost(why.into());
        assert!(lost("a").same_kind(&lost("b")));
        assert!(!lost("a").same_kind(&DisconnectReason::Timeout("a")));
    }
}
