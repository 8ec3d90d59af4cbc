//! What samples contain of the table: a bounded number of applications, those that need attention most.

use std::sync::Arc;
use std::time::Duration;

use crate::heartbeat::table::{App, HeartbeatTable};
use crate::model::status::{AppState, AppSummary};

/// Applications in a summary, the most overdue ones. A local user can register 10 000 with ids of 256 bytes, each of
/// which JSON may escape with six, and a summary is part of every sample.
pub(super) const MAX_SUMMARY_APPS: usize = 200;
/// A dropped application stays in summaries for this long, so that an outage is not mistaken for a recovery.
const DROPPED_SHOWN_FOR: Duration = Duration::from_secs(3600);
/// Dropped applications in a summary, the latest ones.
pub(super) const MAX_SUMMARY_DROPPED: usize = 50;

impl HeartbeatTable {
    /// The most overdue applications and those dropped within the last hour, each in the order of their first heartbeats.
    pub fn summary(&mut self, now: Duration) -> AppSummary {
        self.advance(now);
        let mut summary = AppSummary::default();
        let mut apps: Vec<(&Arc<str>, &App)> = self.apps.iter().collect();
        apps.iter().for_each(|(_, app)| summary.count(app.last_reported, 1));
        if apps.len() > MAX_SUMMARY_APPS {
            let ratio = |app: &App| app.overdue_ratio(now);
            apps.select_nth_unstable_by(MAX_SUMMARY_APPS, |(_, one), (_, other)| {
                ratio(other).total_cmp(&ratio(one))
            });
            apps.truncate(MAX_SUMMARY_APPS);
        }
        apps.sort_by_key(|(_, app)| app.sequence);
        summary.truncated = self.apps.len() - apps.len();
        let dropped = self.recently_dropped(now);
        summary.count(AppState::Dropped, dropped.len());
        summary.truncated += dropped.len().saturating_sub(MAX_SUMMARY_DROPPED);
        let mut latest: Vec<_> = dropped.into_iter().take(MAX_SUMMARY_DROPPED).collect();
        latest.sort_by_key(|(_, _, app)| app.sequence);
        let latest = latest.into_iter().map(|(id, _, app)| (id, app));
        let shown = apps.into_iter().chain(latest);
        summary.shown = shown.map(|(id, app)| self.status_of(id, app, now)).collect();
        summary
    }

    /// The applications dropped within the last hour, the latest first, with the time when each was dropped.
    pub(super) fn recently_dropped(&self, now: Duration) -> Vec<(&Arc<str>, Duration, &App)> {
        let since = now.saturating_sub(DROPPED_SHOWN_FOR);
        let recent = self.dropped.iter().filter(|(_, dropped)| dropped.at > since);
        let mut recent: Vec<_> = recent
            .filter_map(|(id, dropped)| Some((id, dropped.at, dropped.app.as_ref()?)))
            .collect();
        recent.sort_by_key(|(_, at, _)| std::cmp::Reverse(*at));
        recent
    }
}
