//! The heartbeat table: who promised to beat, when it beat last, what that comes to. A pure state machine:
//! `now` is a parameter, on a clock that never jumps and stands still while the machine sleeps or nobody listens
//! ([`ActiveClock`]).
//!
//! Overdue ratio `od` = time since the last beat ÷ granted time. From 3 on an application is late, from 5 on
//! very late, and at 6 it is dropped: the thresholds of the released heartbeat server 1.0.0.

pub mod active_clock;
pub mod saved;

use crate::model::status::{AppState, AppStatus};
use std::collections::BTreeMap;
use std::time::Duration;

pub use crate::heartbeat::table::active_clock::ActiveClock;
pub use crate::heartbeat::table::saved::{Saved, SavedApp, SavedMaintenance};

/// What a beat grants beyond what it promised, as the released server does.
pub const TOLERANCE: Duration = Duration::from_secs(1);

/// An application has become later, or is in time again.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    /// Who.
    pub id: String,
    /// What it has become.
    pub to: AppState,
    /// Its overdue ratio at that moment; 0 when it is in time again.
    pub od: f64,
    /// What its last beat was granted.
    pub granted: Duration,
}

/// There is no room for another application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

struct App {
    /// When it beat last, or its maintenance ended.
    since: Duration,
    granted: Duration,
    /// What the last transition was to.
    told: AppState,
    /// Who came first is listed first.
    number: u64,
}

impl App {
    fn od(&self, now: Duration) -> f64 {
        // Whole numbers, for which a float has room here: of seconds, three times as long may be less than three times.
        now.saturating_sub(self.since).as_nanos() as f64 / self.granted.as_nanos() as f64
    }

    /// When it next becomes later than it is known to be.
    fn next_deadline(&self) -> Duration {
        let ratio = match self.told {
            AppState::Ok => 3,
            AppState::Warning => 5,
            AppState::Critical | AppState::Dropped => 6,
        };
        self.since.saturating_add(self.granted.saturating_mul(ratio))
    }
}

/// The table.
pub struct HeartbeatTable {
    capacity: usize,
    apps: BTreeMap<String, App>,
    /// Those that were dropped, so that their coming back is a recovery.
    dropped: BTreeMap<String, Duration>,
    /// Until when applications are in maintenance, in the table or not.
    maintenance: BTreeMap<String, Duration>,
    /// Until when the whole host is.
    host_maintenance: Option<Duration>,
    /// What has happened and nobody has taken yet.
    transitions: Vec<Transition>,
    /// Counts changes that are worth saving.
    changes: u64,
    /// Counts those who came.
    comers: u64,
    /// Nothing happens before this. Beats put deadlines off, so it may be too early, never too late: time
    /// passes for all at once, and a beat costs no look at everybody.
    quiet_until: Duration,
}

impl HeartbeatTable {
    /// An empty table for so many applications.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            apps: BTreeMap::new(),
            dropped: BTreeMap::new(),
            maintenance: BTreeMap::new(),
            host_maintenance: None,
            transitions: Vec::new(),
            changes: 0,
            comers: 0,
            quiet_until: Duration::MAX,
        }
    }

    /// A beat: the next one is promised within `promised`. Says how long it is waited for. Those who beat
    /// already are never refused.
    pub fn beat(&mut self, id: &str, promised: Duration, now: Duration) -> Result<Duration, Full> {
        self.advance(now);
        let granted = promised.saturating_add(TOLERANCE);
        if let Some(app) = self.apps.get_mut(id) {
            self.changes += u64::from(app.granted != granted || app.told != AppState::Ok);
            let late = std::mem::replace(&mut app.told, AppState::Ok) != AppState::Ok;
            (app.since, app.granted) = (now, granted);
            self.quiet_until = self.quiet_until.min(app.next_deadline());
            if late {
                self.recovered(id, granted, now);
            }
            return Ok(granted);
        }
        if self.apps.len() >= self.capacity {
            return Err(Full);
        }
        self.changes += 1;
        self.comers += 1;
        let app = App { since: now, granted, told: AppState::Ok, number: self.comers };
        self.quiet_until = self.quiet_until.min(app.next_deadline());
        self.apps.insert(id.to_owned(), app);
        if self.dropped.remove(id).is_some() {
            self.recovered(id, granted, now);
        }
        Ok(granted)
    }

    /// A goodbye. Says whether it was known.
    pub fn done(&mut self, id: &str, now: Duration) -> bool {
        self.advance(now);
        let known = self.apps.remove(id).is_some();
        self.dropped.remove(id);
        self.changes += u64::from(known);
        known
    }

    /// Maintenance of one application, or of the host, for so long; for no time: it ends.
    pub fn maintain(
        &mut self,
        id: Option<&str>,
        length: Duration,
        now: Duration,
    ) -> Result<(), Full> {
        self.advance(now);
        self.changes += 1;
        let until = now.saturating_add(length);
        self.quiet_until = self.quiet_until.min(until);
        match id {
            None if length.is_zero() => {
                if self.host_maintenance.take().is_some() {
                    self.maintenance_ended(None, now);
                }
            }
            None => self.host_maintenance = Some(until),
            Some(id) if length.is_zero() => {
                if self.maintenance.remove(id).is_some() {
                    self.maintenance_ended(Some(id), now);
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

    /// Who is in the table, in the order in which they came.
    pub fn ids(&mut self, now: Duration) -> Vec<&str> {
        self.advance(now);
        self.in_order().map(|(id, _)| id.as_str()).collect()
    }

    fn in_order(&self) -> impl Iterator<Item = (&String, &App)> {
        let mut all: Vec<_> = self.apps.iter().collect();
        all.sort_by_key(|(_, app)| app.number);
        all.into_iter()
    }

    /// One application.
    pub fn status(&mut self, id: &str, now: Duration) -> Option<AppStatus> {
        self.advance(now);
        self.apps.get(id).map(|app| self.status_of(id, app, now))
    }

    /// How many there are.
    pub fn count(&mut self, now: Duration) -> usize {
        self.advance(now);
        self.apps.len()
    }

    /// All of them, in the order in which they came.
    pub fn statuses(&mut self, now: Duration) -> Vec<AppStatus> {
        self.advance(now);
        self.in_order().map(|(id, app)| self.status_of(id, app, now)).collect()
    }

    /// For how long an application, or with `None` the host, is still in maintenance.
    pub fn maintenance(&self, id: Option<&str>, now: Duration) -> Option<Duration> {
        let own = id.and_then(|id| self.maintenance.get(id)).copied();
        let until = own.max(self.host_maintenance)?;
        until.checked_sub(now).filter(|left| !left.is_zero())
    }

    /// Lets time pass: applications become late, are dropped, maintenance ends.
    pub fn advance(&mut self, now: Duration) {
        if now < self.quiet_until {
            return;
        }
        self.end_maintenance(now);
        let (maintenance, host) = (&self.maintenance, self.host_maintenance.is_some());
        let mut later = Vec::new();
        for (id, app) in &mut self.apps {
            if now < app.next_deadline() || host || maintenance.contains_key(id) {
                continue;
            }
            let od = app.od(now);
            app.told = AppState::from_overdue_ratio(od);
            later.push(Transition { id: id.clone(), to: app.told, od, granted: app.granted });
        }
        self.changes += later.len() as u64;
        for transition in &later {
            if transition.to == AppState::Dropped {
                self.apps.remove(&transition.id);
                self.remember_dropped(&transition.id, now);
            }
        }
        self.transitions.extend(later);
        self.quiet_until = self.find_next_deadline();
    }

    /// Whether something has happened since [`Watch::take_transitions`].
    pub fn has_transitions(&self) -> bool {
        !self.transitions.is_empty()
    }

    /// What has happened since this was asked last, in order.
    pub fn take_transitions(&mut self) -> Vec<Transition> {
        std::mem::take(&mut self.transitions)
    }

    /// Nothing happens before this, whoever beats; `None`: nothing at all. Then it is time to
    /// [`Watch::advance`].
    pub fn next_deadline(&self) -> Option<Duration> {
        Some(self.quiet_until).filter(|until| *until < Duration::MAX)
    }

    /// Whether anybody is in maintenance.
    pub fn in_maintenance(&self) -> bool {
        self.host_maintenance.is_some() || !self.maintenance.is_empty()
    }

    /// Grows with each change that a restart must not forget.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    fn status_of(&self, id: &str, app: &App, now: Duration) -> AppStatus {
        AppStatus {
            id: id.to_owned(),
            state: app.told,
            overdue_ratio: app.od(now),
            timeout: app.granted,
            maintenance: self.maintenance(Some(id), now),
        }
    }

    fn find_next_deadline(&self) -> Duration {
        let host = self.host_maintenance.is_some();
        let counted = |id: &String| !host && !self.maintenance.contains_key(id);
        let apps = self.apps.iter().filter(|(id, _)| counted(id));
        let ends = self.maintenance.values().copied().chain(self.host_maintenance);
        apps.map(|(_, app)| app.next_deadline()).chain(ends).min().unwrap_or(Duration::MAX)
    }

    fn recovered(&mut self, id: &str, granted: Duration, now: Duration) {
        if self.maintenance(Some(id), now).is_none() {
            let id = id.to_owned();
            self.transitions.push(Transition { id, to: AppState::Ok, od: 0.0, granted });
        }
    }

    fn remember_dropped(&mut self, id: &str, now: Duration) {
        if self.dropped.len() >= self.capacity {
            let oldest = self.dropped.iter().min_by_key(|(_, at)| **at).map(|(id, _)| id.clone());
            oldest.and_then(|oldest| self.dropped.remove(&oldest));
        }
        self.dropped.insert(id.to_owned(), now);
    }

    fn end_maintenance(&mut self, now: Duration) {
        if let Some(until) = self.host_maintenance
            && now >= until
        {
            self.host_maintenance = None;
            self.changes += 1;
            self.maintenance_ended(None, until);
        }
        let over: Vec<(String, Duration)> = self
            .maintenance
            .iter()
            .filter(|(_, until)| now >= **until)
            .map(|(id, until)| (id.clone(), *until))
            .collect();
        for (id, until) in over {
            self.maintenance.remove(&id);
            self.changes += 1;
            self.maintenance_ended(Some(&id), until);
        }
    }

    /// Time in maintenance is nobody's fault: promises begin anew.
    fn maintenance_ended(&mut self, id: Option<&str>, at: Duration) {
        let all = self.apps.iter_mut().filter(|(app, _)| id.is_none_or(|id| id == *app));
        for (_, app) in all {
            app.since = app.since.max(at);
            app.told = AppState::Ok;
            self.quiet_until = self.quiet_until.min(app.next_deadline());
        }
    }
}

#[cfg(test)]
mod tests;
