//! Registry of the monitored hosts. Clients that name the same user on the same host share one session.
//!
//! Each host has a thread ([`crate::remote::ssh::host_thread`]), which starts with the first client and ends a few
//! seconds after the last one.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::config::{CurrentConfig, Secret};
use crate::remote::client_load::ClientLoad;
use crate::remote::client_outbox::{ClientId, ClientOutbox};
use crate::remote::host::{Host, WatchRequest};
use crate::remote::login_limiter::LoginLimiter;
use crate::remote::protocol::request::{NotificationSet, Target};
use crate::remote::ssh::known_hosts;
use crate::util::error::reason;
use crate::util::logger::RateLimitedLog;
use crate::util::sync::{Shutdown, lock};
use crate::util::thread::spawn_scoped;

/// Monitored hosts, and hosts in one request. Each has a thread and an ssh process.
pub const MAX_HOSTS: usize = 256;
/// A client with fewer hosts may displace those that another client waits for.
const GUARANTEED_HOSTS: usize = 16;
/// Stack of a host's thread: parsing and serializing 20 000 processes uses the heap.
const THREAD_STACK_BYTES: usize = 256 << 10;

/// All monitored hosts.
pub struct Hosts<'a> {
    pub(super) config: &'a CurrentConfig,
    pub(super) shutdown: &'a Shutdown,
    /// A linear search is fast enough for [`MAX_HOSTS`].
    hosts: Mutex<Vec<Arc<Host>>>,
    pub(super) login_limiter: LoginLimiter,
    pub(super) log: RateLimitedLog,
}

impl<'a> Hosts<'a> {
    /// Creates an empty registry, and warns of insecure settings.
    pub fn new(config: &'a CurrentConfig, shutdown: &'a Shutdown) -> Self {
        known_hosts::warn_if_not_writable(config);
        let at_start = config.get();
        let (listen, token) = (at_start.monitor.listen, at_start.monitor.token.as_ref());
        if !listen.ip().is_loopback() && token.is_none() {
            log::warn!(
                "monitor: every client that reaches {listen} can log in to other hosts with the SSH keys of the agent's user; see monitor.token"
            );
        }
        let (hosts, login_limiter) = (Mutex::default(), LoginLimiter::default());
        Self { config, shutdown, hosts, login_limiter, log: RateLimitedLog::new() }
    }

    /// Adds a client to the watchers of a host. The result is put into the client's outbox.
    pub(super) fn attach<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        target: &Target,
        password: Option<Secret>,
        request: WatchRequest<'_>,
    ) {
        if let Err(reason) = self.try_attach(scope, target, password, request) {
            request.client.complete(request.id, Err(reason));
        }
    }

    fn try_attach<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        target: &Target,
        password: Option<Secret>,
        request: WatchRequest<'_>,
    ) -> Result<(), String> {
        // Locked to the end, so that the thread of the host does not end before it has the watcher.
        let mut hosts = lock(&self.hosts);
        let host = match find(&hosts, target) {
            Some(host) => host,
            None => {
                if hosts.len() >= MAX_HOSTS && !displace(&mut hosts, request.client.id) {
                    return Err(limit_reached());
                }
                let host = self
                    .start_host(scope, target, password.clone())
                    .map_err(|error| format!("cannot start a session: {}", reason(&error)))?;
                hosts.push(host.clone());
                host
            }
        };
        host.add_watcher(password, request)
    }

    fn start_host<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        target: &Target,
        password: Option<Secret>,
    ) -> io::Result<Arc<Host>> {
        let host = Arc::new(Host::new(target, password)?);
        let thread_host = host.clone();
        spawn_scoped(scope, "ssh", THREAD_STACK_BYTES, move || self.run_host(&thread_host))?;
        Ok(host)
    }

    /// Removes a client from the watchers of a host; `set` is `None` for both sets.
    pub(super) fn detach(
        &self,
        target: &Target,
        client: &Arc<ClientOutbox>,
        set: Option<NotificationSet>,
    ) {
        let host = find(&lock(&self.hosts), target);
        if let Some(host) = host {
            host.remove_watcher(client, set);
            client.discard(&host.key, set);
        }
    }

    /// Removes a disconnected client from the watchers of all hosts.
    pub(super) fn detach_all(&self, client: &Arc<ClientOutbox>) {
        let hosts = lock(&self.hosts).clone();
        hosts.iter().for_each(|host| host.remove_watcher(client, None));
    }

    /// Removes a host from the registry if it has no watchers. Returns whether it was removed.
    pub(super) fn remove_if_unwatched(&self, host: &Arc<Host>) -> bool {
        let mut hosts = lock(&self.hosts);
        let is_unwatched = lock(&host.state).watchers.is_empty();
        if is_unwatched {
            hosts.retain(|other| !Arc::ptr_eq(other, host));
        }
        is_unwatched
    }

    /// The configured file of host keys; `None` for that of the agent's user.
    pub(super) fn known_hosts(&self) -> Option<PathBuf> {
        self.config.get().monitor.known_hosts.clone()
    }
}

/// Makes room for a host of a client: removes the newest host that is still to be logged in of the client with the most
/// hosts, if that one has more than the new client will have. So one client's unreachable hosts do not lock others out.
fn displace(hosts: &mut Vec<Arc<Host>>, newcomer: ClientId) -> bool {
    let load = ClientLoad::of_hosts(hosts);
    let (of_network, of_client) = load.of(&newcomer);
    let has_more = |client: &ClientId| {
        let (in_network, own) = load.of(client);
        in_network > of_network + 1 || (client.network == newcomer.network && own > of_client + 1)
    };
    if of_client >= GUARANTEED_HOSTS {
        return false;
    }
    let Some(largest) = load.largest().filter(has_more) else { return false };
    let Some(at) = hosts.iter().rposition(|host| host.displace(largest, &limit_reached())) else {
        return false;
    };
    hosts.remove(at);
    true
}

fn limit_reached() -> String {
    format!("limit of {MAX_HOSTS} hosts reached")
}

fn find(hosts: &[Arc<Host>], target: &Target) -> Option<Arc<Host>> {
    hosts.iter().find(|host| host.target == *target).cloned()
}
