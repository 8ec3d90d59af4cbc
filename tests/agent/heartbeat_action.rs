//! `heartbeat.on_overdue`: when hooks run, their environment, and configuration reloads.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::heartbeat::{HttpConnection, lines_of, list_setting};
use crate::support::{Agent, SLACK, TempDir, hm_agent, wait_until};

/// The setting that runs an `sh` script with `$D` set to the directory.
fn hook(scratch: &TempDir, script: &str) -> String {
    let script = format!("D='{}'; {script}", scratch.0.display());
    list_setting("heartbeat.on_overdue", &["sh", "-c", &script])
}

fn log_of(scratch: &TempDir) -> Vec<String> {
    lines_of(&scratch.0.join("log"))
}

fn wait_lines(scratch: &TempDir, count: usize) -> Vec<String> {
    wait_until(&format!("{count} lines"), || Some(log_of(scratch)).filter(|log| log.len() >= count))
}

#[test]
fn runs_once_per_transition_with_its_environment() {
    let scratch = TempDir::new("action");
    let script =
        "env > \"$D/$HB_STATE\"; echo \"$APP_ID|$HB_STATE|$HB_OD|$HB_GRANTED_MS\" >> \"$D/log\"";
    let mut command = hm_agent();
    command.args(["-s", "usage.listen=127.0.0.1:0", "-s", &hook(&scratch, script)]);
    command.env("HM_AGENT_USAGE_TOKEN", "s3cret").env("NOTIFY_SOCKET", "/nonexistent");
    let agent = Agent::spawn(command);
    let start = Instant::now();
    agent.get_ok("/hb_init?1000&appid=a%20'%22%24(b)%0Ac%E2%98%83");
    agent.get_ok("/hb_init?60000&appid=fine");
    // The id is unchanged, with quotes and line end.
    let (first, second) = ("a '\"$(b)", "c☃");
    // The timeout is two seconds. A busy machine may run the hook later.
    for (lines, state, od) in [(2, "WARNING", 3), (4, "CRITICAL", 5), (6, "DROPPED", 6)] {
        let log = wait_lines(&scratch, lines);
        assert!(
            start.elapsed() >= Duration::from_secs(2 * od),
            "{state} after {:?}",
            start.elapsed()
        );
        assert_eq!(log[lines - 2], first);
        let numbers = log[lines - 1].strip_prefix(&format!("{second}|{state}|{od}."));
        let numbers = numbers.unwrap_or_else(|| panic!("{log:?}"));
        assert!(numbers.len() == 7 && numbers.ends_with("|2000"), "{log:?}");
    }
    agent.get_ok("/hb_ping?2000&appid=a%20'%22%24(b)%0Ac%E2%98%83");
    assert_eq!(wait_lines(&scratch, 8)[6..], [first, &format!("{second}|OK|0.00|3000")]);
    agent.stop();
    assert_eq!(log_of(&scratch).len(), 8);
    for state in ["WARNING", "CRITICAL", "DROPPED", "OK"] {
        let environment = std::fs::read_to_string(scratch.0.join(state)).unwrap();
        assert!(environment.contains("\nPATH=") || environment.starts_with("PATH="));
        for secret in ["HM_AGENT_", "s3cret", "NOTIFY_SOCKET"] {
            assert!(!environment.contains(secret), "{environment}");
        }
    }
}

#[test]
fn runs_hooks_of_one_application_one_at_a_time() {
    let scratch = TempDir::new("slow");
    let script = "mkdir \"$D/$APP_ID\" || echo overlap >> \"$D/log\"; \
                  echo \"$APP_ID begin $HB_STATE\" >> \"$D/log\"; sleep 3; \
                  echo \"$APP_ID end $HB_STATE\" >> \"$D/log\"; rmdir \"$D/$APP_ID\"";
    let agent = Agent::start(&[&hook(&scratch, script)]);
    // Transitions are after 6, 10 and 12 s. The third finds the second hook running.
    agent.get_ok("/hb_init?1000&appid=a");
    agent.get_ok("/hb_init?1000&appid=b");
    // A slow hook of one application does not delay those of another.
    let both = wait_lines(&scratch, 2);
    assert!(both[..2].iter().all(|line| line.ends_with("begin WARNING")), "{both:?}");
    let all = wait_lines(&scratch, 12);
    for id in ["a", "b"] {
        let own: Vec<_> = all.iter().filter_map(|line| line.strip_prefix(id)).collect();
        let states = ["WARNING", "CRITICAL", "DROPPED"];
        let expected: Vec<_> = states
            .iter()
            .flat_map(|state| [format!(" begin {state}"), format!(" end {state}")])
            .collect();
        assert_eq!(own, expected);
    }
    assert_eq!(all.len(), 12, "{all:?}");
    agent.stop();
}

#[test]
fn logs_failed_hooks() {
    let scratch = TempDir::new("failing");
    let failing = Agent::start(&[&hook(&scratch, "[ $HB_STATE = WARNING ] && exit 3; kill -9 $$")]);
    failing.get_ok("/hb_init?1000&appid=a%1b%0A");
    let missing = Agent::start(&["heartbeat.on_overdue=/nonexistent/program"]);
    missing.get_ok("/hb_init?0&appid=a");
    missing.get_ok("/hb_init?0&appid=b%00c");
    let refused = Agent::start(&[&format!("heartbeat.on_overdue={}", scratch.write("plain", ""))]);
    refused.get_ok("/hb_init?0&appid=a");
    failing.wait_log(r"heartbeat.on_overdue for app [a\u{1b}\n], WARNING: exit status: 3");
    failing.wait_log(r"heartbeat.on_overdue for app [a\u{1b}\n], CRITICAL: signal: 9");
    missing.wait_log(
        "heartbeat.on_overdue for app [a]: run /nonexistent/program: no such file or directory",
    );
    missing.wait_log(r"heartbeat.on_overdue for app [b\u{0}c]: run ");
    refused.wait_log("plain: permission denied");
    for agent in [failing, missing, refused] {
        assert_eq!(agent.get("/hb_ping?60000&appid=z").0, 200, "the agent continues");
        agent.stop();
    }
}

/// No environment variable can contain a NUL byte.
#[test]
fn hook_runs_for_an_id_with_nul() {
    let scratch = TempDir::new("nul");
    let agent = Agent::start(&[&hook(&scratch, "echo \"$APP_ID $HB_STATE\" >> \"$D/log\"")]);
    for id in ["%00", "b%00c", "d%00%00"] {
        agent.get_ok(&format!("/hb_init?0&appid={id}"));
    }
    let mut ran = wait_lines(&scratch, 3);
    ran.sort();
    assert_eq!(ran[..3], [r"\u{0} WARNING", r"b\u{0}c WARNING", r"d\u{0}\u{0} WARNING"]);
    agent.stop();
}

#[test]
fn failing_hooks_do_not_flood_the_log() {
    let scratch = TempDir::new("flood");
    let missing = "heartbeat.on_overdue=/nonexistent/program".to_owned();
    for setting in [missing, hook(&scratch, "exit 3")] {
        let agent = Agent::start(&[&setting]);
        let mut open = HttpConnection::open(&agent);
        for number in 0..1500 {
            open.get(&format!("/hb_init?0&appid=a{number}"));
        }
        agent.wait_status("a1499", "WARNING");
        agent.wait_log("heartbeat.on_overdue for app [");
        agent.wait_log(" similar lines suppressed)");
        let start = agent.started.elapsed();
        let lines = agent.stop().len();
        // Two limits, of transitions and of hooks: 20 lines each, and one a second.
        let allowed = 2 * (20 + start.as_secs() as usize) + 20;
        assert!(lines < allowed, "{lines} lines, allowed are {allowed}");
    }
}

/// Hooks used to inherit the agent's signal mask, so that SIGTERM ended only shells.
#[test]
fn hook_inherits_no_signal_mask_and_original_descriptor_limit() {
    let scratch = TempDir::new("signals");
    let script = "cat /proc/self/status /proc/self/limits > \"$D/new\"; mv \"$D/new\" \"$D/log\"";
    let mut command = Command::new("prlimit");
    command.args(["--nofile=1000:4000", env!("CARGO_BIN_EXE_hm-agent")]);
    command.args(["-s", "usage.listen=127.0.0.1:0", "-s", &hook(&scratch, script)]);
    let agent = Agent::spawn(command);
    agent.get_ok("/hb_init?0&appid=a");
    let seen =
        wait_until("the output of the hook", || Some(log_of(&scratch)).filter(|l| !l.is_empty()));
    let line = |name: &str| seen.iter().find(|line| line.starts_with(name)).unwrap().as_str();
    assert_eq!(line("SigBlk:"), "SigBlk:\t0000000000000000");
    let limits: Vec<_> = line("Max open files").split_ascii_whitespace().collect();
    assert_eq!(limits[3..5], ["1000", "4000"]);
    agent.stop();
}

#[test]
fn runs_no_hook_during_maintenance() {
    let scratch = TempDir::new("maintained");
    let agent = Agent::start(&[&hook(&scratch, "echo $APP_ID $HB_STATE >> \"$D/log\"")]);
    let start = Instant::now();
    for id in ["app", "late", "control"] {
        agent.get_ok(&format!("/hb_init?1000&appid={id}"));
    }
    agent.get_ok("/maintenance?60000&appid=app");
    agent.get_ok("/maintenance?10000&appid=late");
    let first = wait_lines(&scratch, 3);
    assert_eq!(first[..3], ["control WARNING", "control CRITICAL", "control DROPPED"]);
    // Its maintenance ended 10 s after the start, which restarted its timeout.
    assert_eq!(wait_lines(&scratch, 4)[3], "late WARNING");
    assert!(start.elapsed() >= Duration::from_secs(16), "{:?}", start.elapsed());
    // A recovery during maintenance runs no hook either.
    agent.get_ok("/maintenance?60000&appid=control");
    agent.get_ok("/hb_ping?60000&appid=control");
    agent.get_ok("/hb_ping?60000&appid=late");
    assert_eq!(wait_lines(&scratch, 5)[4], "late OK");
    agent.stop();
    assert_eq!(log_of(&scratch).len(), 5);
}

#[test]
fn sighup_reloads_unit_and_hook() {
    let scratch = TempDir::new("reload");
    let script = "echo \"$0 $HB_STATE\" >> \"$D/log\"";
    let settings = |unit: &str, name: &str| {
        let line = hook(&scratch, script).replace("heartbeat.on_overdue=", "on_overdue = ");
        let line = line.strip_suffix(']').unwrap().to_owned() + &format!(",\"{name}\"]\n");
        scratch.write("a.toml", &format!("[heartbeat]\nunit = \"{unit}\"\n{line}"))
    };
    let file = settings("ms", "first");
    let agent = Agent::start_with(&[], &["-c", &file]);
    // WARNING after 9 s, CRITICAL after 15 s, dropped after 18 s.
    assert_eq!(agent.get_ok("/hb_init?2000&appid=a"), "3000");
    assert_eq!(wait_lines(&scratch, 1), ["first WARNING"]);
    settings("s", "second");
    agent.signal("-HUP");
    agent.wait_log("configuration reloaded");
    assert_eq!(agent.get_ok("/hb_init?5&appid=b"), "6");
    let line = agent.get_ok("/status?appid=a");
    assert!(line.ends_with(" delay=3s;;;"), "the timeout is unchanged: {line}");
    assert_eq!(wait_lines(&scratch, 2)[1], "second CRITICAL");
    scratch.write("a.toml", "[heartbeat]\nlisten = \"127.0.0.1:1\"\n");
    agent.signal("-HUP");
    wait_until("milliseconds", || (agent.get_ok("/hb_init?5&appid=b") == "1005").then_some(()));
    agent.wait_log("heartbeat: app [a] dropped");
    assert_eq!(log_of(&scratch).len(), 2, "the hook was removed");
    agent.stop();
}

/// The agent does not wait for hooks, because it must stop within two seconds.
#[test]
fn shutdown_leaves_running_hooks_and_logs_queued_ones() {
    let scratch = TempDir::new("stopping");
    let script = "echo begin >> \"$D/log\"; sleep 8; echo end >> \"$D/log\"";
    let agent = Agent::start(&[&hook(&scratch, script)]);
    // WARNING after 6 s, CRITICAL after 10 s.
    agent.get_ok("/hb_init?1000&appid=a");
    wait_lines(&scratch, 1);
    agent.wait_log("heartbeat: app [a] is CRITICAL");
    let log = agent.stop();
    let expected = "heartbeat.on_overdue skipped for app [a] (CRITICAL): agent is stopping";
    assert!(log.iter().any(|line| line.contains(expected)), "{log:#?}");
    assert_eq!(wait_lines(&scratch, 2), ["begin", "end"]);
}

#[test]
#[ignore = "waits 63 s"]
fn kills_hook_and_its_children_after_60_s() {
    let scratch = TempDir::new("endless");
    let script =
        "echo $$ >> \"$D/log\"; sleep 1000 & echo $! >> \"$D/log\"; trap '' TERM; sleep 1000";
    let agent = Agent::start(&[&hook(&scratch, script)]);
    let start = Instant::now();
    agent.get_ok("/hb_init?0&appid=a");
    let pids = wait_lines(&scratch, 2);
    std::thread::park_timeout(Duration::from_secs(50));
    agent.wait_log("heartbeat.on_overdue for app [a], WARNING: timeout (60 s), killed");
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(63) && took < Duration::from_secs(63) + SLACK, "{took:?}");
    wait_until("exit of both processes", || {
        let state = |pid: &String| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        let gone = |pid| state(pid).is_none_or(|stat| stat.contains(") Z "));
        pids.iter().all(gone).then_some(())
    });
    agent.stop();
}
