//! Conditions of applications and of connections to servers.

use crate::health::conditions::{Condition, count_of, warning, with_message};
use crate::model::finding::{Action, Component};
use crate::model::health_problem::Severity;
use crate::model::status::{AppState, AppStatus, AppSummary, DROPPED_RATIO, UpstreamStatus};

/// More overdue applications are counted, not listed.
const MAX_LISTED_APPS: usize = 5;
/// An application that was dropped is shown for this long.
const DROPPED_AGE_S: f64 = 3600.0;
/// The loss of reports is shown for this long.
const DROPPED_REPORT_AGE_S: u64 = 86_400;

pub fn applications(apps: &AppSummary) -> Vec<Condition> {
    let overdue: Vec<&AppStatus> = apps.shown.iter().filter(|app| is_overdue(app)).collect();
    if overdue.len() > MAX_LISTED_APPS {
        let is_critical = overdue.iter().any(|app| severity(app) == Severity::Critical);
        let worst = if is_critical { Severity::Critical } else { Severity::Warning };
        let text = format!("{} applications are overdue", overdue.len());
        let found = Condition::new(Component::Application, worst, "overdue", text);
        return vec![found.action(Action::RestartApplication)];
    }
    let found = overdue.into_iter().map(|app| {
        let what = match app.state {
            AppState::Dropped => "dropped, no heartbeat",
            AppState::Warning | AppState::Critical | AppState::Ok => "heartbeat overdue",
        };
        let found = Condition::new(Component::Application, severity(app), "overdue", what);
        found.of(format!("Application {}", app.id)).action(Action::RestartApplication)
    });
    found.collect()
}

fn severity(app: &AppStatus) -> Severity {
    match app.state {
        AppState::Warning => Severity::Warning,
        AppState::Dropped | AppState::Critical | AppState::Ok => Severity::Critical,
    }
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

/// `now` is in Unix seconds.
pub fn upstreams(upstreams: &[UpstreamStatus], now: u64) -> Vec<Condition> {
    let mut found = Vec::new();
    for upstream in upstreams {
        let reason = upstream.last_disconnect_reason.as_deref();
        if upstream.state != "online" && (upstream.state == "waiting" || reason.is_some()) {
            let text = with_message("not online", reason);
            found.push(warning(Component::Upstream, "offline", text).of(&*upstream.name));
        }
        let has_dropped = |at: u64| now.abs_diff(at) < DROPPED_REPORT_AGE_S;
        if upstream.last_dropped_unix_seconds.is_some_and(has_dropped) {
            let text = format!("{} dropped", count_of(upstream.dropped, "report"));
            found.push(warning(Component::Upstream, "dropped", text).of(&*upstream.name));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_of_reports_is_shown_for_a_day() {
        let mut status = UpstreamStatus {
            name: "hm".to_owned(),
            state: "online".to_owned(),
            ..UpstreamStatus::default()
        };
        let at = |status: &UpstreamStatus, now| upstreams(std::slice::from_ref(status), now).len();
        assert_eq!(at(&status, 1000), 0);
        (status.dropped, status.last_dropped_unix_seconds) = (2, Some(1000));
        let found = [1000, 1000 + 86_399, 1000 + 86_400].map(|now| at(&status, now));
        assert_eq!(found, [1, 1, 0]);
    }
}
