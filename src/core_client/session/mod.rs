//! The Core protocol on one connection: welcome, registration, then heartbeats, each of which must be acknowledged, and
//! results of commands, each repeated until it is confirmed. A state machine without I/O: `now`, ids and random numbers
//! are parameters.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::core_client::messages::{CommandRequest, CoreMessage};
use crate::net::disconnect::DisconnectReason;
use crate::net::keepalive::Keepalive;
use crate::net::reconnecting_client::{
    RESPONSE_TIMEOUT, RETRY_LATER_BACKOFF, STABLE_AFTER, UpstreamSession,
};
use crate::util::backoff::{Backoff, half_jitter};

/// After this time without a welcome, the client registers without it.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(3);
/// An unconfirmed result is sent again after this.
const RESULT_RETRY: Duration = Duration::from_secs(30);
/// Delay before registering again after NODE_NOT_FOUND, so nodes spread out.
const REGISTER_AGAIN_DELAY: Duration = Duration::from_millis(50);

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CoreAction {
    /// Send the registration with this id.
    Register(String),
    /// Send a heartbeat with this id.
    Heartbeat(String),
    /// Send the result with this id.
    SendResult(String),
    Ping,
    /// Wait until this time, or until something arrives.
    Wait(Duration),
}

/// What a message means. Texts come from Core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CoreEvent {
    Registered,
    /// The registration is retried later.
    NotRegistered(String),
    /// Core does not know the node, which registers again.
    NodeNotFound(String),
    /// A heartbeat was acknowledged.
    Acknowledged,
    Execute(CommandRequest),
    /// The result with this id is stored.
    Confirmed(String),
    /// Core cannot parse a message, probably the result with this id.
    ResultRejected(String, String),
    /// An error that ends nothing; the next heartbeat may succeed.
    ServerError(String),
    Ignored(String),
}

#[derive(Debug)]
pub struct CoreSession {
    state: State,
    keepalive: Keepalive,
    heartbeat_interval: Duration,
    next_heartbeat: Duration,
    /// Unacknowledged heartbeats and when they were sent, oldest first.
    pending_heartbeats: Vec<(String, Duration)>,
    /// Unconfirmed results of this connection, and when they were sent.
    sent_results: BTreeMap<String, Duration>,
    retry_later: Backoff,
    registered_since: Option<Duration>,
    /// Core answered NODE_NOT_FOUND and has acknowledged nothing since.
    node_not_found: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Until the welcome, or until this time.
    AwaitingWelcome(Duration),
    /// Not before this time.
    Unregistered(Duration),
    /// The registration was sent with this id at this time.
    Registering(String, Duration),
    Registered,
}

impl CoreSession {
    pub fn new(keepalive: Keepalive, heartbeat_interval: Duration, now: Duration) -> Self {
        Self {
            state: State::AwaitingWelcome(now + WELCOME_TIMEOUT),
            keepalive,
            heartbeat_interval,
            next_heartbeat: now,
            pending_heartbeats: Vec::new(),
            sent_results: BTreeMap::new(),
            retry_later: Backoff::new(RETRY_LATER_BACKOFF.0, RETRY_LATER_BACKOFF.1),
            registered_since: None,
            node_not_found: false,
        }
    }

    /// The next action; an error when the server timed out. `results` are ids of unconfirmed results, oldest first;
    /// `new_id` generates an id.
    pub fn next_action<'a>(
        &mut self,
        results: impl Iterator<Item = &'a str>,
        new_id: impl FnOnce() -> Result<String, DisconnectReason>,
        now: Duration,
    ) -> Result<CoreAction, DisconnectReason> {
        if self.keepalive.poll(now)? {
            return Ok(CoreAction::Ping);
        }
        let until = match &self.state {
            State::AwaitingWelcome(until) | State::Unregistered(until) if now >= *until => {
                let id = new_id()?;
                self.state = State::Registering(id.clone(), now);
                return Ok(CoreAction::Register(id));
            }
            State::AwaitingWelcome(until) | State::Unregistered(until) => *until,
            State::Registering(_, since) if now >= *since + RESPONSE_TIMEOUT => {
                return Err(DisconnectReason::Unanswered(RESPONSE_TIMEOUT));
            }
            State::Registering(_, since) => *since + RESPONSE_TIMEOUT,
            State::Registered => match self.next_when_registered(results, new_id, now)? {
                CoreAction::Wait(until) => until,
                action => return Ok(action),
            },
        };
        Ok(CoreAction::Wait(until.min(self.keepalive.next_poll())))
    }

    /// Handles a message. `random` (0 to 1) spreads what all nodes would do at the same time. An error ends the connection.
    pub fn on_message(
        &mut self,
        message: CoreMessage,
        random: f64,
        now: Duration,
    ) -> Result<CoreEvent, DisconnectReason> {
        self.keepalive.on_activity(now);
        Ok(match message {
            CoreMessage::Welcome => {
                if matches!(self.state, State::AwaitingWelcome(_)) {
                    self.state = State::Unregistered(now);
                }
                CoreEvent::Ignored("welcome".to_owned())
            }
            CoreMessage::Registered { id, rejected, .. } if self.is_registering(&id) => {
                match rejected {
                    None => self.on_registered(now),
                    Some(why) => self.on_not_registered(why, random, now),
                }
            }
            CoreMessage::HeartbeatAck { id } => match self.acknowledge(&id) {
                true => {
                    self.retry_later.reset();
                    self.node_not_found = false;
                    CoreEvent::Acknowledged
                }
                false => CoreEvent::Ignored("heartbeat_ack without a request".to_owned()),
            },
            CoreMessage::Execute(request) => CoreEvent::Execute(request),
            CoreMessage::ResultReceived { id } => {
                self.sent_results.remove(&id);
                CoreEvent::Confirmed(id)
            }
            CoreMessage::Error { id, code, text } => {
                return self.on_error(&id, &code, &text, random, now);
            }
            CoreMessage::Registered { .. } => {
                CoreEvent::Ignored("register_response without a request".to_owned())
            }
            CoreMessage::Unknown(kind) => {
                CoreEvent::Ignored(format!("unknown message type {kind}"))
            }
        })
    }

    pub fn on_activity(&mut self, now: Duration) {
        self.keepalive.on_activity(now);
    }

    pub fn on_pong(&mut self, now: Duration) {
        self.keepalive.on_pong(now);
    }

    /// The result with this id is not sent again.
    pub fn on_result_dropped(&mut self, id: &str) {
        self.sent_results.remove(id);
    }

    pub fn is_registered(&self) -> bool {
        self.state == State::Registered
    }

    fn next_when_registered<'a>(
        &mut self,
        results: impl Iterator<Item = &'a str>,
        new_id: impl FnOnce() -> Result<String, DisconnectReason>,
        now: Duration,
    ) -> Result<CoreAction, DisconnectReason> {
        let mut until = self.next_heartbeat;
        if let Some((_, since)) = self.pending_heartbeats.first() {
            let deadline = *since + RESPONSE_TIMEOUT;
            if now >= deadline {
                return Err(DisconnectReason::Unanswered(RESPONSE_TIMEOUT));
            }
            until = until.min(deadline);
        }
        if now >= self.next_heartbeat {
            // Heartbeats missed while the process was stopped are skipped.
            self.next_heartbeat = (self.next_heartbeat + self.heartbeat_interval).max(now);
            let id = new_id()?;
            self.pending_heartbeats.push((id.clone(), now));
            return Ok(CoreAction::Heartbeat(id));
        }
        for result in results {
            match self.sent_results.get(result) {
                Some(since) if now < *since + RESULT_RETRY => {
                    until = until.min(*since + RESULT_RETRY);
                }
                _ => {
                    self.sent_results.insert(result.to_owned(), now);
                    return Ok(CoreAction::SendResult(result.to_owned()));
                }
            }
        }
        Ok(CoreAction::Wait(until))
    }

    fn is_registering(&self, id: &str) -> bool {
        matches!(&self.state, State::Registering(sent, _) if sent == id)
    }

    /// Whether a heartbeat with this id was pending. Older heartbeats will not be acknowledged any more.
    fn acknowledge(&mut self, id: &str) -> bool {
        let at = self.pending_heartbeats.iter().position(|(sent, _)| sent == id);
        if let Some(at) = at {
            self.pending_heartbeats.drain(..=at);
        }
        at.is_some()
    }

    fn on_registered(&mut self, now: Duration) -> CoreEvent {
        self.state = State::Registered;
        self.registered_since = self.registered_since.or(Some(now));
        self.next_heartbeat = now;
        CoreEvent::Registered
    }

    fn on_not_registered(&mut self, why: String, random: f64, now: Duration) -> CoreEvent {
        let delay = self.retry_later.next_delay(half_jitter(random), Duration::ZERO);
        self.state = State::Unregistered(now + delay);
        CoreEvent::NotRegistered(why)
    }

    fn on_node_not_found(&mut self, why: String, random: f64, now: Duration) -> CoreEvent {
        self.pending_heartbeats.clear();
        // Core may have lost these, too.
        self.sent_results.clear();
        // A Core that answers NODE_NOT_FOUND after each registration would otherwise cause a loop without a delay.
        let delay = match self.node_not_found {
            true => self.retry_later.next_delay(half_jitter(random), Duration::ZERO),
            false => REGISTER_AGAIN_DELAY.mul_f64(half_jitter(random)),
        };
        self.state = State::Unregistered(now + delay);
        (self.node_not_found, self.registered_since) = (true, None);
        CoreEvent::NodeNotFound(why)
    }

    fn on_error(
        &mut self,
        id: &str,
        code: &str,
        text: &str,
        random: f64,
        now: Duration,
    ) -> Result<CoreEvent, DisconnectReason> {
        let what = format!("{code}: {text}");
        let is_heartbeat = self.acknowledge(id);
        let is_result = self.sent_results.contains_key(id);
        let matches_nothing = !is_heartbeat && !is_result && !self.is_registering(id);
        Ok(match code {
            "INVALID_TOKEN" => return Err(DisconnectReason::Rejected(what)),
            "NODE_NOT_FOUND" => self.on_node_not_found(what, random, now),
            // The published service does not know command_started, and answers it with an id of its own.
            "UNKNOWN_MESSAGE_TYPE" if matches_nothing => CoreEvent::Ignored(what),
            // While a registration is pending, an error whose id matches nothing is about it.
            _ if matches!(self.state, State::Registering(..)) && !is_heartbeat && !is_result => {
                self.on_not_registered(what, random, now)
            }
            "PARSE_ERROR" | "UNKNOWN_MESSAGE_TYPE" if is_result => {
                CoreEvent::ResultRejected(id.to_owned(), what)
            }
            "PARSE_ERROR" if matches_nothing => match self.oldest_sent_result() {
                Some(id) => CoreEvent::ResultRejected(id, what),
                None => CoreEvent::ServerError(what),
            },
            _ => CoreEvent::ServerError(what),
        })
    }

    fn oldest_sent_result(&self) -> Option<String> {
        let oldest = self.sent_results.iter().min_by_key(|(_, since)| **since)?;
        Some(oldest.0.clone())
    }
}

impl UpstreamSession for CoreSession {
    fn peer_sends_pongs(&self) -> bool {
        self.keepalive.peer_sends_pongs()
    }

    fn is_stable(&self, now: Duration) -> bool {
        self.registered_since.is_some_and(|since| now >= since + STABLE_AFTER)
    }
}

#[cfg(test)]
mod tests;
