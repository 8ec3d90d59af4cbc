//! Other hosts, over SSH: one session of the system's OpenSSH client for each user on a host, however many clients watch it.
//!
//! A session is a thread ([`session`]) that starts `ssh` ([`client`]), has the host's `sh` run one fixed loop, and makes
//! notifications of what that prints. It begins with the first client and ends a few seconds after the last one.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

pub use crate::remote::client_outbox::{ClientOutbox, Outcome};

use crate::config::{Current, Secret};
use crate::limits;
use crate::remote::login_limiter::LoginLimiter;
use crate::remote::protocol::Target;
use crate::sys::{Crew, EventFd};
use crate::util::logger::RateLimitedLog;
use crate::util::sync::{Shutdown, lock};

/// All hosts that are watched.
pub struct Hosts<'a> {
    pub(super) settings: &'a Current,
    pub(super) stop: &'a Shutdown,
    /// A few hundred at the most: a list is fast enough.
    pub(super) hosts: Mutex<Vec<Arc<Host>>>,
    pub(super) logins: LoginLimiter,
    pub(super) log: RateLimitedLog,
}

/// One of them.
pub(super) struct Host {
    pub(super) target: Target,
    pub(super) key: Arc<str>,
    pub(super) state: Mutex<State>,
    /// Rings when `state` has changed.
    pub(super) bell: EventFd,
}

pub(super) struct State {
    pub(super) password: Option<Secret>,
    /// How often that was changed. A login that is under way may be with another one.
    pub(super) era: u64,
    pub(super) phase: Phase,
    pub(super) watchers: Vec<Watcher>,
    /// There is a watcher who has not been told what is told seldom.
    pub(super) fresh: bool,
    /// The server does not let in whoever has this password, or none.
    pub(super) refused: bool,
    /// When somebody came with a wrong password last.
    pub(super) guessed: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is being logged in, or waits for its turn or for another try.
    Trying,
    /// It is logged in.
    Up,
}

/// A client that wants one kind of a host's events.
pub(super) struct Watcher {
    pub(super) client: Arc<ClientOutbox>,
    pub(super) rough: bool,
    /// It waits for the first login, and what became of that is told under this number.
    pub(super) ticket: Option<u64>,
}

impl<'a> Hosts<'a> {
    /// None yet.
    pub fn new(settings: &'a Current, stop: &'a Shutdown) -> Self {
        crate::remote::known_hosts::check(settings);
        let config = settings.get();
        let (listen, token) = (config.monitor.listen, config.monitor.token.as_ref());
        if !listen.ip().is_loopback() && token.is_none() {
            log::warn!(
                "monitor: whoever reaches {listen} can log in anywhere with the keys of the agent's user; see monitor.token"
            );
        }
        let (hosts, logins) = (Mutex::default(), LoginLimiter::default());
        Self { settings, stop, hosts, logins, log: RateLimitedLog::new() }
    }

    /// Has a client watch a host from now on. What becomes of it comes to the client's mailbox under this ticket.
    pub fn attach<'env>(
        &'env self,
        crew: &Crew<'env>,
        target: &Target,
        password: Option<Secret>,
        watcher: (&Arc<ClientOutbox>, bool, u64),
    ) {
        let (client, rough, ticket) = watcher;
        let fail = |why: &str| client.tell(ticket, Err(why.to_owned()));
        let mut hosts = lock(&self.hosts);
        let host = match find(&hosts, target) {
            Some(host) => host,
            None if hosts.len() >= limits::MONITOR_HOSTS => {
                let most = limits::MONITOR_HOSTS;
                return fail(&format!("there are {most} hosts already, the most that may be"));
            }
            None => match self.begin(crew, target, password.clone()) {
                Ok(host) => {
                    hosts.push(host.clone());
                    host
                }
                Err(error) => {
                    return fail(&format!(
                        "cannot be watched now: {}",
                        crate::util::error::reason(&error)
                    ));
                }
            },
        };
        let mut state = lock(&host.state);
        match state.admit(password) {
            Err(why) => return fail(why),
            Ok(strangers) => {
                let reason =
                    "could not be logged in any more, and somebody came with another password";
                strangers
                    .iter()
                    .for_each(|one| host.tell_state(&one.client, "ended", Some(reason)));
            }
        }
        let up = state.phase == Phase::Up;
        let ticket_left = (!up).then_some(ticket);
        let is_theirs =
            |known: &&mut Watcher| Arc::ptr_eq(&known.client, client) && known.rough == rough;
        match state.watchers.iter_mut().find(is_theirs) {
            Some(known) if known.ticket.is_some() => {
                return fail("was asked for already, and is not logged in yet");
            }
            // It waits for another try, which comes the sooner.
            Some(known) => known.ticket = ticket_left,
            None => {
                state.watchers.push(Watcher { client: client.clone(), rough, ticket: ticket_left });
                state.fresh = true;
            }
        }
        drop(state);
        if up {
            host.tell_state(client, "connected", None);
            client.tell(ticket, Ok(()));
        }
        host.bell.notify();
    }

    pub(super) fn begin<'env>(
        &'env self,
        crew: &Crew<'env>,
        target: &Target,
        password: Option<Secret>,
    ) -> std::io::Result<Arc<Host>> {
        let state = State::new(password);
        let host = Arc::new(Host {
            target: target.clone(),
            key: target.key().into(),
            state: Mutex::new(state),
            bell: EventFd::new()?,
        });
        let its = host.clone();
        crew.start(c"ssh", limits::SERVICE_STACK_BYTES, move || self.keep(&its))?;
        Ok(host)
    }

    /// Has a client watch a host no longer; `rough` is which kind of events, `None` all.
    pub fn detach(&self, target: &Target, client: &Arc<ClientOutbox>, rough: Option<bool>) {
        let host = find(&lock(&self.hosts), target);
        if let Some(host) = host {
            host.leave(client, rough);
            client.forget(&host.key, rough);
        }
    }

    /// Has a client that is gone watch nothing.
    pub fn detach_all(&self, client: &Arc<ClientOutbox>) {
        let hosts = lock(&self.hosts).clone();
        hosts.iter().for_each(|host| host.leave(client, None));
    }

    /// Takes a host off the list, unless somebody came.
    pub(super) fn end(&self, host: &Arc<Host>) -> bool {
        let mut hosts = lock(&self.hosts);
        let empty = lock(&host.state).watchers.is_empty();
        if empty {
            hosts.retain(|other| !Arc::ptr_eq(other, host));
        }
        empty
    }

    /// Where host keys are kept, if not where the user's are.
    pub(super) fn known_hosts(&self) -> Option<PathBuf> {
        self.settings.get().monitor.known_hosts.clone()
    }
}

fn find(hosts: &[Arc<Host>], target: &Target) -> Option<Arc<Host>> {
    hosts.iter().find(|host| host.target == *target).cloned()
}
