//! Applications that are late, in maintenance, gone; and what of it a restart of the agent keeps.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use support::heartbeat::{Line, lines_of, od_of};
use support::{Agent, SLACK, Scratch, wait_until};

/// What is said of `late` until it is dropped is never too early, and never too late either: it beat between `since.0`
/// and `since.1`, and was granted two seconds.
fn watch_it_go(agent: &Agent, since: (Instant, Instant)) {
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
        let line = agent.line("late");
        let most = reached(ratio(since.0));
        let said = lines.iter().position(|(_, said)| line == *said);
        let said = said.unwrap_or_else(|| panic!("{line}"));
        assert!((least..=most).contains(&said), "{line} after {:?}", since.0.elapsed());
        seen.push(said);
        std::thread::park_timeout(Duration::from_millis(10));
    }
    seen.dedup();
    assert_eq!(seen, [0, 1, 2, 3]);
}

/// When it was granted two seconds: late from the sixth on, very late from the tenth on, dropped after twelve.
#[test]
fn thresholds_in_real_time() {
    let agent = Agent::start(&["interval=1"]);
    let mut client = agent.connect();
    client.say("subscribe:detail");
    agent.tell("/hb_init?60000&appid=fine");
    let before = Instant::now();
    assert_eq!(agent.tell("/hb_init?1000&appid=late"), "2000");
    let since = (before, Instant::now());
    assert_eq!(agent.list(), ["fine", "late"]);
    watch_it_go(&agent, since);
    assert_eq!(agent.list(), ["fine"]);
    assert!(agent.tell("/status").starts_with("OK - fine application [fine]| "));
    agent.wait_log("heartbeat: [late] is WARNING, od 3.");
    agent.wait_log("heartbeat: [late] is CRITICAL, od 5.");
    agent.wait_log("heartbeat: [late] is dropped, od 6.");
    agent.tell("/hb_ping?60000&appid=late");
    agent.wait_log("heartbeat: [late] beats again");
    // What a subscriber saw of it, from one update to the next. The time in which it was very late may lie between
    // two updates.
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
            _ => 5.0..6.0,
        };
        assert!(bounds.contains(&od), "{late}");
        let granted = if seen.len() == 2 && state == "OK" { 61.0 } else { 2.0 };
        assert_eq!(late["granted_seconds"], granted, "{late}");
        if state != "CRITICAL" && seen.last() != Some(&state) {
            seen.push(state);
        }
    }
    assert_eq!(seen, ["OK", "WARNING", "OK"]);
    agent.stop();
}

#[test]
fn a_goodbye_is_never_late() {
    let agent = Agent::start(&[]);
    agent.tell("/hb_init?0&appid=a");
    agent.tell("/hb_done?0&appid=a");
    agent.tell("/hb_init?0&appid=b");
    agent.wait_log("heartbeat: [b] is ");
    let log = agent.stop();
    assert!(!log.iter().any(|line| line.contains("[a]")), "{log:#?}");
}

#[test]
fn maintenance_of_one_and_of_all() {
    let agent = Agent::start(&[]);
    agent.tell("/hb_init?0&appid=a");
    let said = agent.tell("/maintenance?60000&appid=a");
    assert_eq!(said, "OK - application [a] in maintenance for 60 s");
    // It is known before it beats for the first time, too.
    assert_eq!(
        agent.tell("/maintenance?2500&appid=later"),
        "OK - application [later] in maintenance for 3 s"
    );
    assert!(
        agent
            .tell("/status?appid=later")
            .starts_with("OK - application [later] in maintenance for ")
    );
    agent.tell("/hb_init?0&appid=b");
    agent.wait_line("b", "WARNING");
    assert!(agent.line("later").starts_with("CRITICAL - no application record"), "it is over");
    let line = agent.tell("/status?appid=a");
    agent.tell("/maintenance?60000");
    // Says for how many seconds more somebody is in maintenance.
    let left = |line: &str, of: &str| -> u64 {
        let rest = line.strip_prefix(&format!("OK - {of} in maintenance for "));
        let seconds = rest.and_then(|rest| rest.split_once(" s")).map(|(seconds, _)| seconds);
        seconds.and_then(|seconds| seconds.parse().ok()).unwrap_or_else(|| panic!("{line}"))
    };
    assert!((40..=57).contains(&left(&line, "application [a]")), "{line}");
    assert!(od_of(&line) >= 3.0 && line.ends_with(" delay=1000ms;;;"), "{line}");
    let line = agent.tell("/status?appid=b");
    assert!((50..=60).contains(&left(&line, "application [b]")), "{line}");
    assert!((3.0..6.0).contains(&od_of(&line)), "{line}");
    let host = agent.tell("/status");
    assert!((50..=60).contains(&left(&host, "host")), "{host}");
    assert!(host.ends_with(" s, (2) applications: [a,b]"), "{host}");
    // Longer than it takes to be dropped.
    std::thread::park_timeout(Duration::from_millis(4000));
    assert_eq!(agent.list(), ["a", "b"]);
    let said = agent.tell("/maintenance?0&appid=a");
    assert_eq!(said, "OK - application [a] not in maintenance any more");
    assert!(agent.line("a").starts_with("OK - application [a] in maintenance"), "the host's");
    assert_eq!(agent.tell("/maintenance?0"), "OK - host not in maintenance any more");
    // All have their whole time again.
    for id in ["a", "b"] {
        assert_eq!(agent.line(id), format!("OK - fine application [{id}]"));
    }
    agent.wait_line("a", "WARNING");
    let log = agent.stop();
    let of_a = log.iter().filter(|line| line.contains("[a] is WARNING"));
    assert_eq!(of_a.count(), 1, "late once, after the maintenance: {log:#?}");
}

#[test]
fn pages_may_not_declare_maintenance() {
    let agent = Agent::start(&[]);
    agent.tell("/hb_init?60000&appid=a");
    for header in [
        "Origin: http://localhost:8888\r\n",
        "Origin: null\r\n",
        "origin: https://evil.example\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: none\r\n",
        // What an image on somebody's page sends to another machine than the browser's own, and what a page sends to the
        // address that it says is its own.
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n",
        "Referer: http://evil.example/\r\n",
        "User-Agent: curl\r\nAccept-Language: \r\n",
    ] {
        for target in ["/maintenance?60000", "/maintenance?60000&appid=a", "/maintenance?0"] {
            let (status, body) = agent.ask_with(target, header);
            assert_eq!((status, body.as_str()), (403, "pages may not declare maintenance"));
        }
    }
    assert_eq!(agent.line("a"), "OK - fine application [a]");
    agent.stop();
}

fn with_state(scratch: &Scratch) -> Agent {
    Agent::start(&[&format!("state_dir={}", scratch.0.display())])
}

fn state_file(scratch: &Scratch) -> PathBuf {
    scratch.0.join("heartbeat.json")
}

#[test]
fn a_restart_forgets_nobody() {
    let scratch = Scratch::new("restart");
    let agent = with_state(&scratch);
    let ids = ["zebra", "a%7C%0A%22", "%E2%98%83", "late", "short"];
    for id in ids {
        agent.tell(&format!("/hb_init?600000&appid={id}"));
    }
    // Late after nine seconds, very late after fifteen, dropped after eighteen.
    agent.tell("/hb_init?2000&appid=late");
    agent.tell("/hb_init?20000&appid=short");
    agent.tell("/hb_init?2000&appid=dropped");
    agent.tell("/maintenance?600000&appid=zebra");
    agent.wait_line("late", "WARNING");
    agent.wait_log("[dropped] is WARNING");
    agent.tell("/hb_ping?30000&appid=short");
    let list = agent.list();
    agent.stop();
    let again = with_state(&scratch);
    assert_eq!(again.list(), list, "in the same order");
    // Judged by its own promise: it was late already, and that is not told twice.
    assert_eq!(again.line("late"), "WARNING - somewhat late application [late]");
    assert!(again.line("zebra").starts_with("OK - application [zebra] in maintenance for 5"));
    let line = again.tell("/status?appid=short");
    assert!(line.starts_with("OK - fine") && line.ends_with(" delay=31000ms;;;"), "{line}");
    again.wait_log("heartbeat: [late] is CRITICAL");
    again.wait_log("heartbeat: [dropped] is dropped");
    again.tell("/hb_ping?600000&appid=late");
    let log = again.stop();
    assert!(!log.iter().any(|line| line.contains("is WARNING")), "{log:#?}");
    // Who was dropped before the restart comes back after it.
    let third = with_state(&scratch);
    third.tell("/hb_ping?600000&appid=dropped");
    third.wait_log("heartbeat: [dropped] beats again");
    third.stop();
}

#[test]
fn killed_it_knows_what_it_knew_a_second_before() {
    let scratch = Scratch::new("kill");
    let mut agent = with_state(&scratch);
    agent.tell("/hb_init?600000&appid=a");
    agent.tell("/maintenance?600000");
    let start = Instant::now();
    let saved = || std::fs::read_to_string(state_file(&scratch)).unwrap_or_default();
    wait_until("a saved table", || saved().contains("left_ms").then_some(()));
    assert!(start.elapsed() < Duration::from_secs(1) + SLACK, "{:?}", start.elapsed());
    agent.signal("-KILL");
    agent.wait();
    let mut again = with_state(&scratch);
    assert_eq!(again.list(), ["a"]);
    assert!(again.tell("/status").starts_with("OK - application [a] in maintenance for "));
    // A goodbye is remembered as well.
    again.tell("/hb_done?0&appid=a");
    wait_until("a saved goodbye", || (!saved().contains("granted_ms")).then_some(()));
    again.signal("-KILL");
    again.wait();
    let third = with_state(&scratch);
    assert!(third.list().is_empty());
    third.stop();
}

/// It was taken for damaged, because it was longer than what is read of it: everybody was forgotten.
#[test]
fn the_largest_table_there_can_be_survives_a_restart() {
    let scratch = Scratch::new("large");
    let agent = with_state(&scratch);
    let mut line = Line::to(&agent);
    // As long as ids can be, and longer still when they are written down.
    let long = "%01".repeat(250);
    for command in ["maintenance", "hb_ping"] {
        for hundred in 0..100 {
            let requests: String = (hundred * 100..hundred * 100 + 100)
                .map(|id| {
                    format!("HEAD /{command}?600000&appid={command}{id:05}{long} HTTP/1.1\r\n\r\n")
                        .replace("appid=maintenance", "appid=m")
                        .replace("appid=hb_ping", "appid=p")
                })
                .collect();
            line.say(requests);
            for _ in 0..100 {
                assert_eq!(line.next(false).unwrap().status, 200);
            }
        }
    }
    // A stop does not wait for a slow machine to write all that.
    wait_until("a saved table", || {
        std::thread::park_timeout(Duration::from_millis(200));
        let saved = std::fs::read_to_string(state_file(&scratch)).ok()?;
        ["\"m09999", "\"p09999"].iter().all(|id| saved.contains(id)).then_some(())
    });
    agent.stop();
    let again = with_state(&scratch);
    assert_eq!(again.list().len(), 10_000);
    assert!(again.line(&format!("m00000{long}")).contains(" in maintenance for "));
    again.stop();
}

#[test]
fn maintenance_cannot_fill_the_log() {
    let agent = Agent::start(&[]);
    let started = agent.started;
    let mut line = Line::to(&agent);
    for _ in 0..300 {
        line.get("/maintenance?60000&appid=a");
    }
    let log = agent.stop();
    // Twenty at once, then one a second.
    let most = 40 + started.elapsed().as_secs() as usize;
    assert!(log.len() < most, "{} lines", log.len());
}

#[test]
fn a_beat_that_changes_nothing_writes_nothing() {
    let scratch = Scratch::new("quiet");
    let agent = with_state(&scratch);
    agent.tell("/hb_init?5000&appid=a");
    let written = || std::fs::metadata(state_file(&scratch)).ok()?.modified().ok();
    let first = wait_until("a saved table", written);
    let mut line = Line::to(&agent);
    let until = Instant::now() + Duration::from_millis(2500);
    while Instant::now() < until {
        line.get("/hb_ping?5000&appid=a");
    }
    assert_eq!(written(), Some(first));
    agent.stop();
}

#[test]
fn a_damaged_table_is_kept_aside_and_said() {
    let scratch = Scratch::new("damaged");
    let whole =
        r#"{"apps":[{"id":"a","granted_ms":61000,"age_ms":5}],"dropped":[],"maintenance":[]}"#;
    for damaged in ["", "\0\0\0\0", &whole[..40], "[7]", r#"{"apps":7}"#] {
        scratch.write("heartbeat.json", damaged);
        let agent = with_state(&scratch);
        let said = agent.wait_log("heartbeat.json is damaged");
        assert!(
            said.contains("it is kept as ") && said.contains("heartbeats begin anew"),
            "{said}"
        );
        assert!(agent.list().is_empty());
        assert_eq!(
            std::fs::read(scratch.0.join("heartbeat.json.damaged")).unwrap(),
            damaged.as_bytes()
        );
        agent.tell("/hb_init?60000&appid=b");
        agent.stop();
        let again = with_state(&scratch);
        assert_eq!(again.list(), ["b"]);
        again.stop();
    }
    // What an older or a newer version wrote is no damage; nonsense inside is left out.
    scratch.write("heartbeat.json", r#"{"apps":[{"id":"a","granted_ms":61000,"age_ms":5},{"id":"no","granted_ms":0,"age_ms":0}],"newer":1}"#);
    let agent = with_state(&scratch);
    assert_eq!(agent.list(), ["a"]);
    let log = agent.stop();
    assert!(!log.iter().any(|line| line.contains("damaged")), "{log:#?}");
}

#[test]
fn without_a_place_to_write_it_says_so_once_and_goes_on() {
    let scratch = Scratch::new("unwritable");
    // A file where the directory should be: root is not kept out by permissions.
    let blocked = scratch.write("state", "");
    let agent = Agent::start(&[&format!("state_dir={blocked}")]);
    let said = agent.wait_log("heartbeats are kept in memory only, see state_dir");
    assert!(said.contains(&format!("write {blocked}/heartbeat.json: ")), "{said}");
    agent.tell("/hb_init?0&appid=a");
    agent.tell("/hb_init?60000&appid=b");
    agent.wait_line("a", "WARNING");
    std::fs::remove_file(&blocked).unwrap();
    std::fs::create_dir(&blocked).unwrap();
    agent.tell("/hb_ping?60000&appid=a");
    agent.wait_log("heartbeat.json can be written again");
    let log = agent.stop();
    assert_eq!(log.iter().filter(|line| line.contains("memory only")).count(), 1, "{log:#?}");
    assert_eq!(lines_of(&scratch.0.join("state/heartbeat.json")).len(), 1);
}

#[test]
fn out_of_descriptors_it_pauses_comes_back_and_has_forgotten_nobody() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 40; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_hm-agent")]);
    command.args(["-s", "usage.listen=127.0.0.1:0"]);
    let agent = Agent::spawn(command);
    let mut inside = Line::to(&agent);
    for number in 0..20 {
        inside.get(&format!("/hb_init?60000&appid=app{number}"));
    }
    let list = agent.list();
    let flood: Vec<_> =
        (0..100).map(|_| std::net::TcpStream::connect(agent.heartbeat()).unwrap()).collect();
    agent.wait_log("heartbeat: cannot accept: ");
    for number in 0..20 {
        let answer = inside.get(&format!("/hb_ping?60000&appid=app{number}"));
        assert_eq!(answer.body, "61000", "who is inside is served on");
    }
    assert_eq!(inside.get("/hb_ping?60000&appid=new").body, "61000");
    drop(flood);
    let start = Instant::now();
    assert_eq!(agent.list(), [&list[..], &["new".to_owned()]].concat());
    assert!(start.elapsed() < SLACK, "{:?}", start.elapsed());
    agent.stop();
}
