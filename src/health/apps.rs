//! Conditions of applications and of connections to servers.

use crate::health::conditions::{Condition, count_of, critical, warning, with_message};
use crate::model::finding::{Action, Component};
use crate::model::health_problem::Severity;
use crate::model::status::{AppState, AppStatus, AppSummary, DROPPED_RATIO, UpstreamStatus};

/// More overdue applications are counted, not listed.
const MAX_LISTED_APPS: usize = 5;
/// An application that was dropped is shown for this long.
const DROPPED_AGE_S: f64 = 3600.0;

pub fn applications(apps: &AppSummary) -> Vec<Condition> {
    let overdue: Vec<&AppStatus> = apps.shown.iter().filter(|app| is_overdue(app)).collect();
    if overdue.len() > MAX_LISTED_APPS {
        let text = format!("{} applications are overdue", overdue.len());
        let found = critical(Component::Application, "overdue", text);
        return vec![found.action(Action::RestartApplication)];
    }
    let found = overdue.into_iter().map(|app| {
        let (severity, what) = match app.state {
            AppState::Warning => (Severity::Warning, "heartbeat overdue"),
            AppState::Dropped => (Severity::Critical, "dropped, no heartbeat"),
            AppState::Critical | AppState::Ok => (Severity::Critical, "heartbeat overdue"),
        };
        let found = Condition::new(Component::Application, severity, "overdue", what);
        found.of(format!("Application {}", app.id)).action(Action::RestartApplication)
    });
    found.collect()
}

fn is_overdue(app: &AppStatus) -> bool {
    let is_shown = match app.state {
        AppState::Ok => false,
        AppState::Warning | AppState::Critical => true,
        AppState::Dropped => {
            (app.overdue_ratio - DROPPED_RATIO) * app.timeout.as_secs_f64() < DROPPED_AGE_S
        }
    };
    is_shown && app.maintenance.is_none()
}

pub fn upstreams(upstreams: &[UpstreamStatus]) -> Vec<Condition> {
    let mut found = Vec::new();
    for upstream in upstreams {
        let reason = upstream.last_disconnect_reason.as_deref();
        if upstream.state != "online" && (upstream.state == "waiting" || reason.is_some()) {
            let text = with_message("not online", reason);
            found.push(warning(Component::Upstream, "offline", text).of(&*upstream.name));
        }
        if upstream.dropped > 0 {
            let text = format!("{} dropped", count_of(upstream.dropped, "report"));
            found.push(warning(Component::Upstream, "dropped", text).of(&*upstream.name));
        }
    }
    found
}
