//! Other hosts, over SSH: one session of the system's OpenSSH client for each user on a host, however many clients watch it.
//!
//! A session is a thread ([`session`]) that starts `ssh` ([`client`]), has the host's `sh` run one fixed loop, and makes
//! notifications of what that prints. It begins with the first client and ends a few seconds after the last one.

pub mod askpass;
mod client;
mod failure;
mod host;
mod known_hosts;
mod logins;
mod mailbox;
mod session;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

pub use mailbox::{Mailbox, Outcome};

use crate::config::{Current, Secret};
use crate::limits;
use crate::logger::PeerLog;
use crate::proto::monitor::Target;
use crate::sync::{Stop, lock};
use crate::sys::{Crew, Event};
use logins::Logins;

/// All hosts that are watched.
pub struct Hosts<'a> {
    settings: &'a Current,
    stop: &'a Stop,
    /// A few hundred at the most: a list is fast enough.
    hosts: Mutex<Vec<Arc<Host>>>,
    logins: Logins,
    log: PeerLog,
}

/// One of them.
struct Host {
    target: Target,
    key: Arc<str>,
    state: Mutex<State>,
    /// Rings when `state` has changed.
    bell: Event,
}

struct State {
    password: Option<Secret>,
    /// How often that was changed. A login that is under way may be with another one.
    era: u64,
    phase: Phase,
    watchers: Vec<Watcher>,
    /// There is a watcher who has not been told what is told seldom.
    fresh: bool,
    /// The server does not let in whoever has this password, or none.
    refused: bool,
    /// When somebody came with a wrong password last.
    guessed: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It is being logged in, or waits for its turn or for another try.
    Trying,
    /// It is logged in.
    Up,
}

/// A client that wants one kind of a host's events.
struct Watcher {
    client: Arc<Mailbox>,
    rough: bool,
    /// It waits for the first login, and what became of that is told under this number.
    ticket: Option<u64>,
}

impl<'a> Hosts<'a> {
    /// None yet.
    pub fn new(settings: &'a Current, stop: &'a Stop) -> Self {
        known_hosts::check(settings);
        let config = settings.get();
        let (listen, token) = (config.monitor.listen, config.monitor.token.as_ref());
        if !listen.ip().is_loopback() && token.is_none() {
            log::warn!(
                "monitor: whoever reaches {listen} can log in anywhere with the keys of the agent's user; see monitor.token"
            );
        }
        let (hosts, logins) = (Mutex::default(), Logins::default());
        Self { settings, stop, hosts, logins, log: PeerLog::new() }
    }

    /// Has a client watch a host from now on. What becomes of it comes to the client's mailbox under this ticket.
    pub fn attach<'env>(
        &'env self,
        crew: &Crew<'env>,
        target: &Target,
        password: Option<Secret>,
        watcher: (&Arc<Mailbox>, bool, u64),
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
                        crate::error::reason(&error)
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
        host.bell.ring();
    }

    fn begin<'env>(
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
            bell: Event::new()?,
        });
        let its = host.clone();
        crew.start(c"ssh", limits::SERVICE_STACK_BYTES, move || self.keep(&its))?;
        Ok(host)
    }

    /// Has a client watch a host no longer; `rough` is which kind of events, `None` all.
    pub fn detach(&self, target: &Target, client: &Arc<Mailbox>, rough: Option<bool>) {
        let host = find(&lock(&self.hosts), target);
        if let Some(host) = host {
            host.leave(client, rough);
            client.forget(&host.key, rough);
        }
    }

    /// Has a client that is gone watch nothing.
    pub fn detach_all(&self, client: &Arc<Mailbox>) {
        let hosts = lock(&self.hosts).clone();
        hosts.iter().for_each(|host| host.leave(client, None));
    }

    /// Takes a host off the list, unless somebody came.
    fn end(&self, host: &Arc<Host>) -> bool {
        let mut hosts = lock(&self.hosts);
        let empty = lock(&host.state).watchers.is_empty();
        if empty {
            hosts.retain(|other| !Arc::ptr_eq(other, host));
        }
        empty
    }

    /// Where host keys are kept, if not where the user's are.
    fn known_hosts(&self) -> Option<PathBuf> {
        self.settings.get().monitor.known_hosts.clone()
    }
}

fn find(hosts: &[Arc<Host>], target: &Target) -> Option<Arc<Host>> {
    hosts.iter().find(|host| host.target == *target).cloned()
}
