//! Requests of the heartbeat protocol to the table, with time between them: what is told of an application agrees with
//! what is shown, deadlines are never late, and a table that is saved and restored goes on as it was.
#![no_main]

use std::time::Duration;

use hm_agent::heartbeat::protocol;
use hm_agent::heartbeat::protocol::{Request, Unit};
use hm_agent::heartbeat::table::HeartbeatTable;
use hm_agent::model::status::AppState;
use hm_agent_fuzz::program::{Program, text};
use libfuzzer_sys::fuzz_target;

/// Small, so that it becomes full.
const CAPACITY: usize = 4;

fuzz_target!(|data: &[u8]| {
    let mut program = Program(data);
    let unit = if program.byte() == Some(b's') { Unit::Seconds } else { Unit::Milliseconds };
    let mut watch = HeartbeatTable::new(CAPACITY);
    let mut now = Duration::from_secs(100 * 86_400);
    while let Some(line) = program.line() {
        match line.split_first() {
            Some((b'+', milliseconds)) => now += passed(milliseconds),
            Some((b'!', _)) => watch = again(watch, now),
            _ => ask(&mut watch, &text(line), unit, now),
        }
        judge(&mut watch, now);
    }
});

fn passed(milliseconds: &[u8]) -> Duration {
    let milliseconds = hm_agent::procfs::decimal(milliseconds).unwrap_or(1);
    Duration::from_millis(milliseconds.min(30 * 86_400_000))
}

fn ask(watch: &mut HeartbeatTable, line: &str, unit: Unit, now: Duration) {
    let (path, query) = line.split_once('?').unwrap_or((line, ""));
    match Request::parse(path, query, unit) {
        Err(why) => assert!(!why.is_empty() && why.lines().count() == 1, "{why:?}"),
        Ok(Request::Beat(id, promised, unit)) => {
            assert!(id.len() <= protocol::ID_BYTES && !id.is_empty());
            let known = watch.status(&id, now).is_some();
            match watch.beat(&id, promised, now) {
                Ok(granted) => {
                    assert!(granted > promised);
                    let told: f64 = protocol::granted(granted, unit).parse().expect("a number");
                    assert!(told > 0.0);
                    let status = watch.status(&id, now).expect("who beat is there");
                    assert_eq!((status.lateness, status.od), (AppState::Ok, 0.0));
                }
                Err(_) => assert!(!known && watch.count(now) >= CAPACITY),
            }
        }
        Ok(Request::Done(id)) => {
            watch.done(&id, now);
            assert_eq!(watch.status(&id, now), None);
        }
        Ok(Request::List) => {
            let ids = watch.ids(now);
            assert_eq!(protocol::list(&ids).lines().count(), ids.len());
        }
        Ok(Request::Status(id)) => {
            let Some(status) = watch.status(&id.unwrap_or_default(), now) else { return };
            let line = protocol::status_line(&status, unit);
            let read = protocol::parse_status_line(&status.id, &line).expect("a status");
            // In maintenance all is well, whatever was before.
            let expected = status.maintenance.map_or(status.lateness, |_| AppState::Ok);
            assert_eq!(read.lateness, expected, "{line}");
        }
        Ok(Request::Maintenance(id, length)) => {
            let done = watch.maintain(id.as_deref(), length, now).is_ok();
            if done && length > Duration::ZERO {
                assert!(watch.maintenance(id.as_deref(), now) >= Some(length));
            }
        }
    }
}

/// What is saved, written, read and restored is what was there.
fn again(mut watch: HeartbeatTable, now: Duration) -> HeartbeatTable {
    watch.take_transitions();
    let saved = watch.save(now);
    let written = serde_json::to_vec(&saved).expect("JSON");
    let read = serde_json::from_slice(&written).expect("what was written");
    assert_eq!(saved, read);
    let mut restored = HeartbeatTable::restore(CAPACITY, read, now);
    let ids = |watch: &mut HeartbeatTable| {
        watch.ids(now).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(ids(&mut watch), ids(&mut restored));
    assert!(!restored.has_transitions(), "told a second time");
    restored
}

fn judge(watch: &mut HeartbeatTable, now: Duration) {
    let statuses = watch.statuses(now);
    assert!(statuses.len() <= CAPACITY);
    for status in &statuses {
        let line = protocol::status_line(status, Unit::Milliseconds);
        assert_eq!(line.lines().count(), 1, "{line:?}");
        // Whoever is in maintenance, or was until now, is judged from its end on.
        let expected = match status.od {
            od if od >= 6.0 => AppState::Dropped,
            od if od >= 5.0 => AppState::Critical,
            od if od >= 3.0 => AppState::Warning,
            _ => AppState::Ok,
        };
        if status.maintenance.is_none() {
            assert_eq!(status.lateness, expected, "{status:?}");
        }
    }
    if let Some(deadline) = watch.next_deadline() {
        assert!(deadline > now, "it is late already");
    }
    for transition in watch.take_transitions() {
        assert!(transition.od.is_finite());
        if transition.to == AppState::Dropped {
            let id = &transition.id;
            assert!(statuses.iter().all(|status| status.id != *id) || transition.od >= 6.0);
        }
    }
}
