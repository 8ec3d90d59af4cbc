//! The part of the table that survives a restart of the agent.
//!
//! It stores ages, not times of day, so setting the system clock changes nothing. Time during which the agent did not run does
//! not count as overdue.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::heartbeat::table::summary::MAX_SUMMARY_DROPPED;
use crate::heartbeat::table::{App, Dropped, HeartbeatTable};
use crate::model::status::AppState;

/// The content of the state file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    #[serde(default)]
    pub apps: Vec<SavedApp>,
    /// Ids of applications that were dropped and have not recovered.
    #[serde(default)]
    pub dropped: Vec<String>,
    /// Those of them that summaries still contain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped_apps: Vec<SavedDropped>,
    #[serde(default)]
    pub maintenance: Vec<SavedMaintenance>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedApp {
    pub id: String,
    #[serde(rename = "granted_ms")]
    pub timeout_ms: u64,
    /// Time since the last heartbeat.
    pub age_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedDropped {
    #[serde(flatten)]
    pub app: SavedApp,
    /// Time since it was dropped.
    pub dropped_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedMaintenance {
    /// Absent: the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(rename = "left_ms")]
    pub remaining_ms: u64,
}

impl SavedApp {
    fn to_app(&self, now: Duration) -> App {
        App {
            // Just after boot the clock may be younger than the age. The age is then cut, which gives the application more
            // time.
            last_heartbeat: now.saturating_sub(Duration::from_millis(self.age_ms)),
            timeout: Duration::from_millis(self.timeout_ms),
            last_reported: AppState::Dropped,
            sequence: 0,
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl HeartbeatTable {
    /// The content to store at `now`.
    pub fn save(&mut self, now: Duration) -> Saved {
        self.advance(now);
        let app = |(id, app): (&Arc<str>, &App)| SavedApp {
            id: id.to_string(),
            timeout_ms: milliseconds(app.timeout),
            age_ms: milliseconds(now.saturating_sub(app.last_heartbeat)),
        };
        let maintenance = |id: Option<&String>, until: Duration| SavedMaintenance {
            id: id.cloned(),
            remaining_ms: milliseconds(until.saturating_sub(now)),
        };
        let of_apps = self.maintenance.iter().map(|(id, until)| maintenance(Some(id), *until));
        let of_host = self.host_maintenance.map(|until| maintenance(None, until));
        let recently_dropped = self.recently_dropped(now).into_iter().take(MAX_SUMMARY_DROPPED);
        let dropped = |(id, at, dropped)| SavedDropped {
            app: app((id, dropped)),
            dropped_ms: milliseconds(now.saturating_sub(at)),
        };
        Saved {
            apps: self.in_order().map(app).collect(),
            dropped: self.dropped.keys().map(ToString::to_string).collect(),
            dropped_apps: recently_dropped.map(dropped).collect(),
            maintenance: of_apps.chain(of_host).collect(),
        }
    }

    /// Restores a table that continues at `now`. Entries beyond `capacity` are discarded. States that were reported before
    /// the restart are not reported again.
    pub fn restore(capacity: usize, saved: Saved, now: Duration) -> Self {
        let mut table = Self::new(capacity);
        for saved in saved.apps.into_iter().filter(|app| app.timeout_ms > 0).take(capacity) {
            let mut app = saved.to_app(now);
            let state = AppState::from_overdue_ratio(app.overdue_ratio(now));
            app.last_reported = state.min(AppState::Critical);
            table.remove(&saved.id);
            table.insert(&saved.id, app.last_heartbeat, app.timeout, app.last_reported);
        }
        let forgotten = |id: String| (id.into(), Dropped { at: now, app: None });
        table.dropped = saved.dropped.into_iter().take(capacity).map(forgotten).collect();
        for saved in saved.dropped_apps {
            if let Some(dropped) = table.dropped.get_mut(&*saved.app.id) {
                let at = now.saturating_sub(Duration::from_millis(saved.dropped_ms));
                let app = saved.app.to_app(now);
                *dropped = Dropped { at, app: (saved.app.timeout_ms > 0).then_some(app) };
            }
        }
        for saved in saved.maintenance {
            let until = now.saturating_add(Duration::from_millis(saved.remaining_ms));
            match saved.id {
                None => table.host_maintenance = Some(until),
                Some(id) if table.maintenance.len() < capacity => {
                    table.maintenance.insert(id, until);
                }
                Some(_) => {}
            }
        }
        table.next_event_at = table.find_next_event();
        table
    }
}
