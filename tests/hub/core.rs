//! The Core port of hm-hub, as nodes, monitor clients and users of the REST API see it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::Message;

use crate::support::core_fixture::is_root;
use crate::support::hub::{CoreLink, Hub};
use crate::support::{Agent, SLACK, TEST_TIMEOUT, TempDir, wait_until};

const TOKEN: &str = "token=default-token";

fn node(hub: &Hub, node_id: &str) -> CoreLink {
    hub.core("/api/v1/ws", &format!("{TOKEN}&node_id={node_id}"))
}

fn monitor(hub: &Hub) -> CoreLink {
    hub.core("/ws/client", &format!("type=monitor&{TOKEN}"))
}

/// The data of a successful answer.
fn data(answer: &Value) -> &Value {
    assert_eq!(answer["success"], true, "{answer}");
    &answer["data"]
}

#[test]
fn answers_the_flows_of_the_published_document() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let mut node = hub.core("/ws/node", TOKEN);
    let welcome = node.next();
    assert_eq!(welcome["type"], "welcome");
    assert_eq!(welcome["data"]["node_id"].as_str().unwrap().len(), 36);
    let time = welcome["timestamp"].as_str().unwrap();
    assert!(time.ends_with("+00:00") && time.len() == 35, "{time}");
    let registered = node.register("node-001");
    assert_eq!((&registered["success"], &registered["action"]), (&json!(true), &json!("created")));
    assert_eq!(registered["node_info"]["hostname"], "server-01");
    assert_eq!(node.register("node-001")["action"], "updated");
    let ack = node.heartbeat("node-001", 45.2);
    assert_eq!(ack, json!({"received": true, "node_id": "node-001", "metrics_saved": true}));
    node.send("metrics", "m1", &json!({"cpu_usage": 1, "network_rx": 5}));
    assert_eq!(node.until("metrics_response")["metric_id"], 2);
    node.send("command_result", "c1", &json!({"command_id": "cmd-001", "exit_code": 0}));
    assert_eq!(node.until("command_received")["node_id"], "node-001");
    node.send("invalid_type", "x", &json!({}));
    assert_eq!(node.until("error")["error_code"], "UNKNOWN_MESSAGE_TYPE");
    node.send("heartbeat", "x", &json!({"node_id": "node-002"}));
    assert_eq!(node.until("error")["error_code"], "VALIDATION_ERROR");
    node.0.send(Message::text("{")).unwrap();
    assert_eq!(node.until("error")["error_code"], "PARSE_ERROR");
    wait_until("end of the connection", || node.0.read().is_err().then_some(()));
}

#[test]
fn refuses_tokens_as_the_published_service_does() {
    let state = TempDir::new("hub");
    let tokens = state.write("tokens", "join\n");
    let file = format!("nodes.tokens_file={tokens}");
    let open = Hub::start(&state, &[]);
    let other = TempDir::new("hub");
    let closed = Hub::start(&other, &["nodes.admission=token", &file]);
    let body = |hub: &Hub, query: &str| {
        let socket = std::net::TcpStream::connect(hub.core).unwrap();
        let url = format!("ws://{}/api/v1/ws?{query}", hub.core);
        match tungstenite::client(url, socket) {
            Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response))) => {
                assert_eq!(response.status(), 200);
                String::from_utf8(response.into_body().unwrap_or_default()).unwrap()
            }
            Ok(_) => "connected".to_owned(),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(body(&open, ""), "Token required");
    assert_eq!(body(&open, "token=join"), "Invalid token");
    assert_eq!(body(&open, TOKEN), "connected");
    assert_eq!(body(&closed, TOKEN), "Invalid token");
    assert_eq!(body(&closed, "token=join"), "connected");
}

#[test]
fn rest_answers_the_requests_of_published_clients() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    for node_id in ["a", "b"] {
        let mut node = node(&hub, node_id);
        node.register(node_id);
        node.heartbeat(node_id, 10.0);
        node.heartbeat(node_id, 30.5);
    }
    let health = hub.rest("GET", "health", "");
    assert_eq!(*data(&health), json!({"status": "healthy", "websocket": "running"}));
    assert_eq!(health["message"], "✅ Core服务运行正常");
    let nodes = hub.rest("GET", "nodes?limit=1", "");
    assert_eq!((&data(&nodes)["total"], &data(&nodes)["limit"]), (&json!(2), &json!(1)));
    assert_eq!(data(&nodes)["nodes"].as_array().unwrap().len(), 1);
    let found = hub.rest("GET", "nodes/a", "");
    for field in [
        "id",
        "node_id",
        "hostname",
        "ip_address",
        "os_info",
        "status",
        "last_heartbeat",
        "registered_at",
        "updated_at",
    ] {
        assert!(data(&found)[field].is_string(), "{field}: {found}");
    }
    let latest = hub.rest("GET", "nodes/a/metrics/latest", "");
    assert_eq!(data(&latest)["cpu_usage"], 30.5);
    assert_eq!(data(&latest)["memory_total"], 8_000_000);
    assert_eq!(
        data(&hub.rest("GET", "metrics/latest", ""))["metrics"].as_array().unwrap().len(),
        2
    );
    let summary = hub.rest(
        "GET",
        "nodes/a/metrics/summary?start_time=2020-01-01T00:00:00Z&end_time=2100-01-01T00:00:00%2B08:00",
        "",
    );
    let summary = data(&summary);
    assert_eq!((&summary["avg_cpu_usage"], &summary["sample_count"]), (&json!(20.25), &json!(2)));
    assert_eq!(data(&hub.rest("GET", "metrics/stats", ""))["total_metrics"], 4);
    assert_eq!(data(&hub.rest("GET", "nodes/stats", ""))["total_nodes"], 2);
    assert_eq!(data(&hub.rest("GET", "system/stats", ""))["total_commands"], 0);
    for (target, code) in [
        ("nodes/nonexistent", "NODE_NOT_FOUND"),
        ("nodes/nonexistent/metrics/latest", "NO_METRICS_DATA"),
        (
            "nodes/a/metrics/summary?start_time=2030-01-01T00:00:00Z&end_time=2020-01-01T00:00:00Z",
            "INVALID_TIME_RANGE",
        ),
        ("nodes?limit=x", "VALIDATION_ERROR"),
    ] {
        let answer = hub.rest("GET", target, "");
        assert_eq!((&answer["success"], &answer["error_code"]), (&json!(false), &json!(code)));
    }
}

#[test]
fn time_ranges_select_by_instant_and_ignore_local_times() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let mut node = node(&hub, "a");
    node.heartbeat("a", 1.0);
    let count = |range: &str| {
        let answer = hub.rest("GET", &format!("nodes/a/metrics?{range}"), "");
        data(&answer)["total"].as_u64().unwrap()
    };
    for (range, expected) in [
        ("", 1),
        ("start_time=2020-01-01T00:00:00Z", 1),
        ("start_time=2090-01-01T00:00:00Z", 0),
        ("end_time=2020-01-01T00:00:00+08:00", 0),
        ("start_time=2090-01-01T00:00:00.000", 1),
        ("end_time=yesterday", 1),
    ] {
        assert_eq!(count(range), expected, "{range}");
    }
}

#[test]
fn monitor_clients_see_nodes_metrics_and_changes() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let mut early = node(&hub, "early");
    early.heartbeat("early", 5.0);
    let mut monitor = monitor(&hub);
    let welcome = monitor.until("welcome");
    assert_eq!(welcome["connection_type"], "monitor");
    let nodes = monitor.until("nodes_update");
    assert_eq!(nodes["nodes"][0]["hostname"], "unknown");
    assert_eq!(monitor.until("metrics_update")["metrics"][0]["cpu_usage"], 5.0);
    let mut late = node(&hub, "late");
    late.heartbeat("late", 7.0);
    let change = monitor.until("node_status_change");
    assert_eq!((&change["node_id"], &change["status"]), (&json!("late"), &json!("online")));
    assert_eq!(monitor.until("metrics_update")["metrics"][0]["cpu_usage"], 7.0);
    drop(late);
    assert_eq!(monitor.until("node_status_change")["status"], "lost");
    monitor.send("ping", "p1", &json!({}));
    assert_eq!(monitor.until("pong")["client_id"], welcome["client_id"]);
}

#[test]
fn two_connections_of_one_id_are_both_served() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let (mut first, mut second) = (node(&hub, "test"), node(&hub, "test"));
    first.register("test");
    second.register("test");
    first.heartbeat("test", 1.0);
    second.heartbeat("test", 2.0);
    drop(first);
    second.heartbeat("test", 3.0);
    assert!(!hub.log().iter().any(|line| line.contains("is lost")), "{:#?}", hub.log());
    drop(second);
    hub.wait_log("node test is lost");
}

/// The published node agent reads one message for every three that it is sent, and takes a ping for the end of the connection. Many
/// messages of one node do not fill the queue of the store, in which those of others wait.
#[test]
fn node_that_reads_too_slowly_delays_no_other() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let (mut lazy, mut other) = (node(&hub, "lazy"), node(&hub, "other"));
    lazy.register("lazy");
    let metrics = json!({"node_id": "lazy", "metrics": {"cpu_usage": 1}});
    let mut longest_queue = 0;
    // More acknowledgements than the buffers of the kernel hold.
    for sent in 0..60_000 {
        lazy.send("heartbeat", "h", &metrics);
        if sent % 500 == 0 {
            longest_queue = longest_queue.max(hub.queued_writes());
        }
    }
    let start = Instant::now();
    other.heartbeat("other", 1.0);
    assert!(start.elapsed() < Duration::from_secs(1) + SLACK, "{:?}", start.elapsed());
    assert!((1..=256).contains(&longest_queue), "{longest_queue}");
    // It is still connected, and gets acknowledgements again once it reads.
    lazy.0.get_ref().set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    while let Ok(message) = lazy.0.read() {
        assert!(matches!(message, Message::Text(_)), "{message:?}");
    }
    lazy.0.get_ref().set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    assert_eq!(lazy.heartbeat("lazy", 1.0)["received"], true);
}

/// The messages of an hour of 200 published node agents, without the pauses: each sends a heartbeat every 10 s and reads one message
/// every 30 s.
#[test]
fn unread_messages_of_published_node_agents_delay_no_other() {
    const NODES: usize = 200;
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let mut other = node(&hub, "other");
    let mut nodes: Vec<_> = (0..NODES).map(|number| node(&hub, &format!("n{number}"))).collect();
    let mut times = Vec::new();
    for _ in 0..120 {
        for (number, node) in nodes.iter_mut().enumerate() {
            let metrics = json!({"node_id": format!("n{number}"), "metrics": {"cpu_usage": 1}});
            (0..3).for_each(|_| node.send("heartbeat", "h", &metrics));
            // The welcome, then acknowledgements.
            node.next();
        }
        let start = Instant::now();
        other.heartbeat("other", 1.0);
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
    println!("acknowledgement of another node: {median:?}, at most {slowest:?}");
    // On a busy machine, a single one may take as long as the queue of all others.
    assert!(median < Duration::from_secs(1) && slowest < TEST_TIMEOUT / 2, "{times:?}");
    let lost: Vec<_> = hub.log().into_iter().filter(|line| line.contains("is lost")).collect();
    assert!(lost.is_empty(), "{lost:#?}");
    let saved = wait_until("all metrics", || {
        let saved = hub.rest("GET", "nodes/n0/metrics?limit=1000", "")["data"]["total"].as_u64();
        saved.filter(|saved| *saved >= 360)
    });
    assert_eq!(saved, 360);
}

#[test]
fn agent_registers_reports_and_runs_commands() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &["commands.enabled=true"]);
    let url = format!("core.url=ws://{}/api/v1/ws", hub.core);
    let hm = format!("hm.url=ws://{}/websocket", hub.address);
    // As root, the agent needs the user of the commands.
    let run_as = if is_root() { "core.run_as=root" } else { "log_level=info" };
    let agent = Agent::start(&[
        &url,
        &hm,
        run_as,
        "node_id=n1",
        "core.heartbeat_interval=1",
        "hm.report_interval=1",
        "core.commands=allow",
        "core.allow=[\"echo\"]",
        "interval=1",
        "gpu.source=none",
    ]);
    wait_until("metrics", || {
        let metrics = hub.rest("GET", "nodes/n1/metrics", "");
        (metrics["data"]["total"].as_u64()? >= 2).then_some(())
    });
    let reports = wait_until("reports", || {
        let reports = hub.rest("GET", "nodes/n1/reports?limit=2", "")["data"]["reports"].take();
        (reports.as_array()?.len() == 2).then_some(reports)
    });
    assert!(reports[0]["timestamp"].as_i64() > reports[1]["timestamp"].as_i64(), "{reports}");
    let means = hub.rest("GET", "nodes/n1/reports/means", "");
    let each = data(&means)["means"].as_array().unwrap().iter();
    assert!(each.map(|mean| mean["reports"].as_u64().unwrap()).sum::<u64>() >= 2, "{means}");
    let run = |text: &str| {
        let body = json!({"command_text": text, "timeout": 10}).to_string();
        let answer = hub.rest("POST", "nodes/n1/commands", &body);
        let id = data(&answer)["command_id"].as_str().unwrap().to_owned();
        wait_until("a result", || {
            let command = hub.rest("GET", &format!("commands/{id}"), "");
            (!command["data"]["result"].is_null()).then(|| command["data"].clone())
        })
    };
    let done = run("echo hello");
    assert_eq!(
        (&done["command"]["status"], &done["result"]["stdout"]),
        (&json!("success"), &json!("hello\n"))
    );
    assert!(done["command"]["started_at"].is_string(), "{done}");
    assert_eq!(run("id")["command"]["status"], "failed");
    let all = hub.rest("GET", "nodes/n1/commands?status=success", "");
    assert_eq!(data(&all)["total"], 1);
    // Both protocols are one node.
    assert_eq!(data(&hub.rest("GET", "nodes/stats", ""))["total_nodes"], 1);
    agent.stop();
    hub.wait_log("node n1 is lost");
}

#[test]
fn command_waits_for_its_node_and_times_out() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &["commands.enabled=true"]);
    node(&hub, "a").register("a");
    hub.wait_log("node a is lost");
    let create = |timeout: u32| {
        let body = json!({"command_text": "true", "timeout": timeout}).to_string();
        let answer = hub.rest("POST", "nodes/a/commands", &body);
        data(&answer)["command_id"].as_str().unwrap().to_owned()
    };
    let (waiting, expiring) = (create(600), create(1));
    let status = |id: &str| {
        let command = hub.rest("GET", &format!("commands/{id}"), "");
        command["data"]["command"]["status"].as_str().unwrap().to_owned()
    };
    wait_until("timeout", || (status(&expiring) == "timeout").then_some(()));
    let mut node = node(&hub, "a");
    node.register("a");
    assert_eq!(node.until("execute_command")["command_id"], waiting.as_str());
    node.send("command_started", "s", &json!({"command_id": waiting}));
    wait_until("start", || (status(&waiting) == "running").then_some(()));
}

#[test]
fn commands_are_refused_unless_enabled() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let answer = hub.rest("POST", "nodes/a/commands", r#"{"command_text": "id"}"#);
    assert_eq!(
        (&answer["success"], &answer["error_code"]),
        (&json!(false), &json!("UNAUTHORIZED"))
    );
}

#[test]
fn deleted_node_is_gone_and_connected_node_stays() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let mut node = node(&hub, "a");
    node.heartbeat("a", 1.0);
    assert_eq!(hub.rest("DELETE", "nodes/a", "")["success"], false);
    drop(node);
    hub.wait_log("node a is lost");
    assert_eq!(hub.rest("DELETE", "nodes/a", "")["message"], "节点删除成功");
    assert_eq!(hub.rest("GET", "nodes/a", "")["error_code"], "NODE_NOT_FOUND");
    hub.stop();
    let hub = Hub::start(&state, &[]);
    assert_eq!(hub.rest("GET", "nodes", "")["data"]["total"], 0);
}

#[test]
fn nodes_and_metrics_survive_kill() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let mut node = node(&hub, "a");
    node.register("a");
    assert_eq!(node.heartbeat("a", 45.2)["metrics_saved"], true);
    hub.kill();
    let hub = Hub::start(&state, &[]);
    let found = hub.rest("GET", "nodes/a", "");
    assert_eq!(
        (&data(&found)["hostname"], &data(&found)["status"]),
        (&json!("server-01"), &json!("lost"))
    );
    assert_eq!(data(&hub.rest("GET", "nodes/a/metrics/latest", ""))["cpu_usage"], 45.2);
}
