//! One connection of an hm node, without I/O: messages and the time go in, actions come out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::hub::hm::messages::{
    self, HmRequest, MACHINE_INFO, MachineInfo, ONLINE, Online, Outcome,
};

/// A connection without a message or a ping of the node for this long ends, as with the published server. Pongs do not count: nodes
/// must not depend on pings of the hub.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);

/// A longer node id is refused. Machine ids and host names have at most 64 and 253 bytes.
const MAX_NODE_ID_BYTES: usize = 256;

/// A report whose time is further ahead gets the hub's time: a wrong clock must not hide later reports.
const MAX_AHEAD_MS: i64 = 10 * 60 * 1000;

/// The current time on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub instant: Instant,
    /// Unix time.
    pub milliseconds: u64,
}

/// A report to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HmReport {
    pub node_id: Arc<str>,
    /// Unix milliseconds of the node's clock, or of the hub's if `adjusted`.
    pub sent: i64,
    pub adjusted: bool,
    pub info: Arc<MachineInfo>,
}

/// What the caller does about an event.
#[derive(Debug, PartialEq, Eq)]
pub enum HmNodeAction {
    Send(String),
    /// Claim the node for this connection and call [`HmNodeSession::on_claim_result`]. Until then no message is passed in.
    Claim(Arc<str>),
    /// Store the report, and then answer request `id` with [`HmNodeSession::stored_response`].
    Store {
        id: u64,
        report: HmReport,
    },
}

/// Result of [`HmNodeAction::Claim`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimResult {
    Granted,
    HeldByOther,
    Refused,
}

#[derive(Debug)]
enum State {
    Anonymous,
    /// Request `id` waits for the result of a claim.
    Claiming {
        node_id: Arc<str>,
        id: u64,
    },
    Online(Arc<str>),
}

/// State of one connection.
#[derive(Debug)]
pub struct HmNodeSession {
    state: State,
    deadline: Instant,
}

impl HmNodeSession {
    pub fn new(now: Now) -> Self {
        Self { state: State::Anonymous, deadline: now.instant + SILENCE_TIMEOUT }
    }

    /// When the connection ends for silence.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Extends the deadline by a time in which nothing was read from the connection.
    pub fn add_pause(&mut self, pause: Duration) {
        self.deadline += pause;
    }

    /// Whether messages must wait for the result of a claim.
    pub fn is_claiming(&self) -> bool {
        matches!(self.state, State::Claiming { .. })
    }

    pub fn node_id(&self) -> Option<&Arc<str>> {
        match &self.state {
            State::Online(node_id) => Some(node_id),
            State::Anonymous | State::Claiming { .. } => None,
        }
    }

    /// The node that this connection has claimed without a result yet.
    pub fn claimed(&self) -> Option<&Arc<str>> {
        match &self.state {
            State::Claiming { node_id, .. } => Some(node_id),
            State::Anonymous | State::Online(_) => None,
        }
    }

    pub fn on_ping(&mut self, now: Now) {
        self.deadline = now.instant + SILENCE_TIMEOUT;
    }

    pub fn on_message(&mut self, now: Now, message: &[u8]) -> HmNodeAction {
        self.deadline = now.instant + SILENCE_TIMEOUT;
        let Ok(request) = HmRequest::parse(message) else {
            return respond(now, 0, 0, Outcome::MalformedRequest);
        };
        match request.kind {
            ONLINE => self.on_online(now, &request),
            MACHINE_INFO => self.on_machine_info(now, &request),
            other => respond(now, other, request.id, Outcome::UnknownType),
        }
    }

    fn on_online(&mut self, now: Now, request: &HmRequest) -> HmNodeAction {
        let outcome = match (&self.state, Online::parse(&request.body)) {
            (State::Online(_), _) => Outcome::AlreadyOnlineHere,
            // As the published server answers. The connection is not online.
            (_, Ok(online)) if online.node_id.is_empty() => Outcome::Ok,
            // PostgreSQL stores no U+0000.
            (_, Ok(online))
                if online.node_id.len() <= MAX_NODE_ID_BYTES && !online.node_id.contains('\0') =>
            {
                let node_id: Arc<str> = online.node_id.into();
                self.state = State::Claiming { node_id: node_id.clone(), id: request.id };
                return HmNodeAction::Claim(node_id);
            }
            _ => Outcome::MalformedOnline,
        };
        respond(now, ONLINE, request.id, outcome)
    }

    fn on_machine_info(&mut self, now: Now, request: &HmRequest) -> HmNodeAction {
        let State::Online(node_id) = &self.state else {
            return respond(now, MACHINE_INFO, request.id, Outcome::NotOnline);
        };
        let Ok(info) = MachineInfo::parse(&request.body) else {
            return respond(now, MACHINE_INFO, request.id, Outcome::MalformedMachineInfo);
        };
        let hub_time = i64::try_from(now.milliseconds).unwrap_or(i64::MAX);
        let adjusted = request.timestamp > hub_time.saturating_add(MAX_AHEAD_MS);
        let sent = if adjusted { hub_time } else { request.timestamp };
        let report = HmReport { node_id: node_id.clone(), sent, adjusted, info: Arc::new(info) };
        HmNodeAction::Store { id: request.id, report }
    }

    /// `hub_info` is the body of the response to a node that is online now.
    pub fn on_claim_result(
        &mut self,
        now: Now,
        result: ClaimResult,
        hub_info: &str,
    ) -> Option<String> {
        let State::Claiming { node_id, id } = std::mem::replace(&mut self.state, State::Anonymous)
        else {
            return None;
        };
        let (outcome, body) = match result {
            ClaimResult::Granted => {
                self.state = State::Online(node_id);
                (Outcome::Ok, hub_info)
            }
            ClaimResult::HeldByOther => (Outcome::AlreadyOnlineElsewhere, ""),
            ClaimResult::Refused => (Outcome::NotOnlined, ""),
        };
        Some(messages::response(ONLINE, id, outcome, now.milliseconds / 1000, body))
    }

    /// Answer to the report with request `id` after the attempt to store it.
    pub fn stored_response(now: Now, id: u64, is_stored: bool) -> String {
        let outcome = if is_stored { Outcome::Ok } else { Outcome::NotStored };
        messages::response(MACHINE_INFO, id, outcome, now.milliseconds / 1000, "")
    }
}

fn respond(now: Now, kind: u32, id: u64, outcome: Outcome) -> HmNodeAction {
    HmNodeAction::Send(messages::response(kind, id, outcome, now.milliseconds / 1000, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIX_MS: u64 = 1_718_000_000_000;

    fn now() -> Now {
        Now { instant: Instant::now(), milliseconds: UNIX_MS }
    }

    fn request(kind: u32, id: u64, timestamp: i64, body: &str) -> Vec<u8> {
        let body = data_encoding::BASE64.encode(body.as_bytes());
        format!(
            r#"{{"version":0,"timestamp":{timestamp},"id":{id},"type":{kind},"body":"{body}"}}"#
        )
        .into_bytes()
    }

    /// `type`, `id`, `code` of a response.
    fn header(action: &HmNodeAction) -> (u64, u64, u64) {
        let HmNodeAction::Send(text) = action else { panic!("{action:?}") };
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        let number = |key: &str| value[key].as_u64().unwrap();
        assert_eq!(number("timestamp"), UNIX_MS / 1000);
        (number("type"), number("id"), number("code"))
    }

    fn online(session: &mut HmNodeSession, id: u64, node_id: &str) -> HmNodeAction {
        session.on_message(now(), &request(1, id, 0, &format!(r#"{{"node_id":"{node_id}"}}"#)))
    }

    #[test]
    fn answers_requests_in_every_situation() {
        let mut session = HmNodeSession::new(now());
        for (message, expected) in [
            (b"x".to_vec(), (0, 0, 1)),
            (request(0, 3, 0, "{}"), (0, 3, 1)),
            (request(3, 4, 0, "{}"), (3, 4, 1)),
            (request(2, 5, 0, "{}"), (2, 5, 6)),
            (request(1, 6, 0, "[]"), (1, 6, 1)),
            (request(1, 7, 0, r#"{"node_id":""}"#), (1, 7, 0)),
            (request(2, 8, 0, "{}"), (2, 8, 6)),
            (request(1, 9, 0, &format!(r#"{{"node_id":"{}"}}"#, "x".repeat(257))), (1, 9, 1)),
            (request(1, 10, 0, r#"{"node_id":"a\u0000"}"#), (1, 10, 1)),
        ] {
            let action = session.on_message(now(), &message);
            assert_eq!(header(&action), expected, "{}", String::from_utf8_lossy(&message));
        }
        assert_eq!(online(&mut session, u64::MAX, "a"), HmNodeAction::Claim("a".into()));
        assert!(session.is_claiming());
        let response = session.on_claim_result(now(), ClaimResult::Granted, "").unwrap();
        assert_eq!(header(&HmNodeAction::Send(response)), (1, u64::MAX, 0));
        assert_eq!(session.node_id().map(|id| &**id), Some("a"));
        assert_eq!(header(&online(&mut session, 1, "b")), (1, 1, 5));
        let report = session.on_message(now(), &request(2, 2, 0, r#"{"utilization_gpu":1.5}"#));
        assert_eq!(header(&report), (2, 2, 1));
    }

    #[test]
    fn refused_node_may_ask_again() {
        let mut session = HmNodeSession::new(now());
        for (result, code) in [(ClaimResult::HeldByOther, 5), (ClaimResult::Refused, 4)] {
            online(&mut session, 0, "a");
            let response = session.on_claim_result(now(), result, "info").unwrap();
            assert_eq!(header(&HmNodeAction::Send(response.clone())), (1, 0, code));
            assert!(response.ends_with(r#""body":""}"#), "{response}");
            assert!(session.node_id().is_none());
        }
        assert_eq!(online(&mut session, 1, "a"), HmNodeAction::Claim("a".into()));
        let response = session.on_claim_result(now(), ClaimResult::Granted, "info").unwrap();
        assert!(response.ends_with(r#""body":"aW5mbw=="}"#), "{response}");
        assert_eq!(session.on_claim_result(now(), ClaimResult::Granted, ""), None);
    }

    #[test]
    fn reports_keep_past_times_and_lose_far_future_ones() {
        let hub_time = UNIX_MS as i64;
        let mut session = HmNodeSession::new(now());
        online(&mut session, 0, "a");
        session.on_claim_result(now(), ClaimResult::Granted, "");
        for (timestamp, sent, adjusted) in [
            (1, 1, false),
            (-5, -5, false),
            (hub_time + MAX_AHEAD_MS, hub_time + MAX_AHEAD_MS, false),
            (hub_time + MAX_AHEAD_MS + 1, hub_time, true),
            (i64::MAX, hub_time, true),
        ] {
            let action = session.on_message(now(), &request(2, 9, timestamp, "{}"));
            let report = HmReport { node_id: "a".into(), sent, adjusted, info: Arc::default() };
            assert_eq!(action, HmNodeAction::Store { id: 9, report });
        }
    }

    #[test]
    fn messages_and_pings_move_the_deadline() {
        let start = now();
        let later =
            |seconds| Now { instant: start.instant + Duration::from_secs(seconds), ..start };
        let mut session = HmNodeSession::new(start);
        assert_eq!(session.deadline(), later(30).instant);
        session.on_ping(later(9));
        assert_eq!(session.deadline(), later(39).instant);
        session.on_message(later(10), b"");
        session.add_pause(Duration::from_secs(5));
        assert_eq!(session.deadline(), later(45).instant);
    }
}
