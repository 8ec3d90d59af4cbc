use super::*;
use crate::model::event::EventKind;
use crate::util::state_io::tests::Dir;

fn event(text: &str) -> NewEvent {
    NewEvent::new(EventKind::Settings, EventSeverity::Info, text)
}

fn texts(log: &EventLog) -> Vec<(String, u64)> {
    log.since(0).map(|event| (event.text, event.count)).collect()
}

fn path(dir: &Dir) -> std::path::PathBuf {
    dir.path.join(NAME)
}

fn open(dir: &Dir) -> EventLog {
    let log = EventLog::open(&dir.state);
    log.start_run("boot");
    log
}

fn reopen(dir: &Dir) -> EventLog {
    dir.flush();
    open(dir)
}

fn position(sequence: u64) -> KernelLogPosition {
    KernelLogPosition { next_sequence: Some(sequence), ..Default::default() }
}

#[test]
fn events_survive_without_a_stop() {
    let dir = Dir::new("events-kill");
    let log = open(&dir);
    assert_eq!(log.previous_run(), None);
    log.record(event("a"));
    log.record_kernel_log([event("b")], &position(7));
    let last = log.since(0).last().unwrap().id;
    let log = reopen(&dir);
    assert_eq!(texts(&log), [("a".into(), 1), ("b".into(), 1)]);
    assert_eq!(log.kernel_log_position(), Some(position(7)));
    let run = log.previous_run().unwrap();
    assert_eq!((&*run.boot_id, run.stopped), ("boot", None));
    log.record(event("c"));
    assert_eq!(log.since(0).last().unwrap().id, last + 1);
    assert_eq!(log.counts().each().map(|(_, count)| count).sum::<u64>(), 1, "of this run");
}

#[test]
fn counts_and_position_survive_a_stop() {
    let dir = Dir::new("events-stop");
    let log = open(&dir);
    log.record_kernel_log([event("a"), event("a")], &position(2));
    log.record_kernel_log([event("a")], &position(3));
    log.stop();
    let log = reopen(&dir);
    assert_eq!(texts(&log), [("a".into(), 3)]);
    assert_eq!(log.kernel_log_position(), Some(position(3)));
    assert!(log.previous_run().unwrap().stopped.is_some());
    assert_eq!(log.since(0).map(|event| event.count).collect::<Vec<_>>(), [3]);
}

/// What is counted and the position behind it are written together, so that no record is counted twice or not at all.
#[test]
fn killed_agent_reads_records_again_that_it_has_not_saved() {
    let dir = Dir::new("events-count");
    let log = open(&dir);
    log.record_kernel_log([event("a")], &position(1));
    log.record_kernel_log([event("a"), event("a")], &position(3));
    let log = reopen(&dir);
    assert_eq!(texts(&log), [("a".into(), 1)]);
    assert_eq!(log.kernel_log_position(), Some(position(1)));
}

#[test]
fn torn_last_line_and_damaged_lines_lose_only_themselves() {
    let dir = Dir::new("events-torn");
    let log = open(&dir);
    ["a", "b", "c"].iter().for_each(|text| log.record(event(text)));
    dir.flush();
    let mut bytes = std::fs::read(path(&dir)).unwrap();
    bytes.truncate(bytes.len() - 5);
    std::fs::write(path(&dir), &bytes).unwrap();
    let log = reopen(&dir);
    assert_eq!(texts(&log).len(), 2);
    dir.flush();
    let text = std::fs::read_to_string(path(&dir)).unwrap().replacen("\"a\"", "\"x\"", 1);
    std::fs::write(path(&dir), text).unwrap();
    let log = reopen(&dir);
    assert_eq!(texts(&log), [("b".into(), 1)]);
    assert!(dir.path.join("events.damaged").exists());
}

#[test]
fn agent_that_is_killed_while_it_starts_is_no_run() {
    let dir = Dir::new("events-start");
    open(&dir).stop();
    let log = {
        dir.flush();
        EventLog::open(&dir.state)
    };
    log.record(event("rebooted"));
    let stopped = log.previous_run().unwrap().stopped;
    let log = {
        dir.flush();
        EventLog::open(&dir.state)
    };
    assert_eq!(log.previous_run().unwrap().stopped, stopped);
    assert!(stopped.is_some());
}

#[test]
fn foreign_file_is_kept_and_replaced() {
    let dir = Dir::new("events-foreign");
    std::fs::write(path(&dir), b"\x7fELF\x00\n\xff").unwrap();
    let log = open(&dir);
    log.record(event("a"));
    let log = reopen(&dir);
    assert_eq!(texts(&log), [("a".into(), 1)]);
    assert!(dir.path.join("events.damaged").exists());
}

#[test]
fn file_is_rewritten_when_it_has_outdated_lines() {
    let dir = Dir::new("events-rewrite");
    let log = open(&dir);
    log.record(event("a"));
    lock(&log.state).lines = MAX_LINES + 1;
    log.tick();
    assert_eq!(lock(&log.state).lines, 2);
    dir.flush();
    assert_eq!(std::fs::read_to_string(path(&dir)).unwrap().lines().count(), 2);
}

#[test]
fn pages_have_the_newest_events_or_those_behind_an_id() {
    let dir = Dir::new("events-pages");
    let log = open(&dir);
    let mut state = lock(&log.state);
    for number in 0..MAX_PAGE as u64 + 10 {
        let new = NewEvent { unix_seconds: Some(1000 + 61 * number), ..event("a") };
        state.store.record(new, 1_000_000_000);
    }
    drop(state);
    let newest = log.page(EventQuery::default());
    assert_eq!((newest.events.len(), newest.more), (MAX_PAGE, true));
    let first = log.page(EventQuery { after: Some(0), ..EventQuery::default() });
    assert_eq!((first.events.len(), first.more), (MAX_PAGE, true));
    let after = first.events.last().map(|event| event.id);
    let rest = log.page(EventQuery { after, ..EventQuery::default() });
    assert_eq!((rest.events.len(), rest.more), (10, false));
    assert_eq!(rest.events.last(), newest.events.last());
    let none = log.page(EventQuery { since: u64::MAX, after: None });
    assert_eq!((none.events.len(), none.more), (0, false));
}
