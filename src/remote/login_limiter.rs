//! Limits the logins in progress, and shares them fairly between the clients that wait for them.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::remote::client_load::ClientLoad;
use crate::remote::client_outbox::ClientId;
use crate::remote::host::Host;
use crate::sys;
use crate::util::sync::{Shutdown, lock};

/// Slots for logins: each takes 10 ms of processor time for its key exchange, and as much on a host that several targets
/// may share.
const MAX_ACTIVE_LOGINS: usize = 16;
/// A login that takes longer gives its slot to the next one: it waits for the network or for the host.
const SLOT_TIME: Duration = Duration::from_secs(3);

/// The hosts that log in, and those that wait for a slot.
#[derive(Default)]
pub(super) struct LoginLimiter(Mutex<Logins>);

#[derive(Default)]
struct Logins {
    /// Slots in use.
    active: usize,
    /// With and without a slot.
    in_progress: Vec<Arc<Host>>,
    /// In order of arrival.
    waiting: Vec<Arc<Host>>,
}

/// Permission to log in, returned on drop.
pub(super) struct LoginPermit<'a> {
    limiter: &'a LoginLimiter,
    host: Arc<Host>,
    /// `None` without a slot.
    slot_until: Option<Instant>,
}

impl LoginLimiter {
    /// Waits for a permit; `None` if the agent shuts down or the host has no watchers left.
    pub(super) fn acquire(&self, host: &Arc<Host>, shutdown: &Shutdown) -> Option<LoginPermit<'_>> {
        loop {
            // Reset before the checks, so that a change after them wakes this thread.
            host.changed.reset();
            let mut logins = lock(&self.0);
            let is_wanted = !shutdown.is_triggered() && !lock(&host.state).watchers.is_empty();
            if is_wanted && !contains(&logins.waiting, host) {
                logins.waiting.push(host.clone());
            }
            if !is_wanted || logins.is_next(host) {
                remove(&mut logins.waiting, host);
                if is_wanted {
                    logins.active += 1;
                    logins.in_progress.push(host.clone());
                }
                // There may be a slot for another host as well.
                logins.wake_next();
                drop(logins);
                let slot_until = Some(Instant::now() + SLOT_TIME);
                let host = host.clone();
                return is_wanted.then(|| LoginPermit { limiter: self, host, slot_until });
            }
            drop(logins);
            sys::wait_readable([host.changed.as_fd(), shutdown.as_fd()], None);
        }
    }
}

impl Logins {
    fn is_next(&self, host: &Arc<Host>) -> bool {
        self.next().is_some_and(|next| Arc::ptr_eq(next, host))
    }

    /// The host that gets a free slot: that of the network, and then of the client, with the fewest logins in progress, and
    /// then with the fewest that wait. So no client waits for another's slow hosts.
    fn next(&self) -> Option<&Arc<Host>> {
        if self.active >= MAX_ACTIVE_LOGINS {
            return None;
        }
        let in_progress = ClientLoad::of_hosts(&self.in_progress);
        let waiting = ClientLoad::of_hosts(&self.waiting);
        let of = |client: &ClientId| (in_progress.of(client), waiting.of(client));
        // Without watchers a host leaves the queue by itself.
        let load = |host: &&Arc<Host>| host.clients().iter().map(of).min().unwrap_or_default();
        self.waiting.iter().min_by_key(load)
    }

    fn wake_next(&self) {
        if let Some(next) = self.next() {
            next.changed.notify();
        }
    }
}

impl LoginPermit<'_> {
    /// Frees the slot of a login that has had its time. Returns the time left until then; `None` without a slot.
    pub(super) fn free_slot_when_slow(&mut self, now: Instant) -> Option<Duration> {
        let left = self.slot_until?.saturating_duration_since(now);
        if !left.is_zero() {
            return Some(left);
        }
        self.slot_until = None;
        let mut logins = lock(&self.limiter.0);
        logins.active -= 1;
        logins.wake_next();
        None
    }
}

impl Drop for LoginPermit<'_> {
    fn drop(&mut self) {
        let mut logins = lock(&self.limiter.0);
        logins.active -= usize::from(self.slot_until.is_some());
        remove(&mut logins.in_progress, &self.host);
        logins.wake_next();
    }
}

fn contains(hosts: &[Arc<Host>], host: &Arc<Host>) -> bool {
    hosts.iter().any(|other| Arc::ptr_eq(other, host))
}

fn remove(hosts: &mut Vec<Arc<Host>>, host: &Arc<Host>) {
    hosts.retain(|other| !Arc::ptr_eq(other, host));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::client_outbox::ClientOutbox;
    use crate::remote::host::WatchRequest;
    use crate::remote::protocol::request::{NotificationSet, Target};

    fn client(address: &str) -> Arc<ClientOutbox> {
        Arc::new(ClientOutbox::new(address.parse().expect("an address")).expect("an eventfd"))
    }

    fn host(number: usize, client: &Arc<ClientOutbox>) -> Arc<Host> {
        let target = Target { user: "cc".into(), host: format!("h{number}"), port: 22 };
        let host = Arc::new(Host::new(&target, None).expect("an eventfd"));
        let request = WatchRequest { client, set: NotificationSet::Rough, id: 0 };
        host.add_watcher(None, request).expect("a new watcher");
        host
    }

    /// Fills the queue with hosts of these clients in turn, and returns to which the first `count` slots go.
    fn order(clients: &[&Arc<ClientOutbox>], count: usize) -> Vec<usize> {
        let mut logins = Logins::default();
        for (at, client) in clients.iter().enumerate() {
            logins.waiting.push(host(at, client));
        }
        let take = || {
            logins.active = 0;
            let next = logins.next()?.clone();
            let at = next.target.host.get(1..)?.parse().ok()?;
            remove(&mut logins.waiting, &next);
            logins.in_progress.push(next);
            Some(at)
        };
        std::iter::from_fn(take).take(count).collect()
    }

    #[test]
    fn slots_go_to_the_client_with_fewest_logins_in_progress() {
        let (a, b) = (client("192.0.2.1"), client("192.0.2.2"));
        assert_eq!(order(&[&a, &a, &a, &a, &b, &b], 6), [4, 0, 5, 1, 2, 3]);
        let (a, b) = (client("192.0.2.1"), client("192.0.2.1"));
        assert_eq!(order(&[&a, &a, &a, &b], 4), [3, 0, 1, 2], "clients of one address");
        assert_eq!(order(&[&a, &b, &a, &b], 4), [0, 1, 2, 3], "in order of arrival");
    }

    #[test]
    fn many_connections_of_an_address_get_no_more_slots() {
        let many: Vec<_> = (0..8).map(|_| client("192.0.2.1")).collect();
        let other = client("192.0.2.2");
        let mut clients: Vec<_> = many.iter().collect();
        clients.extend([&other, &other]);
        assert_eq!(order(&clients, 4), [8, 0, 1, 9]);
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_together() {
        let (a, b) = (client("2001:db8::1"), client("2001:db8::2"));
        let other = client("2001:db8:0:1::1");
        assert_eq!(order(&[&a, &b, &other, &other], 4), [0, 2, 1, 3]);
    }

    #[test]
    fn host_of_several_clients_counts_for_the_least_loaded() {
        let (a, b) = (client("192.0.2.1"), client("192.0.2.2"));
        let shared = host(1, &a);
        let request = WatchRequest { client: &b, set: NotificationSet::Rough, id: 1 };
        shared.add_watcher(None, request).expect("another watcher");
        let logins = Logins {
            active: 0,
            in_progress: vec![host(0, &a)],
            waiting: vec![host(2, &a), shared.clone()],
        };
        assert!(logins.is_next(&shared));
    }

    #[test]
    fn slow_login_gives_its_slot_to_the_next_host() {
        let (limiter, shutdown) = (LoginLimiter::default(), shutdown());
        let a = client("192.0.2.1");
        let hosts: Vec<_> = (0..=MAX_ACTIVE_LOGINS).map(|number| host(number, &a)).collect();
        let (last, first) = hosts.split_last().expect("hosts");
        let mut permits: Vec<_> =
            first.iter().map(|host| limiter.acquire(host, &shutdown).expect("a slot")).collect();
        lock(&limiter.0).waiting.push(last.clone());
        assert!(!lock(&limiter.0).is_next(last));
        let start = Instant::now();
        assert!(permits[0].free_slot_when_slow(start).is_some(), "too early");
        assert_eq!(permits[0].free_slot_when_slow(start + SLOT_TIME), None);
        let permit = limiter.acquire(last, &shutdown).expect("the freed slot");
        drop((permit, permits));
        let logins = lock(&limiter.0);
        assert_eq!((logins.active, logins.in_progress.len()), (0, 0));
    }

    fn shutdown() -> Shutdown {
        Shutdown::new().expect("an eventfd")
    }
}
