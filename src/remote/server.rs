//! The port of `/monitor`: clients name hosts, and get notifications of what those do.
//!
//! Runs in the connection's thread. Hosts are logged in by threads of their own ([`crate::remote::hosts`]); what those have for a
//! client waits in its mailbox.

use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use log::Level;
use serde_json::Value;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use crate::config;
use crate::config::{Current, Secret};
use crate::http::connection::{End as Exchange, RequestReader};
use crate::http::frame;
use crate::http::listener::ClientConnection;
use crate::http::message::{ErrorResponse, Head, missing};
use crate::http::websocket;
use crate::limits;
use crate::remote::hosts::{ClientOutbox, Hosts};
use crate::remote::protocol;
use crate::remote::protocol::{Malformed, Method, Request, Target};
use crate::sys;
use crate::sys::Crew;
use crate::telemetry::router::check_token;
use crate::telemetry::subscription::End;
use crate::util::deadline_stream::DeadlineStream;
use crate::util::error::reason;
use crate::util::logger::RateLimitedLog;
use crate::util::sync::TokenBucket;

/// What every connection of this port shares.
pub struct Monitor<'a, 'env> {
    /// The hosts that are watched.
    pub hosts: &'env Hosts<'env>,
    /// Who starts their threads.
    pub crew: &'a Crew<'env>,
    /// The settings in force.
    pub settings: &'a Current,
    /// Bounds what peers can write into the log.
    pub log: RateLimitedLog,
}

impl<'env> Monitor<'_, 'env> {
    /// Serves one connection to its end.
    pub fn serve(&self, mut stream: DeadlineStream<'_>, guest: &ClientConnection<'_>) {
        let mut unread = RequestReader::begun();
        let next = unread.next(&mut stream, |head| admit(head, &self.settings.get().monitor));
        let (key, early) = match next {
            Ok((request, Ok(key))) => (key, unread.rest(request.length)),
            Ok((request, Err(refusal))) => {
                return self.refuse(stream, guest, &refusal, request.head_only);
            }
            Err(_) if guest.permit.was_evicted() => {
                return log::debug!("monitor: {} gave way", guest.peer);
            }
            Err(Exchange::Refused(refusal)) => return self.refuse(stream, guest, &refusal, false),
            Err(Exchange::Over) => return log::debug!("monitor: {} left", guest.peer),
            Err(Exchange::Broken(error)) => {
                return log::debug!("monitor: {} lost: {}", guest.peer, reason(&error));
            }
        };
        drop(unread);
        guest.permit.mark_active();
        let peer = guest.peer;
        let most = limits::MONITOR_MESSAGE_BYTES;
        let (socket, mailbox) =
            match (websocket::accept(stream, &key, early, most), ClientOutbox::new()) {
                (Ok(socket), Ok(mailbox)) => (socket, Arc::new(mailbox)),
                (Err(error), _) | (_, Err(error)) => {
                    return log::debug!("monitor: {peer} left: {}", reason(&error));
                }
            };
        log::debug!("monitor: {peer} connected");
        let end = self.converse(socket, &mailbox);
        self.hosts.detach_all(&mailbox);
        if let End::Closed(..) = end {
            guest.counters.closed();
        }
        self.log.write(end.level(), || format!("monitor: {peer} {end}"));
    }

    fn refuse(
        &self,
        stream: DeadlineStream<'_>,
        guest: &ClientConnection<'_>,
        refusal: &ErrorResponse,
        head_only: bool,
    ) {
        guest.counters.answered(refusal.status);
        self.log.write(Level::Info, || {
            format!("monitor: {} refused: {}: {}", guest.peer, refusal.status, refusal.text)
        });
        refusal.send(stream, if head_only { "HEAD" } else { "GET" });
    }

    fn converse(&self, socket: WebSocket<DeadlineStream<'_>>, mailbox: &Arc<ClientOutbox>) -> End {
        let mut conversation = Conversation {
            monitor: self,
            socket,
            mailbox,
            asked: Vec::new(),
            tickets: 0,
            requests: TokenBucket::new(limits::MONITOR_REQUESTS),
        };
        let end = conversation.run().err().unwrap_or(End::Left);
        match end {
            End::Closed(code, why) => conversation.close(code, why),
            // Its goodbye is answered; whatever it said behind that must not become a reset that takes the answer away.
            End::Left => conversation.socket.get_mut().linger(),
            End::Broken(_) => {}
        }
        end
    }
}

/// Checks a request; what comes back is the key of its upgrade.
fn admit(head: &Head<'_>, config: &config::Monitor) -> Result<String, ErrorResponse> {
    if head.path != "/monitor" {
        let text = format!("{}; other hosts are at /monitor", missing(head.path));
        return Err(ErrorResponse::new("404 Not Found", text));
    }
    check_token(head, config.token.as_ref())?;
    if !websocket::origin_allowed(head, &config.allowed_origins) {
        let text = "pages of this origin may not connect; see monitor.allowed_origins";
        return Err(ErrorResponse::new("403 Forbidden", text));
    }
    websocket::upgrade_key(head).map(str::to_owned)
}

/// A request whose hosts have not all said how it went.
struct Asked {
    id: Value,
    rough: bool,
    left: Vec<(u64, Target)>,
    errors: Vec<String>,
    deadline: Instant,
}

struct Conversation<'a, 'b, 'env> {
    monitor: &'a Monitor<'a, 'env>,
    socket: WebSocket<DeadlineStream<'b>>,
    mailbox: &'a Arc<ClientOutbox>,
    asked: Vec<Asked>,
    tickets: u64,
    requests: TokenBucket,
}

impl Conversation<'_, '_, '_> {
    fn run(&mut self) -> Result<(), End> {
        let mut readable = true;
        loop {
            if self.socket.get_ref().stopping() {
                return Err(End::Closed(CloseCode::Away, "the agent is stopping"));
            }
            self.settle(Instant::now())?;
            // In turn, so that neither chatter nor a flood of events holds up the other.
            if let Some(frames) = self.mailbox.next() {
                write(self.socket.get_mut(), &frames)?;
            } else if !readable {
                let deadline = self.asked.iter().map(|asked| asked.deadline).min();
                let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
                let stream = self.socket.get_ref();
                let fds = [stream.as_fd(), self.mailbox.bell(), stream.stop()];
                [readable, ..] = sys::wait_readable(fds, left);
                continue;
            }
            readable = self.read_one()?;
        }
    }

    /// Answers requests of which everything is known, or the time is up.
    fn settle(&mut self, now: Instant) -> Result<(), End> {
        for (ticket, outcome) in self.mailbox.outcomes() {
            for asked in &mut self.asked {
                if let Some(at) = asked.left.iter().position(|(known, _)| *known == ticket) {
                    let (_, target) = asked.left.swap_remove(at);
                    asked
                        .errors
                        .extend(outcome.err().map(|why| format!("{}: {why}", target.key())));
                    break;
                }
            }
        }
        for asked in self.asked.iter_mut().filter(|asked| asked.deadline <= now) {
            for (_, target) in asked.left.drain(..) {
                let seconds = limits::MONITOR_ANSWER.as_secs();
                asked.errors.push(format!("{}: no login within {seconds} s", target.key()));
                self.monitor.hosts.detach(&target, self.mailbox, Some(asked.rough));
            }
        }
        while let Some(at) = self.asked.iter().position(|asked| asked.left.is_empty()) {
            let asked = self.asked.remove(at);
            self.answer(&asked.id, &asked.errors)?;
        }
        Ok(())
    }

    /// Handles one message of the client. Says whether there may be more.
    fn read_one(&mut self) -> Result<bool, End> {
        self.socket.get_mut().begin_reading();
        match self.socket.read() {
            Ok(Message::Text(text)) => self.take(&text)?,
            Ok(Message::Binary(_)) => {
                return Err(End::Closed(CloseCode::Unsupported, "only text is understood"));
            }
            // A pong is on its way with the next read.
            Ok(_) => {}
            Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                return Ok(false);
            }
            Err(error) => return Err(End::of(error, "a message over 128 KiB")),
        }
        Ok(true)
    }

    fn take(&mut self, text: &str) -> Result<(), End> {
        if !self.requests.take(Instant::now()) {
            return Err(End::Closed(CloseCode::Policy, "too many requests"));
        }
        let request = match Request::parse(text, limits::MONITOR_HOSTS) {
            Ok(request) => request,
            Err(Malformed(id, why)) => return self.answer(&id, &[why]),
        };
        match request.method {
            Method::Start { rough } => self.start(request, rough),
            Method::Stop { rough } => {
                let mut errors = Vec::new();
                for host in request.hosts {
                    match host {
                        Ok(host) => self.stop(&host.target, rough),
                        Err(why) => errors.push(why),
                    }
                }
                self.answer(&request.id, &errors)
            }
        }
    }

    fn start(&mut self, request: Request, rough: bool) -> Result<(), End> {
        let mut asked = Asked {
            id: request.id,
            rough,
            left: Vec::new(),
            errors: Vec::new(),
            deadline: Instant::now() + limits::MONITOR_ANSWER,
        };
        for host in request.hosts {
            match host {
                Err(why) => asked.errors.push(why),
                // Named twice, it is meant once.
                Ok(host) if asked.left.iter().any(|(_, target)| *target == host.target) => {}
                Ok(host) => {
                    self.tickets += 1;
                    let password = host.password.map(Secret::new);
                    let watcher = (self.mailbox, rough, self.tickets);
                    asked.left.push((self.tickets, host.target.clone()));
                    self.monitor.hosts.attach(self.monitor.crew, &host.target, password, watcher);
                }
            }
        }
        self.asked.push(asked);
        self.settle(Instant::now())
    }

    /// Stops watching. A start that has not been answered will not be of any use to anybody.
    fn stop(&mut self, target: &Target, rough: bool) {
        self.monitor.hosts.detach(target, self.mailbox, Some(rough));
        for asked in self.asked.iter_mut().filter(|asked| asked.rough == rough) {
            let stopped = asked.left.iter().position(|(_, known)| known == target);
            if let Some(at) = stopped {
                asked.left.swap_remove(at);
                asked.errors.push(format!("{}: stopped before it was logged in", target.key()));
            }
        }
    }

    fn answer(&mut self, id: &Value, errors: &[String]) -> Result<(), End> {
        let error = (!errors.is_empty()).then(|| errors.join("; "));
        let text = protocol::answer(id, error.as_deref());
        Ok(write(self.socket.get_mut(), &frame::text(&text))?)
    }

    fn close(mut self, code: CloseCode, why: &'static str) {
        self.socket.get_mut().last_words();
        let frame = CloseFrame { code, reason: why.into() };
        if self.socket.close(Some(frame)).is_ok() {
            self.socket.into_inner().linger();
        }
    }
}

fn write(stream: &mut DeadlineStream<'_>, bytes: &[u8]) -> std::io::Result<()> {
    stream.begin_message();
    stream.write_all(bytes)
}
