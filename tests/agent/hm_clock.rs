//! Reports while the wall clock jumps: in order, over the same connection.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::hm_server::HmServer;
use crate::support::{Agent, TempDir, hm_agent};
use hm_agent::util::logger::unix_milliseconds;

/// The preloaded library that shifts the agent's wall clock; built once.
fn clock() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clock/clock.c");
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clock.so");
        // Atomically, because another test process may use it.
        let draft = library.with_extension(format!("draft-{}", std::process::id()));
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]);
        assert!(cc.arg(&draft).arg(source).status().unwrap().success(), "{cc:?}");
        std::fs::rename(draft, &library).unwrap();
        library
    })
}

/// Sets the clock of an agent that reports every second by `step` seconds after three reports. Returns the reports before,
/// five reports after it, and the log.
fn reports_around(step: i64) -> (Vec<u64>, Vec<u64>, Vec<String>) {
    let (hub, state) = (HmServer::start(), TempDir::new("clock"));
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
    // Atomically.
    std::fs::rename(state.write("new", &step.to_string()), error).unwrap();
    // One may be in flight, and one just taken.
    let stepped = before.len() + 2;
    let reports = hub.wait_reports(stepped + 5);
    assert_eq!(hub.connections(), 1, "a clock step does not end the connection");
    (before, reports[stepped..].to_vec(), agent.stop())
}

fn is_ordered(reports: &[u64]) -> bool {
    reports.windows(2).all(|pair| pair[0] < pair[1])
}

#[test]
fn small_step_back_keeps_reports_in_order() {
    let (before, after, log) = reports_around(-20);
    assert!(is_ordered(&[before.clone(), after.clone()].concat()), "{before:?} {after:?}");
    // Half a second apart for 40 s.
    let apart = (after[4] - after[0]) / 4;
    assert!((350..800).contains(&apart), "{after:?}");
    assert!(!log.iter().any(|line| line.contains("set back")), "{log:#?}");
}

#[test]
fn step_back_by_an_hour_is_followed_and_logged() {
    let (before, after, log) = reports_around(-3600);
    assert!(is_ordered(&before) && is_ordered(&after), "{before:?} {after:?}");
    assert!(after[4].abs_diff(unix_milliseconds() - 3_600_000) < 10_000, "{after:?}");
    let logged =
        log.iter().filter(|line| line.contains("hm: system clock was set back by 3600 s")).count();
    assert_eq!(logged, 1, "{log:#?}");
}

#[test]
fn step_forward_is_followed() {
    let (before, after, log) = reports_around(3600);
    assert!(is_ordered(&[before.clone(), after.clone()].concat()), "{before:?} {after:?}");
    assert!(after[4].abs_diff(unix_milliseconds() + 3_600_000) < 10_000, "{after:?}");
    assert!(!log.iter().any(|line| line.contains(" warn ")), "{log:#?}");
}
