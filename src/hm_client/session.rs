//! The hm protocol on one connection: the node goes online, then sends one report at a time, each until it is answered.
//! One at a time keeps reports in order and bounds the pace. A state machine without I/O: `now` and random numbers are
//! parameters.

use std::time::Duration;

use crate::hm_client::messages::{HmResponse, ResponseCode};
use crate::net::disconnect::DisconnectReason;
use crate::net::keepalive::Keepalive;
use crate::net::reconnecting_client::{
    RESPONSE_TIMEOUT, RETRY_LATER_BACKOFF, STABLE_AFTER, UpstreamSession,
};
use crate::util::backoff::{Backoff, half_jitter};

/// Pause between two reports of a backlog: a restarted server receives all nodes' backlogs at once.
pub const REPORT_PAUSE: Duration = Duration::from_millis(50);
/// A server that still has an older connection of this node detects within 30 s that it is gone.
pub const ALREADY_ONLINE_RETRY: Duration = Duration::from_secs(10);

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HmAction {
    /// Send "online" with this request id.
    Online(u64),
    /// Send the oldest report with this request id.
    Report(u64),
    Ping,
    /// Wait until this time, or until something arrives.
    Wait(Duration),
}

/// What a response means. Texts are the server's messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HmEvent {
    Online,
    /// The server has an older connection of this node, which must expire first.
    AlreadyOnline(String),
    /// The oldest report is stored.
    Delivered,
    /// The server will never accept the oldest report.
    Rejected(String),
    /// The node is not online any more, and goes online again.
    NotOnline(String),
    RetryLater(String),
    /// A response that matches no request.
    Unsolicited,
}

#[derive(Debug)]
pub struct HmSession {
    state: State,
    next_id: u64,
    keepalive: Keepalive,
    /// Nothing is sent earlier.
    not_before: Duration,
    retry_later: Backoff,
    /// The server answered "not online" and has accepted no report since it went online again.
    kicked_since_online: bool,
    online_since: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Offline,
    /// "Online" was sent with this id at this time.
    GoingOnline(u64, Duration),
    Online,
    /// A report was sent with this id at this time.
    Reporting(u64, Duration),
}

impl HmSession {
    pub fn new(keepalive: Keepalive, now: Duration) -> Self {
        Self {
            state: State::Offline,
            next_id: 1,
            keepalive,
            not_before: now,
            retry_later: Backoff::new(RETRY_LATER_BACKOFF.0, RETRY_LATER_BACKOFF.1),
            kicked_since_online: false,
            online_since: None,
        }
    }

    /// The next action; an error when the server timed out.
    pub fn next_action(
        &mut self,
        has_report: bool,
        now: Duration,
    ) -> Result<HmAction, DisconnectReason> {
        if self.keepalive.poll(now)? {
            return Ok(HmAction::Ping);
        }
        let may_send = now >= self.not_before;
        let deadline = match self.state {
            State::GoingOnline(_, since) | State::Reporting(_, since) => since + RESPONSE_TIMEOUT,
            State::Offline if may_send => {
                self.state = State::GoingOnline(self.next_id, now);
                return Ok(HmAction::Online(self.take_id()));
            }
            State::Online if has_report && may_send => {
                self.state = State::Reporting(self.next_id, now);
                return Ok(HmAction::Report(self.take_id()));
            }
            State::Online if !has_report => Duration::MAX,
            State::Offline | State::Online => self.not_before,
        };
        let pending = matches!(self.state, State::GoingOnline(..) | State::Reporting(..));
        if pending && now >= deadline {
            return Err(DisconnectReason::Unanswered(RESPONSE_TIMEOUT));
        }
        Ok(HmAction::Wait(deadline.min(self.keepalive.next_poll())))
    }

    /// Handles a response. `random` (0 to 1) spreads what all nodes would do at the same time.
    pub fn on_response(&mut self, response: &HmResponse, random: f64, now: Duration) -> HmEvent {
        self.keepalive.on_activity(now);
        let code = ResponseCode::from_number(response.code);
        // The server answers a request that it cannot parse with the id 0.
        let unparsed = response.id == 0 && code == ResponseCode::Malformed;
        match self.state {
            State::GoingOnline(id, _) if response.id == id || unparsed => {
                self.on_online_response(response, code, random, now)
            }
            State::Reporting(id, _) if response.id == id || unparsed => {
                self.on_report_response(response, code, random, now)
            }
            _ => HmEvent::Unsolicited,
        }
    }

    pub fn on_activity(&mut self, now: Duration) {
        self.keepalive.on_activity(now);
    }

    pub fn on_pong(&mut self, now: Duration) {
        self.keepalive.on_pong(now);
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    fn on_online_response(
        &mut self,
        response: &HmResponse,
        code: ResponseCode,
        random: f64,
        now: Duration,
    ) -> HmEvent {
        self.state = State::Offline;
        match code {
            ResponseCode::Done => {
                self.state = State::Online;
                self.online_since = Some(now);
                HmEvent::Online
            }
            ResponseCode::AlreadyOnline => {
                self.delay(ALREADY_ONLINE_RETRY, random, now);
                HmEvent::AlreadyOnline(response.message.clone())
            }
            ResponseCode::Malformed | ResponseCode::RetryLater | ResponseCode::NotOnline => {
                self.back_off(random, now);
                HmEvent::RetryLater(response.message.clone())
            }
        }
    }

    fn on_report_response(
        &mut self,
        response: &HmResponse,
        code: ResponseCode,
        random: f64,
        now: Duration,
    ) -> HmEvent {
        self.state = State::Online;
        match code {
            ResponseCode::Done => {
                self.retry_later.reset();
                self.kicked_since_online = false;
                self.not_before = now + REPORT_PAUSE;
                HmEvent::Delivered
            }
            ResponseCode::Malformed => {
                self.not_before = now + REPORT_PAUSE;
                HmEvent::Rejected(response.message.clone())
            }
            ResponseCode::RetryLater => {
                self.back_off(random, now);
                HmEvent::RetryLater(response.message.clone())
            }
            ResponseCode::AlreadyOnline => {
                (self.state, self.online_since) = (State::Offline, None);
                self.delay(ALREADY_ONLINE_RETRY, random, now);
                HmEvent::AlreadyOnline(response.message.clone())
            }
            ResponseCode::NotOnline => {
                (self.state, self.online_since) = (State::Offline, None);
                match self.kicked_since_online {
                    // A server that accepts the node and kicks it again would otherwise cause a loop without a delay.
                    true => self.back_off(random, now),
                    false => self.delay(REPORT_PAUSE, random, now),
                }
                self.kicked_since_online = true;
                HmEvent::NotOnline(response.message.clone())
            }
        }
    }

    fn delay(&mut self, time: Duration, random: f64, now: Duration) {
        self.not_before = now + time.mul_f64(half_jitter(random));
    }

    fn back_off(&mut self, random: f64, now: Duration) {
        self.not_before = now + self.retry_later.next_delay(half_jitter(random), Duration::ZERO);
    }
}

impl UpstreamSession for HmSession {
    fn peer_sends_pongs(&self) -> bool {
        self.keepalive.peer_sends_pongs()
    }

    fn is_stable(&self, now: Duration) -> bool {
        self.online_since.is_some_and(|since| now >= since + STABLE_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(100.0 + seconds)
    }

    fn connected() -> HmSession {
        let interval = Duration::from_secs(10);
        let timeout = Duration::from_secs(35);
        HmSession::new(Keepalive::new(interval, timeout, false, s(0.0)), s(0.0))
    }

    fn response(id: u64, code: u32) -> HmResponse {
        HmResponse { id, code, message: format!("code {code}"), hub: None }
    }

    fn online() -> HmSession {
        let mut session = connected();
        assert_eq!(session.next_action(true, s(0.0)), Ok(HmAction::Online(1)));
        assert_eq!(session.on_response(&response(1, 0), 0.5, s(0.1)), HmEvent::Online);
        session
    }

    #[test]
    fn goes_online_then_sends_one_report_at_a_time() {
        let mut session = connected();
        let wait = Ok(HmAction::Wait(s(10.0)));
        assert_eq!(session.next_action(true, s(0.0)), Ok(HmAction::Online(1)));
        assert_eq!(session.next_action(true, s(0.0)), wait, "not before it is online");
        assert_eq!(session.on_response(&response(7, 0), 0.5, s(0.1)), HmEvent::Unsolicited);
        assert_eq!(session.on_response(&response(1, 0), 0.5, s(0.1)), HmEvent::Online);
        assert_eq!(session.next_action(false, s(0.2)), wait);
        assert_eq!(session.next_action(true, s(0.2)), Ok(HmAction::Report(2)));
        assert_eq!(session.next_action(true, s(0.2)), wait);
        assert_eq!(session.on_response(&response(2, 0), 0.5, s(0.3)), HmEvent::Delivered);
        let pause = s(0.3) + REPORT_PAUSE;
        assert_eq!(session.next_action(true, s(0.3)), Ok(HmAction::Wait(pause)), "bounded pace");
        assert_eq!(session.next_action(true, pause), Ok(HmAction::Report(3)));
    }

    #[test]
    fn pings_from_the_moment_of_connecting() {
        let mut session = connected();
        session.next_action(false, s(0.0)).unwrap();
        assert_eq!(session.next_action(false, s(10.0)), Ok(HmAction::Ping));
        assert_eq!(session.next_action(false, s(10.0)), Ok(HmAction::Wait(s(20.0))));
        assert_eq!(session.next_action(false, s(20.0)), Ok(HmAction::Ping), "before anything else");
        let timeout = Err(DisconnectReason::Unanswered(RESPONSE_TIMEOUT));
        assert_eq!(session.next_action(false, s(20.0)), timeout);
    }

    #[test]
    fn disconnects_when_report_is_unanswered_for_20_s() {
        let mut session = online();
        assert_eq!(session.next_action(true, s(5.0)), Ok(HmAction::Report(2)));
        session.next_action(true, s(10.0)).unwrap();
        session.next_action(true, s(20.0)).unwrap();
        assert!(session.next_action(true, s(24.9)).is_ok());
        let timeout = Err(DisconnectReason::Unanswered(Duration::from_secs(20)));
        assert_eq!(session.next_action(true, s(25.0)), timeout);
    }

    #[test]
    fn stays_connected_when_server_never_sends_pongs() {
        let mut session = online();
        for second in (0..600).map(f64::from) {
            assert!(session.next_action(false, s(second)).is_ok());
        }
    }

    #[test]
    fn every_response_code_has_its_event() {
        for (code, event) in [
            (0, HmEvent::Delivered),
            (1, HmEvent::Rejected("code 1".into())),
            (2, HmEvent::Rejected("code 2".into())),
            (3, HmEvent::Rejected("code 3".into())),
            (4, HmEvent::RetryLater("code 4".into())),
            (5, HmEvent::AlreadyOnline("code 5".into())),
            (6, HmEvent::NotOnline("code 6".into())),
        ] {
            let mut session = online();
            assert_eq!(session.next_action(true, s(1.0)), Ok(HmAction::Report(2)));
            assert_eq!(session.on_response(&response(2, code), 0.0, s(1.0)), event);
            let next = session.next_action(true, s(9.0)).unwrap();
            let expected = if code >= 5 { HmAction::Online(3) } else { HmAction::Report(3) };
            assert_eq!(next, expected, "{code}");
        }
    }

    #[test]
    fn accepts_id_0_for_requests_that_server_cannot_parse() {
        let mut session = online();
        session.next_action(true, s(1.0)).unwrap();
        let message = "parse request failed".into();
        let unparsed = HmResponse { id: 0, code: 1, message, hub: None };
        let rejected = HmEvent::Rejected("parse request failed".into());
        assert_eq!(session.on_response(&unparsed, 0.0, s(1.0)), rejected);
    }

    #[test]
    fn retries_at_bounded_pace_while_already_online() {
        let mut session = connected();
        let mut now = s(0.0);
        let mut attempts = 0;
        while now < s(60.0) {
            match session.next_action(false, now).unwrap() {
                HmAction::Online(id) => {
                    attempts += 1;
                    let event = session.on_response(&response(id, 5), 1.0, now);
                    assert_eq!(event, HmEvent::AlreadyOnline("code 5".into()));
                }
                HmAction::Wait(until) => now = until,
                _ => {}
            }
        }
        assert!((5..=15).contains(&attempts), "{attempts}");
    }

    #[test]
    fn backs_off_while_server_answers_later() {
        let mut session = online();
        let (mut now, mut sent) = (s(1.0), Vec::new());
        while sent.len() < 8 {
            match session.next_action(true, now).unwrap() {
                HmAction::Report(id) => {
                    sent.push(now);
                    session.on_response(&response(id, 4), 1.0, now);
                }
                HmAction::Wait(until) => now = until,
                _ => {}
            }
        }
        assert_eq!(intervals(&sent), [3, 6, 12, 24, 48, 60, 60]);
    }

    #[test]
    fn backs_off_when_server_accepts_and_kicks_repeatedly() {
        let mut session = online();
        let (mut now, mut onlines) = (s(1.0), Vec::new());
        while onlines.len() < 8 {
            match session.next_action(true, now).unwrap() {
                HmAction::Online(id) => {
                    onlines.push(now);
                    assert_eq!(session.on_response(&response(id, 0), 1.0, now), HmEvent::Online);
                }
                HmAction::Report(id) => drop(session.on_response(&response(id, 6), 1.0, now)),
                HmAction::Wait(until) => now = until,
                HmAction::Ping => {}
            }
        }
        assert_eq!(onlines[0], s(1.0) + REPORT_PAUSE, "the first time without a delay");
        assert_eq!(intervals(&onlines), [3, 6, 12, 24, 48, 60, 60]);
    }

    #[test]
    fn is_stable_after_two_minutes_online() {
        let mut session = online();
        assert!(!session.is_stable(s(60.0)));
        assert!(session.is_stable(s(121.0)));
        session.next_action(true, s(1.0)).unwrap();
        session.on_response(&response(2, 6), 0.0, s(122.0));
        assert!(!session.is_stable(s(123.0)), "not online any more");
    }

    fn intervals(times: &[Duration]) -> Vec<u64> {
        times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect()
    }
}
