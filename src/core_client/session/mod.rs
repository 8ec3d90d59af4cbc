//! The conversation with Core over one connection: welcome, registration, then heartbeats, each of which must be
//! answered, and results of commands, each until Core has it.

use std::time::Duration;

use crate::core_client::messages::{Incoming, Order};
use crate::limits;
use crate::net::reconnect::{DisconnectReason, Keepalive};

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Register under this id.
    Register(String),
    /// Send a heartbeat under this id.
    Heartbeat(String),
    /// Send the result of this id.
    Result(String),
    /// Send a ping.
    Ping,
    /// Nothing before this.
    Wait(Duration),
}

/// What a message means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Core knows the node now.
    Registered,
    /// It does not want to; tried again later.
    NotRegistered(String),
    /// It has forgotten the node, which registers again.
    Forgotten(String),
    /// A heartbeat has arrived.
    Acknowledged,
    /// A command to run.
    Execute(Order),
    /// The result of this id has arrived.
    Confirmed(String),
    /// Core cannot read the result of this id, as far as can be told.
    Unreadable(String, String),
    /// Something is wrong, and the next heartbeat may do better.
    AcceptError(String),
    /// Nothing to do about it.
    Ignored(String),
}

/// The conversation.
#[derive(Debug)]
pub struct Conversation {
    state: State,
    keepalive: Keepalive,
    heartbeat_interval: Duration,
    next_heartbeat: Duration,
    /// Heartbeats that are not answered, oldest first.
    asked: Vec<(String, Duration)>,
    /// Results sent on this connection and not confirmed.
    sent: Vec<(String, Duration)>,
    /// How long to wait before the next registration that follows a failed one.
    patience: Duration,
    registered_since: Option<Duration>,
    /// Core has forgotten the node and acknowledged nothing since.
    forgotten: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Nothing is said before this, or before the welcome.
    Unwelcome(Duration),
    /// Not registered; nothing is asked before this.
    Unregistered(Duration),
    /// Asked under this id, then.
    Registering(String, Duration),
    Registered,
}

impl Conversation {
    /// From the moment of connecting on.
    pub fn new(keepalive: Keepalive, heartbeat_interval: Duration, now: Duration) -> Self {
        Self {
            state: State::Unwelcome(now + limits::WELCOME),
            keepalive,
            heartbeat_interval,
            next_heartbeat: now,
            asked: Vec::new(),
            sent: Vec::new(),
            patience: limits::LATER.0,
            registered_since: None,
            forgotten: false,
        }
    }

    /// What to do now, with the ids of results that wait, oldest first; `fresh` makes an id. An error when the other end
    /// is gone.
    pub fn next<'a>(
        &mut self,
        results: impl Iterator<Item = &'a str>,
        fresh: impl FnOnce() -> String,
        now: Duration,
    ) -> Result<Step, DisconnectReason> {
        if self.keepalive.due(now)? {
            return Ok(Step::Ping);
        }
        let until = match &self.state {
            State::Unwelcome(until) | State::Unregistered(until) if now >= *until => {
                let id = fresh();
                self.state = State::Registering(id.clone(), now);
                return Ok(Step::Register(id));
            }
            State::Unwelcome(until) | State::Unregistered(until) => *until,
            State::Registering(_, since) if now >= *since + limits::ANSWER => {
                return Err(DisconnectReason::Unanswered(limits::ANSWER));
            }
            State::Registering(_, since) => *since + limits::ANSWER,
            State::Registered => match self.next_of_registered(results, fresh, now)? {
                Step::Wait(until) => until,
                step => return Ok(step),
            },
        };
        Ok(Step::Wait(until.min(self.keepalive.next())))
    }

    fn next_of_registered<'a>(
        &mut self,
        results: impl Iterator<Item = &'a str>,
        fresh: impl FnOnce() -> String,
        now: Duration,
    ) -> Result<Step, DisconnectReason> {
        let mut until = self.next_heartbeat;
        if let Some((_, since)) = self.asked.first() {
            let deadline = *since + limits::ANSWER;
            if now >= deadline {
                return Err(DisconnectReason::Unanswered(limits::ANSWER));
            }
            until = until.min(deadline);
        }
        if now >= self.next_heartbeat {
            // Those that were slept through are not made up for.
            self.next_heartbeat = (self.next_heartbeat + self.heartbeat_interval).max(now);
            let id = fresh();
            self.asked.push((id.clone(), now));
            return Ok(Step::Heartbeat(id));
        }
        for result in results {
            match self.sent.iter_mut().find(|(id, _)| id == result) {
                Some((_, since)) if now < *since + limits::RESULT_AGAIN => {
                    until = until.min(*since + limits::RESULT_AGAIN);
                }
                Some((_, since)) => {
                    *since = now;
                    return Ok(Step::Result(result.to_owned()));
                }
                None => {
                    self.sent.push((result.to_owned(), now));
                    return Ok(Step::Result(result.to_owned()));
                }
            }
        }
        Ok(Step::Wait(until))
    }

    /// A message came. `chance` spreads what all agents would do at the same time. An error ends the connection.
    pub fn heard(
        &mut self,
        message: Incoming,
        chance: f64,
        now: Duration,
    ) -> Result<Verdict, DisconnectReason> {
        self.keepalive.sign_of_life(now);
        Ok(match message {
            Incoming::Welcome => {
                if matches!(self.state, State::Unwelcome(_)) {
                    self.state = State::Unregistered(now);
                }
                Verdict::Ignored("welcome".to_owned())
            }
            Incoming::Registered { id, refused } if self.is_registering(&id) => match refused {
                None => {
                    self.state = State::Registered;
                    self.registered_since = self.registered_since.or(Some(now));
                    self.next_heartbeat = now;
                    Verdict::Registered
                }
                Some(why) => self.not_registered(why, chance, now),
            },
            Incoming::Acknowledged { id } => match self.answered(&id) {
                true => {
                    (self.patience, self.forgotten) = (limits::LATER.0, false);
                    Verdict::Acknowledged
                }
                false => Verdict::Ignored("heartbeat_ack for nothing that was asked".to_owned()),
            },
            Incoming::Execute(order) => Verdict::Execute(order),
            Incoming::Received { id } => {
                self.sent.retain(|(sent, _)| *sent != id);
                Verdict::Confirmed(id)
            }
            Incoming::Error { id, code, text } => {
                return self.failed(&id, &code, &text, chance, now);
            }
            Incoming::Registered { .. } => {
                Verdict::Ignored("register_response for nothing that was asked".to_owned())
            }
            Incoming::Unknown(kind) => {
                Verdict::Ignored(format!("message of the unknown type {kind}"))
            }
        })
    }

    /// A pong came.
    pub fn pong(&mut self, now: Duration) {
        self.keepalive.pong(now);
    }

    /// Whether Core knows the node.
    pub fn is_registered(&self) -> bool {
        self.state == State::Registered
    }

    fn is_registering(&self, id: &str) -> bool {
        matches!(&self.state, State::Registering(asked, _) if asked == id)
    }

    /// Whether a heartbeat of that id was waited for. Those before it will not be answered any more.
    fn answered(&mut self, id: &str) -> bool {
        let at = self.asked.iter().position(|(asked, _)| asked == id);
        if let Some(at) = at {
            self.asked.drain(..=at);
        }
        at.is_some()
    }

    fn not_registered(&mut self, why: String, chance: f64, now: Duration) -> Verdict {
        self.state = State::Unregistered(now + self.patience.mul_f64(0.5 + 0.5 * chance));
        self.patience = (self.patience * 2).min(limits::LATER.1);
        Verdict::NotRegistered(why)
    }

    fn failed(
        &mut self,
        id: &str,
        code: &str,
        text: &str,
        chance: f64,
        now: Duration,
    ) -> Result<Verdict, DisconnectReason> {
        let what = format!("{code}: {text}");
        let is_heartbeat = self.answered(id);
        let is_result = self.sent.iter().any(|(sent, _)| sent == id);
        let strange = !is_heartbeat && !is_result && !self.is_registering(id);
        Ok(match code {
            "INVALID_TOKEN" => return Err(DisconnectReason::Refused(what)),
            "NODE_NOT_FOUND" => {
                self.asked.clear();
                // It may have forgotten these, too.
                self.sent.clear();
                // At once, unless it forgets again what it has just been told.
                let pause = if self.forgotten { self.patience } else { limits::REPORT_PAUSE };
                self.state = State::Unregistered(now + pause.mul_f64(0.5 + 0.5 * chance));
                if self.forgotten {
                    self.patience = (self.patience * 2).min(limits::LATER.1);
                }
                (self.forgotten, self.registered_since) = (true, None);
                Verdict::Forgotten(what)
            }
            // Its answer to command_started, which it does not know, under an id of its own.
            "UNKNOWN_MESSAGE_TYPE" if strange => Verdict::Ignored(what),
            // An error whose id matches nothing is about what was asked: there is one such thing only.
            _ if matches!(self.state, State::Registering(..)) && !is_heartbeat && !is_result => {
                self.not_registered(what, chance, now)
            }
            "PARSE_ERROR" | "UNKNOWN_MESSAGE_TYPE" if is_result => {
                Verdict::Unreadable(id.to_owned(), what)
            }
            "PARSE_ERROR" if strange && !self.sent.is_empty() => {
                Verdict::Unreadable(self.sent[0].0.clone(), what)
            }
            _ => Verdict::AcceptError(what),
        })
    }
}

impl crate::net::reconnect::Conversation for Conversation {
    fn has_pongs(&self) -> bool {
        self.keepalive.answers()
    }

    fn is_stable(&self, now: Duration) -> bool {
        self.registered_since.is_some_and(|since| now >= since + limits::STABLE)
    }
}

#[cfg(test)]
mod tests;
