//! Wall clocks that jump: reports go on, in order, over the same connection.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use hm_agent::util::logger::unix_milliseconds;
use support::hub::Hub;
use support::{Agent, Scratch, hm_agent};

/// What makes the agent's wall clock a test's; built once.
fn clock() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clock/clock.c");
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clock.so");
        // Another run of the tests may have it in use.
        let draft = library.with_extension(format!("draft-{}", std::process::id()));
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]);
        assert!(cc.arg(&draft).arg(source).status().unwrap().success(), "{cc:?}");
        std::fs::rename(draft, &library).unwrap();
        library
    })
}

/// An agent that reports every second, and its clock, which is set by so many seconds after three reports; what the
/// hub has then, after five more, and the log.
fn reports_around(step: i64) -> (Vec<u64>, Vec<u64>, Vec<String>) {
    let (hub, state) = (Hub::start(), Scratch::new("clock"));
    let error = state.write("error", "0");
    let mut command = hm_agent();
    command.env("LD_PRELOAD", clock()).env("HM_TEST_CLOCK", &error);
    let state_dir = format!("state_dir={}", state.0.display());
    let url = hub.setting();
    let settings = ["hm.report_interval=1", "hm.ping_interval=1", "interval=1", "gpu.source=none"];
    for setting in settings.iter().chain(&["usage.listen=127.0.0.1:0", &url, &state_dir]) {
        command.args(["-s", setting]);
    }
    let agent = Agent::spawn(command);
    let before = hub.wait_reports(3);
    // Whole or not at all.
    std::fs::rename(state.write("new", &step.to_string()), error).unwrap();
    // One may be under way, and one taken just now.
    let stepped = before.len() + 2;
    let reports = hub.wait_reports(stepped + 5);
    assert_eq!(hub.connections(), 1, "a clock is no reason to go");
    (before, reports[stepped..].to_vec(), agent.stop())
}

fn is_ordered(reports: &[u64]) -> bool {
    reports.windows(2).all(|pair| pair[0] < pair[1])
}

#[test]
fn a_clock_that_is_set_back_a_little_leaves_reports_in_order() {
    let (before, after, log) = reports_around(-20);
    assert!(is_ordered(&[before.clone(), after.clone()].concat()), "{before:?} {after:?}");
    // Half a second apart, for 40 s; not in a heap.
    let apart = (after[4] - after[0]) / 4;
    assert!((350..800).contains(&apart), "{after:?}");
    assert!(!log.iter().any(|line| line.contains("set back")), "{log:#?}");
}

#[test]
fn a_clock_that_was_wrong_by_an_hour_is_obeyed() {
    let (before, after, log) = reports_around(-3600);
    assert!(is_ordered(&before) && is_ordered(&after), "{before:?} {after:?}");
    assert!(after[4].abs_diff(unix_milliseconds() - 3_600_000) < 10_000, "{after:?}");
    let said =
        log.iter().filter(|line| line.contains("hm: the clock was set back by 3600 s")).count();
    assert_eq!(said, 1, "{log:#?}");
}

#[test]
fn a_clock_that_is_set_forward_is_believed_at_once() {
    let (before, after, log) = reports_around(3600);
    assert!(is_ordered(&[before.clone(), after.clone()].concat()), "{before:?} {after:?}");
    assert!(after[4].abs_diff(unix_milliseconds() + 3_600_000) < 10_000, "{after:?}");
    assert!(!log.iter().any(|line| line.contains(" warn ")), "{log:#?}");
}
