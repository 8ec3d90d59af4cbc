//! `/api/fleet` and the last snapshot of nodes.

use std::time::Duration;

use serde_json::{Value, json};

use crate::requests::{agent, answering, get, send};
use crate::support::fake_nvml::Driver;
use crate::support::hub::{Hub, http};
use crate::support::{Agent, TempDir, wait_until};

pub fn fleet(hub: &Hub, after: &str) -> Value {
    let (status, body) = get(hub, &format!("/api/fleet?after={after}"), "");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

pub fn entry(fleet: &Value, node_id: &str) -> Option<Value> {
    let mut nodes = fleet["nodes"].as_array().unwrap().iter();
    nodes.find(|node| node["node_id"] == node_id).cloned()
}

fn status(model: &str, utilization: u64, problems: &[&str]) -> Value {
    let problem = |text| json!({"severity": "critical", "text": text});
    json!({"extension": "snapshot", "gzip": false, "status": {
        "gpus": [{"model": model, "state": "active"}], "gpu_utilization_percent": utilization,
        "problems": problems.iter().map(problem).collect::<Vec<_>>(), "xids_last_24h": 1}})
}

#[test]
fn delta_follows_full_answer_and_offline_node_keeps_data() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &["nodes.offline_after=1"]);
    let mut published = hub.node();
    assert_eq!((published.online("published"), published.report(1)), (0, 0));
    let mut node = answering(&hub, "a/b");
    let before_status = fleet(&hub, "")["time"].as_i64().unwrap();
    send(&mut node, &status("<b>M</b>", 40, &["GPU 0 hot"]), b"{\"last\":1}");
    assert_eq!(node.report(0), 0);
    let first = fleet(&hub, "");
    assert_eq!(first["full"], true);
    assert_eq!(first["totals"]["nodes"], json!({"online": 2, "lost": 0, "offline": 0}));
    assert_eq!(first["totals"]["gpus"], json!({"<b>M</b>": 1, "NVIDIA RTX A5000": 1}));
    assert_eq!(first["totals"]["problems"]["critical"], 1);
    let found = entry(&first, "published").unwrap();
    assert_eq!(found["gpus"], json!([{"model": "NVIDIA RTX A5000", "state": "active"}]));
    assert_eq!(
        (&found["gpu_utilization_percent"], &found["project"]),
        (&json!(30), &json!("DecentralGPT"))
    );
    let found = entry(&first, "a/b").unwrap();
    assert_eq!((&found["state"], &found["protocols"]), (&json!("online"), &json!(["hm"])));
    assert_eq!(found["problems"], json!([{"severity": "critical", "text": "GPU 0 hot"}]));

    let revision = first["revision"].as_str().unwrap();
    let unchanged = fleet(&hub, revision);
    assert_eq!((&unchanged["full"], &unchanged["nodes"]), (&json!(false), &json!([])));
    drop(node);
    let offline = wait_until("a change", || {
        let fleet = fleet(&hub, revision);
        assert_eq!(fleet["full"], false);
        entry(&fleet, "a/b").filter(|node| node["state"] == "lost" || node["state"] == "offline")
    });
    assert_eq!(offline["gpu_utilization_percent"], 40, "{offline}");
    assert!(entry(&fleet(&hub, revision), "published").is_none(), "unchanged");

    wait_until("the status in the database", || (hub.queued_writes() == 0).then_some(()));
    hub.stop();
    let hub = Hub::start(&state, &[]);
    let after_restart = fleet(&hub, revision);
    assert_eq!(after_restart["full"], true, "another run of the hub");
    let found = entry(&after_restart, "a/b").unwrap();
    assert_eq!((&found["state"], &found["gpu_utilization_percent"]), (&json!("lost"), &json!(40)));
    // The status is kept, and not the time of the report after it.
    let times = before_status..=offline["last_report"].as_i64().unwrap();
    assert!(times.contains(&found["last_report"].as_i64().unwrap()), "{found} {times:?}");
    let response = http(hub.web, "GET", "/nodes/a%2Fb/last_snapshot", "", "");
    assert!(response.contains("\r\nAge: ") && response.ends_with("{\"last\":1}"), "{response}");
    assert_eq!(get(&hub, "/nodes/published/last_snapshot", "").0, 404);

    let known = after_restart["revision"].as_str().unwrap();
    assert_eq!(hub.rest("DELETE", "nodes/a%2Fb", "")["success"], true);
    assert_eq!(fleet(&hub, known)["removed"], json!(["a/b"]));
}

#[test]
fn discards_snapshot_over_the_limit() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let mut node = answering(&hub, "a");
    // While an answer is awaited, messages of several MiB may arrive.
    let web = hub.web;
    let waiting = std::thread::spawn(move || http(web, "GET", "/nodes/a/metrics", "", ""));
    let request = crate::requests::request(&mut node);
    send(&mut node, &status("M", 40, &[]), &[b'1'; 70_000]);
    let answer = crate::requests::answer(&request["id"], "text/plain; charset=utf-8");
    send(&mut node, &answer, b"ok");
    assert!(waiting.join().unwrap().ends_with("ok"));
    let found = entry(&fleet(&hub, ""), "a").unwrap();
    assert_eq!(found["gpu_utilization_percent"], 40, "the status counts");
    assert_eq!(get(&hub, "/nodes/a/last_snapshot", "").0, 404);
}

#[test]
fn disconnected_nodes_keep_their_data_when_hub_is_killed() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let mut node = answering(&hub, "a");
    send(&mut node, &status("M", 40, &[]), b"{}");
    assert_eq!(node.report(0), 0);
    drop(node);
    wait_until("the status in the database", || {
        let db = rusqlite::Connection::open(state.0.join("hub.db")).unwrap();
        let count = db.query_row("SELECT count(*) FROM node_status", [], |row| row.get(0));
        (count == Ok(1)).then_some(())
    });
    hub.kill();
    let hub = Hub::start(&state, &[]);
    let found = entry(&fleet(&hub, ""), "a").unwrap();
    assert_eq!(found["gpu_utilization_percent"], 40);
}

#[test]
fn shows_gpus_and_problems_of_an_agent() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let driver = Driver::new("gpus = 3");
    let url = format!("hm.url=ws://{}/websocket", hub.address);
    let watched = driver.start(&[&url, "node_id=gpus"]);
    let found = |what: &str, is_expected: &dyn Fn(&Value) -> bool| {
        wait_until(what, || entry(&fleet(&hub, ""), "gpus").filter(|node| is_expected(node)))
    };
    let node = found("the GPUs", &|node| node["gpus"].as_array().unwrap().len() == 3);
    assert!(node["gpu_utilization_percent"].is_u64(), "{node}");
    assert_eq!(node["problems"], json!([]));
    driver.set_script("gpus = 3\nlost = 1");
    let node = found("a problem", &|node| node["problems"] != json!([]));
    assert_eq!(node["problems"][0]["severity"], "critical", "{node}");
    let text = node["problems"][0]["text"].as_str().unwrap();
    assert!(text.starts_with("GPU 1: lost: "), "{text}");
    assert_eq!(node["gpus"][1]["state"], "lost");
    assert_eq!(fleet(&hub, "")["totals"]["gpu_states"]["lost"], 1);
    watched.into_agent().stop();
}

#[test]
fn agent_sends_its_snapshot_over_both_protocols() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    for protocol in ["hm", "core"] {
        let agent: Agent = agent(&hub, protocol, protocol);
        let target = format!("/nodes/{protocol}/last_snapshot");
        let headers = "Accept-Encoding: gzip\r\n";
        wait_until("a snapshot", || {
            let response = http_bytes(&hub, &target, headers);
            response.starts_with(b"HTTP/1.1 200 ").then_some(())
        });
        let found = entry(&fleet(&hub, ""), protocol).unwrap();
        assert_eq!(found["protocols"], json!([protocol]));
        assert_eq!(found["address"], "127.0.0.1");
        agent.stop();
        let offline = || entry(&fleet(&hub, ""), protocol).filter(|node| node["state"] != "online");
        wait_until("the end of the connection", offline);
        assert!(http_bytes(&hub, &target, headers).starts_with(b"HTTP/1.1 200 "));
    }
}

pub fn http_bytes(hub: &Hub, target: &str, headers: &str) -> Vec<u8> {
    use std::io::{Read, Write};
    let mut socket = std::net::TcpStream::connect(hub.web).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let request =
        format!("GET {target} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n{headers}\r\n");
    socket.write_all(request.as_bytes()).unwrap();
    let mut response = Vec::new();
    socket.read_to_end(&mut response).unwrap();
    response
}
