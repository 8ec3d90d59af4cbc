//! Requests that the hub passes on to nodes: Prometheus scrapes, and the list of its targets.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use serde_json::{Value, json};
use tungstenite::Message;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::support::hub::{Hub, Node, http};
use crate::support::{Agent, SLACK, TempDir, wait_until};

/// An agent with the node id `id` that is connected over one of the protocols.
pub fn agent(hub: &Hub, id: &str, protocol: &str) -> Agent {
    let url = match protocol {
        "hm" => format!("hm.url=ws://{}/websocket", hub.address),
        _ => format!("core.url=ws://{}/api/v1/ws", hub.core),
    };
    let node_id = format!("node_id={id}");
    Agent::start(&[&url, &node_id, "interval=1", "gpu.source=none"])
}

/// Status and body of a response of the web port.
pub fn get(hub: &Hub, target: &str, headers: &str) -> (u16, String) {
    let response = http(hub.web, "GET", target, headers, "");
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn wait_target(hub: &Hub, id: &str) -> Value {
    wait_until("a target", || targets(hub).remove(id))
}

/// The labels of each target by node.
fn targets(hub: &Hub) -> BTreeMap<String, Value> {
    let (status, body) = get(hub, "/sd", "");
    assert_eq!(status, 200, "{body}");
    let groups: Vec<Value> = serde_json::from_str(&body).unwrap();
    let labels = |group: Value| {
        assert_eq!(group["targets"], json!(["localhost"]), "the host of the request");
        (group["labels"]["node_id"].as_str().unwrap().to_owned(), group["labels"].clone())
    };
    groups.into_iter().map(labels).collect()
}

/// A node that has sent its description, and so gets requests.
pub fn answering(hub: &Hub, id: &str) -> Node {
    let mut node = hub.node();
    assert_eq!(node.online(id), 0);
    send(&mut node, &json!({"extension": "node", "agent_version": "0", "hostname": "<h>"}), b"");
    // Messages of a connection are handled in order: the hub knows the description now.
    assert_eq!(node.report(0), 0);
    node
}

pub fn send(node: &mut Node, head: &Value, body: &[u8]) {
    // The name of the extension is first, whatever the order of other keys.
    let mut rest = head.as_object().unwrap().clone();
    let name = rest.remove("extension").unwrap();
    let rest = Value::Object(rest).to_string();
    let comma = if rest == "{}" { "" } else { "," };
    let mut message = format!("{{\"extension\":{name}{comma}{}\n", &rest[1..]).into_bytes();
    message.extend_from_slice(body);
    // It fails when the hub has ended the connection.
    let _ = try_send(node, message);
}

/// Sends a binary message in fragments, as hm-agent does.
fn try_send(node: &mut Node, message: Vec<u8>) -> tungstenite::Result<()> {
    let (mut rest, mut kind) = (tungstenite::Bytes::from(message), Data::Binary);
    loop {
        let fragment = rest.split_to(rest.len().min(4096));
        let frame = Frame::message(fragment, OpCode::Data(kind), rest.is_empty());
        node.0.send(Message::Frame(frame))?;
        if rest.is_empty() {
            return Ok(());
        }
        kind = Data::Continue;
    }
}

/// The next request.
pub fn request(node: &mut Node) -> Value {
    loop {
        if let Message::Binary(bytes) = node.0.read().unwrap() {
            return serde_json::from_slice(&bytes).unwrap();
        }
    }
}

pub fn answer(id: &Value, content_type: &str) -> Value {
    json!({"extension": "response", "id": id, "status": 200, "content_type": content_type})
}

#[test]
fn scrape_reaches_agents_of_both_protocols() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    for protocol in ["hm", "core"] {
        let agent = agent(&hub, protocol, protocol);
        let labels = wait_target(&hub, protocol);
        assert_eq!(labels["__metrics_path__"], format!("/nodes/{protocol}/metrics"));
        assert_eq!(labels["agent_version"], env!("CARGO_PKG_VERSION"));
        let target = format!("/nodes/{protocol}/metrics");
        let scraped = wait_until("metrics", || Some(get(&hub, &target, "")).filter(|a| a.0 == 200));
        assert!(scraped.1.contains("\nnode_memory_MemTotal_bytes "), "{}", scraped.1);
        let names = |text: &str| -> Vec<String> {
            text.lines().filter(|line| line.starts_with("# HELP ")).map(str::to_owned).collect()
        };
        // A collector may have its first values between two samples.
        wait_until("the same metrics", || {
            let (scraped, own) = (get(&hub, &target, ""), agent.http("/metrics", ""));
            (names(&scraped.1) == names(&own.1)).then_some(())
        });
        let open_metrics = get(&hub, &target, "Accept: application/openmetrics-text\r\n").1;
        assert!(open_metrics.ends_with("# EOF\n"), "{open_metrics}");
        let (status, snapshot) = get(&hub, &format!("/nodes/{protocol}/snapshot"), "");
        let snapshot: Value = serde_json::from_str(&snapshot).unwrap();
        assert_eq!((status, &snapshot["type"]), (200, &json!("snapshot")));
        let events = |query: &str| get(&hub, &format!("/nodes/{protocol}/events{query}"), "");
        let page: Value = serde_json::from_str(&events("?after=0").1).unwrap();
        let started = &page["events"][0]["text"];
        assert_eq!(started, &json!(format!("hm-agent {} started", env!("CARGO_PKG_VERSION"))));
        let none: Value = serde_json::from_str(&events("?since=99999999999").1).unwrap();
        assert_eq!(none, json!({"events": [], "more": false}));
        assert_eq!(events("?since=x").0, 400);
        let resource = |name: &str| get(&hub, &format!("/nodes/{protocol}/{name}"), "");
        for range in ["1h", "24h"] {
            let history: Value =
                serde_json::from_str(&resource(&format!("history?range={range}")).1).unwrap();
            assert_eq!(history["range"], range, "{history}");
        }
        assert_eq!(resource("history?range=1y").0, 400);
        let health: Value = serde_json::from_str(&resource("health").1).unwrap();
        assert!(health["findings"].is_array(), "{health}");
        agent.stop();
        wait_until("the time since when it is away", || {
            let (status, text) = get(&hub, &target, "");
            assert_eq!(status, 502, "{text}");
            text.contains(" s ago").then_some(())
        });
        assert!(targets(&hub).contains_key(protocol), "it stays a target");
    }
}

#[test]
fn compressed_body_is_passed_on_as_it_is() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let agent = agent(&hub, "a", "hm");
    wait_target(&hub, "a");
    let response = wait_until("a compressed response", || {
        let mut socket = std::net::TcpStream::connect(hub.web).unwrap();
        let request = "GET /nodes/a/metrics HTTP/1.1\r\nHost: hub\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n";
        std::io::Write::write_all(&mut socket, request.as_bytes()).unwrap();
        let mut response = Vec::new();
        socket.read_to_end(&mut response).unwrap();
        response.starts_with(b"HTTP/1.1 200 ").then_some(response)
    });
    let body = response.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8_lossy(&response[..body]);
    assert!(head.contains("\r\nContent-Encoding: gzip\r\n"), "{head}");
    let mut text = String::new();
    GzDecoder::new(&response[body..]).read_to_string(&mut text).unwrap();
    assert!(text.contains("node_uname_info"), "{text}");
    agent.stop();
}

#[test]
fn error_names_why_the_node_has_not_answered() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let mut published = hub.node();
    assert_eq!(published.online("published"), 0);
    let frozen = agent(&hub, "frozen", "hm");
    wait_target(&hub, "frozen");
    frozen.signal("-STOP");
    wait_until("it stopped", || (frozen.state() == "T").then_some(()));
    let timeout = "X-Prometheus-Scrape-Timeout-Seconds: 1\r\n";
    for (target, expected, text) in [
        ("/nodes/missing/metrics", 404, "node missing is unknown"),
        ("/nodes/published/metrics", 502, "not with an hm-agent that can answer"),
        ("/nodes/published/usage", 404, "no such path"),
        ("/nodes/published/metrics/x", 404, "no such path"),
        ("/nodes/frozen/metrics", 504, "has not answered within 0.9 s"),
    ] {
        let start = Instant::now();
        let (status, body) = get(&hub, target, timeout);
        assert!(status == expected && body.contains(text), "{target}: {status} {body}");
        assert!(start.elapsed() < Duration::from_secs(1) + SLACK, "{target}");
    }
    frozen.signal("-CONT");
    frozen.stop();
    let metrics = get(&hub, "/metrics", "").1;
    // Paths that do not exist are no requests for a node.
    for (code, count) in [("200", 0), ("404", 1), ("502", 1), ("503", 0), ("504", 1)] {
        let series = format!("\nhm_hub_node_requests_total{{code=\"{code}\"}} {count}\n");
        assert!(metrics.contains(&series), "{metrics}");
    }
    assert!(metrics.contains("\nhm_hub_node_requests_waiting 0\n"), "{metrics}");
    assert!(!targets(&hub).contains_key("published"));
}

#[test]
fn request_ends_with_the_connection_of_its_node() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let mut node = answering(&hub, "a");
    wait_target(&hub, "a");
    let web = hub.web;
    let start = Instant::now();
    let waiting = std::thread::spawn(move || http(web, "GET", "/nodes/a/metrics", "", ""));
    assert_eq!(request(&mut node)["path"], "/metrics");
    drop(node);
    let response = waiting.join().unwrap();
    assert!(response.starts_with("HTTP/1.1 502 "), "{response}");
    assert!(start.elapsed() < Duration::from_secs(9), "before its deadline of 10 s");
}

#[test]
fn forged_response_and_page_are_refused() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let (mut victim, mut attacker) = (answering(&hub, "victim"), answering(&hub, "attacker"));
    wait_target(&hub, "attacker");
    assert_eq!(wait_target(&hub, "victim")["hostname"], "<h>");
    let web = hub.web;
    let scrape = |node: &'static str| {
        std::thread::spawn(move || http(web, "GET", &format!("/nodes/{node}/metrics"), "", ""))
    };
    let waiting = scrape("victim");
    let id = request(&mut victim)["id"].clone();
    send(&mut attacker, &answer(&id, "application/json"), b"forged");
    // Messages of a connection are handled in order, so the forged response was handled before this report.
    assert_eq!(attacker.report(1), 0);
    send(&mut victim, &answer(&id, "application/json"), b"genuine");
    let response = waiting.join().unwrap();
    assert!(response.ends_with("\r\n\r\ngenuine"), "{response}");
    let waiting = scrape("attacker");
    let id = request(&mut attacker)["id"].clone();
    send(&mut attacker, &answer(&id, "text/html"), b"<script>");
    let response = waiting.join().unwrap();
    assert!(response.starts_with("HTTP/1.1 502 ") && !response.contains("<script>"), "{response}");
    // No request has this id; an unknown message; no line feed.
    send(&mut attacker, &answer(&json!(u64::MAX), "text/plain"), b"");
    attacker.0.send(Message::binary("{\"extension\":\"later\"}\n")).unwrap();
    attacker.0.send(Message::binary("{\"extension\":")).unwrap();
    assert_eq!(attacker.report(2), 0);
}

#[test]
fn connection_ends_when_a_message_is_too_long() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let web = hub.web;
    let scrape = || std::thread::spawn(move || http(web, "GET", "/nodes/a/metrics", "", ""));
    let long = |bytes: usize| vec![b'x'; bytes];
    let mut node = answering(&hub, "a");
    wait_target(&hub, "a");
    let waiting = scrape();
    let id = request(&mut node)["id"].clone();
    send(&mut node, &answer(&id, "application/json"), &long(4_000_000));
    assert!(waiting.join().unwrap().len() > 4_000_000);
    // Longer than any answer; an answer that was not requested; a long report while an answer is.
    let waiting = scrape();
    let id = request(&mut node)["id"].clone();
    send(&mut node, &answer(&id, "application/json"), &long(4_200_000));
    assert!(waiting.join().unwrap().starts_with("HTTP/1.1 502 "));
    let mut node = answering(&hub, "a");
    send(&mut node, &answer(&json!(1), "application/json"), &long(100_000));
    assert_ended(&mut node);
    let mut node = answering(&hub, "a");
    let waiting = scrape();
    request(&mut node);
    let _ = node.0.send(Message::text("x".repeat(66_000)));
    assert!(waiting.join().unwrap().starts_with("HTTP/1.1 502 "));
    assert_ended(&mut node);
}

fn assert_ended(node: &mut Node) {
    wait_until("end of the connection", || node.0.read().is_err().then_some(()));
}

/// Answers that nothing waits for any more must not pile up.
#[test]
fn node_that_does_not_answer_gets_few_requests() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let mut node = answering(&hub, "a");
    wait_target(&hub, "a");
    let timeout = "X-Prometheus-Scrape-Timeout-Seconds: 0.1\r\n";
    let answers: Vec<(u16, String)> =
        (0..20).map(|_| get(&hub, "/nodes/a/metrics", timeout)).collect();
    assert!(answers.iter().all(|(status, _)| *status == 504), "{answers:?}");
    let unresponsive = |text: &str| text.contains("has not answered earlier requests");
    assert_eq!(answers.iter().filter(|(_, text)| unresponsive(text)).count(), 12);
    // Late answers make room.
    for _ in 0..8 {
        let id = request(&mut node)["id"].clone();
        send(&mut node, &answer(&id, "application/json"), b"late");
    }
    assert_eq!(node.report(1), 0);
    let web = hub.web;
    let waiting = std::thread::spawn(move || http(web, "GET", "/nodes/a/metrics", "", ""));
    let id = request(&mut node)["id"].clone();
    send(&mut node, &answer(&id, "application/json"), b"in time");
    assert!(waiting.join().unwrap().ends_with("\r\n\r\nin time"));
}

/// Only one hm connection can have the id of a node; a Core connection may be of another machine.
#[test]
fn core_connection_takes_no_requests_of_an_hm_connection() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let mut node = answering(&hub, "a");
    wait_target(&hub, "a");
    let mut other = hub.core("/api/v1/ws", "token=default-token&node_id=a");
    other.register("a");
    let message = "{\"extension\":\"node\",\"agent_version\":\"0\",\"hostname\":\"other\"}\n";
    other.0.send(Message::binary(message)).unwrap();
    other.heartbeat("a", 1.0);
    assert_eq!(wait_target(&hub, "a")["hostname"], "<h>");
    let web = hub.web;
    let waiting = std::thread::spawn(move || http(web, "GET", "/nodes/a/metrics", "", ""));
    let id = request(&mut node)["id"].clone();
    send(&mut node, &answer(&id, "application/json"), b"genuine");
    assert!(waiting.join().unwrap().ends_with("\r\n\r\ngenuine"));
}

#[test]
fn targets_and_groups_survive_a_restart_and_need_a_token() {
    let state = TempDir::new("hub");
    let join = state.write("join", "token-of-blue group=blue\n");
    let operators = state.write("operators", "see read adam\n");
    let settings = [
        "nodes.admission=token".to_owned(),
        format!("nodes.tokens_file={join}"),
        format!("operators.tokens_file={operators}"),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let hub = Hub::start(&state, &settings);
    let mut node = Node::connect(hub.address, "token-of-blue").unwrap();
    assert_eq!(node.online("a"), 0);
    send(&mut node, &json!({"extension": "node", "agent_version": "0", "hostname": "h"}), b"");
    let token = "Authorization: Bearer see\r\n";
    let labels = |hub: &Hub| {
        let groups: Vec<Value> = serde_json::from_str(&get(hub, "/sd", token).1).unwrap();
        groups.first().map(|group| group["labels"].clone())
    };
    let before = wait_until("a target", || labels(&hub));
    assert_eq!((&before["group"], &before["hostname"]), (&json!("blue"), &json!("h")));
    for target in ["/sd", "/nodes/a/metrics", "/nodes/a/snapshot"] {
        assert_eq!(get(&hub, target, "").0, 401, "{target}");
    }
    // It is stored at the latest then.
    hub.stop();
    let hub = Hub::start(&state, &settings);
    assert_eq!(labels(&hub), Some(before));
    let (status, text) = get(&hub, "/nodes/a/metrics", token);
    assert!(
        status == 502 && text.contains("has not connected since the hub started"),
        "{status} {text}"
    );
}
