//! Overdue applications, maintenance, and state across restarts of the agent.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::heartbeat::{HttpConnection, lines_of, od_of};
use crate::support::{Agent, SLACK, TempDir, wait_until};

/// Asserts that the status of `late` changes neither too early nor too late until it is dropped. Its heartbeat was between
/// `since.0` and `since.1`, with a timeout of 2 s.
fn assert_transitions(agent: &Agent, since: (Instant, Instant)) {
    let ratio = |since: Instant| since.elapsed().as_secs_f64() / 2.0;
    let lines = [
        (0.0, "OK - fine application [late]"),
        (3.0, "WARNING - somewhat late application [late]"),
        (5.0, "CRITICAL - quite late application [late]"),
        (6.0, "CRITICAL - no application record for queried ID: [late]"),
    ];
    let reached = |od: f64| lines.iter().rposition(|(least, _)| od >= *least).unwrap();
    let mut seen = Vec::new();
    while seen.last() != Some(&3) {
        let least = reached(ratio(since.1));
        let line = agent.status_line("late");
        let most = reached(ratio(since.0));
        let state = lines.iter().position(|(_, expected)| line == *expected);
        let state = state.unwrap_or_else(|| panic!("{line}"));
        assert!((least..=most).contains(&state), "{line} after {:?}", since.0.elapsed());
        seen.push(state);
        std::thread::park_timeout(Duration::from_millis(10));
    }
    seen.dedup();
    assert_eq!(seen, [0, 1, 2, 3]);
}

/// With a timeout of 2 s: WARNING after 6 s, CRITICAL after 10 s, dropped after 12 s.
#[test]
fn changes_state_at_thresholds_in_real_time() {
    let agent = Agent::start(&["interval=1"]);
    let mut client = agent.connect();
    client.send_text("subscribe:detail");
    agent.get_ok("/hb_init?60000&appid=fine");
    let before = Instant::now();
    assert_eq!(agent.get_ok("/hb_init?1000&appid=late"), "2000");
    let since = (before, Instant::now());
    assert_eq!(agent.list(), ["fine", "late"]);
    assert_transitions(&agent, since);
    assert_eq!(agent.list(), ["fine"]);
    assert!(agent.get_ok("/status").starts_with("OK - fine application [fine]| "));
    agent.wait_log("heartbeat: app [late] is WARNING, overdue ratio 3.");
    agent.wait_log("heartbeat: app [late] is CRITICAL, overdue ratio 5.");
    agent.wait_log("heartbeat: app [late] dropped, overdue ratio 6.");
    agent.get_ok("/hb_ping?60000&appid=late");
    agent.wait_log("heartbeat: app [late] recovered");
    // The states that a subscriber received. CRITICAL and DROPPED may have lasted less than the time between two updates.
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let update = client.json();
        let Some(apps) = update["heartbeats"].as_array() else { continue };
        let Some(late) = apps.iter().find(|app| app["app_id"] == "late") else { continue };
        let state = late["state"].as_str().unwrap().to_owned();
        let od = late["od"].as_f64().unwrap();
        let bounds = match state.as_str() {
            "OK" => 0.0..3.0,
            "WARNING" => 3.0..5.0,
            "CRITICAL" => 5.0..6.0,
            "DROPPED" => 6.0..f64::INFINITY,
            _ => panic!("{late}"),
        };
        assert!(bounds.contains(&od), "{late}");
        let granted = if seen.len() == 2 && state == "OK" { 61.0 } else { 2.0 };
        assert_eq!(late["granted_seconds"], granted, "{late}");
        if ["OK", "WARNING"].contains(&&*state) && seen.last() != Some(&state) {
            seen.push(state);
        }
    }
    assert_eq!(seen, ["OK", "WARNING", "OK"]);
    agent.stop();
}

#[test]
fn done_application_never_becomes_overdue() {
    let agent = Agent::start(&[]);
    agent.get_ok("/hb_init?0&appid=a");
    agent.get_ok("/hb_done?0&appid=a");
    agent.get_ok("/hb_init?0&appid=b");
    agent.wait_log("heartbeat: app [b] is ");
    let log = agent.stop();
    assert!(!log.iter().any(|line| line.contains("[a]")), "{log:#?}");
}

#[test]
fn maintenance_pauses_timeouts_of_application_and_host() {
    let agent = Agent::start(&[]);
    agent.get_ok("/hb_init?0&appid=a");
    let answer = agent.get_ok("/maintenance?60000&appid=a");
    assert_eq!(answer, "OK - application [a] in maintenance for 60 s");
    // Maintenance may start before the first heartbeat.
    assert_eq!(
        agent.get_ok("/maintenance?2500&appid=later"),
        "OK - application [later] in maintenance for 3 s"
    );
    assert!(
        agent
            .get_ok("/status?appid=later")
            .starts_with("OK - application [later] in maintenance for ")
    );
    agent.get_ok("/hb_init?0&appid=b");
    agent.wait_status("b", "WARNING");
    assert!(
        agent.status_line("later").starts_with("CRITICAL - no application record"),
        "maintenance has ended"
    );
    let line = agent.get_ok("/status?appid=a");
    agent.get_ok("/maintenance?60000");
    // The remaining seconds of maintenance in a status line.
    let left = |line: &str, of: &str| -> u64 {
        let rest = line.strip_prefix(&format!("OK - {of} in maintenance for "));
        let seconds = rest.and_then(|rest| rest.split_once(" s")).map(|(seconds, _)| seconds);
        seconds.and_then(|seconds| seconds.parse().ok()).unwrap_or_else(|| panic!("{line}"))
    };
    assert!((40..=57).contains(&left(&line, "application [a]")), "{line}");
    assert!(od_of(&line) >= 3.0 && line.ends_with(" delay=1000ms;;;"), "{line}");
    let line = agent.get_ok("/status?appid=b");
    assert!((50..=60).contains(&left(&line, "application [b]")), "{line}");
    assert!((3.0..6.0).contains(&od_of(&line)), "{line}");
    let host = agent.get_ok("/status");
    assert!((50..=60).contains(&left(&host, "host")), "{host}");
    assert!(host.ends_with(" s, (2) applications: [a,b]"), "{host}");
    // Longer than the time until they are dropped.
    std::thread::park_timeout(Duration::from_millis(4000));
    assert_eq!(agent.list(), ["a", "b"]);
    let answer = agent.get_ok("/maintenance?0&appid=a");
    assert_eq!(answer, "OK - application [a] not in maintenance any more");
    assert!(
        agent.status_line("a").starts_with("OK - application [a] in maintenance"),
        "maintenance of the host"
    );
    assert_eq!(agent.get_ok("/maintenance?0"), "OK - host not in maintenance any more");
    // The end of maintenance restarts all timeouts.
    for id in ["a", "b"] {
        assert_eq!(agent.status_line(id), format!("OK - fine application [{id}]"));
    }
    agent.wait_status("a", "WARNING");
    let log = agent.stop();
    let of_a = log.iter().filter(|line| line.contains("[a] is WARNING"));
    assert_eq!(of_a.count(), 1, "one WARNING, after the maintenance: {log:#?}");
}

#[test]
fn rejects_maintenance_requests_of_web_pages() {
    let agent = Agent::start(&[]);
    agent.get_ok("/hb_init?60000&appid=a");
    for header in [
        "Origin: http://localhost:8888\r\n",
        "Origin: null\r\n",
        "origin: https://evil.example\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: none\r\n",
        // What an image on a page sends to another machine than the browser's, and what a page sends to an address that it
        // claims as its own (DNS rebinding).
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n",
        "Referer: http://evil.example/\r\n",
        "User-Agent: curl\r\nAccept-Language: \r\n",
    ] {
        for target in ["/maintenance?60000", "/maintenance?60000&appid=a", "/maintenance?0"] {
            let (status, body) = agent.get_with_headers(target, header);
            assert_eq!(
                (status, body.as_str()),
                (403, "web pages may not start or end maintenance")
            );
        }
    }
    assert_eq!(agent.status_line("a"), "OK - fine application [a]");
    agent.stop();
}

fn with_state(scratch: &TempDir) -> Agent {
    Agent::start(&[&format!("state_dir={}", scratch.0.display())])
}

fn state_file(scratch: &TempDir) -> PathBuf {
    scratch.0.join("heartbeat.json")
}

#[test]
fn restart_keeps_all_applications() {
    let scratch = TempDir::new("restart");
    let agent = with_state(&scratch);
    let ids = ["zebra", "a%7C%0A%22", "%E2%98%83", "late", "short"];
    for id in ids {
        agent.get_ok(&format!("/hb_init?600000&appid={id}"));
    }
    // WARNING after 9 s, CRITICAL after 15 s, dropped after 18 s.
    agent.get_ok("/hb_init?2000&appid=late");
    agent.get_ok("/hb_init?20000&appid=short");
    agent.get_ok("/hb_init?2000&appid=dropped");
    agent.get_ok("/maintenance?600000&appid=zebra");
    agent.wait_status("late", "WARNING");
    agent.wait_log("app [dropped] is WARNING");
    agent.get_ok("/hb_ping?30000&appid=short");
    let list = agent.list();
    agent.stop();
    let again = with_state(&scratch);
    assert_eq!(again.list(), list, "in the same order");
    // It was overdue before the restart, which is not logged again.
    assert_eq!(again.status_line("late"), "WARNING - somewhat late application [late]");
    assert!(
        again.status_line("zebra").starts_with("OK - application [zebra] in maintenance for 5")
    );
    let line = again.get_ok("/status?appid=short");
    assert!(line.starts_with("OK - fine") && line.ends_with(" delay=31000ms;;;"), "{line}");
    again.wait_log("heartbeat: app [late] is CRITICAL");
    again.wait_log("heartbeat: app [dropped] dropped");
    again.get_ok("/hb_ping?600000&appid=late");
    let log = again.stop();
    assert!(!log.iter().any(|line| line.contains("is WARNING")), "{log:#?}");
    // An application that was dropped before the restart recovers after it.
    let third = with_state(&scratch);
    third.get_ok("/hb_ping?600000&appid=dropped");
    third.wait_log("heartbeat: app [dropped] recovered");
    third.stop();
}

#[test]
fn state_is_at_most_one_second_old_after_kill() {
    let scratch = TempDir::new("kill");
    let mut agent = with_state(&scratch);
    agent.get_ok("/hb_init?600000&appid=a");
    agent.get_ok("/maintenance?600000");
    let start = Instant::now();
    let saved = || std::fs::read_to_string(state_file(&scratch)).unwrap_or_default();
    wait_until("a saved table", || saved().contains("left_ms").then_some(()));
    assert!(start.elapsed() < Duration::from_secs(1) + SLACK, "{:?}", start.elapsed());
    agent.signal("-KILL");
    agent.wait();
    let mut again = with_state(&scratch);
    assert_eq!(again.list(), ["a"]);
    assert!(again.get_ok("/status").starts_with("OK - application [a] in maintenance for "));
    // hb_done is saved too.
    again.get_ok("/hb_done?0&appid=a");
    wait_until("a saved hb_done", || (!saved().contains("granted_ms")).then_some(()));
    again.signal("-KILL");
    again.wait();
    let third = with_state(&scratch);
    assert!(third.list().is_empty());
    third.stop();
}

/// The file used to count as damaged because it was longer than the read limit, and all applications were lost.
#[test]
fn largest_possible_table_survives_restart() {
    let scratch = TempDir::new("large");
    let agent = with_state(&scratch);
    let mut line = HttpConnection::open(&agent);
    // Ids of maximum length that JSON escapes to six times that.
    let long = "%01".repeat(250);
    for command in ["maintenance", "hb_ping"] {
        for hundred in 0..100 {
            let requests: String = (hundred * 100..hundred * 100 + 100)
                .map(|id| {
                    format!("HEAD /{command}?600000&appid={command}{id:05}{long} HTTP/1.1\r\nHost: a\r\n\r\n")
                        .replace("appid=maintenance", "appid=m")
                        .replace("appid=hb_ping", "appid=p")
                })
                .collect();
            line.send(requests);
            for _ in 0..100 {
                assert_eq!(line.next(false).unwrap().status, 200);
            }
        }
    }
    // The shutdown does not wait until a slow machine has written all of it.
    wait_until("a saved table", || {
        std::thread::park_timeout(Duration::from_millis(200));
        let saved = std::fs::read_to_string(state_file(&scratch)).ok()?;
        ["\"m09999", "\"p09999"].iter().all(|id| saved.contains(id)).then_some(())
    });
    agent.stop();
    let again = with_state(&scratch);
    assert_eq!(again.list().len(), 10_000);
    assert!(again.status_line(&format!("m00000{long}")).contains(" in maintenance for "));
    again.stop();
}

#[test]
fn maintenance_requests_are_rate_limited_in_log() {
    let agent = Agent::start(&[]);
    let started = agent.started;
    let mut line = HttpConnection::open(&agent);
    for _ in 0..300 {
        line.get("/maintenance?60000&appid=a");
    }
    let log = agent.stop();
    // A burst of 20, then one per second.
    let most = 40 + started.elapsed().as_secs() as usize;
    assert!(log.len() < most, "{} lines", log.len());
}

#[test]
fn heartbeat_without_change_does_not_write_state() {
    let scratch = TempDir::new("quiet");
    let agent = with_state(&scratch);
    agent.get_ok("/hb_init?5000&appid=a");
    let written = || std::fs::metadata(state_file(&scratch)).ok()?.modified().ok();
    let first = wait_until("a saved table", written);
    let mut line = HttpConnection::open(&agent);
    let until = Instant::now() + Duration::from_millis(2500);
    while Instant::now() < until {
        line.get("/hb_ping?5000&appid=a");
    }
    assert_eq!(written(), Some(first));
    agent.stop();
}

#[test]
fn renames_and_logs_damaged_state_file() {
    let scratch = TempDir::new("damaged");
    let whole =
        r#"{"apps":[{"id":"a","granted_ms":61000,"age_ms":5}],"dropped":[],"maintenance":[]}"#;
    for damaged in ["", "\0\0\0\0", &whole[..40], "[7]", r#"{"apps":7}"#] {
        scratch.write("heartbeat.json", damaged);
        let agent = with_state(&scratch);
        let line = agent.wait_log("heartbeat.json is damaged");
        assert!(
            line.contains("renamed to ") && line.contains("starting without saved heartbeats"),
            "{line}"
        );
        assert!(agent.list().is_empty());
        assert_eq!(
            std::fs::read(scratch.0.join("heartbeat.json.damaged")).unwrap(),
            damaged.as_bytes()
        );
        agent.get_ok("/hb_init?60000&appid=b");
        agent.stop();
        let again = with_state(&scratch);
        assert_eq!(again.list(), ["b"]);
        again.stop();
    }
    // A file of another version is not damaged. Invalid entries are discarded.
    scratch.write("heartbeat.json", r#"{"apps":[{"id":"a","granted_ms":61000,"age_ms":5},{"id":"no","granted_ms":0,"age_ms":0}],"newer":1}"#);
    let agent = with_state(&scratch);
    assert_eq!(agent.list(), ["a"]);
    let log = agent.stop();
    assert!(!log.iter().any(|line| line.contains("damaged")), "{log:#?}");
}

#[test]
fn logs_once_when_state_cannot_be_written() {
    let scratch = TempDir::new("unwritable");
    // A file instead of the directory, because root ignores permissions.
    let blocked = scratch.write("state", "");
    let agent = Agent::start(&[&format!("state_dir={blocked}")]);
    let line = agent.wait_log("heartbeats are kept in memory only, see state_dir");
    assert!(line.contains(&format!("write {blocked}/heartbeat.json: ")), "{line}");
    agent.get_ok("/hb_init?0&appid=a");
    agent.get_ok("/hb_init?60000&appid=b");
    agent.wait_status("a", "WARNING");
    std::fs::remove_file(&blocked).unwrap();
    std::fs::create_dir(&blocked).unwrap();
    agent.get_ok("/hb_ping?60000&appid=a");
    agent.wait_log("heartbeat.json recovered");
    let log = agent.stop();
    for what in ["heartbeats", "events"] {
        let warning = format!("{what} are kept in memory only");
        assert_eq!(log.iter().filter(|line| line.contains(&warning)).count(), 1, "{log:#?}");
    }
    assert_eq!(lines_of(&scratch.0.join("state/heartbeat.json")).len(), 1);
}

#[test]
fn recovers_after_running_out_of_descriptors() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 80; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_hm-agent")]);
    command.args(["-s", "usage.listen=127.0.0.1:0"]);
    let agent = Agent::spawn(command);
    let mut open = HttpConnection::open(&agent);
    for number in 0..20 {
        open.get(&format!("/hb_init?60000&appid=app{number}"));
    }
    let list = agent.list();
    let flood: Vec<_> =
        (0..100).map(|_| std::net::TcpStream::connect(agent.heartbeat()).unwrap()).collect();
    agent.wait_log("heartbeat: cannot accept connections: ");
    for number in 0..20 {
        let answer = open.get(&format!("/hb_ping?60000&appid=app{number}"));
        assert_eq!(answer.body, "61000", "open connections still work");
    }
    assert_eq!(open.get("/hb_ping?60000&appid=new").body, "61000");
    drop(flood);
    let start = Instant::now();
    assert_eq!(agent.list(), [&list[..], &["new".to_owned()]].concat());
    assert!(start.elapsed() < SLACK, "{:?}", start.elapsed());
    agent.stop();
}
