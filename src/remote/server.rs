//! WebSocket server of `/monitor`: clients name hosts, and receive notifications of them.
//!
//! Runs in the thread of the connection. The threads of hosts ([`crate::remote::ssh`]) put notifications into the
//! client's outbox.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use crate::config::{CurrentConfig, MonitorConfig, Secret};
use crate::http::auth::check_token;
use crate::http::frame;
use crate::http::listener::ClientConnection;
use crate::http::request::RequestHead;
use crate::http::response::{ErrorResponse, not_found_message};
use crate::http::service::{HttpService, Routed};
use crate::http::stream::ServerStream;
use crate::http::websocket::{self, SessionEnd};
use crate::remote::client_outbox::ClientOutbox;
use crate::remote::host::WatchRequest;
use crate::remote::hosts::{Hosts, MAX_HOSTS};
use crate::remote::protocol;
use crate::remote::protocol::request::{
    InvalidRequest, Method, MonitorRequest, NotificationSet, Target,
};
use crate::sys;
use crate::util::sync::TokenBucket;

/// Connections of clients.
pub const MAX_CONNECTIONS: usize = 256;
/// Limit of a client's message: 256 hosts, each with a password.
pub const MAX_MESSAGE_BYTES: usize = 128 << 10;
/// Requests of a client at once; one more is allowed per second. A client that exceeds this is disconnected (1008).
const REQUEST_BURST: u32 = 60;
/// A request of many hosts is answered after this, even if some of them still wait for a login permit.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// Shared by all connections of the port.
pub struct MonitorServer<'scope, 'env> {
    pub hosts: &'scope Hosts<'env>,
    /// Runs the threads of the hosts.
    pub scope: &'scope thread::Scope<'scope, 'env>,
    pub config: &'env CurrentConfig,
    pub http: HttpService,
}

impl MonitorServer<'_, '_> {
    /// Serves one connection until it ends.
    pub fn serve(&self, stream: ServerStream<'_>, mut client: ClientConnection<'_>) {
        let upgrade = self.http.handle_connection(stream, &mut client, |head, _| {
            route(head, &self.config.get().monitor)
        });
        let Some(upgrade) = upgrade else { return };
        self.http.run_session(upgrade, &client, MAX_MESSAGE_BYTES, |socket| {
            let outbox = match ClientOutbox::new(client.peer.ip()) {
                Ok(outbox) => Arc::new(outbox),
                Err(error) => return SessionEnd::Io(error),
            };
            let mut session = MonitorSession {
                server: self,
                socket,
                outbox: &outbox,
                pending_requests: Vec::new(),
                next_request_id: 0,
                request_bucket: TokenBucket::new(REQUEST_BURST),
            };
            let end = session.run().err().unwrap_or(SessionEnd::ClosedByClient);
            self.hosts.detach_all(&outbox);
            end
        });
    }
}

/// Authenticates a request. Only an upgrade at `/monitor` is served.
fn route(head: &RequestHead<'_>, config: &MonitorConfig) -> Result<Routed, ErrorResponse> {
    if head.path != "/monitor" {
        let text = format!("{}; hosts are monitored at /monitor", not_found_message(head.path));
        return Err(ErrorResponse::new("404 Not Found", text));
    }
    check_token(head, config.token.as_ref())?;
    if !websocket::origin_allowed(head, &config.allowed_origins) {
        let text = "origin not allowed; see monitor.allowed_origins";
        return Err(ErrorResponse::new("403 Forbidden", text));
    }
    Ok(Routed::Upgrade(websocket::upgrade_key(head)?.to_owned()))
}

/// A `start` request with hosts that have not been logged in yet.
struct PendingRequest {
    id: Value,
    set: NotificationSet,
    /// Unfinished logins, with the ID under which their results arrive.
    logins: Vec<(u64, Target)>,
    errors: Vec<String>,
    deadline: Instant,
}

/// The WebSocket session of a client.
struct MonitorSession<'a, 'b, 'scope, 'env> {
    server: &'a MonitorServer<'scope, 'env>,
    socket: &'a mut WebSocket<ServerStream<'b>>,
    outbox: &'a Arc<ClientOutbox>,
    pending_requests: Vec<PendingRequest>,
    /// Identifies logins. The client's own IDs need not be unique.
    next_request_id: u64,
    request_bucket: TokenBucket,
}

impl MonitorSession<'_, '_, '_, '_> {
    fn run(&mut self) -> Result<(), SessionEnd> {
        let mut readable = true;
        loop {
            if self.socket.get_ref().is_shutting_down() {
                return Err(SessionEnd::shutting_down());
            }
            self.resolve_finished(Instant::now())?;
            // Alternates between notifications and requests, so that neither can delay the other.
            if let Some(frames) = self.outbox.next_frames() {
                self.socket.get_mut().write_message(&frames)?;
            } else if !readable {
                readable = self.wait()?;
                continue;
            }
            readable = self.read_message()?;
        }
    }

    /// Waits for a message, the outbox, the next deadline of a request, the time of a ping, or the shutdown. Returns whether the socket is
    /// readable.
    fn wait(&mut self) -> Result<bool, SessionEnd> {
        let to_ping = websocket::ping_when_silent(self.socket)?;
        let deadline = self.pending_requests.iter().map(|request| request.deadline).min();
        let to_deadline = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = to_deadline.map_or(to_ping, |left| left.min(to_ping));
        let stream = self.socket.get_ref();
        let fds = [stream.as_fd(), self.outbox.changed_fd(), stream.shutdown_fd()];
        Ok(sys::wait_readable(fds, Some(timeout))[0])
    }

    /// Answers the requests whose logins have all completed, failed or timed out.
    fn resolve_finished(&mut self, now: Instant) -> Result<(), SessionEnd> {
        for (request_id, result) in self.outbox.take_completions() {
            for request in &mut self.pending_requests {
                let finished = request.logins.iter().position(|(id, _)| *id == request_id);
                if let Some(at) = finished {
                    let (_, target) = request.logins.swap_remove(at);
                    let error = result.err().map(|reason| format!("{}: {reason}", target.key()));
                    request.errors.extend(error);
                    break;
                }
            }
        }
        for request in self.pending_requests.iter_mut().filter(|request| request.deadline <= now) {
            for (_, target) in request.logins.drain(..) {
                let seconds = START_TIMEOUT.as_secs();
                request.errors.push(format!("{}: login timeout ({seconds} s)", target.key()));
                self.server.hosts.detach(&target, self.outbox, Some(request.set));
            }
        }
        let is_finished = |request: &PendingRequest| request.logins.is_empty();
        while let Some(at) = self.pending_requests.iter().position(is_finished) {
            let request = self.pending_requests.remove(at);
            self.respond(&request.id, &request.errors)?;
        }
        Ok(())
    }

    /// Processes one message. Returns whether there may be another one.
    fn read_message(&mut self) -> Result<bool, SessionEnd> {
        self.socket.get_mut().reset_read_deadline();
        match self.socket.read() {
            Ok(Message::Text(text)) => self.process_request(&text)?,
            Ok(Message::Binary(_)) => {
                let reason = "only text messages are accepted";
                return Err(SessionEnd::ClosedByServer(CloseCode::Unsupported, reason));
            }
            // tungstenite writes the pong with the next read.
            Ok(_) => {}
            Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                return Ok(false);
            }
            Err(error) => return Err(SessionEnd::from_error(error, "message exceeds 128 KiB")),
        }
        Ok(true)
    }

    fn process_request(&mut self, text: &str) -> Result<(), SessionEnd> {
        if !self.request_bucket.take(Instant::now()) {
            return Err(SessionEnd::ClosedByServer(CloseCode::Policy, "too many requests"));
        }
        let request = match MonitorRequest::parse(text, MAX_HOSTS) {
            Ok(request) => request,
            Err(InvalidRequest(id, why)) => return self.respond(&id, &[why]),
        };
        match request.method {
            Method::Start(set) => self.start(request, set),
            Method::Stop(set) => {
                let mut errors = Vec::new();
                for host in request.hosts {
                    match host {
                        Ok(host) => self.stop(&host.target, set),
                        Err(why) => errors.push(why),
                    }
                }
                self.respond(&request.id, &errors)
            }
        }
    }

    fn start(&mut self, request: MonitorRequest, set: NotificationSet) -> Result<(), SessionEnd> {
        let mut pending = PendingRequest {
            id: request.id,
            set,
            logins: Vec::new(),
            errors: Vec::new(),
            deadline: Instant::now() + START_TIMEOUT,
        };
        for host in request.hosts {
            match host {
                Err(why) => pending.errors.push(why),
                // A host that is named twice is started once.
                Ok(host) if pending.logins.iter().any(|(_, target)| *target == host.target) => {}
                Ok(host) => {
                    let id = self.next_request_id;
                    self.next_request_id += 1;
                    let password = host.password.map(Secret::new);
                    let watch = WatchRequest { client: self.outbox, set, id };
                    pending.logins.push((id, host.target.clone()));
                    let MonitorServer { hosts, scope, .. } = self.server;
                    hosts.attach(scope, &host.target, password, watch);
                }
            }
        }
        self.pending_requests.push(pending);
        self.resolve_finished(Instant::now())
    }

    /// Stops the notifications of a host. A pending `start` of it fails.
    fn stop(&mut self, target: &Target, set: NotificationSet) {
        self.server.hosts.detach(target, self.outbox, Some(set));
        let same_set = self.pending_requests.iter_mut().filter(|request| request.set == set);
        for request in same_set {
            let stopped = request.logins.iter().position(|(_, known)| known == target);
            if let Some(at) = stopped {
                request.logins.swap_remove(at);
                request
                    .errors
                    .push(format!("{}: stopped before the login completed", target.key()));
            }
        }
    }

    fn respond(&mut self, id: &Value, errors: &[String]) -> Result<(), SessionEnd> {
        let error = (!errors.is_empty()).then(|| errors.join("; "));
        let text = protocol::response(id, error.as_deref());
        Ok(self.socket.get_mut().write_message(&frame::text(&text))?)
    }
}
