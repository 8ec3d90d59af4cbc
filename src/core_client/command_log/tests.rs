use super::*;
use std::fs;
use std::path::PathBuf;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("hm-ledger-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn open(&self) -> Ledger {
        Ledger::open(&self.0)
    }

    fn file(&self) -> PathBuf {
        self.0.join("core-commands")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn done(command_id: &str, stdout: &str) -> CommandResult {
    CommandResult { stdout: stdout.to_owned(), exit_code: 0, ..result(command_id, 0, "") }
}

fn waiting(ledger: &Ledger) -> Vec<&str> {
    ledger.waiting().collect()
}

#[test]
fn a_result_waits_until_it_is_confirmed_also_across_restarts() {
    let dir = Dir::new("confirm");
    let mut ledger = dir.open();
    assert_eq!(ledger.accept("c 1\n", "m1".into()), Accepted::New);
    assert!(waiting(&ledger).is_empty(), "it runs");
    ledger.end(done("c 1\n", "out"));
    assert_eq!(waiting(&ledger), ["m1"]);
    std::mem::forget(ledger);
    let mut ledger = dir.open();
    assert_eq!(waiting(&ledger), ["m1"]);
    assert_eq!(ledger.result("m1").unwrap().stdout, "out");
    assert_eq!(ledger.confirm("m1").as_deref(), Some("c 1\n"));
    assert_eq!(ledger.confirm("m1"), None);
    drop(ledger);
    assert!(waiting(&dir.open()).is_empty());
}

#[test]
fn the_same_command_runs_once_and_is_answered_twice() {
    let dir = Dir::new("twice");
    let mut ledger = dir.open();
    assert_eq!(ledger.accept("c", "m1".into()), Accepted::New);
    assert_eq!(ledger.accept("c", "m2".into()), Accepted::Pending);
    ledger.end(done("c", "out"));
    assert_eq!(waiting(&ledger), ["m1", "m2"]);
    ledger.confirm("m1");
    ledger.confirm("m2");
    let mut ledger = dir.open();
    assert_eq!(ledger.accept("c", "m3".into()), Accepted::Ended);
    assert_eq!(
        (waiting(&ledger), ledger.result("m3").unwrap().stdout.as_str()),
        (vec!["m3"], "out")
    );
    let ledger = dir.open();
    assert_eq!(waiting(&ledger), ["m3"]);
}

#[test]
fn what_had_not_ended_was_interrupted() {
    let dir = Dir::new("interrupted");
    let mut ledger = dir.open();
    ledger.accept("c", "m1".into());
    std::mem::forget(ledger);
    for _ in 0..2 {
        let mut ledger = dir.open();
        assert_eq!(waiting(&ledger), ["m1"]);
        let result = ledger.result("m1").unwrap().into_owned();
        assert_eq!((result.exit_code, &result.stderr[..11]), (125, "interrupted"));
        assert_eq!(ledger.accept("c", "m2".into()), Accepted::Ended, "not run again");
        ledger.confirm("m2");
    }
}

#[test]
fn what_is_torn_costs_itself() {
    let dir = Dir::new("torn");
    let mut ledger = dir.open();
    for id in ["c1", "c2"] {
        ledger.accept(id, format!("m-{id}"));
        ledger.end(done(id, "out"));
    }
    drop(ledger);
    let whole = fs::read(dir.file()).unwrap();
    for cut in 0..whole.len() {
        fs::write(dir.file(), &whole[..cut]).unwrap();
        let lines = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
        let ledger = dir.open();
        assert_eq!(waiting(&ledger).len(), lines.div_ceil(2), "cut at {cut}");
    }
}

#[test]
fn memory_and_file_are_bounded() {
    let dir = Dir::new("bounds");
    let mut ledger = dir.open();
    let large = "x".repeat(limits::OUTPUT_BYTES);
    for number in 0..200 {
        ledger.accept(&format!("c{number}"), format!("m{number}"));
        ledger.end(done(&format!("c{number}"), &large));
        if number % 2 == 0 {
            ledger.confirm(&format!("m{number}"));
        }
    }
    let kept: usize = ledger.commands.iter().map(Known::bytes).sum();
    assert!(kept <= limits::RESULTS_BYTES + limits::ANSWERED_BYTES, "{kept}");
    assert_eq!(waiting(&ledger).len(), 100, "those that were dropped are answered too");
    assert_eq!(ledger.result("m1").unwrap().exit_code, exit::NOT_RUN);
    assert_eq!(ledger.result("m199").unwrap().stdout.len(), large.len());
    for number in 200..3000 {
        ledger.accept(&format!("c{number}"), format!("m{number}"));
        ledger.end(done(&format!("c{number}"), ""));
        ledger.confirm(&format!("m{number}"));
    }
    assert!(ledger.commands.len() <= limits::COMMANDS_REMEMBERED);
    let size = fs::metadata(dir.file()).unwrap().len();
    assert!(size < 5 * limits::RESULTS_BYTES as u64, "{size}");
}

#[test]
fn one_that_runs_is_never_forgotten_and_answers_to_one_are_bounded() {
    let dir = Dir::new("pending");
    let mut ledger = dir.open();
    ledger.accept("long", "m-long".into());
    for number in 0..2 * limits::COMMANDS_REMEMBERED {
        ledger.accept(&format!("c{number}"), format!("m{number}"));
        ledger.end(done(&format!("c{number}"), ""));
    }
    assert_eq!(ledger.accept("long", "m-again".into()), Accepted::Pending);
    for number in 0..100 {
        ledger.accept("long", format!("more{number}"));
    }
    ledger.end(done("long", "out"));
    assert_eq!(ledger.commands[0].due.len(), limits::ANSWERS_DUE);
}

#[test]
fn what_was_refused_for_want_of_room_may_be_asked_for_again() {
    let dir = Dir::new("again");
    let mut ledger = dir.open();
    ledger.accept("c", "m1".into());
    ledger.allow_again("c");
    ledger.end(done("c", "no room"));
    ledger.confirm("m1");
    assert_eq!(ledger.accept("c", "m2".into()), Accepted::New);
    assert_eq!(dir.open().result("m2").unwrap().exit_code, exit::INTERRUPTED);
    let mut ledger = dir.open();
    assert_eq!(ledger.accept("c", "m3".into()), Accepted::Ended);
    assert_eq!(waiting(&ledger), ["m2", "m3"]);
}

#[test]
fn and_then_it_ends_as_any_other() {
    let dir = Dir::new("again-end");
    let mut ledger = dir.open();
    ledger.accept("c", "m1".into());
    ledger.allow_again("c");
    ledger.end(done("c", "no room"));
    ledger.accept("c", "m2".into());
    ledger.end(done("c", "out"));
    let ledger = dir.open();
    assert_eq!(ledger.result("m2").unwrap().stdout, "out");
}

#[test]
fn control_characters_do_not_make_the_file_too_long_to_read() {
    let dir = Dir::new("control");
    let mut ledger = dir.open();
    for number in 0..40 {
        ledger.accept(&format!("c{number}"), format!("m{number}"));
        ledger.end(done(&format!("c{number}"), &"\x01".repeat(limits::OUTPUT_BYTES)));
    }
    let size = fs::metadata(dir.file()).unwrap().len();
    assert!(size < 5 * limits::RESULTS_BYTES as u64, "{size}");
}

#[test]
fn what_core_cannot_read_is_given_up() {
    let dir = Dir::new("unreadable");
    let mut ledger = dir.open();
    ledger.accept("c", "m".into());
    ledger.end(done("c", ""));
    assert_eq!([(); 4].map(|()| ledger.unreadable("m")), [false, false, true, false]);
    assert!(waiting(&ledger).is_empty());
}
