use super::summary::{MAX_SUMMARY_APPS, MAX_SUMMARY_DROPPED};
use super::*;

fn at(seconds: f64) -> Duration {
    // The clock's origin is arbitrary.
    Duration::from_secs_f64(1_000_000.0 + seconds)
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A table with one application: heartbeat at 0, timeout 2 s.
fn with_demo() -> HeartbeatTable {
    let mut table = HeartbeatTable::new(10);
    assert_eq!(table.heartbeat("demo", ms(1000), at(0.0)), Ok(ms(2000)));
    table
}

fn ids(table: &mut HeartbeatTable, now: Duration) -> Vec<String> {
    let list = table.ids(now).expect("one list at a time");
    list.ids.iter().map(ToString::to_string).collect()
}

fn transitions(table: &mut HeartbeatTable) -> Vec<(String, AppState)> {
    table.take_transitions().into_iter().map(|each| (each.id, each.to)).collect()
}

fn demo(to: AppState) -> (String, AppState) {
    ("demo".to_owned(), to)
}

#[test]
fn changes_state_at_overdue_ratio_3_5_and_6() {
    for (seconds, state) in [
        (0.0, AppState::Ok),
        (5.999, AppState::Ok),
        (6.0, AppState::Warning),
        (9.999, AppState::Warning),
        (10.0, AppState::Critical),
        (11.999, AppState::Critical),
    ] {
        let mut table = with_demo();
        let status = table.status("demo", at(seconds)).unwrap();
        assert_eq!(status.state, state, "after {seconds} s");
        assert!((status.overdue_ratio - seconds / 2.0).abs() < 1e-9);
        assert_eq!(status.timeout, ms(2000));
    }
    assert_eq!(with_demo().status("demo", at(12.0)), None);
}

#[test]
fn reports_each_transition_once() {
    let mut table = with_demo();
    let mut all = Vec::new();
    for tenth in 0..200 {
        table.advance(at(f64::from(tenth) / 10.0));
        all.extend(transitions(&mut table));
    }
    assert_eq!(all, [demo(AppState::Warning), demo(AppState::Critical), demo(AppState::Dropped)]);
    assert_eq!(table.count(at(20.0)), 0);
    table.heartbeat("demo", ms(0), at(21.0)).unwrap();
    assert_eq!(transitions(&mut table), [demo(AppState::Ok)], "recovered");
}

#[test]
fn reports_final_state_only_after_long_gap() {
    let mut table = with_demo();
    table.advance(at(1000.0));
    assert_eq!(transitions(&mut table), [demo(AppState::Dropped)]);
    let mut table = with_demo();
    table.advance(at(10.5));
    let transition = table.take_transitions().remove(0);
    assert_eq!((transition.to, transition.overdue_ratio), (AppState::Critical, 5.25));
}

#[test]
fn recovers_with_next_heartbeat() {
    let mut table = with_demo();
    table.heartbeat("demo", ms(4000), at(7.0)).unwrap();
    assert_eq!(transitions(&mut table), [demo(AppState::Warning), demo(AppState::Ok)]);
    let status = table.status("demo", at(8.0)).unwrap();
    assert_eq!((status.state, status.overdue_ratio, status.timeout), (AppState::Ok, 0.2, ms(5000)));
    table.heartbeat("demo", ms(4000), at(9.0)).unwrap();
    assert_eq!(transitions(&mut table), [], "a punctual heartbeat is no transition");
}

#[test]
fn done_is_not_reported_as_dropped() {
    let mut table = with_demo();
    assert!(table.done("demo", at(1.0)));
    assert!(!table.done("demo", at(1.0)));
    table.advance(at(100.0));
    table.heartbeat("demo", ms(0), at(100.0)).unwrap();
    assert_eq!(transitions(&mut table), []);
}

#[test]
fn full_table_rejects_new_applications_only() {
    let mut table = HeartbeatTable::new(2);
    for id in ["a", "b"] {
        table.heartbeat(id, ms(1000), at(0.0)).unwrap();
    }
    assert_eq!(table.heartbeat("c", ms(1000), at(0.0)), Err(Full));
    table.heartbeat("a", ms(1000), at(1.0)).unwrap();
    assert_eq!(ids(&mut table, at(1.0)), ["a", "b"]);
    assert_eq!(table.set_maintenance(Some("x"), ms(1), at(1.0)), Ok(()));
    assert_eq!(table.set_maintenance(Some("y"), ms(1), at(1.0)), Ok(()));
    assert_eq!(table.set_maintenance(Some("z"), ms(1), at(1.0)), Err(Full));
    table.done("b", at(2.0));
    assert!(table.heartbeat("c", ms(1000), at(2.0)).is_ok());
}

#[test]
fn next_event_is_never_too_late() {
    let mut table = with_demo();
    assert_eq!(table.next_event(), Some(at(6.0)));
    table.heartbeat("demo", ms(100_000), at(1.0)).unwrap();
    assert_eq!(table.next_event(), Some(at(6.0)), "may be too early");
    table.advance(at(6.0));
    assert_eq!(table.next_event(), Some(at(304.0)));
    table.heartbeat("demo", ms(0), at(7.0)).unwrap();
    assert_eq!(table.next_event(), Some(at(10.0)), "a shorter interval");
    table.done("demo", at(8.0));
    table.advance(at(10.0));
    assert_eq!(table.next_event(), None);
}

#[test]
fn stays_ok_for_a_year_of_hourly_heartbeats() {
    let mut table = HeartbeatTable::new(10);
    let hour = Duration::from_secs(3600);
    for number in 0..365 * 24 {
        let now = at(0.0) + hour * number;
        table.heartbeat("demo", hour, now).unwrap();
        assert_eq!(table.status("demo", now + hour).unwrap().state, AppState::Ok);
    }
    assert_eq!(table.take_transitions(), []);
    let year = at(365.0 * 86_400.0);
    assert!(table.status("demo", year).unwrap().overdue_ratio < 1.01);
}

/// The clock never goes back. If it did, no application would become overdue.
#[test]
fn no_application_becomes_overdue_when_clock_goes_back() {
    let mut table = with_demo();
    table.heartbeat("demo", ms(1000), at(100.0)).unwrap();
    table.take_transitions();
    assert_eq!(table.status("demo", at(50.0)).unwrap().overdue_ratio, 0.0);
    assert_eq!(table.take_transitions(), []);
}

#[test]
fn maintenance_pauses_timeouts() {
    for id in [Some("demo"), None] {
        let mut table = with_demo();
        table.set_maintenance(id, Duration::from_secs(100), at(1.0)).unwrap();
        let status = table.status("demo", at(90.0)).unwrap();
        assert_eq!(status.maintenance, Some(Duration::from_secs(11)));
        assert_eq!(table.maintenance(None, at(90.0)).is_some(), id.is_none());
        assert_eq!(table.next_event(), Some(at(101.0)));
        table.advance(at(101.0));
        assert_eq!(transitions(&mut table), []);
        assert_eq!(table.status("demo", at(106.9)).unwrap().maintenance, None);
        assert_eq!(table.status("demo", at(107.0)).unwrap().state, AppState::Warning);
    }
}

#[test]
fn ends_maintenance_early_and_accepts_unknown_applications() {
    let mut table = with_demo();
    table.set_maintenance(Some("tetris"), Duration::from_secs(100), at(0.0)).unwrap();
    assert!(table.maintenance(Some("tetris"), at(5.0)).is_some());
    assert!(table.maintenance(Some("demo"), at(5.0)).is_none());
    table.set_maintenance(Some("tetris"), Duration::ZERO, at(6.0)).unwrap();
    assert!(table.maintenance(Some("tetris"), at(6.0)).is_none());
    table.set_maintenance(None, Duration::from_secs(100), at(6.5)).unwrap();
    table.set_maintenance(None, Duration::ZERO, at(50.0)).unwrap();
    assert_eq!(table.status("demo", at(55.9)).unwrap().state, AppState::Ok);
    assert_eq!(table.status("demo", at(56.0)).unwrap().state, AppState::Warning);
}

#[test]
fn restart_keeps_applications_and_does_not_count_downtime() {
    let mut table = with_demo();
    table.heartbeat("late", ms(0), at(-3.5)).unwrap();
    table.heartbeat("gone", ms(0), at(-9.0)).unwrap();
    table.set_maintenance(Some("tetris"), Duration::from_secs(60), at(0.0)).unwrap();
    table.advance(at(0.0));
    let saved = table.save(at(1.0));
    let text = serde_json::to_string(&saved).unwrap();
    let saved: Saved = serde_json::from_str(&text).unwrap();
    // Another process with another clock.
    let later = |seconds: f64| Duration::from_secs_f64(5000.0 + seconds);
    let mut table = HeartbeatTable::restore(10, saved, later(0.0));
    assert_eq!(ids(&mut table, later(0.0)), ["demo", "late"]);
    assert_eq!(table.status("demo", later(0.0)).unwrap().overdue_ratio, 0.5);
    assert_eq!(table.status("late", later(0.0)).unwrap().state, AppState::Warning);
    assert_eq!(transitions(&mut table), [], "reported before the restart");
    assert_eq!(table.maintenance(Some("tetris"), later(58.0)), Some(Duration::from_secs(1)));
    assert_eq!(table.next_event(), Some(later(0.5)));
    table.heartbeat("gone", ms(0), later(0.0)).unwrap();
    assert_eq!(transitions(&mut table), [("gone".to_owned(), AppState::Ok)]);
    table.advance(later(5.0));
    let all = transitions(&mut table);
    assert!(all.contains(&demo(AppState::Warning)) && all.len() == 3, "{all:?}");
}

#[test]
fn restore_discards_invalid_entries_and_those_beyond_capacity() {
    let app = |id: &str, timeout_ms| SavedApp { id: id.into(), timeout_ms, age_ms: u64::MAX };
    let apps = vec![app("b", 1), app("zero", 0), app("b", u64::MAX), app("c", 5)];
    let saved = Saved { apps, ..Saved::default() };
    let mut table = HeartbeatTable::restore(2, saved, at(0.0));
    table.advance(at(0.0));
    assert_eq!(ids(&mut table, at(0.0)), ["b"]);
}

#[test]
fn counts_changes_that_must_be_saved() {
    let mut table = with_demo();
    let before = table.changes();
    table.heartbeat("demo", ms(1000), at(1.0)).unwrap();
    assert_eq!(table.changes(), before, "the same interval");
    table.heartbeat("demo", ms(2000), at(2.0)).unwrap();
    assert!(table.changes() > before);
}

#[test]
fn restores_host_maintenance_when_capacity_is_used_by_applications() {
    let mut table = with_demo();
    for number in 0..10 {
        table.set_maintenance(Some(&format!("app{number}")), ms(60_000), at(0.0)).unwrap();
    }
    table.set_maintenance(None, ms(60_000), at(0.0)).unwrap();
    let saved = table.save(at(30.0));
    let mut restored = HeartbeatTable::restore(10, saved, at(30.0));
    assert_eq!(restored.maintenance(None, at(30.0)), Some(ms(30_000)));
    assert_eq!(ids(&mut restored, at(30.0)), ["demo"], "not dropped during maintenance");
}

#[test]
fn is_overdue_exactly_at_next_event() {
    // 5.997 / 1.999 < 3 in floating point arithmetic. The state stayed Ok at the event, and the thread did not wait.
    let mut table = HeartbeatTable::new(10);
    table.heartbeat("demo", ms(999), at(0.0)).unwrap();
    let now = at(0.0) + ms(5997);
    assert_eq!(table.next_event(), Some(now));
    table.advance(now);
    assert_eq!(transitions(&mut table), [demo(AppState::Warning)]);
    assert!(table.next_event() > Some(now));
}

#[test]
fn dropped_application_stays_in_summary_for_an_hour() {
    let mut table = with_demo();
    table.heartbeat("fine", Duration::from_secs(3600), at(0.0)).unwrap();
    let states = |table: &mut HeartbeatTable, seconds: f64| {
        let summary = table.summary(at(seconds));
        let states = summary.shown.iter().map(|each| (each.id.clone(), each.state));
        (states.collect::<Vec<_>>(), AppState::ALL.map(|state| summary.number(state)))
    };
    let fine = ("fine".to_owned(), AppState::Ok);
    let dropped = vec![fine.clone(), demo(AppState::Dropped)];
    assert_eq!(states(&mut table, 11.9).0, [demo(AppState::Critical), fine.clone()]);
    assert_eq!(states(&mut table, 12.0), (dropped.clone(), [1, 0, 0, 1]));
    assert_eq!(ids(&mut table, at(12.0)), ["fine"], "not listed");
    assert_eq!(table.status("demo", at(12.0)), None);
    let last = table.summary(at(3611.0)).shown.remove(1);
    assert_eq!(
        (last.state, last.overdue_ratio, last.timeout),
        (AppState::Dropped, 1805.5, ms(2000))
    );
    let restored =
        HeartbeatTable::restore(10, table.save(at(3611.0)), at(3611.0)).summary(at(3611.9));
    assert_eq!(restored.shown.last().map(|each| each.state), Some(AppState::Dropped));
    assert_eq!(states(&mut table, 3612.0), (vec![fine.clone()], [1, 0, 0, 0]));
    transitions(&mut table);
    table.heartbeat("demo", ms(0), at(3700.0)).unwrap();
    assert_eq!(transitions(&mut table), [demo(AppState::Ok)], "recovered after the hour");
}

#[test]
fn heartbeat_and_done_remove_dropped_application_from_summary() {
    for event in ["heartbeat", "done"] {
        let mut table = with_demo();
        table.advance(at(12.0));
        match event {
            "heartbeat" => drop(table.heartbeat("demo", ms(0), at(13.0))),
            _ => drop(table.done("demo", at(13.0))),
        }
        assert_eq!(table.summary(at(13.0)).number(AppState::Dropped), 0, "{event}");
    }
}

#[test]
fn restore_accepts_state_file_without_dropped_applications() {
    let saved: Saved = serde_json::from_str(r#"{"dropped":["old"]}"#).unwrap();
    let mut table = HeartbeatTable::restore(10, saved, at(0.0));
    assert_eq!(table.summary(at(0.0)).shown, [], "its timeout is not known");
    table.heartbeat("old", ms(0), at(1.0)).unwrap();
    assert_eq!(transitions(&mut table), [("old".to_owned(), AppState::Ok)]);
}

#[test]
fn summary_has_most_overdue_and_latest_dropped_applications() {
    let mut table = HeartbeatTable::new(1000);
    for number in 0..300 {
        table
            .heartbeat(&format!("gone{number}"), ms(0), at(-10.0 + f64::from(number) / 100.0))
            .unwrap();
    }
    for hundredth in 0..300 {
        table.advance(at(-4.0 + f64::from(hundredth) / 100.0));
    }
    for number in 0..300 {
        table.heartbeat(&format!("app{number}"), ms(9000 + number), at(0.0)).unwrap();
    }
    let summary = table.summary(at(1.0));
    let (apps, dropped) = summary.shown.split_at(MAX_SUMMARY_APPS);
    let names = |all: &[AppStatus]| [all[0].id.clone(), all[all.len() - 1].id.clone()];
    assert_eq!(names(apps), ["app0", "app199"], "a shorter timeout is more overdue");
    assert_eq!(
        (names(dropped), dropped.len()),
        (["gone250", "gone299"].map(str::to_owned), MAX_SUMMARY_DROPPED)
    );
    assert_eq!((summary.number(AppState::Ok), summary.number(AppState::Dropped)), (300, 300));
    assert_eq!(summary.truncated, 350);
}

#[test]
fn forgets_oldest_dropped_applications_beyond_capacity() {
    let mut table = HeartbeatTable::new(3);
    for (round, id) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        table.heartbeat(id, ms(0), at(10.0 * round as f64)).unwrap();
        table.advance(at(10.0 * round as f64 + 6.0));
    }
    assert_eq!(table.dropped.keys().map(|id| &**id).collect::<Vec<_>>(), ["c", "d", "e"]);
}
