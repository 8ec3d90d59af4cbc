//! The link to hm, against a hub that behaves as the published one does.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use support::hub::Hub;
use support::{Agent, Scratch, wait_until};

/// An agent that reports every second and keeps what it must in `state`.
fn agent(hub: &Hub, state: &Scratch) -> Agent {
    let state = format!("state_dir={}", state.0.display());
    Agent::start(&[
        &hub.setting(),
        &state,
        "node_id=n1",
        "hm.report_interval=1",
        "hm.ping_interval=1",
        "hm.project=P",
        "hm.models=a, b",
        "interval=1",
        "gpu.source=none",
    ])
}

/// In order, each once, and none missing: reports are a second apart.
fn assert_complete(reports: &[u64]) {
    for pair in reports.windows(2) {
        let apart = pair[1].checked_sub(pair[0]);
        // A busy machine takes one later. One that is missing leaves whole seconds.
        let late = |ms: u64| ms < 5000 && (20..980).contains(&(ms % 1000));
        let good = apart.is_some_and(|ms| (1..1500).contains(&ms) || late(ms));
        assert!(good, "{pair:?} of {reports:?}");
    }
}

#[test]
fn online_first_then_reports_as_the_document_has_them() {
    let (hub, state) = (Hub::start(), Scratch::new("hm"));
    let agent = agent(&hub, &state);
    hub.wait_reports(3);
    let seen = hub.seen();
    assert_eq!((seen[0].kind, seen[0].id, &seen[0].body), (1, 1, &json!({"node_id": "n1"})));
    let models = json!([{"model": "a"}, {"model": "b"}]);
    let report = json!({"project": "P", "models": models, "gpu_name": "", "utilization_gpu": 0,
        "memory_total": 0, "memory_used": 0});
    assert_eq!((seen[1].kind, seen[1].id, &seen[1].body), (2, 2, &report));
    assert!(seen[1].timestamp > 1_700_000_000_000, "milliseconds: {}", seen[1].timestamp);
    assert_complete(&hub.reports());
    wait_until("a ping", || (hub.pings() >= 1).then_some(()));
    agent.wait_log("this node has no GPU");
    let log = agent.stop();
    let said = log.iter().filter(|line| line.contains("this node has no GPU")).count();
    assert_eq!(said, 1, "{log:#?}");
}

#[test]
fn a_hub_that_was_away_gets_everything_in_order() {
    let (hub, state) = (Hub::start(), Scratch::new("hm"));
    let agent = agent(&hub, &state);
    hub.wait_reports(2);
    let address = hub.address;
    let before = hub.stop();
    agent.wait_log("cannot be reached");
    let hub = Hub::on(address, false, Duration::from_secs(30));
    let mut all: Vec<u64> =
        before.iter().filter(|seen| seen.kind == 2).map(|seen| seen.timestamp).collect();
    let missed = hub.wait_reports(5);
    all.extend(missed);
    all.dedup(); // the last one before may have been answered too late for us
    assert_complete(&all);
    agent.stop();
}

#[test]
fn an_agent_that_was_killed_delivers_what_it_had() {
    let (hub, state) = (Hub::start(), Scratch::new("hm"));
    let address = hub.address;
    let first = agent(&hub, &state);
    let mut all = hub.wait_reports(1);
    drop(hub);
    let spool = state.0.join("hm-reports");
    // Some wait in the file.
    wait_until("a backlog", || {
        let text = std::fs::read_to_string(&spool).unwrap_or_default();
        (text.lines().filter(|line| line[17..].starts_with('r')).count() >= 4).then_some(())
    });
    first.signal("-KILL");
    let mut first = first;
    first.wait();
    // Torn in the middle of a line.
    let mut text = std::fs::read(&spool).unwrap();
    text.extend(b"0123456789abcdef r17");
    std::fs::write(&spool, text).unwrap();
    let hub = Hub::on(address, false, Duration::from_secs(30));
    let second = agent(&hub, &state);
    all.extend(hub.wait_reports(4));
    all.dedup();
    assert_complete(&all[..4]);
    second.wait_log("1 damaged lines are left out");
    second.stop();
}

#[test]
fn codes_do_what_they_mean() {
    let (hub, state) = (Hub::start(), Scratch::new("hm"));
    // Online: an older connection is there. Then a report is refused, one is wanted again, one not online.
    hub.codes(&[5, 0, 1, 0, 6]);
    let agent = agent(&hub, &state);
    let reports = hub.wait_reports(3);
    agent.wait_log("holds an older connection of this node");
    agent.wait_log("refuses a report (\"no\"), which is dropped: {\\\"project\\\"");
    assert_complete(&reports);
    let onlines = hub.seen().iter().filter(|seen| seen.kind == 1).count();
    assert_eq!((onlines, hub.connections()), (2, 1), "{:#?}", hub.seen());
    agent.stop();
}

#[test]
fn a_hub_that_asks_for_later_gets_the_same_report_again() {
    let (hub, state) = (Hub::start(), Scratch::new("hm"));
    hub.codes(&[0, 0, 4]);
    let agent = agent(&hub, &state);
    assert_complete(&hub.wait_reports(4));
    agent.wait_log("asks for later");
    agent.stop();
}

#[test]
#[ignore = "waits for the 20 s that an answer may take"]
fn a_report_that_is_not_answered_ends_the_connection_and_is_sent_again() {
    let (hub, state) = (Hub::start(), Scratch::new("hm"));
    hub.codes(&[0, 0, 99]);
    let start = Instant::now();
    let agent = agent(&hub, &state);
    hub.wait_reports(1);
    let early = Duration::from_secs(18);
    wait_until("the 18th second", || (start.elapsed() > early).then_some(()));
    assert_eq!(hub.connections(), 1);
    wait_until("another connection", || (hub.connections() == 2).then_some(()));
    agent.wait_log("no answer within 20 s");
    assert_complete(&hub.wait_reports(20));
    agent.stop();
}

#[test]
#[ignore = "waits for the hub's deadline"]
fn pings_alone_keep_the_hub_patient() {
    let state = Scratch::new("hm");
    let hub = Hub::on("127.0.0.1:0".parse().unwrap(), false, Duration::from_secs(6));
    let agent = agent(&hub, &state);
    hub.wait_reports(14);
    assert_eq!(hub.connections(), 1, "a missing pong is no reason to go");
    agent.stop();
}

#[test]
fn what_answers_http_is_said_and_left_alone_for_a_while() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let read = socket.read(&mut request).unwrap();
        let answer = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 120\r\nContent-Length: 5\r\n\r\nlater";
        socket.write_all(answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&request[..read]).into_owned()
    });
    let agent = Agent::start(&[&format!("hm.url=ws://{address}/x?secret=1"), "gpu.source=none"]);
    let line = agent.wait_log("answers 503: later; next try in 1");
    let seconds: f64 = line.rsplit(' ').nth(1).unwrap().parse().unwrap();
    assert!((120.0..=145.0).contains(&seconds), "{line}");
    assert!(!line.contains("secret"), "{line}");
    let request = server.join().unwrap();
    assert!(request.starts_with("GET /x?secret=1 HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("hm-agent/"), "{request}");
    agent.stop();
}

#[test]
fn what_is_wrong_with_an_address_is_said_before_anything_starts() {
    for (url, why) in [
        ("http://hub/", "expected an address such as ws://"),
        ("ws://", "expected an address such as ws://"),
    ] {
        let output =
            support::hm_agent().args(["check", "-s", &format!("hm.url={url}")]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(why), "{stderr}");
    }
}

#[test]
fn the_link_is_shown() {
    let (hub, state) = (Hub::start(), Scratch::new("hm"));
    let agent = agent(&hub, &state);
    hub.wait_reports(2);
    let mut client = agent.connect();
    client.say("subscribe:detail");
    let link = wait_until("a link that is online", || {
        let update = client.json();
        let link = update["links"][0].clone();
        (link["state"] == "online" && link["last_answer_unix_seconds"].is_u64()).then_some(link)
    });
    assert_eq!((&link["name"], &link["dropped"]), (&json!("hm"), &json!(0)), "{link}");
    let listen = format!("usage.listen={}", agent.address);
    let sample = |arguments: &[&str]| -> String {
        let settings = ["-s", &listen, "-s", &hub.setting(), "-s", "gpu.source=none"];
        let mut command: Command = support::hm_agent();
        let output = command.arg("sample").args(arguments).args(settings).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let table = sample(&["-s", "heartbeat.enabled=false"]);
    assert!(table.contains("hm         online"), "{table}");
    agent.stop();
}
