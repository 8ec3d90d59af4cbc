//! What the links to hm and to Core have in common: connecting, again and again and never too often; what the log and
//! the status say of it.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use log::Level;
use tungstenite::Message;

use crate::config::Secret;
use crate::limits;
use crate::model::status::UpstreamStatus;
use crate::net::log_dedup::Said;
use crate::net::reconnect::{Backoff, Conversation, DisconnectReason, Keepalive};
use crate::net::tls;
use crate::net::url::{Address, Proxy};
use crate::net::websocket::{Route, Socket};
use crate::sys;
use crate::sys::EventFd;
use crate::util::error::Error;
use crate::util::logger::{RateLimitedLog, unix_seconds};
use crate::util::percent::encode;
use crate::util::sync::{Shutdown, lock};
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

/// A link to a server.
pub struct ReconnectingClient {
    name: &'static str,
    route: Route,
    status: Mutex<UpstreamStatus>,
    /// Rings when there is something new to send.
    news: EventFd,
    /// The clock of the state machines.
    started: Instant,
    log: RateLimitedLog,
    /// What a server may repeat and nobody must see.
    secrets: Vec<Secret>,
}

impl ReconnectingClient {
    /// Of that name, there. `secrets`: what nobody must see, beside what the proxy is told.
    pub fn new(name: &'static str, route: Route, mut secrets: Vec<Secret>) -> Result<Self, Error> {
        secrets.extend(route.proxy.iter().flat_map(Proxy::secrets).map(Secret::new));
        // A part of another one would leave the rest of it to be seen.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.expose().len()));
        let status = UpstreamStatus {
            name: name.to_owned(),
            state: "connecting".to_owned(),
            since_unix_seconds: unix_seconds(),
            last_answer_unix_seconds: None,
            backlog: 0,
            dropped: 0,
            last_disconnect_reason: None,
            disconnects: BTreeMap::new(),
        };
        Ok(Self {
            name,
            route,
            status: Mutex::new(status),
            news: EventFd::new().map_err(|error| Error::system("create an event", error))?,
            started: Instant::now(),
            log: RateLimitedLog::new(),
            secrets,
        })
    }

    /// How it stands. Waits for no disk: the sampler asks.
    pub fn status(&self) -> UpstreamStatus {
        lock(&self.status).clone()
    }

    /// Changes what is known of it.
    pub fn note<R>(&self, change: impl FnOnce(&mut UpstreamStatus) -> R) -> R {
        change(&mut lock(&self.status))
    }

    /// It is in that state now.
    pub fn set_state(&self, state: &str) {
        self.note(|status| {
            if status.state != state {
                (status.state, status.since_unix_seconds) = (state.to_owned(), unix_seconds());
            }
        });
    }

    /// The server has answered something that was asked.
    pub fn note_answer(&self) {
        self.note(|status| status.last_answer_unix_seconds = Some(unix_seconds()));
    }

    /// There is something new to send.
    pub fn wake(&self) {
        self.news.notify();
    }

    /// The server, for the log.
    pub fn shown(&self) -> String {
        self.route.address.shown()
    }

    /// The clock of the state machines.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// A line about the server that the server can cause.
    pub fn warn(&self, what: &str) {
        self.say(Level::Warn, what);
    }

    /// The same, of less weight.
    pub fn say(&self, level: Level, what: &str) {
        let Self { name, .. } = self;
        self.log.write(level, || format!("{name}: {} {}", self.shown(), self.without_secret(what)));
    }

    /// Connects, has `turn` do one thing after the other until the connection ends, and does so again, until the agent
    /// stops.
    pub fn keep<C: Conversation, V>(
        &self,
        ping_interval: Duration,
        stop: &Shutdown,
        begin: impl Fn(Keepalive, &Socket<'_>) -> C,
        turn: impl Fn(&mut Socket<'_>, &mut C, &mut Said<V>) -> Result<(), DisconnectReason>,
    ) {
        let mut backoff = Backoff::new(limits::RECONNECT.0, limits::RECONNECT.1);
        let mut said = Said::default();
        let mut pongs = false;
        while !stop.is_triggered() {
            self.set_state("connecting");
            let outage = Socket::connect(&self.route, stop).map(|mut socket| {
                self.set_state("connected");
                let keepalive = Keepalive::new(ping_interval, limits::PONG, pongs, self.now());
                let mut conversation = begin(keepalive, &socket);
                loop {
                    if stop.is_triggered() {
                        socket.close();
                        return DisconnectReason::Closed(String::new());
                    }
                    self.news.reset();
                    if let Err(outage) = turn(&mut socket, &mut conversation, &mut said) {
                        return outage;
                    }
                    pongs = conversation.has_pongs();
                    if conversation.is_stable(self.now()) {
                        backoff.reset();
                        said.over();
                    }
                }
            });
            if stop.is_triggered() {
                return;
            }
            let outage = outage.unwrap_or_else(|outage| outage);
            // The next connection must prove anew that pings are answered: the server may be another one.
            pongs &= !matches!(outage, DisconnectReason::NoPong(_));
            self.rest(&outage, &mut backoff, &mut said, stop);
        }
    }

    fn rest<V>(
        &self,
        outage: &DisconnectReason,
        backoff: &mut Backoff,
        said: &mut Said<V>,
        stop: &Shutdown,
    ) {
        let wait = backoff.next(chance(), outage.floor());
        let why = self.without_secret(&outage.to_string());
        if said.is_news(outage) {
            let (name, seconds) = (self.name, wait.as_secs_f64());
            log::warn!("{name}: {} {why}; next try in {seconds:.0} s", self.shown());
        }
        self.note(|status| {
            status.last_disconnect_reason = Some(why);
            *status.disconnects.entry(outage.kind().to_owned()).or_default() += 1;
        });
        self.set_state("waiting");
        stop.wait(wait);
    }

    /// Waits for a message, for something to send, or for `until`.
    pub fn wait(&self, socket: &Socket<'_>, until: Duration, stop: &Shutdown) {
        let wait = until.saturating_sub(self.now());
        let events = [socket.as_fd(), self.news.as_fd(), stop.as_fd()];
        sys::wait_readable(events, Some(wait));
    }

    /// A text for the log, without what nobody must see.
    pub fn without_secret(&self, text: &str) -> String {
        let hide = |text: String, secret: &Secret| hide(&text, secret.expose());
        self.secrets.iter().fold(text.to_owned(), hide)
    }
}

/// So many letters of a secret tell nothing.
const FEW_LETTERS: usize = 3;

/// Hides a secret as a server may send it back: as it is, as it stood in the address, as texts are escaped for the log; and
/// the beginning of each where such a text was cut.
fn hide(text: &str, secret: &str) -> String {
    let escaped = secret.as_bytes().escape_ascii().to_string();
    let forms = [secret.to_owned(), encode(secret), secret.escape_debug().to_string(), escaped];
    let mut text = text.to_owned();
    for form in forms {
        text = text.replace(&form, "(not shown)");
        for (end, _) in form.char_indices().skip(FEW_LETTERS).collect::<Vec<_>>().iter().rev() {
            text = text.replace(&format!("{}…", &form[..*end]), "(not shown)…");
        }
    }
    text
}

/// What a message is to a link.
pub enum Heard<'a> {
    /// One to understand.
    Text(&'a str),
    /// A pong.
    Pong,
    /// Nothing to do about it.
    Nothing,
}

/// Sorts a message; a goodbye is an outage.
pub fn sort(message: &Message) -> Result<Heard<'_>, DisconnectReason> {
    match message {
        Message::Text(text) => Ok(Heard::Text(text.as_str())),
        Message::Pong(_) => Ok(Heard::Pong),
        Message::Close(frame) => {
            let why = frame.as_ref().map(|frame| {
                format!(
                    " ({}: {})",
                    u16::from(frame.code),
                    escape_for_log(&frame.reason, EXCERPT_CHARS)
                )
            });
            Err(DisconnectReason::Closed(why.unwrap_or_default()))
        }
        Message::Ping(_) | Message::Binary(_) | Message::Frame(_) => Ok(Heard::Nothing),
    }
}

/// The way to the server at `url`, which the setting `key` names; `query` is added to the address and never shown.
pub fn route(key: &str, url: &str, query: &str, ca_file: Option<&Path>) -> Result<Route, Error> {
    let wrong = |why: String| Error::Setting { origin: key.to_owned(), why };
    let mut address = Address::parse(url).map_err(wrong)?;
    if !query.is_empty() {
        address.target.push(if address.target.contains('?') { '&' } else { '?' });
        address.target.push_str(query);
    }
    let proxy = Proxy::for_address(&address, |name| std::env::var(name).ok()).map_err(wrong)?;
    let tls = match address.secure {
        true => Some(tls::config(ca_file).map_err(wrong)?),
        false => None,
    };
    Ok(Route { address, proxy, tls })
}

/// What may be secret in the address `url`.
pub fn secrets(url: &str) -> Vec<Secret> {
    let secrets = Address::parse(url).map(|address| address.secrets()).unwrap_or_default();
    secrets.into_iter().map(Secret::new).collect()
}

/// Where `route` leads, for `hm-agent check`.
pub fn shown(route: &Route) -> String {
    let proxy = route.proxy.as_ref();
    let through = proxy.map(|proxy| format!(" through the proxy {}:{}", proxy.host, proxy.port));
    format!("{}{}", route.address.shown(), through.unwrap_or_default())
}

/// What a server says, for the log: escaped, and no longer than a person reads. Servers speak any language.
pub fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(200).flat_map(char::escape_debug).collect();
    if text.chars().nth(200).is_some() {
        shown += &format!("… ({} bytes)", text.len());
    }
    shown
}

/// A number from 0 to 1 that no two agents share: the standard library seeds its hashers with one of the
/// system's.
pub fn chance() -> f64 {
    let number = RandomState::new().build_hasher().finish();
    (number >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::hide;

    #[test]
    fn a_secret_is_hidden_in_all_its_forms_and_where_it_was_cut() {
        let secret = "a \"b\" ü=c";
        for form in
            [secret, "a%20%22b%22%20%C3%BC%3Dc", "a \\\"b\\\" ü=c", "a \\\"b\\\" \\xc3\\xbc=c"]
        {
            assert_eq!(hide(&format!("x{form}y{form}"), secret), "x(not shown)y(not shown)");
        }
        assert_eq!(hide("x a \"b…", secret), "x (not shown)…");
        assert_eq!(hide("x a%20%22…", secret), "x (not shown)…");
        assert_eq!(hide("x a …", secret), "x a …");
    }
}
