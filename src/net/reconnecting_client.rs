//! A client that reconnects with backoff until the agent stops: the part that the hm and Core clients share.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use log::Level;
use tungstenite::Message;

use crate::config::Secret;
use crate::model::status::UpstreamStatus;
use crate::net::credentials::HubCredentials;
use crate::net::disconnect::DisconnectReason;
use crate::net::endpoint::Endpoint;
use crate::net::keepalive::Keepalive;
use crate::net::log_dedup::LogDedup;
use crate::net::proxy::Proxy;
use crate::net::tls;
use crate::net::url::Url;
use crate::net::websocket::WebSocketClient;
use crate::sys;
use crate::sys::EventFd;
use crate::util::backoff::{Backoff, random_unit};
use crate::util::error::Error;
use crate::util::logger::{RateLimitedLog, unix_seconds};
use crate::util::redact::Redactor;
use crate::util::sync::{Shutdown, lock};
use crate::util::text::escape_for_log;

/// First and longest delay between two attempts to connect.
pub const RECONNECT_BACKOFF: (Duration, Duration) =
    (Duration::from_secs(3), Duration::from_secs(60));
/// A server that answered pings before and has sent nothing for this long is considered gone.
pub const PONG_TIMEOUT: Duration = Duration::from_secs(45);
/// A session that has worked for this long is stable: the next disconnect starts a new backoff and is logged again.
pub const STABLE_AFTER: Duration = Duration::from_secs(120);
/// A request without a response within this time ends the connection.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);
/// First and longest delay after a server that answers "later", or that rejects what it accepted before.
pub const RETRY_LATER_BACKOFF: (Duration, Duration) =
    (Duration::from_secs(3), Duration::from_secs(60));
/// A longer credential is not one of hm-hub.
const MAX_CREDENTIAL_BYTES: usize = 256;
/// Maximum characters of server text in a log line.
pub const MAX_LOGGED_CHARS: usize = 200;

/// What a protocol's session, one per connection, reports to the reconnecting client.
pub trait UpstreamSession {
    fn peer_sends_pongs(&self) -> bool;
    /// Whether the session has worked for [`STABLE_AFTER`].
    fn is_stable(&self, now: Duration) -> bool;
}

pub struct ReconnectingClient {
    name: &'static str,
    endpoint: Endpoint,
    status: Mutex<UpstreamStatus>,
    /// Readable when there is something new to send.
    outbox_ready: Arc<EventFd>,
    /// Epoch of the sessions' clock.
    started: Instant,
    log: RateLimitedLog,
    redactor: Redactor,
    credentials: Arc<HubCredentials>,
    /// Those that the server has refused since it last accepted one.
    refused: Mutex<Vec<Secret>>,
}

impl ReconnectingClient {
    /// `query` is added to the URL. `secrets` are redacted in log and status, in addition to those of the URL and the proxy.
    pub fn new(
        name: &'static str,
        mut endpoint: Endpoint,
        query: &str,
        mut secrets: Vec<String>,
        credentials: &Arc<HubCredentials>,
    ) -> Result<Self, Error> {
        // Before the query is added: it may contain the node id, which is not a secret.
        secrets.extend(endpoint.url.secret_parts());
        endpoint.url.add_query(query);
        secrets.extend(endpoint.proxy.iter().flat_map(Proxy::secret_parts));
        let status = UpstreamStatus {
            name: name.to_owned(),
            state: "connecting".to_owned(),
            since_unix_seconds: unix_seconds(),
            ..UpstreamStatus::default()
        };
        let event = EventFd::new().map_err(|error| Error::system("create an eventfd", error))?;
        Ok(Self {
            name,
            endpoint,
            status: Mutex::new(status),
            outbox_ready: Arc::new(event),
            started: Instant::now(),
            log: RateLimitedLog::new(),
            redactor: Redactor::new(secrets),
            credentials: credentials.clone(),
            refused: Mutex::default(),
        })
    }

    /// Never blocks on disk I/O, because the sampler calls it.
    pub fn status(&self) -> UpstreamStatus {
        lock(&self.status).clone()
    }

    pub fn update_status<R>(&self, update: impl FnOnce(&mut UpstreamStatus) -> R) -> R {
        update(&mut lock(&self.status))
    }

    /// Counts reports that were dropped.
    pub fn add_dropped(&self, count: u64) {
        if count > 0 {
            self.update_status(|status| {
                status.dropped += count;
                status.last_dropped_unix_seconds = Some(unix_seconds());
            });
        }
    }

    pub fn set_state(&self, state: &str) {
        self.update_status(|status| {
            if status.state != state {
                (status.state, status.since_unix_seconds) = (state.to_owned(), unix_seconds());
            }
        });
    }

    /// The server has answered a request.
    pub fn on_response(&self) {
        self.update_status(|status| status.last_response_unix_seconds = Some(unix_seconds()));
    }

    /// Wakes the client's thread, because there is something to send.
    pub fn wake(&self) {
        self.outbox_ready.notify();
    }

    /// The newest stored credential for the host of this server.
    pub fn credential(&self) -> Option<Secret> {
        self.credentials.get(&self.endpoint.url.host).into_iter().next()
    }

    /// Keeps the credential for this server, unless there is one that it has not refused. The client's thread is woken when it is kept.
    pub fn keep_credential(&self, credential: Secret) {
        let text = credential.expose();
        if text.len() > MAX_CREDENTIAL_BYTES || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return self.warn("sent an invalid credential, ignored");
        }
        let outbox_ready = self.outbox_ready.clone();
        let line = self.log_line("has given this node a credential, which replaces the token");
        let refused = lock(&self.refused).clone();
        self.credentials.keep(&self.endpoint.url.host, credential, refused, move || {
            log::info!("{line}");
            outbox_ready.notify();
        });
    }

    /// For other threads that enqueue something to send.
    pub fn outbox_ready(&self) -> Arc<EventFd> {
        self.outbox_ready.clone()
    }

    /// The server's URL for the log.
    pub fn redacted_url(&self) -> String {
        self.endpoint.url.redacted()
    }

    /// The sessions' clock.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Logs what a server sent or caused, rate-limited.
    pub fn warn(&self, text: &str) {
        self.log(Level::Warn, text);
    }

    pub fn log(&self, level: Level, text: &str) {
        self.write_log(level, || self.log_line(text));
    }

    /// Logs a line that the server can cause, rate-limited.
    pub fn write_log(&self, level: Level, line: impl FnOnce() -> String) {
        self.log.write(level, line);
    }

    /// A line about the server, without secrets.
    pub fn log_line(&self, text: &str) -> String {
        format!("{}: {} {}", self.name, self.redacted_url(), self.redact(text))
    }

    /// Connects, calls `step` until the connection ends, and reconnects, until the agent stops. `on_connect` creates the
    /// session, and gets the credential that was sent. `step` does one thing: handle a message, send one, or wait.
    pub fn run<S: UpstreamSession, E>(
        &self,
        ping_interval: Duration,
        shutdown: &Shutdown,
        on_connect: impl Fn(Keepalive, &WebSocketClient<'_>, Option<Secret>) -> S,
        mut step: impl FnMut(
            &mut WebSocketClient<'_>,
            &mut S,
            &mut LogDedup<E>,
        ) -> Result<(), DisconnectReason>,
    ) {
        let mut backoff = Backoff::new(RECONNECT_BACKOFF.0, RECONNECT_BACKOFF.1);
        let mut dedup = LogDedup::default();
        let mut pongs = false;
        while !shutdown.is_triggered() {
            self.set_state("connecting");
            let credential = self.next_credential();
            let connection =
                WebSocketClient::connect(&self.endpoint, credential.as_ref(), shutdown);
            if let (Some(credential), Err(DisconnectReason::Http(401, ..))) =
                (&credential, &connection)
            {
                // The hub may have forgotten this node, or be another one. The next credential or the token is tried at once.
                self.warn("does not accept the credential of this node");
                lock(&self.refused).push(credential.clone());
                continue;
            }
            let reason = connection.map(|mut socket| {
                self.set_state("connected");
                let keepalive = Keepalive::new(ping_interval, PONG_TIMEOUT, pongs, self.now());
                let mut session = on_connect(keepalive, &socket, credential);
                loop {
                    if shutdown.is_triggered() {
                        socket.close();
                        return DisconnectReason::Closed(String::new());
                    }
                    self.outbox_ready.reset();
                    if let Err(reason) = step(&mut socket, &mut session, &mut dedup) {
                        return reason;
                    }
                    pongs = session.peer_sends_pongs();
                    if session.is_stable(self.now()) {
                        backoff.reset();
                        dedup.reset();
                    }
                }
            });
            if shutdown.is_triggered() {
                return;
            }
            lock(&self.refused).clear();
            let reason = reason.unwrap_or_else(|reason| reason);
            // The next server may be another one, so it must prove again that it sends pongs.
            pongs &= !matches!(reason, DisconnectReason::NoPong(_));
            self.wait_before_retry(&reason, &mut backoff, &mut dedup, shutdown);
        }
    }

    /// Waits for a message, for something to send, or until `until` on the sessions' clock.
    pub fn wait(&self, socket: &WebSocketClient<'_>, until: Duration, shutdown: &Shutdown) {
        let timeout = until.saturating_sub(self.now());
        let fds = [socket.as_fd(), self.outbox_ready.as_fd(), shutdown.as_fd()];
        sys::wait_readable(fds, Some(timeout));
    }

    /// The newest credential that the server has not refused; `None`: the token is sent.
    fn next_credential(&self) -> Option<Secret> {
        let credentials = self.credentials.get(&self.endpoint.url.host);
        let refused = lock(&self.refused);
        credentials.into_iter().find(|credential| !refused.contains(credential))
    }

    /// Text of the server without secrets.
    fn redact(&self, text: &str) -> String {
        let credentials = self.credentials.get(&self.endpoint.url.host);
        let secrets = credentials.iter().map(|credential| credential.expose().to_owned());
        Redactor::new(secrets.collect()).redact(&self.redactor.redact(text))
    }

    fn wait_before_retry<E>(
        &self,
        reason: &DisconnectReason,
        backoff: &mut Backoff,
        dedup: &mut LogDedup<E>,
        shutdown: &Shutdown,
    ) {
        let delay = backoff.next_delay(random_unit(), reason.min_retry_delay());
        let why = self.redact(&reason.to_string());
        if dedup.should_log_disconnect(reason) {
            let seconds = delay.as_secs_f64();
            log::warn!("{}", self.log_line(&format!("{why}; next attempt in {seconds:.0} s")));
        }
        self.update_status(|status| {
            status.last_disconnect_reason = Some(why);
            *status.disconnects.entry(reason.label().to_owned()).or_default() += 1;
        });
        self.set_state("waiting");
        shutdown.wait(delay);
    }
}

/// What a message means to any session.
pub enum Incoming<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
    Pong,
    /// Pings, which tungstenite answers.
    Ignored,
}

/// Classifies a message. A close frame ends the connection.
pub fn classify(message: &Message) -> Result<Incoming<'_>, DisconnectReason> {
    match message {
        Message::Text(text) => Ok(Incoming::Text(text.as_str())),
        Message::Pong(_) => Ok(Incoming::Pong),
        Message::Close(frame) => {
            let why = frame.as_ref().map(|frame| {
                let reason = escape_for_log(&frame.reason, MAX_LOGGED_CHARS);
                format!(" ({}: {reason})", u16::from(frame.code))
            });
            Err(DisconnectReason::Closed(why.unwrap_or_default()))
        }
        Message::Binary(bytes) => Ok(Incoming::Binary(bytes)),
        Message::Ping(_) | Message::Frame(_) => Ok(Incoming::Ignored),
    }
}

/// The endpoint of the server at `url`, which comes from the setting `key`.
pub fn endpoint(key: &str, url: &str, ca_file: Option<&Path>) -> Result<Endpoint, Error> {
    let invalid = |why: String| Error::Setting { origin: key.to_owned(), why };
    let url = Url::parse_websocket(url).map_err(invalid)?;
    let proxy = Proxy::from_environment(&url, |name| std::env::var(name).ok()).map_err(invalid)?;
    if url.is_secure() {
        // Each connection reads the files again; reading them here reports a wrong one at startup.
        tls::check_authorities(ca_file).map_err(invalid)?;
    }
    Ok(Endpoint { url, proxy, ca_file: ca_file.map(Path::to_owned), token: None })
}
