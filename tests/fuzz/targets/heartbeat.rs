//! Sends heartbeat requests to the table with time between them. States follow from the overdue ratio, no event is late, and a
//! saved and restored table is equal to the original.
#![no_main]

use std::time::Duration;

use hm_agent::config::TimeUnit;
use hm_agent::heartbeat::nagios;
use hm_agent::heartbeat::protocol::{HeartbeatRequest, MAX_ID_BYTES};
use hm_agent::heartbeat::table::HeartbeatTable;
use hm_agent::model::status::AppState;
use hm_agent_fuzz::program::{Program, text};
use libfuzzer_sys::fuzz_target;

/// Small, so that inputs fill the table.
const CAPACITY: usize = 4;

fuzz_target!(|data: &[u8]| {
    let mut program = Program(data);
    let unit =
        if program.byte() == Some(b's') { TimeUnit::Seconds } else { TimeUnit::Milliseconds };
    let mut table = HeartbeatTable::new(CAPACITY);
    let mut now = Duration::from_secs(100 * 86_400);
    while let Some(line) = program.line() {
        match line.split_first() {
            Some((b'+', milliseconds)) => now += parse_pause(milliseconds),
            Some((b'!', _)) => table = save_and_restore(table, now),
            _ => request(&mut table, &text(line), unit, now),
        }
        check(&mut table, now);
    }
});

fn parse_pause(milliseconds: &[u8]) -> Duration {
    let milliseconds = hm_agent::util::text::parse_decimal(milliseconds).unwrap_or(1);
    Duration::from_millis(milliseconds.min(30 * 86_400_000))
}

fn request(table: &mut HeartbeatTable, line: &str, unit: TimeUnit, now: Duration) {
    let (path, query) = line.split_once('?').unwrap_or((line, ""));
    match HeartbeatRequest::parse(path, query, unit) {
        Err(why) => assert!(!why.is_empty() && why.lines().count() == 1, "{why:?}"),
        Ok(HeartbeatRequest::Heartbeat(id, interval, unit)) => {
            assert!(id.len() <= MAX_ID_BYTES && !id.is_empty());
            let known = table.status(&id, now).is_some();
            match table.heartbeat(&id, interval, now) {
                Ok(timeout) => {
                    assert!(timeout > interval);
                    let answer: f64 = nagios::timeout(timeout, unit).parse().expect("a number");
                    assert!(answer > 0.0);
                    let status = table.status(&id, now).expect("in the table");
                    assert_eq!((status.state, status.overdue_ratio), (AppState::Ok, 0.0));
                }
                Err(_) => assert!(!known && table.count(now) >= CAPACITY),
            }
        }
        Ok(HeartbeatRequest::Done(id)) => {
            table.done(&id, now);
            assert_eq!(table.status(&id, now), None);
        }
        Ok(HeartbeatRequest::List) => {
            let list = table.ids(now).expect("one list at a time");
            let mut text = Vec::new();
            nagios::write_list(&list.ids, &mut text).expect("a Vec takes everything");
            assert_eq!(text.len(), list.bytes);
            assert_eq!(text.split(|byte| *byte == b'\n').count() - 1, list.ids.len());
        }
        Ok(HeartbeatRequest::Status(id)) => {
            let Some(status) = table.status(&id.unwrap_or_default(), now) else { return };
            let line = nagios::status_line(&status, unit);
            let parsed = nagios::parse_status_line(&status.id, &line).expect("a status line");
            // The line of an application in maintenance is always OK.
            let expected = status.maintenance.map_or(status.state, |_| AppState::Ok);
            assert_eq!(parsed.state, expected, "{line}");
        }
        Ok(HeartbeatRequest::Maintenance(id, length)) => {
            let accepted = table.set_maintenance(id.as_deref(), length, now).is_ok();
            if accepted && length > Duration::ZERO {
                assert!(table.maintenance(id.as_deref(), now) >= Some(length));
            }
        }
    }
}

fn save_and_restore(mut table: HeartbeatTable, now: Duration) -> HeartbeatTable {
    table.take_transitions();
    let saved = table.save(now);
    let written = serde_json::to_vec(&saved).expect("JSON");
    let read = serde_json::from_slice(&written).expect("valid state");
    assert_eq!(saved, read);
    let mut restored = HeartbeatTable::restore(CAPACITY, read, now);
    let ids = |table: &mut HeartbeatTable| table.first_ids(CAPACITY, now);
    assert_eq!(ids(&mut table), ids(&mut restored));
    assert!(!restored.has_transitions(), "reported twice");
    restored
}

fn check(table: &mut HeartbeatTable, now: Duration) {
    let statuses = table.summary(now).shown;
    assert!(statuses.len() <= 2 * CAPACITY);
    for status in &statuses {
        let line = nagios::status_line(status, TimeUnit::Milliseconds);
        assert_eq!(line.lines().count(), 1, "{line:?}");
        let expected = match status.overdue_ratio {
            ratio if ratio >= 6.0 => AppState::Dropped,
            ratio if ratio >= 5.0 => AppState::Critical,
            ratio if ratio >= 3.0 => AppState::Warning,
            _ => AppState::Ok,
        };
        // The state of an application in maintenance does not change.
        if status.maintenance.is_none() {
            assert_eq!(status.state, expected, "{status:?}");
        }
    }
    if let Some(at) = table.next_event() {
        assert!(at > now, "missed event");
    }
    for transition in table.take_transitions() {
        assert!(transition.overdue_ratio.is_finite());
        if transition.to == AppState::Dropped {
            assert!(transition.overdue_ratio >= 6.0);
        }
    }
}
