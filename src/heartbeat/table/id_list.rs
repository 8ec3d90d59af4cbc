//! The ids of all applications at one moment, for the response to `/list`.
//!
//! All responses share a list until an application is added or removed, and render it while they write it. A client can make
//! each response have a list of its own by adding an application before, and can refuse to read it, so the lists are limited.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::heartbeat::nagios;

/// Ids in all lists together; 16 bytes each. A hundred lists of a full table.
const MAX_LISTED_IDS: usize = 1_000_000;

/// Too many different lists are being sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

/// Ids in the order of their first heartbeats.
#[derive(Debug)]
pub struct IdList {
    pub ids: Vec<Arc<str>>,
    /// Length of the response.
    pub bytes: usize,
    listed: Arc<AtomicUsize>,
}

impl Drop for IdList {
    fn drop(&mut self) {
        self.listed.fetch_sub(self.ids.len(), Relaxed);
    }
}

/// Makes the lists of one table.
#[derive(Default)]
pub(super) struct IdLists {
    current: Option<Arc<IdList>>,
    /// Length of the response. To compute it for each list would take longer than to send the list.
    bytes: usize,
    /// Number of ids in the lists that exist.
    listed: Arc<AtomicUsize>,
}

impl IdLists {
    pub(super) fn on_added(&mut self, id: &str) {
        self.bytes += nagios::list_line_length(id);
        self.current = None;
    }

    pub(super) fn on_removed(&mut self, id: &str) {
        self.bytes -= nagios::list_line_length(id);
        self.current = None;
    }

    pub(super) fn current(&mut self, order: &BTreeMap<u64, Arc<str>>) -> Result<Arc<IdList>, Busy> {
        if let Some(list) = &self.current {
            return Ok(list.clone());
        }
        // Only one thread at a time adds to it, because the table is locked.
        if self.listed.load(Relaxed) + order.len() > MAX_LISTED_IDS {
            return Err(Busy);
        }
        self.listed.fetch_add(order.len(), Relaxed);
        let ids = order.values().cloned().collect();
        let list = Arc::new(IdList { ids, bytes: self.bytes, listed: self.listed.clone() });
        self.current = Some(list.clone());
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_a_list_until_it_changes_and_limits_different_ones() {
        let order: BTreeMap<u64, Arc<str>> = (0..10_000).map(|at| (at, "id".into())).collect();
        let mut lists = IdLists::default();
        let first = lists.current(&order).expect("a list");
        assert!(Arc::ptr_eq(&first, &lists.current(&order).expect("the same list")));
        let different = |lists: &mut IdLists| {
            lists.on_added("id");
            lists.current(&order)
        };
        let held: Vec<_> = (1..100).map(|_| different(&mut lists).expect("a list")).collect();
        assert_eq!(different(&mut lists).err(), Some(Busy));
        drop(first);
        assert!(different(&mut lists).is_ok(), "a list was sent");
        drop(held);
        lists.on_removed("id");
        assert_eq!(lists.listed.load(Relaxed), 0);
    }
}
