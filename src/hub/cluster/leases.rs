//! Which hubs are alive. A hub counts up in the database as long as it runs; one that has not counted for [`LEASE`] is dead.
//!
//! Only time in which this hub has read the database counts, by its own clock. So neither a database that was away nor a hub that was
//! stopped nor a clock that was set makes another hub look dead.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::hub::nodes::shared::InstanceId;

/// A hub that has not counted for this long is dead.
pub const LEASE: Duration = Duration::from_secs(20);
/// Time between two counts of a hub.
pub const RENEWAL_INTERVAL: Duration = Duration::from_secs(5);
/// More time between two observations does not count: the database was away.
const MAX_GAP: Duration = Duration::from_secs(3);

struct Lease {
    count: i64,
    silent_for: Duration,
    is_alive: bool,
}

/// What an observation has shown.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LeaseChanges {
    /// Have not counted for [`LEASE`].
    pub silent: Vec<InstanceId>,
    /// Were alive, and are not in the database any more.
    pub stopped: Vec<InstanceId>,
    /// Were dead, and count again.
    pub returned: Vec<InstanceId>,
}

#[derive(Default)]
pub struct Leases {
    by_instance: HashMap<InstanceId, Lease>,
    last_observation: Option<Instant>,
}

impl Leases {
    /// `counts` are those of all other hubs in the database. A new one is alive until it has been silent.
    pub fn observe(&mut self, now: Instant, counts: &[(InstanceId, i64)]) -> LeaseChanges {
        let gap = self.last_observation.map_or(Duration::ZERO, |last| now - last).min(MAX_GAP);
        self.last_observation = Some(now);
        let mut changes = LeaseChanges::default();
        for (instance, count) in counts {
            let new = Lease { count: *count, silent_for: Duration::ZERO, is_alive: true };
            let Some(lease) = self.by_instance.get_mut(instance) else {
                self.by_instance.insert(*instance, new);
                continue;
            };
            if lease.count != *count {
                if !lease.is_alive {
                    changes.returned.push(*instance);
                }
                *lease = new;
                continue;
            }
            lease.silent_for += gap;
            if lease.is_alive && lease.silent_for >= LEASE {
                lease.is_alive = false;
                changes.silent.push(*instance);
            }
        }
        self.by_instance.retain(|instance, lease| {
            let is_known = counts.iter().any(|(known, _)| known == instance);
            if !is_known && lease.is_alive {
                changes.stopped.push(*instance);
            }
            is_known
        });
        changes
    }

    pub fn is_alive(&self, instance: InstanceId) -> bool {
        self.by_instance.get(&instance).is_some_and(|lease| lease.is_alive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_is_dead_after_its_lease_and_alive_when_it_counts_again() {
        let (start, mut leases) = (Instant::now(), Leases::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in 0..20 {
            assert_eq!(leases.observe(at(second), &[(1, 7)]), LeaseChanges::default(), "{second}");
            assert!(leases.is_alive(1));
        }
        let silent = LeaseChanges { silent: vec![1], ..LeaseChanges::default() };
        assert_eq!(leases.observe(at(20), &[(1, 7)]), silent);
        assert_eq!(leases.observe(at(21), &[(1, 7)]), LeaseChanges::default());
        assert!(!leases.is_alive(1) && !leases.is_alive(2));
        let returned = LeaseChanges { returned: vec![1], ..LeaseChanges::default() };
        assert_eq!(leases.observe(at(22), &[(1, 8)]), returned);
        assert!(leases.is_alive(1));
    }

    #[test]
    fn time_without_the_database_does_not_count() {
        let (start, mut leases) = (Instant::now(), Leases::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        leases.observe(at(0), &[(1, 7)]);
        for after in [600, 1200, 1800, 2400, 3000, 3600] {
            assert_eq!(leases.observe(at(after), &[(1, 7)]), LeaseChanges::default());
        }
    }

    #[test]
    fn hub_that_has_stopped_is_dead_at_once() {
        let (now, mut leases) = (Instant::now(), Leases::default());
        leases.observe(now, &[(1, 7), (2, 1)]);
        let stopped = LeaseChanges { stopped: vec![1], ..LeaseChanges::default() };
        assert_eq!(leases.observe(now, &[(2, 2)]), stopped);
        assert_eq!(leases.observe(now, &[(2, 2)]), LeaseChanges::default());
    }
}
