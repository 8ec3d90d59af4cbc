use super::*;
use crate::core_client::command::MAX_OUTPUT_BYTES;
use crate::core_client::messages::MAX_ID_BYTES;
use crate::util::state_io::tests::Dir;
use std::fs;
use std::path::PathBuf;

impl Dir {
    fn open(&self) -> CommandLog {
        self.flush();
        CommandLog::open(&self.state)
    }

    fn file(&self) -> PathBuf {
        self.flush();
        self.path.join("core-commands")
    }
}

fn done(command_id: &str, stdout: &str) -> CommandResult {
    CommandResult { stdout: stdout.to_owned(), exit_code: 0, ..failure(command_id, 0, "") }
}

fn pending(log: &CommandLog) -> Vec<&str> {
    log.pending().collect()
}

#[test]
fn result_stays_pending_until_confirmed_across_restarts() {
    let dir = Dir::new("confirm");
    let mut log = dir.open();
    assert_eq!(log.accept("c 1\n", "m1".into()), Acceptance::New);
    assert!(pending(&log).is_empty(), "running");
    log.finish(done("c 1\n", "out"));
    assert_eq!(pending(&log), ["m1"]);
    std::mem::forget(log);
    let mut log = dir.open();
    assert_eq!(pending(&log), ["m1"]);
    assert_eq!(log.result("m1").unwrap().stdout, "out");
    assert_eq!(log.confirm("m1").as_deref(), Some("c 1\n"));
    assert_eq!(log.confirm("m1"), None);
    drop(log);
    assert!(pending(&dir.open()).is_empty());
}

#[test]
fn duplicate_command_runs_once_and_gets_two_results() {
    let dir = Dir::new("twice");
    let mut log = dir.open();
    assert_eq!(log.accept("c", "m1".into()), Acceptance::New);
    assert_eq!(log.accept("c", "m2".into()), Acceptance::Pending);
    log.finish(done("c", "out"));
    assert_eq!(pending(&log), ["m1", "m2"]);
    log.confirm("m1");
    log.confirm("m2");
    let mut log = dir.open();
    assert_eq!(log.accept("c", "m3".into()), Acceptance::Finished);
    assert_eq!((pending(&log), log.result("m3").unwrap().stdout.as_str()), (vec!["m3"], "out"));
    let log = dir.open();
    assert_eq!(pending(&log), ["m3"]);
}

#[test]
fn unfinished_command_is_interrupted_after_restart() {
    let dir = Dir::new("interrupted");
    let mut log = dir.open();
    log.accept("c", "m1".into());
    std::mem::forget(log);
    for _ in 0..2 {
        let mut log = dir.open();
        assert_eq!(pending(&log), ["m1"]);
        let result = log.result("m1").unwrap().into_owned();
        assert_eq!((result.exit_code, &result.stderr[..11]), (125, "interrupted"));
        assert_eq!(log.accept("c", "m2".into()), Acceptance::Finished, "not run again");
        log.confirm("m2");
    }
}

#[test]
fn torn_line_loses_only_itself() {
    let dir = Dir::new("torn");
    let mut log = dir.open();
    for id in ["c1", "c2"] {
        log.accept(id, format!("m-{id}"));
        log.finish(done(id, "out"));
    }
    drop(log);
    let whole = fs::read(dir.file()).unwrap();
    for cut in 0..whole.len() {
        fs::write(dir.file(), &whole[..cut]).unwrap();
        let lines = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
        let log = dir.open();
        assert_eq!(pending(&log).len(), lines.div_ceil(2), "cut at {cut}");
    }
}

#[test]
fn bounds_memory_and_file() {
    let dir = Dir::new("bounds");
    let mut log = dir.open();
    let large = "x".repeat(MAX_OUTPUT_BYTES);
    for number in 0..200 {
        log.accept(&format!("c{number}"), format!("m{number}"));
        log.finish(done(&format!("c{number}"), &large));
        if number % 2 == 0 {
            log.confirm(&format!("m{number}"));
        }
    }
    let kept: usize = log.commands.iter().map(CommandRecord::result_bytes).sum();
    assert!(kept <= MAX_UNCONFIRMED_BYTES + MAX_CONFIRMED_BYTES, "{kept}");
    assert_eq!(pending(&log).len(), 100, "evicted results are pending too");
    assert_eq!(log.result("m1").unwrap().exit_code, exit::NOT_RUN);
    assert_eq!(log.result("m199").unwrap().stdout.len(), large.len());
    for number in 200..3000 {
        log.accept(&format!("c{number}"), format!("m{number}"));
        log.finish(done(&format!("c{number}"), ""));
        log.confirm(&format!("m{number}"));
    }
    assert!(log.commands.len() <= MAX_COMMANDS);
    let size = fs::metadata(dir.file()).unwrap().len();
    assert!(size < 5 * MAX_UNCONFIRMED_BYTES as u64, "{size}");
}

#[test]
fn running_command_is_not_evicted_and_its_replies_bounded() {
    let dir = Dir::new("pending");
    let mut log = dir.open();
    log.accept("long", "m-long".into());
    for number in 0..2 * MAX_COMMANDS {
        log.accept(&format!("c{number}"), format!("m{number}"));
        log.finish(done(&format!("c{number}"), ""));
    }
    assert_eq!(log.accept("long", "m-again".into()), Acceptance::Pending);
    for number in 0..100 {
        log.accept("long", format!("more{number}"));
    }
    log.finish(done("long", "out"));
    assert_eq!(log.commands[0].replies.len(), MAX_PENDING_REPLIES);
}

#[test]
fn command_rejected_for_full_queue_may_be_requested_again() {
    let dir = Dir::new("again");
    let mut log = dir.open();
    log.accept("c", "m1".into());
    log.allow_retry("c");
    log.finish(done("c", "queue full"));
    log.confirm("m1");
    assert_eq!(log.accept("c", "m2".into()), Acceptance::New);
    assert_eq!(dir.open().result("m2").unwrap().exit_code, exit::INTERRUPTED);
    let mut log = dir.open();
    assert_eq!(log.accept("c", "m3".into()), Acceptance::Finished);
    assert_eq!(pending(&log), ["m2", "m3"]);
}

/// Core may repeat it as often as it likes while the queue is full.
#[test]
fn command_retried_without_end_takes_bounded_memory_and_file() {
    let dir = Dir::new("again-endless");
    let mut log = dir.open();
    let id = "\u{1}".repeat(MAX_ID_BYTES);
    for number in 0..10_000 {
        assert_eq!(log.accept(&id, format!("m{number}")), Acceptance::New);
        log.allow_retry(&id);
        log.finish(done(&id, "queue full"));
        // What a slow disk does not write in time is discarded.
        if number % 1000 == 0 {
            dir.flush();
        }
    }
    assert_eq!(log.commands[0].replies.len(), MAX_PENDING_REPLIES);
    let sent: Vec<String> = pending(&log).into_iter().map(str::to_owned).collect();
    assert_eq!(sent.last().unwrap(), "m9999");
    let size = fs::metadata(dir.file()).unwrap().len();
    assert!(size < 4 * MAX_UNCONFIRMED_BYTES as u64, "{size}");
    assert_eq!(pending(&dir.open()), sent);
}

#[test]
fn longest_ids_do_not_exceed_file_bound() {
    let dir = Dir::new("long-ids");
    let mut log = dir.open();
    for number in 0..4500 {
        let id = format!("{number:5}{}", "\u{1}".repeat(MAX_ID_BYTES - 5));
        log.accept(&id, format!("m{number}"));
        log.finish(done(&id, ""));
        log.confirm(&format!("m{number}"));
    }
    let size = fs::metadata(dir.file()).unwrap().len();
    assert!(size < 4 * MAX_UNCONFIRMED_BYTES as u64, "{size}");
}

#[test]
fn retried_command_keeps_its_result_across_restart() {
    let dir = Dir::new("again-end");
    let mut log = dir.open();
    log.accept("c", "m1".into());
    log.allow_retry("c");
    log.finish(done("c", "queue full"));
    log.accept("c", "m2".into());
    log.finish(done("c", "out"));
    let log = dir.open();
    assert_eq!(log.result("m2").unwrap().stdout, "out");
}

#[test]
fn control_characters_in_output_do_not_exceed_file_bound() {
    let dir = Dir::new("control");
    let mut log = dir.open();
    for number in 0..40 {
        log.accept(&format!("c{number}"), format!("m{number}"));
        log.finish(done(&format!("c{number}"), &"\x01".repeat(MAX_OUTPUT_BYTES)));
    }
    let size = fs::metadata(dir.file()).unwrap().len();
    assert!(size < 5 * MAX_UNCONFIRMED_BYTES as u64, "{size}");
}

#[test]
fn result_is_dropped_after_three_parse_errors() {
    let dir = Dir::new("unreadable");
    let mut log = dir.open();
    log.accept("c", "m".into());
    log.finish(done("c", ""));
    assert_eq!([(); 4].map(|()| log.reject("m")), [false, false, true, false]);
    assert!(pending(&log).is_empty());
}
