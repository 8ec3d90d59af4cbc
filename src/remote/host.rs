//! Who watches a host, who may, and what they are told.

use std::sync::Arc;
use std::time::Instant;

use crate::config::Secret;
use crate::http::frame;
use crate::limits;
use crate::remote::client_outbox::{ClientOutbox, Kind};
use crate::remote::hosts::{Host, Phase, State, Watcher};
use crate::remote::protocol::events;
use crate::remote::ssh_error::Failure;
use crate::util::sync::lock;

impl State {
    pub(super) fn new(password: Option<Secret>) -> Self {
        let (phase, watchers) = (Phase::Trying, Vec::new());
        Self { password, era: 0, phase, watchers, fresh: false, refused: false, guessed: None }
    }

    /// A session belongs to those who know the password that it was begun with. Whether somebody with this one may watch;
    /// it returns those who then may not.
    pub(super) fn admit(&mut self, password: Option<Secret>) -> Result<Vec<Watcher>, &'static str> {
        // It is no place to find out passwords faster than at the host itself.
        if self.guessed.is_some_and(|at| at.elapsed() < limits::REFUSED_LOGIN) {
            return Err("somebody came with a wrong password just now; again in 3 s");
        }
        if same(self.password.as_ref(), password.as_ref()) {
            return Ok(Vec::new());
        }
        let waits_for_login = self.watchers.iter().any(|one| one.ticket.is_some());
        // Who was let in once, and is no longer, stands in nobody's way: the password was changed.
        if self.phase == Phase::Trying
            && !waits_for_login
            && (self.refused || self.watchers.is_empty())
        {
            self.password = password;
            self.era += 1;
            return Ok(std::mem::take(&mut self.watchers));
        }
        // One that no server has taken yet is worth no guess.
        let proven =
            self.phase == Phase::Up || self.watchers.iter().any(|one| one.ticket.is_none());
        self.guessed = password.filter(|_| proven).map(|_| Instant::now());
        Err(if waits_for_login {
            "is being logged in already, with another password or none"
        } else {
            "is watched already, with another password or none"
        })
    }
}

impl Host {
    pub(super) fn leave(&self, client: &Arc<ClientOutbox>, rough: Option<bool>) {
        let theirs = |one: &Watcher| {
            Arc::ptr_eq(&one.client, client) && rough.is_none_or(|rough| one.rough == rough)
        };
        lock(&self.state).watchers.retain(|one| !theirs(one));
        self.bell.notify();
    }

    pub(super) fn has_watchers(&self, rough: bool) -> bool {
        lock(&self.state).watchers.iter().any(|one| one.rough == rough)
    }

    /// It is logged in. Not if those who watch now came with another password meanwhile.
    pub(super) fn is_up(&self, era: u64) -> bool {
        let mut state = lock(&self.state);
        if state.era != era {
            return false;
        }
        (state.phase, state.refused) = (Phase::Up, false);
        for watcher in &mut state.watchers {
            if let Some(ticket) = watcher.ticket.take() {
                watcher.client.tell(ticket, Ok(()));
            }
        }
        drop(state);
        self.post(Kind::Connection, &[events::connection(&self.key, "connected", None)]);
        true
    }

    /// It is not, or no longer. Those who wait for the first login wait no more, unless it was not with their password.
    pub(super) fn failed(&self, failure: &Failure, era: u64) {
        let reason = &failure.reason;
        let mut state = lock(&self.state);
        if state.era != era {
            return;
        }
        state.refused = failure.refused;
        state.watchers.retain(|watcher| match watcher.ticket {
            Some(ticket) => {
                watcher.client.tell(ticket, Err(reason.clone()));
                false
            }
            None => true,
        });
        drop(state);
        self.post(Kind::Connection, &[events::connection(&self.key, "waiting", Some(reason))]);
    }

    /// Tells one client how it stands.
    pub(super) fn tell_state(&self, client: &Arc<ClientOutbox>, state: &str, reason: Option<&str>) {
        let event = events::connection(&self.key, state, reason);
        client.leave(&self.key, Kind::Connection, &frame::text(&event).into());
    }

    /// Leaves events with those who watch.
    pub(super) fn post(&self, kind: Kind, texts: &[String]) {
        let frames: Vec<Box<[u8]>> = texts.iter().map(|text| frame::text(text)).collect();
        let frames: Arc<[u8]> = frames.concat().into();
        // Under the lock, so that whoever stops watching gets nothing afterwards.
        let state = lock(&self.state);
        for watcher in &state.watchers {
            let wanted = kind == Kind::Connection || (kind == Kind::Rough) == watcher.rough;
            if wanted && watcher.ticket.is_none() {
                watcher.client.leave(&self.key, kind, &frames);
            }
        }
    }
}

/// Compares in a time that does not depend on where they differ.
fn same(one: Option<&Secret>, other: Option<&Secret>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.matches(other.expose().as_bytes()),
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::remote::protocol::Target;
    use crate::sys::EventFd;

    fn secret(text: &str) -> Option<Secret> {
        Some(Secret::new(text.to_owned()))
    }

    /// Whoever came with the right password has left, and the login with it is still under way.
    #[test]
    fn a_login_that_is_under_way_lets_nobody_in_who_has_another_password() {
        let target = Target { user: "cc".into(), host: "h".into(), port: 22 };
        let key = target.key().into();
        let state = Mutex::new(State::new(secret("right")));
        let host = Host { target, key, state, bell: EventFd::new().expect("an event") };
        let client = Arc::new(ClientOutbox::new().expect("an event"));
        let era = lock(&host.state).era;
        assert!(lock(&host.state).admit(secret("guessed")).is_ok());
        let watcher = Watcher { client: client.clone(), rough: false, ticket: Some(1) };
        lock(&host.state).watchers.push(watcher);
        assert!(!host.is_up(era));
        host.failed(&Failure::new("the other one's"), era);
        assert!(client.outcomes().is_empty(), "theirs has not been tried");
        let era = lock(&host.state).era;
        assert!(host.is_up(era));
        assert_eq!(client.outcomes(), [(1, Ok(()))]);
    }

    #[test]
    fn only_a_password_that_was_taken_is_kept_from_being_guessed() {
        let mut state = State::new(secret("right"));
        let client = Arc::new(ClientOutbox::new().expect("an event"));
        state.watchers.push(Watcher { client, rough: false, ticket: Some(1) });
        assert!(state.admit(secret("guessed")).is_err() && state.admit(secret("right")).is_ok());
        state.watchers[0].ticket = None;
        assert!(state.admit(None).is_err() && state.admit(secret("right")).is_ok());
        assert!(state.admit(secret("guessed")).is_err() && state.admit(secret("right")).is_err());
    }
}
