//! Ten thousand nodes at once.

use std::time::{Duration, Instant};

use hm_agent::sys;
use serde_json::{Value, json};
use tungstenite::Message;

use crate::fleet_api::{fleet, http_bytes};
use crate::support::hub::{Hub, Node};
use crate::support::{TempDir, wait_until};

const LINKS: usize = 10_000;
/// Threads that open links.
const OPENERS: usize = 8;
/// The hub ends a link that is silent for 30 s, and a busy machine opens all of them in no shorter time.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Private memory of the hub per node that is online and has sent no report.
const MAX_BYTES_PER_LINK: u64 = 8_000;
/// All nodes for the fleet page, compressed.
const MAX_FLEET_BYTES: usize = 400_000;

#[test]
fn serves_ten_thousand_nodes_in_little_memory() {
    sys::raise_descriptor_limit().unwrap();
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let before = hub.private_bytes();
    let mut nodes: Vec<Vec<Node>> = std::thread::scope(|scope| {
        let hub = &hub;
        let openers: Vec<_> =
            (0..OPENERS).map(|opener| scope.spawn(move || open_every(hub, opener))).collect();
        openers.into_iter().map(|opener| opener.join().unwrap()).collect()
    });
    let per_link = (hub.private_bytes() - before) / LINKS as u64;
    println!("{per_link} bytes per link");
    assert!(per_link <= MAX_BYTES_PER_LINK, "{per_link}");
    std::thread::scope(|scope| {
        for nodes in &mut nodes {
            scope.spawn(|| {
                ping(nodes);
                nodes.iter_mut().step_by(10).for_each(|node| assert_eq!(node.report(1), 0));
            });
        }
    });
    for (opener, nodes) in nodes.iter_mut().enumerate() {
        for (number, node) in (opener..).step_by(OPENERS).zip(nodes) {
            describe(node, number);
        }
    }
    check_fleet(&hub);
}

/// Sends what an hm-agent with eight GPUs sends. Values differ as those of a busy fleet.
fn describe(node: &mut Node, number: usize) {
    let models = ["NVIDIA H200", "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"];
    let model = models[number % models.len()];
    let project = ["imagenet", "speech"][number % 2];
    let description = json!({"agent_version": "0.1.0", "hostname": format!("gpu-{number}.dc1.example"),
        "project": project, "gpu_models": [model]});
    send(node, "node", &description);
    // The multipliers are primes, so that neighbours differ.
    let state = |gpu: usize| ["active", "active", "active", "idle"][(number * 7919 + gpu * 31) % 4];
    let gpus: Vec<_> = (0..8).map(|gpu| json!({"model": model, "state": state(gpu)})).collect();
    let text = format!("GPU {} XID {}", number % 8, number % 97);
    let problems = [json!({"level": "warning", "text": text})];
    let problems = if number.is_multiple_of(20) { &problems[..] } else { &[] };
    let status = json!({"gpus": gpus, "gpu_utilization_percent": number * 7919 % 101,
        "gpu_memory_used_percent": number * 6007 % 101, "problems": problems});
    send(node, "snapshot", &json!({"status": status, "gzip": false}));
}

fn send(node: &mut Node, name: &str, message: &Value) {
    let message = message.to_string();
    let message = format!("{{\"extension\":\"{name}\",{}\n", &message[1..]);
    node.0.send(Message::binary(message)).unwrap();
}

/// The fleet page gets all nodes in one response, and then changes only.
fn check_fleet(hub: &Hub) {
    let totals = wait_until("every status", || {
        let fleet = fleet(hub, "");
        (fleet["totals"]["gpus"]
            .as_object()?
            .values()
            .map(|count| count.as_u64().unwrap())
            .sum::<u64>()
            == 8 * LINKS as u64)
            .then_some(fleet)
    });
    let start = Instant::now();
    let compressed = http_bytes(hub, "/api/fleet", "Accept-Encoding: gzip\r\n");
    let page = http_bytes(hub, "/", "Accept-Encoding: gzip\r\n");
    println!(
        "{} bytes of the fleet, {} of its page, {:?}",
        compressed.len(),
        page.len(),
        start.elapsed()
    );
    assert!(compressed.len() <= MAX_FLEET_BYTES, "{}", compressed.len());
    let revision = totals["revision"].as_str().unwrap();
    let changes = http_bytes(hub, &format!("/api/fleet?after={revision}"), "");
    assert!(changes.len() < 4096, "{} bytes without a change", changes.len());
}

/// Opens the links with the numbers `opener`, `opener + OPENERS`, …
fn open_every(hub: &Hub, opener: usize) -> Vec<Node> {
    let mut nodes = Vec::new();
    let mut last_ping = Instant::now();
    for number in (opener..LINKS).step_by(OPENERS) {
        let mut node = hub.node();
        assert_eq!(node.online(&format!("n{number}")), 0);
        nodes.push(node);
        if last_ping.elapsed() > PING_INTERVAL {
            last_ping = Instant::now();
            ping(&mut nodes);
        }
    }
    nodes
}

fn ping(nodes: &mut [Node]) {
    for node in nodes {
        node.0.send(Message::Ping(Vec::new().into())).unwrap();
    }
}
