//! The heartbeat table: a state machine without I/O. `now` is a parameter, read from an
//! [`ActiveClock`](crate::heartbeat::active_clock::ActiveClock).
//!
//! An application announces an interval with each heartbeat. Its timeout is that interval plus [`GRACE`]. The overdue ratio
//! (`od` in the protocol) is the time since the last heartbeat ÷ timeout. From 3 on an application is in state WARNING, from
//! 5 on CRITICAL, and at 6 it is dropped: the thresholds of the released heartbeat server 1.0.0.

mod id_list;
mod saved;
mod summary;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::heartbeat::table::id_list::IdLists;
pub use crate::heartbeat::table::id_list::{Busy, IdList};
pub use crate::heartbeat::table::saved::{Saved, SavedApp, SavedDropped, SavedMaintenance};
use crate::model::status::{AppState, AppStatus};

/// Maximum number of applications; each takes about 300 bytes.
pub const MAX_APPS: usize = 10_000;
/// Added to the announced interval, as the released server does.
pub const GRACE: Duration = Duration::from_secs(1);
/// An application changed its state.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    pub id: String,
    pub to: AppState,
    /// At the time of the transition; 0 on recovery.
    pub overdue_ratio: f64,
    /// Granted with the last heartbeat.
    pub timeout: Duration,
}

/// The table has reached its capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

#[derive(Debug, Clone, Copy)]
struct App {
    /// Or the end of its maintenance.
    last_heartbeat: Duration,
    timeout: Duration,
    /// The state of the last transition.
    last_reported: AppState,
    /// Position in lists: the order of the first heartbeats.
    sequence: u64,
}

impl App {
    fn overdue_ratio(&self, now: Duration) -> f64 {
        // Nanoseconds are exact in a float here. A quotient of float seconds can be below 3 at exactly three timeouts.
        now.saturating_sub(self.last_heartbeat).as_nanos() as f64 / self.timeout.as_nanos() as f64
    }

    /// When it enters the next state.
    fn next_transition_at(&self) -> Duration {
        let ratio = match self.last_reported {
            AppState::Ok => 3,
            AppState::Warning => 5,
            AppState::Critical | AppState::Dropped => 6,
        };
        self.last_heartbeat.saturating_add(self.timeout.saturating_mul(ratio))
    }
}

/// An application that was dropped. Its next heartbeat is a recovery.
struct Dropped {
    at: Duration,
    /// `None` if the state file no longer has it.
    app: Option<App>,
}

pub struct HeartbeatTable {
    capacity: usize,
    apps: BTreeMap<Arc<str>, App>,
    /// Ids by [`App::sequence`].
    order: BTreeMap<u64, Arc<str>>,
    id_lists: IdLists,
    dropped: BTreeMap<Arc<str>, Dropped>,
    /// End of the maintenance of applications, in the table or not.
    maintenance: BTreeMap<String, Duration>,
    host_maintenance: Option<Duration>,
    /// Not yet taken by [`HeartbeatTable::take_transitions`].
    transitions: Vec<Transition>,
    /// Number of changes that must be saved.
    changes: u64,
    next_seq: u64,
    /// No state changes before this time. It may be too early but never too late: a heartbeat only postpones transitions, so
    /// a heartbeat need not search all applications for the next one.
    next_event_at: Duration,
}

impl HeartbeatTable {
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            apps: BTreeMap::new(),
            order: BTreeMap::new(),
            id_lists: IdLists::default(),
            dropped: BTreeMap::new(),
            maintenance: BTreeMap::new(),
            host_maintenance: None,
            transitions: Vec::new(),
            changes: 0,
            next_seq: 0,
            next_event_at: Duration::MAX,
        }
    }

    /// Records a heartbeat that announces the next one within `interval`. Returns the timeout. A full table rejects new
    /// applications only.
    pub fn heartbeat(
        &mut self,
        id: &str,
        interval: Duration,
        now: Duration,
    ) -> Result<Duration, Full> {
        self.advance(now);
        let timeout = interval.saturating_add(GRACE);
        if let Some(app) = self.apps.get_mut(id) {
            self.changes += u64::from(app.timeout != timeout || app.last_reported != AppState::Ok);
            let previous = std::mem::replace(&mut app.last_reported, AppState::Ok);
            (app.last_heartbeat, app.timeout) = (now, timeout);
            self.next_event_at = self.next_event_at.min(app.next_transition_at());
            if previous != AppState::Ok {
                self.report_recovery(id, timeout, now);
            }
            return Ok(timeout);
        }
        if self.apps.len() >= self.capacity {
            return Err(Full);
        }
        self.changes += 1;
        self.insert(id, now, timeout, AppState::Ok);
        if self.dropped.remove(id).is_some() {
            self.report_recovery(id, timeout, now);
        }
        Ok(timeout)
    }

    /// Removes an application that has finished. Returns whether it was in the table.
    pub fn done(&mut self, id: &str, now: Duration) -> bool {
        self.advance(now);
        let known = self.remove(id).is_some();
        let was_dropped = self.dropped.remove(id).is_some();
        self.changes += u64::from(known || was_dropped);
        known
    }

    /// Starts maintenance of an application, or of the host. A length of zero ends it.
    pub fn set_maintenance(
        &mut self,
        id: Option<&str>,
        length: Duration,
        now: Duration,
    ) -> Result<(), Full> {
        self.advance(now);
        self.changes += 1;
        let until = now.saturating_add(length);
        self.next_event_at = self.next_event_at.min(until);
        match id {
            None if length.is_zero() => {
                if self.host_maintenance.take().is_some() {
                    self.on_maintenance_end(None, now);
                }
            }
            None => self.host_maintenance = Some(until),
            Some(id) if length.is_zero() => {
                if self.maintenance.remove(id).is_some() {
                    self.on_maintenance_end(Some(id), now);
                }
            }
            Some(id) => {
                let known = self.maintenance.contains_key(id);
                if !known && self.maintenance.len() >= self.capacity {
                    return Err(Full);
                }
                self.maintenance.insert(id.to_owned(), until);
            }
        }
        Ok(())
    }

    /// All ids, in the order of their first heartbeats.
    pub fn ids(&mut self, now: Duration) -> Result<Arc<IdList>, Busy> {
        self.advance(now);
        self.id_lists.current(&self.order)
    }

    /// The first `max` ids, in the order of their first heartbeats.
    pub fn first_ids(&mut self, max: usize, now: Duration) -> Vec<Arc<str>> {
        self.advance(now);
        self.order.values().take(max).cloned().collect()
    }

    pub fn status(&mut self, id: &str, now: Duration) -> Option<AppStatus> {
        self.advance(now);
        self.apps.get(id).map(|app| self.status_of(id, app, now))
    }

    /// Number of applications.
    pub fn count(&mut self, now: Duration) -> usize {
        self.advance(now);
        self.apps.len()
    }

    /// The remaining maintenance of an application, or with `None` of the host.
    pub fn maintenance(&self, id: Option<&str>, now: Duration) -> Option<Duration> {
        let own = id.and_then(|id| self.maintenance.get(id)).copied();
        let until = own.max(self.host_maintenance)?;
        until.checked_sub(now).filter(|remaining| !remaining.is_zero())
    }

    /// Advances to `now`: applications become overdue or are dropped, maintenance ends.
    pub fn advance(&mut self, now: Duration) {
        if now < self.next_event_at {
            return;
        }
        self.end_maintenance(now);
        let (maintenance, host) = (&self.maintenance, self.host_maintenance.is_some());
        let mut transitions = Vec::new();
        for (id, app) in &mut self.apps {
            if now < app.next_transition_at() || host || maintenance.contains_key(&**id) {
                continue;
            }
            let overdue_ratio = app.overdue_ratio(now);
            let to = AppState::from_overdue_ratio(overdue_ratio);
            app.last_reported = to;
            transitions.push(Transition {
                id: id.to_string(),
                to,
                overdue_ratio,
                timeout: app.timeout,
            });
        }
        self.changes += transitions.len() as u64;
        for transition in transitions.iter().filter(|each| each.to == AppState::Dropped) {
            if let Some((id, app)) = self.remove(&transition.id) {
                let app = App { last_reported: AppState::Dropped, ..app };
                self.dropped.insert(id, Dropped { at: now, app: Some(app) });
            }
        }
        self.forget_oldest_dropped();
        self.transitions.extend(transitions);
        self.next_event_at = self.find_next_event();
    }

    pub fn has_transitions(&self) -> bool {
        !self.transitions.is_empty()
    }

    /// Takes the transitions since the last call, in order.
    pub fn take_transitions(&mut self) -> Vec<Transition> {
        std::mem::take(&mut self.transitions)
    }

    /// When [`HeartbeatTable::advance`] must be called next; `None`: no event is due at any time.
    pub fn next_event(&self) -> Option<Duration> {
        Some(self.next_event_at).filter(|at| *at < Duration::MAX)
    }

    pub fn in_maintenance(&self) -> bool {
        self.host_maintenance.is_some() || !self.maintenance.is_empty()
    }

    /// Grows with each change that must be saved.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    fn insert(&mut self, id: &str, last_heartbeat: Duration, timeout: Duration, state: AppState) {
        self.next_seq += 1;
        let app = App { last_heartbeat, timeout, last_reported: state, sequence: self.next_seq };
        self.next_event_at = self.next_event_at.min(app.next_transition_at());
        let id: Arc<str> = id.into();
        self.order.insert(app.sequence, id.clone());
        self.id_lists.on_added(&id);
        self.apps.insert(id, app);
    }

    fn remove(&mut self, id: &str) -> Option<(Arc<str>, App)> {
        let removed = self.apps.remove_entry(id)?;
        self.order.remove(&removed.1.sequence);
        self.id_lists.on_removed(id);
        Some(removed)
    }

    fn in_order(&self) -> impl Iterator<Item = (&Arc<str>, &App)> {
        self.order.values().filter_map(|id| self.apps.get_key_value(id))
    }

    fn status_of(&self, id: &str, app: &App, now: Duration) -> AppStatus {
        AppStatus {
            id: id.to_owned(),
            state: app.last_reported,
            overdue_ratio: app.overdue_ratio(now),
            timeout: app.timeout,
            maintenance: self.maintenance(Some(id), now),
        }
    }

    fn find_next_event(&self) -> Duration {
        let host = self.host_maintenance.is_some();
        let active = |id: &str| !host && !self.maintenance.contains_key(id);
        let apps = self.apps.iter().filter(|(id, _)| active(id));
        let maintenance_ends = self.maintenance.values().copied().chain(self.host_maintenance);
        let transitions = apps.map(|(_, app)| app.next_transition_at());
        transitions.chain(maintenance_ends).min().unwrap_or(Duration::MAX)
    }

    fn report_recovery(&mut self, id: &str, timeout: Duration, now: Duration) {
        if self.maintenance(Some(id), now).is_none() {
            let id = id.to_owned();
            let (to, overdue_ratio) = (AppState::Ok, 0.0);
            self.transitions.push(Transition { id, to, overdue_ratio, timeout });
        }
    }

    fn forget_oldest_dropped(&mut self) {
        let excess = self.dropped.len().saturating_sub(self.capacity);
        if excess > 0 {
            let mut all: Vec<_> =
                self.dropped.iter().map(|(id, one)| (one.at, id.clone())).collect();
            all.sort();
            for (_, id) in all.iter().take(excess) {
                self.dropped.remove(id);
            }
        }
    }

    fn end_maintenance(&mut self, now: Duration) {
        if let Some(until) = self.host_maintenance
            && now >= until
        {
            self.host_maintenance = None;
            self.changes += 1;
            self.on_maintenance_end(None, until);
        }
        let expired: Vec<(String, Duration)> = self
            .maintenance
            .iter()
            .filter(|(_, until)| now >= **until)
            .map(|(id, until)| (id.clone(), *until))
            .collect();
        for (id, until) in expired {
            self.maintenance.remove(&id);
            self.changes += 1;
            self.on_maintenance_end(Some(&id), until);
        }
    }

    /// Restarts the timeouts, because time in maintenance does not count as overdue.
    fn on_maintenance_end(&mut self, id: Option<&str>, at: Duration) {
        let affected: Vec<&mut App> = match id {
            Some(id) => self.apps.get_mut(id).into_iter().collect(),
            None => self.apps.values_mut().collect(),
        };
        for app in affected {
            app.last_heartbeat = app.last_heartbeat.max(at);
            app.last_reported = AppState::Ok;
            self.next_event_at = self.next_event_at.min(app.next_transition_at());
        }
    }
}

#[cfg(test)]
mod tests;
