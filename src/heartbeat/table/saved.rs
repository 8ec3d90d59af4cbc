//! What of the table survives a restart of the agent.
//!
//! Ages, not times of day: a clock that was set meanwhile changes nothing. The time in which nobody listened
//! does not count against anybody.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::heartbeat::table::{App, HeartbeatTable};
use crate::model::status::AppState;

/// The table in a form that can be written down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Those in the table.
    #[serde(default)]
    pub apps: Vec<SavedApp>,
    /// Those that were dropped and have not come back.
    #[serde(default)]
    pub dropped: Vec<String>,
    /// Maintenance that is not over.
    #[serde(default)]
    pub maintenance: Vec<SavedMaintenance>,
}

/// An application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedApp {
    /// Who.
    pub id: String,
    /// What its last beat was granted, in milliseconds.
    pub granted_ms: u64,
    /// How long ago that was, in milliseconds.
    pub age_ms: u64,
}

/// Maintenance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedMaintenance {
    /// Of whom; absent: of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// For how long, in milliseconds.
    pub left_ms: u64,
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl HeartbeatTable {
    /// The table as it is at `now`.
    pub fn save(&mut self, now: Duration) -> Saved {
        self.advance(now);
        let app = |(id, app): (&String, &App)| SavedApp {
            id: id.clone(),
            granted_ms: milliseconds(app.granted),
            age_ms: milliseconds(now.saturating_sub(app.since)),
        };
        let ends = |id: Option<&String>, until: Duration| SavedMaintenance {
            id: id.cloned(),
            left_ms: milliseconds(until.saturating_sub(now)),
        };
        let of_apps = self.maintenance.iter().map(|(id, until)| ends(Some(id), *until));
        let of_host = self.host_maintenance.map(|until| ends(None, until));
        Saved {
            apps: self.in_order().map(app).collect(),
            dropped: self.dropped.keys().cloned().collect(),
            maintenance: of_apps.chain(of_host).collect(),
        }
    }

    /// A table as it was when it was saved, going on at `now`. More than there is room for is left out. What
    /// had been told of an application then is not told again.
    pub fn restore(capacity: usize, saved: Saved, now: Duration) -> Self {
        let mut watch = Self::new(capacity);
        for app in saved.apps.into_iter().filter(|app| app.granted_ms > 0).take(capacity) {
            let granted = Duration::from_millis(app.granted_ms);
            // The clock may be younger than the age, just after the machine was started: then the age is
            // cut, and the application has more time.
            let since = now.saturating_sub(Duration::from_millis(app.age_ms));
            watch.comers += 1;
            let number = watch.comers;
            let mut restored = App { since, granted, told: AppState::Ok, number };
            restored.told = AppState::from_overdue_ratio(restored.od(now)).min(AppState::Critical);
            watch.apps.insert(app.id, restored);
        }
        watch.dropped = saved.dropped.into_iter().take(capacity).map(|id| (id, now)).collect();
        for maintenance in saved.maintenance {
            let until = now.saturating_add(Duration::from_millis(maintenance.left_ms));
            match maintenance.id {
                None => watch.host_maintenance = Some(until),
                Some(id) if watch.maintenance.len() < capacity => {
                    watch.maintenance.insert(id, until);
                }
                Some(_) => {}
            }
        }
        watch.quiet_until = watch.find_next_deadline();
        watch
    }
}
