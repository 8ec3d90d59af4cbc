//! Who may hold a connection: so many in all, so many an address.
//!
//! When all places are taken, a newcomer gets that of somebody who does not use it: the longest waiting of those who have
//! never asked for anything, or else of those who have not for a while. Peers that are silent, or gone without a word, so
//! keep nobody out, and who is talked with is not touched.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::limits;
use crate::util::sync::lock;

/// The connections of one port.
#[derive(Default)]
pub struct ConnectionLimiter(Mutex<State>);

#[derive(Default)]
struct State {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
    /// Who is waited for: since when, and how it is told to go.
    waiting: BTreeMap<Turn, (Instant, Arc<TcpStream>)>,
    turns: u64,
}

/// Who goes first: strangers before those who have asked for something, and then whoever has waited longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    known: bool,
    number: u64,
}

/// One connection's place, given back when it is dropped.
pub struct ConnectionPermit<'a> {
    permits: &'a ConnectionLimiter,
    address: Option<IpAddr>,
    socket: Arc<TcpStream>,
    /// While the other end is waited for.
    turn: Cell<Option<Turn>>,
    /// Somebody had to give way for it.
    pub evicted_other: bool,
}

impl ConnectionLimiter {
    /// A place for a connection, if fewer than `max` are taken or somebody must give way; 0: there is no limit.
    pub fn enter(&self, max: usize, socket: &Arc<TcpStream>) -> Option<ConnectionPermit<'_>> {
        let mut held = lock(&self.0);
        let evicted_other = max > 0 && held.all >= max;
        if evicted_other && !held.evict_idle(max) {
            return None;
        }
        held.all += 1;
        let turn = Cell::new(Some(held.wait(false, socket)));
        Some(ConnectionPermit {
            permits: self,
            address: None,
            socket: socket.clone(),
            turn,
            evicted_other,
        })
    }
}

impl ConnectionPermit<'_> {
    /// Counts this connection for `address`; refused when that has `max` already. 0: there is no limit.
    pub fn assign_ip(&mut self, address: IpAddr, max: usize) -> bool {
        let mut held = lock(&self.permits.0);
        // It may have been counted for somebody else, when the settings said so.
        held.give_back(self.address.take());
        let count = held.by_address.entry(address).or_insert(0);
        let granted = max == 0 || *count < max;
        if granted {
            *count += 1;
            self.address = Some(address);
        }
        granted
    }

    /// Whether it had to give way: what it has not said to the end is nothing to complain about.
    pub fn was_evicted(&self) -> bool {
        self.turn.get().is_some_and(|turn| !lock(&self.permits.0).waiting.contains_key(&turn))
    }

    /// It has asked for something: from now on its place is its own.
    pub fn mark_active(&self) {
        if let Some(turn) = self.turn.take() {
            lock(&self.permits.0).waiting.remove(&turn);
        }
    }

    /// It was answered, and may or may not ask for more.
    pub fn mark_idle(&self) {
        self.mark_active();
        self.turn.set(Some(lock(&self.permits.0).wait(true, &self.socket)));
    }
}

impl State {
    fn wait(&mut self, known: bool, socket: &Arc<TcpStream>) -> Turn {
        self.turns += 1;
        let turn = Turn { known, number: self.turns };
        self.waiting.insert(turn, (Instant::now(), socket.clone()));
        turn
    }

    /// Has somebody give way. It leaves at once, but not before its thread knows; of those who are leaving there are not
    /// many at a time.
    fn evict_idle(&mut self, max: usize) -> bool {
        if self.all >= max.saturating_add(limits::LEAVING) {
            return false;
        }
        let Some(first) = self.waiting.first_entry() else { return false };
        if first.key().known && first.get().0.elapsed() < limits::IDLE {
            return false;
        }
        let (_, socket) = first.remove();
        // It fails when the other end has closed already.
        let _ = socket.shutdown(Shutdown::Both);
        true
    }

    fn give_back(&mut self, address: Option<IpAddr>) {
        let Some(address) = address else { return };
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Drop for ConnectionPermit<'_> {
    fn drop(&mut self) {
        let mut held = lock(&self.permits.0);
        held.all -= 1;
        held.give_back(self.address);
        if let Some(turn) = self.turn.take() {
            held.waiting.remove(&turn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read};
    use std::net::TcpListener;
    use std::time::Duration;

    /// Both ends of a connection.
    fn connection() -> (Arc<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let far =
            TcpStream::connect(listener.local_addr().expect("its number")).expect("connected");
        far.set_nonblocking(true).expect("a mode");
        (Arc::new(listener.accept().expect("accepted").0), far)
    }

    fn was_told_to_go(far: &mut TcpStream) -> bool {
        match far.read(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }

    #[test]
    fn places_are_given_back() {
        let (permits, (socket, _far)) = (ConnectionLimiter::default(), connection());
        let enter = |max| {
            let permit = permits.enter(max, &socket)?;
            permit.mark_active();
            Some(permit)
        };
        let one = enter(2).expect("a place");
        let _two = enter(2).expect("a place");
        assert!(enter(2).is_none());
        assert!(enter(0).is_some(), "0 is no limit");
        drop(one);
        assert!(enter(2).is_some());
        assert_eq!(lock(&permits.0).all, 1);
    }

    #[test]
    fn who_does_not_use_a_place_gives_way_strangers_first() {
        let permits = ConnectionLimiter::default();
        let mut connections: Vec<_> = (0..6).map(|_| connection()).collect();
        let enter = |at: usize| permits.enter(4, &connections[at].0);
        let (talking, known) = (enter(0).expect("a place"), enter(1).expect("a place"));
        let (old, young) = (enter(2).expect("a place"), enter(3).expect("a place"));
        talking.mark_active();
        known.mark_idle();
        let first = enter(4).expect("that of the oldest stranger");
        assert!(
            old.was_evicted()
                && first.evicted_other
                && !young.was_evicted()
                && !young.evicted_other
        );
        first.mark_active();
        drop(old);
        assert!(enter(5).is_some(), "that of the other stranger");
        drop(young);
        assert_eq!(lock(&permits.0).waiting.len(), 1);
        drop(enter(5).expect("a place"));
        let second = enter(5).expect("a place");
        second.mark_active();
        assert!(enter(5).is_none(), "who was heard a moment ago is not sent away");
        lock(&permits.0).waiting.values_mut().for_each(|(since, _)| *since -= limits::IDLE);
        assert!(enter(5).is_some(), "who was not for long is");
        drop(known);
        let told: Vec<_> = connections.iter_mut().map(|(_, far)| was_told_to_go(far)).collect();
        assert_eq!(told, [false, true, true, true, false, false]);
        drop((talking, first, second));
        assert!(lock(&permits.0).waiting.is_empty() && lock(&permits.0).all == 0);
    }

    #[test]
    fn not_many_are_leaving_at_a_time() {
        let permits = ConnectionLimiter::default();
        let (socket, _far) = connection();
        let entered: Vec<_> =
            (0..limits::LEAVING + 10).map(|_| permits.enter(5, &socket)).collect();
        assert_eq!(entered.iter().flatten().count(), limits::LEAVING + 5);
        assert!(limits::IDLE < Duration::from_secs(60));
    }

    #[test]
    fn an_address_has_its_own_limit() {
        let (permits, (socket, _far)) = (ConnectionLimiter::default(), connection());
        let enter = || permits.enter(0, &socket).expect("a place");
        let (a, b) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let (mut first, mut second) = (enter(), enter());
        assert!(first.assign_ip(a, 1));
        assert!(!second.assign_ip(a, 1));
        assert!(second.assign_ip(b, 1));
        drop(first);
        assert!(enter().assign_ip(a, 1));
        assert!(second.assign_ip(a, 1), "counted for another one now");
        assert!(enter().assign_ip(b, 1));
        drop(second);
        assert!(lock(&permits.0).by_address.is_empty(), "nobody is remembered");
    }
}
