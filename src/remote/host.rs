//! A monitored host: its watchers, which of them are authorized, and what they are sent.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::config::Secret;
use crate::http::frame;
use crate::remote::client_outbox::{ClientId, ClientOutbox, NotificationKind};
use crate::remote::protocol::events;
use crate::remote::protocol::request::{NotificationSet, Target};
use crate::remote::ssh::error::SshError;
use crate::sys::EventFd;
use crate::util::sync::lock;

/// After a wrong password or a rejected login, clients cannot try another password for this host within this time.
pub(super) const REJECTED_LOGIN_PAUSE: Duration = Duration::from_secs(3);

/// A user on a host, shared by the clients that watch it.
pub(super) struct Host {
    pub(super) target: Target,
    pub(super) key: Arc<str>,
    pub(super) state: Mutex<HostState>,
    /// Notified when `state` changes.
    pub(super) changed: EventFd,
}

pub(super) struct HostState {
    pub(super) password: Option<Secret>,
    /// Counts changes of the password: the login in progress may use an older one.
    pub(super) password_generation: u64,
    phase: Phase,
    pub(super) watchers: Vec<Watcher>,
    /// A new watcher needs everything, including what seldom changes.
    pub(super) needs_full_update: bool,
    /// The server rejected the last login with this password, or without one.
    is_rejected: bool,
    /// When a client last gave a password other than that of the session.
    last_bad_password: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Logging in, waiting for a permit, or waiting for the next attempt.
    Connecting,
    Connected,
}

/// A client that receives one set of notifications of a host.
pub(super) struct Watcher {
    client: Arc<ClientOutbox>,
    pub(super) set: NotificationSet,
    /// The request that waits for the login. Until then the watcher receives nothing.
    pending_request: Option<u64>,
}

/// A client's request to watch a host.
#[derive(Clone, Copy)]
pub(super) struct WatchRequest<'a> {
    pub(super) client: &'a Arc<ClientOutbox>,
    pub(super) set: NotificationSet,
    pub(super) id: u64,
}

impl HostState {
    fn new(password: Option<Secret>) -> Self {
        Self {
            password,
            password_generation: 0,
            phase: Phase::Connecting,
            watchers: Vec::new(),
            needs_full_update: false,
            is_rejected: false,
            last_bad_password: None,
        }
    }

    /// Whether a client waits for the login.
    pub(super) fn has_pending_request(&self) -> bool {
        self.watchers.iter().any(|watcher| watcher.pending_request.is_some())
    }

    /// Checks whether a client with this password may watch: it must know the one with which the session was started.
    /// Returns the watchers that a new password has displaced.
    fn authorize(&mut self, password: Option<Secret>) -> Result<Vec<Watcher>, &'static str> {
        // Guessing here must not be faster than at the host itself. Even the right password is refused.
        if self.last_bad_password.is_some_and(|at| at.elapsed() < REJECTED_LOGIN_PAUSE) {
            return Err("wrong password given recently, retry in 3 s");
        }
        if passwords_match(self.password.as_ref(), password.as_ref()) {
            return Ok(Vec::new());
        }
        let is_login_awaited = self.has_pending_request();
        // Watchers of a session that is now rejected do not block the host: its password has changed.
        if self.phase == Phase::Connecting
            && !is_login_awaited
            && (self.is_rejected || self.watchers.is_empty())
        {
            self.password = password;
            self.password_generation += 1;
            return Ok(std::mem::take(&mut self.watchers));
        }
        // A password that no server has accepted yet needs no protection from guessing.
        let is_accepted = self.phase == Phase::Connected
            || self.watchers.iter().any(|watcher| watcher.pending_request.is_none());
        self.last_bad_password = password.filter(|_| is_accepted).map(|_| Instant::now());
        Err(if is_login_awaited {
            "login in progress with different credentials"
        } else {
            "already monitored with different credentials"
        })
    }
}

impl Host {
    pub(super) fn new(target: &Target, password: Option<Secret>) -> io::Result<Self> {
        Ok(Self {
            target: target.clone(),
            key: target.key().into(),
            state: Mutex::new(HostState::new(password)),
            changed: EventFd::new()?,
        })
    }

    /// Adds a client if it is authorized. On success the request is completed now or by the login.
    pub(super) fn add_watcher(
        &self,
        password: Option<Secret>,
        request: WatchRequest<'_>,
    ) -> Result<(), String> {
        let WatchRequest { client, set, id } = request;
        let mut state = lock(&self.state);
        for displaced in state.authorize(password)? {
            let reason = "login failed, and another client gave different credentials";
            self.send_state(&displaced.client, "ended", Some(reason));
        }
        let is_connected = state.phase == Phase::Connected;
        let pending_request = (!is_connected).then_some(id);
        let is_same = |known: &&mut Watcher| Arc::ptr_eq(&known.client, client) && known.set == set;
        match state.watchers.iter_mut().find(is_same) {
            Some(known) if known.pending_request.is_some() => {
                return Err("already requested, login in progress".to_owned());
            }
            // The host waits for its next attempt; a pending request shortens that wait.
            Some(known) => known.pending_request = pending_request,
            None => {
                state.watchers.push(Watcher { client: client.clone(), set, pending_request });
                state.needs_full_update = true;
            }
        }
        drop(state);
        if is_connected {
            self.send_state(client, "connected", None);
            client.complete(id, Ok(()));
        }
        self.changed.notify();
        Ok(())
    }

    /// Fails the requests of a host that only this client waits for. Returns false, and does nothing, if it is or was logged
    /// in, or if a client could guess passwords faster by requesting it anew.
    pub(super) fn displace(&self, client: ClientId, reason: &str) -> bool {
        let mut state = lock(&self.state);
        let is_only_waiting =
            |watcher: &Watcher| watcher.client.id == client && watcher.pending_request.is_some();
        let is_displaced = state.phase == Phase::Connecting
            && !state.is_rejected
            && !state.watchers.is_empty()
            && state.watchers.iter().all(is_only_waiting);
        if is_displaced {
            for watcher in state.watchers.drain(..) {
                if let Some(id) = watcher.pending_request {
                    watcher.client.complete(id, Err(reason.to_owned()));
                }
            }
            self.changed.notify();
        }
        is_displaced
    }

    /// Removes a client; `set` is `None` for both sets.
    pub(super) fn remove_watcher(&self, client: &Arc<ClientOutbox>, set: Option<NotificationSet>) {
        let is_selected = |watcher: &Watcher| {
            Arc::ptr_eq(&watcher.client, client) && set.is_none_or(|set| watcher.set == set)
        };
        lock(&self.state).watchers.retain(|watcher| !is_selected(watcher));
        self.changed.notify();
    }

    /// The clients that watch it; one that receives both sets is listed twice.
    pub(super) fn clients(&self) -> Vec<ClientId> {
        lock(&self.state).watchers.iter().map(|watcher| watcher.client.id).collect()
    }

    pub(super) fn has_watchers(&self, set: NotificationSet) -> bool {
        lock(&self.state).watchers.iter().any(|watcher| watcher.set == set)
    }

    /// Completes the pending requests after a login. Returns false, and does nothing, if the watchers have given
    /// another password meanwhile.
    pub(super) fn on_login(&self, password_generation: u64) -> bool {
        let mut state = lock(&self.state);
        if state.password_generation != password_generation {
            return false;
        }
        (state.phase, state.is_rejected) = (Phase::Connected, false);
        for watcher in &mut state.watchers {
            if let Some(id) = watcher.pending_request.take() {
                watcher.client.complete(id, Ok(()));
            }
        }
        drop(state);
        let event = events::connection(&self.key, "connected", None);
        self.publish(NotificationKind::Connection, &[event]);
        true
    }

    /// The session has ended, for whatever reason.
    pub(super) fn on_session_end(&self) {
        lock(&self.state).phase = Phase::Connecting;
    }

    /// Fails the pending requests and notifies the other watchers that the host is retried. Does nothing if the watchers
    /// have given another password meanwhile.
    pub(super) fn on_failure(&self, error: &SshError, password_generation: u64) {
        let reason = &error.reason;
        let mut state = lock(&self.state);
        if state.password_generation != password_generation {
            return;
        }
        state.is_rejected = error.is_rejected;
        state.watchers.retain(|watcher| match watcher.pending_request {
            Some(id) => {
                watcher.client.complete(id, Err(reason.clone()));
                false
            }
            None => true,
        });
        drop(state);
        let event = events::connection(&self.key, "waiting", Some(reason));
        self.publish(NotificationKind::Connection, &[event]);
    }

    /// Sends the state of the connection to one client.
    fn send_state(&self, client: &Arc<ClientOutbox>, state: &str, reason: Option<&str>) {
        let event = events::connection(&self.key, state, reason);
        client.put(&self.key, NotificationKind::Connection, &frame::text(&event).into());
    }

    /// Sends notifications of one kind to the watchers that receive it.
    pub(super) fn publish(&self, kind: NotificationKind, texts: &[String]) {
        let frames: Vec<Box<[u8]>> = texts.iter().map(|text| frame::text(text)).collect();
        let frames: Arc<[u8]> = frames.concat().into();
        // Locked, so that a client that stops watching receives nothing afterwards.
        let state = lock(&self.state);
        for watcher in &state.watchers {
            let is_selected = kind.set().is_none_or(|set| set == watcher.set);
            if is_selected && watcher.pending_request.is_none() {
                watcher.client.put(&self.key, kind, &frames);
            }
        }
    }
}

/// Compares in constant time.
fn passwords_match(one: Option<&Secret>, other: Option<&Secret>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.matches(other.expose().as_bytes()),
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Option<Secret> {
        Some(Secret::new(text.to_owned()))
    }

    fn client() -> Arc<ClientOutbox> {
        Arc::new(ClientOutbox::new([127, 0, 0, 1].into()).expect("an eventfd"))
    }

    /// The client with the right password has left while its login is in progress.
    #[test]
    fn login_in_progress_does_not_admit_client_with_other_password() {
        let target = Target { user: "cc".into(), host: "h".into(), port: 22 };
        let host = Host::new(&target, secret("right")).expect("an eventfd");
        let client = client();
        let generation = lock(&host.state).password_generation;
        let request = WatchRequest { client: &client, set: NotificationSet::Detailed, id: 1 };
        assert_eq!(host.add_watcher(secret("guessed"), request), Ok(()));
        assert!(!host.on_login(generation));
        host.on_failure(&SshError::temporary("of the other password"), generation);
        assert!(client.take_completions().is_empty(), "the new password has not been tried");
        let generation = lock(&host.state).password_generation;
        assert!(host.on_login(generation));
        assert_eq!(client.take_completions(), [(1, Ok(()))]);
    }

    #[test]
    fn only_accepted_passwords_are_protected_from_guessing() {
        let mut state = HostState::new(secret("right"));
        state.watchers.push(Watcher {
            client: client(),
            set: NotificationSet::Detailed,
            pending_request: Some(1),
        });
        assert!(state.authorize(secret("guessed")).is_err());
        assert!(state.authorize(secret("right")).is_ok());
        state.watchers[0].pending_request = None;
        assert!(state.authorize(None).is_err() && state.authorize(secret("right")).is_ok());
        assert!(state.authorize(secret("guessed")).is_err());
        assert!(state.authorize(secret("right")).is_err());
    }
}
