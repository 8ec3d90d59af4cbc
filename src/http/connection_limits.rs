//! Limits the connections of a port, in total and per client.
//!
//! When the limit is reached, a new connection evicts an idle one: first the one that has waited longest without ever sending
//! a request, then the one that has been idle longest after a request. So silent or vanished peers keep no client out, and a
//! connection in use is never evicted.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::http::client_network::CountedClient;
use crate::util::sync::lock;

/// At the limit, this many more connections may be open: those that replace evicted ones whose threads have not ended yet.
const MAX_EVICTING: usize = 64;
/// A persistent connection may be evicted after it has been idle for this long. HTTP clients reconnect.
const MIN_IDLE_BEFORE_EVICTION: Duration = Duration::from_secs(1);

/// Counts the connections of one port.
#[derive(Default)]
pub struct ConnectionLimiter(Mutex<State>);

#[derive(Default)]
struct State {
    total: usize,
    by_client: HashMap<CountedClient, usize>,
    /// Idle connections: since when, and the socket to shut down.
    idle: BTreeMap<IdleKey, (Instant, Arc<TcpStream>)>,
    last_number: u64,
}

/// Eviction order: connections that never sent a request first, then by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct IdleKey {
    has_sent_request: bool,
    number: u64,
}

/// Permission to hold one connection, released when dropped.
pub struct ConnectionPermit<'a> {
    limiter: &'a ConnectionLimiter,
    client: Option<CountedClient>,
    socket: Arc<TcpStream>,
    /// `Some` while the connection is idle.
    idle_key: Cell<Option<IdleKey>>,
    /// Another connection was evicted for this one.
    pub evicted_other: bool,
}

impl ConnectionLimiter {
    /// Permits a connection if fewer than `max` are open or an idle one can be evicted. 0 means unlimited.
    pub fn acquire(&self, max: usize, socket: &Arc<TcpStream>) -> Option<ConnectionPermit<'_>> {
        let mut state = lock(&self.0);
        let evicted_other = max > 0 && state.total >= max;
        if evicted_other && !state.evict_idle(max) {
            return None;
        }
        state.total += 1;
        let idle_key = Cell::new(Some(state.add_idle(false, socket)));
        let socket = socket.clone();
        Some(ConnectionPermit { limiter: self, client: None, socket, idle_key, evicted_other })
    }
}

impl ConnectionPermit<'_> {
    /// Counts this connection for `client` instead of any earlier one. Returns false if `client` has `max` connections already;
    /// 0 means unlimited.
    pub fn assign_client(&mut self, client: CountedClient, max: usize) -> bool {
        let mut state = lock(&self.limiter.0);
        state.release_client(self.client.take());
        let count = state.by_client.get(&client).copied().unwrap_or(0);
        let permitted = max == 0 || count < max;
        if permitted {
            state.by_client.insert(client, count + 1);
            self.client = Some(client);
        }
        permitted
    }

    /// Whether the connection was evicted while idle. Then an incomplete request is no error of the client.
    pub fn was_evicted(&self) -> bool {
        self.idle_key.get().is_some_and(|key| !lock(&self.limiter.0).idle.contains_key(&key))
    }

    /// The connection has sent a request and cannot be evicted from now on.
    pub fn mark_active(&self) {
        if let Some(key) = self.idle_key.take() {
            lock(&self.limiter.0).idle.remove(&key);
        }
    }

    /// The request was answered; the connection may be evicted until the next one.
    pub fn mark_idle(&self) {
        self.mark_active();
        self.idle_key.set(Some(lock(&self.limiter.0).add_idle(true, &self.socket)));
    }
}

impl State {
    fn add_idle(&mut self, has_sent_request: bool, socket: &Arc<TcpStream>) -> IdleKey {
        self.last_number += 1;
        let key = IdleKey { has_sent_request, number: self.last_number };
        self.idle.insert(key, (Instant::now(), socket.clone()));
        key
    }

    /// Shuts down the socket of the first idle connection. Its permit is released later, when its thread ends;
    /// [`MAX_EVICTING`] bounds the connections in that state.
    fn evict_idle(&mut self, max: usize) -> bool {
        if self.total >= max.saturating_add(MAX_EVICTING) {
            return false;
        }
        let Some(first) = self.idle.first_entry() else { return false };
        let idle_time = first.get().0.elapsed();
        if first.key().has_sent_request && idle_time < MIN_IDLE_BEFORE_EVICTION {
            return false;
        }
        let (_, socket) = first.remove();
        // Fails if the client has closed the connection already.
        let _ = socket.shutdown(Shutdown::Both);
        true
    }

    fn release_client(&mut self, client: Option<CountedClient>) {
        let Some(client) = client else { return };
        if let Some(count) = self.by_client.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.by_client.remove(&client);
            }
        }
    }
}

impl Drop for ConnectionPermit<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.limiter.0);
        state.total -= 1;
        state.release_client(self.client);
        if let Some(key) = self.idle_key.take() {
            state.idle.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read};
    use std::net::TcpListener;

    /// Both ends of a connection.
    fn connection() -> (Arc<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let client = TcpStream::connect(address).expect("connected");
        client.set_nonblocking(true).expect("non-blocking");
        (Arc::new(listener.accept().expect("accepted").0), client)
    }

    fn is_closed(client: &mut TcpStream) -> bool {
        match client.read(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }

    #[test]
    fn dropped_permit_frees_its_place() {
        let (limiter, (socket, _client)) = (ConnectionLimiter::default(), connection());
        let acquire = |max| {
            let permit = limiter.acquire(max, &socket)?;
            permit.mark_active();
            Some(permit)
        };
        let one = acquire(2).expect("first");
        let _two = acquire(2).expect("second");
        assert!(acquire(2).is_none());
        assert!(acquire(0).is_some(), "0 is unlimited");
        drop(one);
        assert!(acquire(2).is_some());
        assert_eq!(lock(&limiter.0).total, 1);
    }

    #[test]
    fn evicts_connections_without_request_before_idle_ones() {
        let limiter = ConnectionLimiter::default();
        let mut connections: Vec<_> = (0..6).map(|_| connection()).collect();
        let acquire = |at: usize| limiter.acquire(4, &connections[at].0);
        let (active, idle) = (acquire(0).expect("active"), acquire(1).expect("idle"));
        let (oldest, younger) = (acquire(2).expect("oldest"), acquire(3).expect("younger"));
        active.mark_active();
        idle.mark_idle();
        let first = acquire(4).expect("replaces the oldest without a request");
        assert!(oldest.was_evicted() && first.evicted_other);
        assert!(!younger.was_evicted() && !younger.evicted_other);
        first.mark_active();
        drop(oldest);
        assert!(acquire(5).is_some(), "replaces the younger one");
        drop(younger);
        assert_eq!(lock(&limiter.0).idle.len(), 1);
        drop(acquire(5).expect("a free place"));
        let second = acquire(5).expect("a free place");
        second.mark_active();
        assert!(acquire(5).is_none(), "the idle one was active a moment ago");
        let idle_times = |state: &mut State| {
            state.idle.values_mut().for_each(|(since, _)| *since -= MIN_IDLE_BEFORE_EVICTION);
        };
        idle_times(&mut lock(&limiter.0));
        assert!(acquire(5).is_some(), "replaces the idle one");
        drop(idle);
        let closed: Vec<_> = connections.iter_mut().map(|(_, client)| is_closed(client)).collect();
        assert_eq!(closed, [false, true, true, true, false, false]);
        drop((active, first, second));
        assert!(lock(&limiter.0).idle.is_empty() && lock(&limiter.0).total == 0);
    }

    #[test]
    fn bounds_connections_that_are_being_evicted() {
        let limiter = ConnectionLimiter::default();
        let (socket, _client) = connection();
        let permits: Vec<_> = (0..MAX_EVICTING + 10).map(|_| limiter.acquire(5, &socket)).collect();
        assert_eq!(permits.iter().flatten().count(), MAX_EVICTING + 5);
    }

    #[test]
    fn limits_connections_per_client() {
        let (limiter, (socket, _client)) = (ConnectionLimiter::default(), connection());
        let acquire = || limiter.acquire(0, &socket).expect("unlimited");
        let (a, b) = (client("10.0.0.1"), client("10.0.0.2"));
        let (mut first, mut second) = (acquire(), acquire());
        assert!(first.assign_client(a, 1));
        assert!(!second.assign_client(a, 1));
        assert!(second.assign_client(b, 1));
        drop(first);
        assert!(acquire().assign_client(a, 1));
        assert!(second.assign_client(a, 1), "counts for another client now");
        assert!(acquire().assign_client(b, 1));
        drop(second);
        assert!(lock(&limiter.0).by_client.is_empty(), "no client is remembered");
    }

    fn client(address: &str) -> CountedClient {
        let ip: std::net::IpAddr = address.parse().expect("an address");
        CountedClient { network: ip.into(), is_forwarded: false }
    }

    #[test]
    fn counts_ipv6_networks_mapped_ipv4_addresses_and_forwarded_clients() {
        let (limiter, (socket, _client)) = (ConnectionLimiter::default(), connection());
        let permits = |clients: &[CountedClient]| {
            let mut permits: Vec<_> =
                clients.iter().map(|_| limiter.acquire(0, &socket).expect("unlimited")).collect();
            let each = permits.iter_mut().zip(clients);
            each.map(|(permit, client)| permit.assign_client(*client, 1)).collect::<Vec<_>>()
        };
        let forwarded = CountedClient { is_forwarded: true, ..client("10.0.0.1") };
        for (one, other, permitted) in [
            (client("2001:db8::1"), client("2001:db8::ffff:0:0:1"), false),
            (client("2001:db8::1"), client("2001:db8:0:1::1"), true),
            (client("10.0.0.1"), client("::ffff:10.0.0.1"), false),
            (client("10.0.0.1"), client("::ffff:10.0.0.2"), true),
            (client("10.0.0.1"), forwarded, true),
            (forwarded, forwarded, false),
        ] {
            assert_eq!(permits(&[one, other]), [true, permitted], "{one:?} {other:?}");
        }
    }
}
