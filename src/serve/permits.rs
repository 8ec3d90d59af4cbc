//! Who may hold a connection: so many in all, so many an address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;

use crate::sync::lock;

/// The connections of one port.
#[derive(Default)]
pub struct Permits(Mutex<Held>);

#[derive(Default)]
struct Held {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One connection's place, given back when it is dropped.
pub struct Permit<'a> {
    permits: &'a Permits,
    address: Option<IpAddr>,
}

impl Permits {
    /// A place, if fewer than `max` are taken; 0: there is no limit.
    pub fn enter(&self, max: usize) -> Option<Permit<'_>> {
        let mut held = lock(&self.0);
        if max > 0 && held.all >= max {
            return None;
        }
        held.all += 1;
        Some(Permit { permits: self, address: None })
    }
}

impl Permit<'_> {
    /// Counts this connection for `address`; refused when that has `max` already. 0: there is no limit.
    pub fn claim(&mut self, address: IpAddr, max: usize) -> bool {
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
}

impl Held {
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

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut held = lock(&self.permits.0);
        held.all -= 1;
        held.give_back(self.address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_and_given_back() {
        let permits = Permits::default();
        let one = permits.enter(2).expect("a place");
        let _two = permits.enter(2).expect("a place");
        assert!(permits.enter(2).is_none());
        assert!(permits.enter(0).is_some(), "0 is no limit");
        drop(one);
        assert!(permits.enter(2).is_some());
        assert_eq!(lock(&permits.0).all, 1);
    }

    #[test]
    fn an_address_has_its_own_limit() {
        let permits = Permits::default();
        let (a, b) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut first = permits.enter(0).expect("a place");
        let mut second = permits.enter(0).expect("a place");
        assert!(first.claim(a, 1));
        assert!(!second.claim(a, 1));
        assert!(second.claim(b, 1));
        drop(first);
        assert!(permits.enter(0).expect("a place").claim(a, 1));
        assert!(second.claim(a, 1), "counted for another one now");
        assert!(permits.enter(0).expect("a place").claim(b, 1));
        drop(second);
        assert!(lock(&permits.0).by_address.is_empty(), "nobody is remembered");
    }
}
