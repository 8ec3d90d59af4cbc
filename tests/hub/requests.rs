//! Requests that the hub passes on to nodes: scrapes of Prometheus, and the list of its targets.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use serde_json::{Value, json};
use tungstenite::Message;

use crate::support::hm_clients::HmClients;
use crate::support::hub::{Hub, Node, http, json_body, try_http};
use crate::support::{Agent, SLACK, TempDir, reserve_address, wait_until};

/// An agent with the node id `id` that is connected over one of the protocols.
fn agent(hub: &Hub, id: &str, protocol: &str) -> Agent {
    let url = match protocol {
        "hm" => format!("hm.url=ws://{}/websocket", hub.address),
        _ => format!("core.url=ws://{}/api/v1/ws", hub.core),
    };
    let node_id = format!("node_id={id}");
    Agent::start(&[&url, &node_id, "interval=1", "gpu.source=none"])
}

/// Status and body of a response of the web port.
fn get(hub: &Hub, target: &str, headers: &str) -> (u16, String) {
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

/// A node that says that it answers requests.
fn answering(hub: &Hub, id: &str) -> Node {
    let mut node = hub.node();
    assert_eq!(node.online(id), 0);
    send(&mut node, &json!({"extension": "node", "agent_version": "0", "hostname": "<h>"}), b"");
    node
}

fn send(node: &mut Node, head: &Value, body: &[u8]) {
    // The name of the extension is first, whatever the order of other keys.
    let mut rest = head.as_object().unwrap().clone();
    let name = rest.remove("extension").unwrap();
    let rest = Value::Object(rest).to_string();
    let comma = if rest == "{}" { "" } else { "," };
    let mut message = format!("{{\"extension\":{name}{comma}{}\n", &rest[1..]).into_bytes();
    message.extend_from_slice(body);
    node.0.send(Message::binary(message)).unwrap();
}

/// The next request.
fn request(node: &mut Node) -> Value {
    loop {
        if let Message::Binary(bytes) = node.0.read().unwrap() {
            return serde_json::from_slice(&bytes).unwrap();
        }
    }
}

fn answer(id: &Value, content_type: &str) -> Value {
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
        assert_eq!(names(&scraped.1), names(&agent.http("/metrics", "").1));
        let open_metrics = get(&hub, &target, "Accept: application/openmetrics-text\r\n").1;
        assert!(open_metrics.ends_with("# EOF\n"), "{open_metrics}");
        let (status, snapshot) = get(&hub, &format!("/nodes/{protocol}/snapshot"), "");
        let snapshot: Value = serde_json::from_str(&snapshot).unwrap();
        assert_eq!((status, &snapshot["type"]), (200, &json!("snapshot")));
        agent.stop();
        let (status, text) = get(&hub, &target, "");
        assert_eq!(status, 502, "{text}");
        assert!(text.contains(" is not connected since "), "{text}");
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
fn errors_say_why_there_is_no_answer() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let mut published = hub.node();
    assert_eq!(published.online("published"), 0);
    let frozen = agent(&hub, "frozen", "hm");
    wait_target(&hub, "frozen");
    frozen.signal("-STOP");
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
fn node_cannot_answer_for_another_or_with_a_page() {
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
    // The hub has read it before this answer.
    assert_eq!(attacker.report(1), 0);
    send(&mut victim, &answer(&id, "application/json"), b"genuine");
    let response = waiting.join().unwrap();
    assert!(response.ends_with("\r\n\r\ngenuine"), "{response}");
    let waiting = scrape("attacker");
    let id = request(&mut attacker)["id"].clone();
    send(&mut attacker, &answer(&id, "text/html"), b"<script>");
    let response = waiting.join().unwrap();
    assert!(response.starts_with("HTTP/1.1 502 ") && !response.contains("<script>"), "{response}");
    // Nothing waits for these.
    send(&mut attacker, &answer(&json!(u64::MAX), "text/plain"), b"");
    attacker.0.send(Message::binary("{\"extension\":\"later\"}\n")).unwrap();
    attacker.0.send(Message::binary("{\"extension\":")).unwrap();
    assert_eq!(attacker.report(2), 0);
}

#[test]
fn longest_answer_is_bounded() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let mut node = answering(&hub, "a");
    wait_target(&hub, "a");
    let web = hub.web;
    let scrape = || std::thread::spawn(move || http(web, "GET", "/nodes/a/metrics", "", ""));
    let waiting = scrape();
    let id = request(&mut node)["id"].clone();
    send(&mut node, &answer(&id, "application/json"), &vec![b'x'; 15 << 20]);
    assert!(waiting.join().unwrap().len() > 15 << 20);
    let waiting = scrape();
    let id = request(&mut node)["id"].clone();
    // The hub may close the connection before it has read all of it.
    let head = answer(&id, "application/json").to_string();
    let head = head.replacen('{', "{\"extension\":\"response\",", 1);
    let long = [head.as_bytes(), b"\n", &vec![b'x'; 17 << 20]].concat();
    let _ = node.0.send(Message::binary(long));
    assert!(waiting.join().unwrap().starts_with("HTTP/1.1 502 "));
    let mut before_online = hub.node();
    let _ = before_online.0.send(Message::binary(vec![b'x'; 100 << 10]));
    wait_until("end of the connection", || before_online.0.read().is_err().then_some(()));
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
    // Stored after it is shown: wait for the answer to a report that was queued later.
    assert_eq!(node.report(1), 0);
    hub.kill();
    let hub = Hub::start(&state, &settings);
    assert_eq!(labels(&hub), Some(before));
    let (status, text) = get(&hub, "/nodes/a/metrics", token);
    assert!(status == 502 && text.contains("since the hub started"), "{status} {text}");
}

/// A Prometheus that scrapes what `/sd` lists. Dropping it kills the program.
struct Prometheus(Child, SocketAddr);

impl Prometheus {
    fn start(hub: &Hub, state: &TempDir) -> Self {
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n- job_name: nodes\n  http_sd_configs: [{{url: 'http://{}/sd', refresh_interval: 1s}}]\n",
            hub.web
        );
        let file = state.write("prometheus.yml", &config);
        let address = reserve_address();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={file}"));
        command.arg(format!("--storage.tsdb.path={}", state.0.join("tsdb").display()));
        command.arg(format!("--web.listen-address={address}"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap(), address)
    }

    /// Values of a query by node.
    fn query(&self, query: &str) -> BTreeMap<String, String> {
        let target = format!("/api/v1/query?query={query}");
        // It starts slowly, and answers with status 503 until it is ready.
        let response = try_http(self.1, "GET", &target, "", "").unwrap_or_default();
        if !response.starts_with("HTTP/1.1 200 ") {
            return BTreeMap::new();
        }
        let body = json_body(&response);
        let series = body["data"]["result"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        series
            .iter()
            .map(|series| (text(&series["metric"]["node_id"]), text(&series["value"][1])))
            .collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs Prometheus"]
fn prometheus_scrapes_two_hundred_nodes_and_sees_which_are_down() {
    let (state, clients_state) = (TempDir::new("hub"), TempDir::new("clients"));
    let hub = Hub::start(&state, &[]);
    let real = [agent(&hub, "real-hm", "hm"), agent(&hub, "real-core", "core")];
    let clients = HmClients::new(hub.address, 200, Duration::from_secs(30), &clients_state);
    std::thread::scope(|scope| {
        let running = clients.start(scope);
        let prometheus = Prometheus::start(&hub, &state);
        wait_until("scrapes of all nodes", || {
            (prometheus.query("up==1").len() == 202).then_some(())
        });
        assert_eq!(prometheus.query("simulated").len(), 200);
        assert_eq!(prometheus.query("node_uname_info").len(), 2);
        let [first, second] = real;
        first.stop();
        drop(running);
        let down = wait_until("scrapes that fail", || {
            Some(prometheus.query("up==0")).filter(|down| down.len() == 201)
        });
        assert!(!down.contains_key("real-core"), "{down:?}");
        second.stop();
    });
}
