//! The hm client against a server that behaves as the published one.

use crate::support;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::support::hm_server::HmServer;
use crate::support::{Agent, TempDir, wait_until};

/// An agent that reports every second.
fn agent(hub: &HmServer, state: &TempDir) -> Agent {
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

/// In order, without duplicates or gaps: reports are a second apart.
fn assert_complete(reports: &[u64]) {
    for pair in reports.windows(2) {
        let apart = pair[1].checked_sub(pair[0]);
        // On a busy machine a report is late. A missing one leaves a gap of whole seconds.
        let late = |ms: u64| ms < 5000 && (20..980).contains(&(ms % 1000));
        let good = apart.is_some_and(|ms| (1..1500).contains(&ms) || late(ms));
        assert!(good, "{pair:?} of {reports:?}");
    }
}

#[test]
fn goes_online_then_sends_reports_in_published_format() {
    let (hub, state) = (HmServer::start(), TempDir::new("hm"));
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
    agent.wait_log("node has no GPU");
    let log = agent.stop();
    let logged = log.iter().filter(|line| line.contains("node has no GPU")).count();
    assert_eq!(logged, 1, "{log:#?}");
}

/// What is sent to the published server, which announces nothing, never changes.
#[test]
fn sends_no_other_message_to_a_server_without_extensions() {
    let (listener, state) = (TcpListener::bind("127.0.0.1:0").unwrap(), TempDir::new("hm"));
    let agent = Agent::start(&[
        &format!("hm.url=ws://{}/websocket", listener.local_addr().unwrap()),
        &format!("state_dir={}", state.0.display()),
        "node_id=n1",
        "hm.report_interval=1",
        "interval=1",
        "gpu.source=none",
    ]);
    let mut socket = tungstenite::accept(listener.accept().unwrap().0).unwrap();
    socket.get_ref().set_read_timeout(Some(support::TEST_TIMEOUT)).unwrap();
    // The bodies are {"node_id":"n1"} and a report without a GPU.
    let online = r#"{"version":0,"timestamp":TIME,"id":1,"type":1,"pub_key":"","sign":"","body":"eyJub2RlX2lkIjoibjEifQ=="}"#;
    let report = r#"{"version":0,"timestamp":TIME,"id":ID,"type":2,"pub_key":"","sign":"","body":"eyJwcm9qZWN0IjoiIiwibW9kZWxzIjpbXSwiZ3B1X25hbWUiOiIiLCJ1dGlsaXphdGlvbl9ncHUiOjAsIm1lbW9yeV90b3RhbCI6MCwibWVtb3J5X3VzZWQiOjB9"}"#;
    for id in 1..=3 {
        let message = loop {
            match socket.read().unwrap() {
                Message::Ping(_) => {}
                other => break other,
            }
        };
        let text = message.into_text().unwrap();
        let time = serde_json::from_str::<Value>(&text).unwrap()["timestamp"].to_string();
        let expected = if id == 1 { online } else { report };
        assert_eq!(text.as_str(), expected.replace("TIME", &time).replace("ID", &id.to_string()));
        // A request of the extension has no answer.
        let get = "{\"extension\":\"get\",\"id\":1,\"path\":\"/metrics\"}\n";
        socket.send(Message::binary(get)).unwrap();
        let kind = if id == 1 { 1 } else { 2 };
        let response = json!({"version": 0, "timestamp": 1, "id": id, "type": kind, "code": 0,
            "message": "success", "pub_key": "", "sign": "", "body": ""});
        socket.send(Message::text(response.to_string())).unwrap();
    }
    agent.stop();
}

#[test]
fn answers_a_hub_with_metrics_and_snapshot_and_nothing_else() {
    let (listener, state) = (TcpListener::bind("127.0.0.1:0").unwrap(), TempDir::new("hm"));
    let agent = Agent::start(&[
        &format!("hm.url=ws://{}/websocket", listener.local_addr().unwrap()),
        &format!("state_dir={}", state.0.display()),
        "hm.report_interval=3600",
        "usage.token=of-the-port",
        "gpu.source=none",
    ]);
    let mut socket = tungstenite::accept(listener.accept().unwrap().0).unwrap();
    socket.get_ref().set_read_timeout(Some(support::TEST_TIMEOUT)).unwrap();
    assert!(socket.read().unwrap().is_text(), "the request to go online");
    let hub = json!({"hub": {"version": "1", "extensions": ["get"]}}).to_string();
    let body = data_encoding::BASE64.encode(hub.as_bytes());
    let online = json!({"version": 0, "timestamp": 1, "id": 1, "type": 1, "code": 0,
        "message": "ok", "pub_key": "", "sign": "", "body": body});
    socket.send(Message::text(online.to_string())).unwrap();
    assert_eq!(next_head(&mut socket)["extension"], "node");
    for (id, path) in (1..).zip(["/metrics", "/snapshot", "/", "/usage", "/-/ready", "/list", ""]) {
        let get = json!({"id": id, "path": path}).to_string();
        let get = format!("{{\"extension\":\"get\",{}\n", &get[1..]);
        socket.send(Message::binary(get)).unwrap();
        let head = next_head(&mut socket);
        let status = if matches!(path, "/metrics" | "/snapshot") { 200 } else { 404 };
        assert_eq!((&head["id"], &head["status"]), (&json!(id), &json!(status)), "{path}: {head}");
    }
    agent.stop();
}

/// The first line of the next message of the extension.
fn next_head(socket: &mut WebSocket<TcpStream>) -> Value {
    loop {
        if let Message::Binary(bytes) = socket.read().unwrap() {
            let line = bytes.split(|byte| *byte == b'\n').next().unwrap();
            return serde_json::from_slice(line).unwrap();
        }
    }
}

#[test]
fn delivers_backlog_in_order_when_server_returns() {
    let (hub, state) = (HmServer::start(), TempDir::new("hm"));
    let agent = agent(&hub, &state);
    hub.wait_reports(2);
    let address = hub.address;
    let before = hub.stop();
    agent.wait_log("connect failed");
    let hub = HmServer::on(address, false, Duration::from_secs(30));
    let mut all: Vec<u64> =
        before.iter().filter(|seen| seen.kind == 2).map(|seen| seen.timestamp).collect();
    let missed = hub.wait_reports(5);
    all.extend(missed);
    all.dedup(); // the last response before the stop may have been lost
    assert_complete(&all);
    agent.stop();
}

#[test]
fn delivers_spooled_reports_after_kill() {
    let (hub, state) = (HmServer::start(), TempDir::new("hm"));
    let address = hub.address;
    let first = agent(&hub, &state);
    let mut all = hub.wait_reports(1);
    drop(hub);
    let spool = state.0.join("hm-reports");
    wait_until("a backlog", || {
        let text = std::fs::read_to_string(&spool).unwrap_or_default();
        (text.lines().filter(|line| line[17..].starts_with('r')).count() >= 4).then_some(())
    });
    first.signal("-KILL");
    let mut first = first;
    first.wait();
    // A torn line.
    let mut text = std::fs::read(&spool).unwrap();
    text.extend(b"0123456789abcdef r17");
    std::fs::write(&spool, text).unwrap();
    let hub = HmServer::on(address, false, Duration::from_secs(30));
    let second = agent(&hub, &state);
    all.extend(hub.wait_reports(4));
    all.dedup();
    assert_complete(&all[..4]);
    second.wait_log("skipped 1 damaged lines");
    second.stop();
}

#[test]
fn handles_every_response_code() {
    let (hub, state) = (HmServer::start(), TempDir::new("hm"));
    // "Online" is answered with "already online", then a report with "malformed", then one with "not online".
    hub.codes(&[5, 0, 1, 0, 6]);
    let agent = agent(&hub, &state);
    let reports = hub.wait_reports(3);
    agent.wait_log("has an older connection of this node");
    agent.wait_log("rejected a report (\"no\"), dropped: {\\\"project\\\"");
    assert_complete(&reports);
    let onlines = hub.seen().iter().filter(|seen| seen.kind == 1).count();
    assert_eq!((onlines, hub.connections()), (2, 1), "{:#?}", hub.seen());
    agent.stop();
}

#[test]
fn repeats_report_when_server_answers_later() {
    let (hub, state) = (HmServer::start(), TempDir::new("hm"));
    hub.codes(&[0, 0, 4]);
    let agent = agent(&hub, &state);
    assert_complete(&hub.wait_reports(4));
    agent.wait_log("temporarily rejects requests, retrying");
    agent.stop();
}

#[test]
#[ignore = "waits for the response timeout of 20 s"]
fn reconnects_and_repeats_report_after_response_timeout() {
    let (hub, state) = (HmServer::start(), TempDir::new("hm"));
    hub.codes(&[0, 0, 99]);
    let start = Instant::now();
    let agent = agent(&hub, &state);
    hub.wait_reports(1);
    let early = Duration::from_secs(18);
    wait_until("the 18th second", || (start.elapsed() > early).then_some(()));
    assert_eq!(hub.connections(), 1);
    wait_until("another connection", || (hub.connections() == 2).then_some(()));
    agent.wait_log("response timeout (20 s)");
    assert_complete(&hub.wait_reports(20));
    agent.stop();
}

#[test]
#[ignore = "waits for the server's deadline"]
fn stays_connected_when_server_sends_no_pongs() {
    let state = TempDir::new("hm");
    let hub = HmServer::on("127.0.0.1:0".parse().unwrap(), false, Duration::from_secs(6));
    let agent = agent(&hub, &state);
    hub.wait_reports(14);
    assert_eq!(hub.connections(), 1, "a missing pong does not end a connection");
    agent.stop();
}

#[test]
fn respects_retry_after_of_http_error() {
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
    let line =
        agent.wait_log("HTTP status 503 instead of a WebSocket upgrade: later; next attempt in 1");
    let seconds: f64 = line.rsplit(' ').nth(1).unwrap().parse().unwrap();
    assert!((120.0..=145.0).contains(&seconds), "{line}");
    assert!(!line.contains("secret"), "{line}");
    let request = server.join().unwrap();
    assert!(request.starts_with("GET /x?secret=1 HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("hm-agent/"), "{request}");
    agent.stop();
}

#[test]
fn rejects_invalid_url_before_start() {
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
fn shows_upstream_in_usage_and_sample() {
    let (hub, state) = (HmServer::start(), TempDir::new("hm"));
    let agent = agent(&hub, &state);
    hub.wait_reports(2);
    let mut client = agent.connect();
    client.send_text("subscribe:detail");
    let upstream = wait_until("an upstream that is online", || {
        let update = client.json();
        let upstream = update["links"][0].clone();
        let online = upstream["state"] == "online";
        (online && upstream["last_answer_unix_seconds"].is_u64()).then_some(upstream)
    });
    assert_eq!((&upstream["name"], &upstream["dropped"]), (&json!("hm"), &json!(0)), "{upstream}");
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
