use super::*;

fn at(seconds: f64) -> Duration {
    // The clock is nobody's time of day; it starts anywhere.
    Duration::from_secs_f64(1_000_000.0 + seconds)
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A table with one application, granted two seconds at 0.
fn with_demo() -> HeartbeatTable {
    let mut watch = HeartbeatTable::new(10);
    assert_eq!(watch.beat("demo", ms(1000), at(0.0)), Ok(ms(2000)));
    watch
}

fn told(watch: &mut HeartbeatTable) -> Vec<(String, AppState)> {
    watch.take_transitions().into_iter().map(|each| (each.id, each.to)).collect()
}

fn demo(to: AppState) -> (String, AppState) {
    ("demo".to_owned(), to)
}

#[test]
fn the_thresholds_are_3_5_and_6() {
    for (seconds, lateness) in [
        (0.0, AppState::Ok),
        (5.999, AppState::Ok),
        (6.0, AppState::Warning),
        (9.999, AppState::Warning),
        (10.0, AppState::Critical),
        (11.999, AppState::Critical),
    ] {
        let mut watch = with_demo();
        let status = watch.status("demo", at(seconds)).unwrap();
        assert_eq!(status.state, lateness, "after {seconds} s");
        assert!((status.overdue_ratio - seconds / 2.0).abs() < 1e-9);
        assert_eq!(status.timeout, ms(2000));
    }
    assert_eq!(with_demo().status("demo", at(12.0)), None);
}

#[test]
fn each_transition_is_told_once() {
    let mut watch = with_demo();
    let mut all = Vec::new();
    for tenth in 0..200 {
        watch.advance(at(f64::from(tenth) / 10.0));
        all.extend(told(&mut watch));
    }
    assert_eq!(all, [demo(AppState::Warning), demo(AppState::Critical), demo(AppState::Dropped)]);
    assert_eq!(watch.count(at(20.0)), 0);
    watch.beat("demo", ms(0), at(21.0)).unwrap();
    assert_eq!(told(&mut watch), [demo(AppState::Ok)], "it is back");
}

#[test]
fn who_slept_through_it_all_is_told_the_end_only() {
    let mut watch = with_demo();
    watch.advance(at(1000.0));
    assert_eq!(told(&mut watch), [demo(AppState::Dropped)]);
    let mut watch = with_demo();
    watch.advance(at(10.5));
    let transition = watch.take_transitions().remove(0);
    assert_eq!((transition.to, transition.od), (AppState::Critical, 5.25));
}

#[test]
fn a_beat_makes_good() {
    let mut watch = with_demo();
    watch.beat("demo", ms(4000), at(7.0)).unwrap();
    assert_eq!(told(&mut watch), [demo(AppState::Warning), demo(AppState::Ok)]);
    let status = watch.status("demo", at(8.0)).unwrap();
    assert_eq!((status.state, status.overdue_ratio, status.timeout), (AppState::Ok, 0.2, ms(5000)));
    watch.beat("demo", ms(4000), at(9.0)).unwrap();
    assert_eq!(told(&mut watch), [], "a beat in time is nothing new");
}

#[test]
fn a_goodbye_is_no_drop() {
    let mut watch = with_demo();
    assert!(watch.done("demo", at(1.0)));
    assert!(!watch.done("demo", at(1.0)));
    watch.advance(at(100.0));
    watch.beat("demo", ms(0), at(100.0)).unwrap();
    assert_eq!(told(&mut watch), []);
}

#[test]
fn a_full_table_refuses_new_ones_and_keeps_the_old() {
    let mut watch = HeartbeatTable::new(2);
    for id in ["a", "b"] {
        watch.beat(id, ms(1000), at(0.0)).unwrap();
    }
    assert_eq!(watch.beat("c", ms(1000), at(0.0)), Err(Full));
    watch.beat("a", ms(1000), at(1.0)).unwrap();
    assert_eq!(watch.ids(at(1.0)), ["a", "b"]);
    assert_eq!(watch.maintain(Some("x"), ms(1), at(1.0)), Ok(()));
    assert_eq!(watch.maintain(Some("y"), ms(1), at(1.0)), Ok(()));
    assert_eq!(watch.maintain(Some("z"), ms(1), at(1.0)), Err(Full));
    watch.done("b", at(2.0));
    assert!(watch.beat("c", ms(1000), at(2.0)).is_ok());
}

#[test]
fn the_next_deadline_is_never_too_late() {
    let mut watch = with_demo();
    assert_eq!(watch.next_deadline(), Some(at(6.0)));
    watch.beat("demo", ms(100_000), at(1.0)).unwrap();
    assert_eq!(watch.next_deadline(), Some(at(6.0)), "early is allowed");
    watch.advance(at(6.0));
    assert_eq!(watch.next_deadline(), Some(at(304.0)));
    watch.beat("demo", ms(0), at(7.0)).unwrap();
    assert_eq!(watch.next_deadline(), Some(at(10.0)), "a shorter promise");
    watch.done("demo", at(8.0));
    watch.advance(at(10.0));
    assert_eq!(watch.next_deadline(), None);
}

#[test]
fn a_year_of_beats_is_a_year_in_time() {
    let mut watch = HeartbeatTable::new(10);
    let hour = Duration::from_secs(3600);
    for beat in 0..365 * 24 {
        let now = at(0.0) + hour * beat;
        watch.beat("demo", hour, now).unwrap();
        assert_eq!(watch.status("demo", now + hour).unwrap().state, AppState::Ok);
    }
    assert_eq!(watch.take_transitions(), []);
    let year = at(365.0 * 86_400.0);
    assert!(watch.status("demo", year).unwrap().overdue_ratio < 1.01);
}

/// The clock does not go back; if it did, an application would not be late for it.
#[test]
fn time_that_goes_back_harms_nobody() {
    let mut watch = with_demo();
    watch.beat("demo", ms(1000), at(100.0)).unwrap();
    watch.take_transitions();
    assert_eq!(watch.status("demo", at(50.0)).unwrap().overdue_ratio, 0.0);
    assert_eq!(watch.take_transitions(), []);
}

#[test]
fn maintenance_stops_the_clock() {
    for id in [Some("demo"), None] {
        let mut watch = with_demo();
        watch.maintain(id, Duration::from_secs(100), at(1.0)).unwrap();
        let status = watch.status("demo", at(90.0)).unwrap();
        assert_eq!(status.maintenance, Some(Duration::from_secs(11)));
        assert_eq!(watch.maintenance(None, at(90.0)).is_some(), id.is_none());
        assert_eq!(watch.next_deadline(), Some(at(101.0)));
        watch.advance(at(101.0));
        assert_eq!(told(&mut watch), []);
        assert_eq!(watch.status("demo", at(106.9)).unwrap().maintenance, None);
        assert_eq!(watch.status("demo", at(107.0)).unwrap().state, AppState::Warning);
    }
}

#[test]
fn maintenance_can_be_ended_and_is_for_strangers_too() {
    let mut watch = with_demo();
    watch.maintain(Some("tetris"), Duration::from_secs(100), at(0.0)).unwrap();
    assert!(watch.maintenance(Some("tetris"), at(5.0)).is_some());
    assert!(watch.maintenance(Some("demo"), at(5.0)).is_none());
    watch.maintain(Some("tetris"), Duration::ZERO, at(6.0)).unwrap();
    assert!(watch.maintenance(Some("tetris"), at(6.0)).is_none());
    watch.maintain(None, Duration::from_secs(100), at(6.5)).unwrap();
    watch.maintain(None, Duration::ZERO, at(50.0)).unwrap();
    assert_eq!(watch.status("demo", at(55.9)).unwrap().state, AppState::Ok);
    assert_eq!(watch.status("demo", at(56.0)).unwrap().state, AppState::Warning);
}

#[test]
fn a_restart_forgets_nobody_and_blames_nobody_for_it() {
    let mut watch = with_demo();
    watch.beat("late", ms(0), at(-3.5)).unwrap();
    watch.beat("gone", ms(0), at(-9.0)).unwrap();
    watch.maintain(Some("tetris"), Duration::from_secs(60), at(0.0)).unwrap();
    watch.advance(at(0.0));
    let saved = watch.save(at(1.0));
    let text = serde_json::to_string(&saved).unwrap();
    let saved: Saved = serde_json::from_str(&text).unwrap();
    // Another process, another clock.
    let later = |seconds: f64| Duration::from_secs_f64(5000.0 + seconds);
    let mut watch = HeartbeatTable::restore(10, saved, later(0.0));
    assert_eq!(watch.ids(later(0.0)), ["demo", "late"]);
    assert_eq!(watch.status("demo", later(0.0)).unwrap().overdue_ratio, 0.5);
    assert_eq!(watch.status("late", later(0.0)).unwrap().state, AppState::Warning);
    assert_eq!(told(&mut watch), [], "that was told before");
    assert_eq!(watch.maintenance(Some("tetris"), later(58.0)), Some(Duration::from_secs(1)));
    assert_eq!(watch.next_deadline(), Some(later(0.5)));
    watch.beat("gone", ms(0), later(0.0)).unwrap();
    assert_eq!(told(&mut watch), [("gone".to_owned(), AppState::Ok)]);
    watch.advance(later(5.0));
    let all = told(&mut watch);
    assert!(all.contains(&demo(AppState::Warning)) && all.len() == 3, "{all:?}");
}

#[test]
fn what_was_saved_by_a_larger_agent_or_damaged_fits() {
    let app = |id: &str, granted_ms| SavedApp { id: id.into(), granted_ms, age_ms: u64::MAX };
    let apps = vec![app("a", 1), app("zero", 0), app("b", u64::MAX), app("c", 5)];
    let saved = Saved { apps, ..Saved::default() };
    let mut watch = HeartbeatTable::restore(2, saved, at(0.0));
    watch.advance(at(0.0));
    assert_eq!(watch.ids(at(0.0)), ["b"]);
}

#[test]
fn changes_are_counted_when_they_matter() {
    let mut watch = with_demo();
    let before = watch.changes();
    watch.beat("demo", ms(1000), at(1.0)).unwrap();
    assert_eq!(watch.changes(), before, "the same promise again");
    watch.beat("demo", ms(2000), at(2.0)).unwrap();
    assert!(watch.changes() > before);
}

#[test]
fn a_host_in_maintenance_was_forgotten_with_as_many_applications_as_there_is_room_for() {
    let mut watch = with_demo();
    for number in 0..10 {
        watch.maintain(Some(&format!("app{number}")), ms(60_000), at(0.0)).unwrap();
    }
    watch.maintain(None, ms(60_000), at(0.0)).unwrap();
    let saved = watch.save(at(30.0));
    let mut restored = HeartbeatTable::restore(10, saved, at(30.0));
    assert_eq!(restored.maintenance(None, at(30.0)), Some(ms(30_000)));
    assert_eq!(restored.ids(at(30.0)), ["demo"], "it would be dropped otherwise");
}

#[test]
fn at_the_very_deadline_it_was_told_to_be_in_time_and_looked_at_again_at_once() {
    // 5.997 / 1.999 is less than 3 as floating numbers go.
    let mut watch = HeartbeatTable::new(10);
    watch.beat("demo", ms(999), at(0.0)).unwrap();
    let now = at(0.0) + ms(5997);
    assert_eq!(watch.next_deadline(), Some(now));
    watch.advance(now);
    assert_eq!(told(&mut watch), [demo(AppState::Warning)]);
    assert!(watch.next_deadline() > Some(now));
}
