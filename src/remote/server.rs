//! The port of `/monitor`: clients name hosts, and get notifications of what those do.
//!
//! Runs in the connection's thread. Hosts are logged in by threads of their own ([`crate::remote::hosts`]); what those have for a
//! client waits in its mailbox.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use crate::config;
use crate::config::{Current, Secret};
use crate::http::auth::check_token;
use crate::http::frame;
use crate::http::listener::ClientConnection;
use crate::http::pipeline::{Pipeline, Routed};
use crate::http::request::RequestHead;
use crate::http::response::{ErrorResponse, not_found_message};
use crate::http::websocket;
use crate::http::websocket::SessionEnd;
use crate::limits;
use crate::remote::hosts::{ClientOutbox, Hosts};
use crate::remote::protocol;
use crate::remote::protocol::{Malformed, Method, Request, Target};
use crate::sys;
use crate::sys::Crew;
use crate::util::deadline_stream::DeadlineStream;
use crate::util::sync::TokenBucket;

/// What every connection of this port shares.
pub struct Monitor<'a, 'env> {
    /// The hosts that are watched.
    pub hosts: &'env Hosts<'env>,
    /// Who starts their threads.
    pub crew: &'a Crew<'env>,
    /// The settings in force.
    pub settings: &'a Current,
    pub pipeline: Pipeline,
}

impl<'env> Monitor<'_, 'env> {
    /// Serves one connection to its end.
    pub fn serve(&self, stream: DeadlineStream<'_>, mut client: ClientConnection<'_>) {
        let upgrade = self.pipeline.handle_connection(stream, &mut client, |head, _| {
            route(head, &self.settings.get().monitor)
        });
        let Some(upgrade) = upgrade else { return };
        let session = |socket: &mut WebSocket<DeadlineStream<'_>>| {
            let mailbox = match ClientOutbox::new() {
                Ok(mailbox) => Arc::new(mailbox),
                Err(error) => return SessionEnd::Io(error),
            };
            let end = self.converse(socket, &mailbox);
            self.hosts.detach_all(&mailbox);
            end
        };
        self.pipeline.run_session(upgrade, &client, limits::MONITOR_MESSAGE_BYTES, session);
    }

    fn converse(
        &self,
        socket: &mut WebSocket<DeadlineStream<'_>>,
        mailbox: &Arc<ClientOutbox>,
    ) -> SessionEnd {
        let mut conversation = Conversation {
            monitor: self,
            socket,
            mailbox,
            asked: Vec::new(),
            tickets: 0,
            requests: TokenBucket::new(limits::MONITOR_REQUESTS),
        };
        conversation.run().err().unwrap_or(SessionEnd::ClosedByClient)
    }
}

/// Authenticates a request; only an upgrade at `/monitor` is served.
fn route(head: &RequestHead<'_>, config: &config::Monitor) -> Result<Routed, ErrorResponse> {
    if head.path != "/monitor" {
        let text = format!("{}; other hosts are at /monitor", not_found_message(head.path));
        return Err(ErrorResponse::new("404 Not Found", text));
    }
    check_token(head, config.token.as_ref())?;
    if !websocket::origin_allowed(head, &config.allowed_origins) {
        let text = "origin not allowed; see monitor.allowed_origins";
        return Err(ErrorResponse::new("403 Forbidden", text));
    }
    Ok(Routed::Upgrade(websocket::upgrade_key(head)?.to_owned()))
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
    socket: &'a mut WebSocket<DeadlineStream<'b>>,
    mailbox: &'a Arc<ClientOutbox>,
    asked: Vec<Asked>,
    tickets: u64,
    requests: TokenBucket,
}

impl Conversation<'_, '_, '_> {
    fn run(&mut self) -> Result<(), SessionEnd> {
        let mut readable = true;
        loop {
            if self.socket.get_ref().is_shutting_down() {
                return Err(SessionEnd::shutting_down());
            }
            self.settle(Instant::now())?;
            // In turn, so that neither chatter nor a flood of events holds up the other.
            if let Some(frames) = self.mailbox.next() {
                self.socket.get_mut().write_message(&frames)?;
            } else if !readable {
                let deadline = self.asked.iter().map(|asked| asked.deadline).min();
                let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
                let stream = self.socket.get_ref();
                let fds = [stream.as_fd(), self.mailbox.bell(), stream.shutdown_fd()];
                [readable, ..] = sys::wait_readable(fds, left);
                continue;
            }
            readable = self.read_one()?;
        }
    }

    /// Answers requests of which everything is known, or the time is up.
    fn settle(&mut self, now: Instant) -> Result<(), SessionEnd> {
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
    fn read_one(&mut self) -> Result<bool, SessionEnd> {
        self.socket.get_mut().reset_read_deadline();
        match self.socket.read() {
            Ok(Message::Text(text)) => self.take(&text)?,
            Ok(Message::Binary(_)) => {
                return Err(SessionEnd::ClosedByServer(
                    CloseCode::Unsupported,
                    "only text messages are accepted",
                ));
            }
            // A pong is on its way with the next read.
            Ok(_) => {}
            Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                return Ok(false);
            }
            Err(error) => return Err(SessionEnd::from_error(error, "message exceeds 128 KiB")),
        }
        Ok(true)
    }

    fn take(&mut self, text: &str) -> Result<(), SessionEnd> {
        if !self.requests.take(Instant::now()) {
            return Err(SessionEnd::ClosedByServer(CloseCode::Policy, "too many requests"));
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

    fn start(&mut self, request: Request, rough: bool) -> Result<(), SessionEnd> {
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

    fn answer(&mut self, id: &Value, errors: &[String]) -> Result<(), SessionEnd> {
        let error = (!errors.is_empty()).then(|| errors.join("; "));
        let text = protocol::answer(id, error.as_deref());
        Ok(self.socket.get_mut().write_message(&frame::text(&text))?)
    }
}
