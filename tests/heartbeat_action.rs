//! `heartbeat.on_overdue`: what is run, when, with what it knows; and settings that change while it runs.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use support::heartbeat::{lines_of, list_setting};
use support::{Agent, SLACK, Scratch, hm_agent, wait_until};

/// The setting that runs a script for `sh`, whose `$D` is a directory.
fn action(scratch: &Scratch, script: &str) -> String {
    let script = format!("D='{}'; {script}", scratch.0.display());
    list_setting("heartbeat.on_overdue", &["sh", "-c", &script])
}

fn log_of(scratch: &Scratch) -> Vec<String> {
    lines_of(&scratch.0.join("log"))
}

fn wait_lines(scratch: &Scratch, count: usize) -> Vec<String> {
    wait_until(&format!("{count} lines"), || Some(log_of(scratch)).filter(|log| log.len() >= count))
}

#[test]
fn it_runs_once_for_each_transition_and_knows_which() {
    let scratch = Scratch::new("action");
    let script =
        "env > \"$D/$HB_STATE\"; echo \"$APP_ID|$HB_STATE|$HB_OD|$HB_GRANTED_MS\" >> \"$D/log\"";
    let mut command = hm_agent();
    command.args(["-s", "usage.listen=127.0.0.1:0", "-s", &action(&scratch, script)]);
    command.env("HM_AGENT_USAGE_TOKEN", "s3cret").env("NOTIFY_SOCKET", "/nonexistent");
    let agent = Agent::spawn(command);
    let start = Instant::now();
    agent.tell("/hb_init?1000&appid=a%20'%22%24(b)%0Ac%E2%98%83");
    agent.tell("/hb_init?60000&appid=fine");
    // The id is its own, with quotes, line end and all.
    let (first, second) = ("a '\"$(b)", "c☃");
    // It was granted two seconds; a busy machine may notice a moment later.
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
    agent.tell("/hb_ping?2000&appid=a%20'%22%24(b)%0Ac%E2%98%83");
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
fn never_two_at_a_time_for_one_application_and_in_order() {
    let scratch = Scratch::new("slow");
    let script = "mkdir \"$D/$APP_ID\" || echo overlap >> \"$D/log\"; \
                  echo \"$APP_ID begin $HB_STATE\" >> \"$D/log\"; sleep 3; \
                  echo \"$APP_ID end $HB_STATE\" >> \"$D/log\"; rmdir \"$D/$APP_ID\"";
    let agent = Agent::start(&[&action(&scratch, script)]);
    // After six seconds, ten and twelve: the third one finds the second one running.
    agent.tell("/hb_init?1000&appid=a");
    agent.tell("/hb_init?1000&appid=b");
    // One application's slow action does not keep another's waiting.
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
fn what_goes_wrong_with_it_is_logged() {
    let scratch = Scratch::new("failing");
    let failing =
        Agent::start(&[&action(&scratch, "[ $HB_STATE = WARNING ] && exit 3; kill -9 $$")]);
    failing.tell("/hb_init?1000&appid=a%1b%0A");
    let missing = Agent::start(&["heartbeat.on_overdue=/nonexistent/program"]);
    missing.tell("/hb_init?0&appid=a");
    missing.tell("/hb_init?0&appid=b%00c");
    let refused = Agent::start(&[&format!("heartbeat.on_overdue={}", scratch.write("plain", ""))]);
    refused.tell("/hb_init?0&appid=a");
    failing.wait_log(r"heartbeat.on_overdue for [a\u{1b}\n], WARNING: exit status: 3");
    failing.wait_log(r"heartbeat.on_overdue for [a\u{1b}\n], CRITICAL: signal: 9");
    missing.wait_log(
        "heartbeat.on_overdue for [a]: run /nonexistent/program: no such file or directory",
    );
    missing.wait_log(r"heartbeat.on_overdue for [b\u{0}c]: run ");
    refused.wait_log("plain: permission denied");
    for agent in [failing, missing, refused] {
        assert_eq!(agent.ask("/hb_ping?60000&appid=z").0, 200, "and it goes on");
        agent.stop();
    }
}

/// It used to inherit what the agent blocks for itself: SIGTERM ended no program but shells.
#[test]
fn it_starts_with_no_signal_blocked_and_the_usual_limit_of_open_files() {
    let scratch = Scratch::new("signals");
    let script = "cat /proc/self/status /proc/self/limits > \"$D/new\"; mv \"$D/new\" \"$D/log\"";
    let mut command = Command::new("prlimit");
    command.args(["--nofile=1000:4000", env!("CARGO_BIN_EXE_hm-agent")]);
    command.args(["-s", "usage.listen=127.0.0.1:0", "-s", &action(&scratch, script)]);
    let agent = Agent::spawn(command);
    agent.tell("/hb_init?0&appid=a");
    let seen =
        wait_until("what it starts with", || Some(log_of(&scratch)).filter(|l| !l.is_empty()));
    let line = |name: &str| seen.iter().find(|line| line.starts_with(name)).unwrap().as_str();
    assert_eq!(line("SigBlk:"), "SigBlk:\t0000000000000000");
    let limits: Vec<_> = line("Max open files").split_ascii_whitespace().collect();
    assert_eq!(limits[3..5], ["1000", "4000"]);
    agent.stop();
}

#[test]
fn in_maintenance_nothing_is_run() {
    let scratch = Scratch::new("maintained");
    let agent = Agent::start(&[&action(&scratch, "echo $APP_ID $HB_STATE >> \"$D/log\"")]);
    let start = Instant::now();
    for id in ["app", "late", "control"] {
        agent.tell(&format!("/hb_init?1000&appid={id}"));
    }
    agent.tell("/maintenance?60000&appid=app");
    agent.tell("/maintenance?10000&appid=late");
    let first = wait_lines(&scratch, 3);
    assert_eq!(first[..3], ["control WARNING", "control CRITICAL", "control DROPPED"]);
    // Its maintenance ended ten seconds after the start, and then it had its whole time.
    assert_eq!(wait_lines(&scratch, 4)[3], "late WARNING");
    assert!(start.elapsed() >= Duration::from_secs(16), "{:?}", start.elapsed());
    // What comes back while in maintenance is no news either.
    agent.tell("/maintenance?60000&appid=control");
    agent.tell("/hb_ping?60000&appid=control");
    agent.tell("/hb_ping?60000&appid=late");
    assert_eq!(wait_lines(&scratch, 5)[4], "late OK");
    agent.stop();
    assert_eq!(log_of(&scratch).len(), 5);
}

#[test]
fn sighup_changes_the_unit_and_the_action() {
    let scratch = Scratch::new("reload");
    let script = "echo \"$0 $HB_STATE\" >> \"$D/log\"";
    let settings = |unit: &str, name: &str| {
        let line = action(&scratch, script).replace("heartbeat.on_overdue=", "on_overdue = ");
        let line = line.strip_suffix(']').unwrap().to_owned() + &format!(",\"{name}\"]\n");
        scratch.write("a.toml", &format!("[heartbeat]\nunit = \"{unit}\"\n{line}"))
    };
    let file = settings("ms", "first");
    let agent = Agent::start_with(&[], &["-c", &file]);
    // Late after nine seconds, very late after fifteen, dropped after eighteen.
    assert_eq!(agent.tell("/hb_init?2000&appid=a"), "3000");
    assert_eq!(wait_lines(&scratch, 1), ["first WARNING"]);
    settings("s", "second");
    agent.signal("-HUP");
    agent.wait_log("configuration reloaded");
    assert_eq!(agent.tell("/hb_init?5&appid=b"), "6");
    let line = agent.tell("/status?appid=a");
    assert!(line.ends_with(" delay=3s;;;"), "what was granted before is the same time: {line}");
    assert_eq!(wait_lines(&scratch, 2)[1], "second CRITICAL");
    scratch.write("a.toml", "[heartbeat]\nlisten = \"127.0.0.1:1\"\n");
    agent.signal("-HUP");
    wait_until("milliseconds", || (agent.tell("/hb_init?5&appid=b") == "1005").then_some(()));
    agent.wait_log("heartbeat: [a] is dropped");
    assert_eq!(log_of(&scratch).len(), 2, "no action any more");
    agent.stop();
}

/// It is not waited for: the agent has two seconds to stop.
#[test]
fn a_stop_leaves_it_to_finish_and_names_those_that_never_ran() {
    let scratch = Scratch::new("stopping");
    let script = "echo begin >> \"$D/log\"; sleep 8; echo end >> \"$D/log\"";
    let agent = Agent::start(&[&action(&scratch, script)]);
    // Late after six seconds, very late after ten.
    agent.tell("/hb_init?1000&appid=a");
    wait_lines(&scratch, 1);
    agent.wait_log("heartbeat: [a] is CRITICAL");
    let log = agent.stop();
    let named = "heartbeat.on_overdue: not run for [a], CRITICAL: the agent is stopping";
    assert!(log.iter().any(|line| line.contains(named)), "{log:#?}");
    assert_eq!(wait_lines(&scratch, 2), ["begin", "end"]);
}

#[test]
#[ignore = "waits 63 s"]
fn after_60_s_it_is_killed_with_all_whom_it_started() {
    let scratch = Scratch::new("endless");
    let script =
        "echo $$ >> \"$D/log\"; sleep 1000 & echo $! >> \"$D/log\"; trap '' TERM; sleep 1000";
    let agent = Agent::start(&[&action(&scratch, script)]);
    let start = Instant::now();
    agent.tell("/hb_init?0&appid=a");
    let pids = wait_lines(&scratch, 2);
    std::thread::park_timeout(Duration::from_secs(50));
    agent.wait_log(
        "heartbeat.on_overdue for [a], WARNING: killed, for it has not ended within 60 s",
    );
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(63) && took < Duration::from_secs(63) + SLACK, "{took:?}");
    wait_until("their end", || {
        let state = |pid: &String| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        let gone = |pid| state(pid).is_none_or(|stat| stat.contains(") Z "));
        pids.iter().all(gone).then_some(())
    });
    agent.stop();
}
