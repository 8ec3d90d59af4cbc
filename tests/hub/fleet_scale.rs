//! The fleet page with ten thousand synthetic nodes, and real agents among them.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use hm_agent::sys;
use serde_json::{Value, json};
use tungstenite::Message;

use crate::fleet_api::{fleet, http_bytes};
use crate::links::{ALONE, LINKS, OPENERS, PING_INTERVAL, open_all, ping};
use crate::support::browser::Browser;
use crate::support::fake_nvml::Driver;
use crate::support::hub::{Hub, Node};
use crate::support::rng::Rng;
use crate::support::{Agent, TempDir, wait_until};

const AGENTS: usize = 20;
/// All nodes for the page, compressed.
const MAX_FLEET_BYTES: usize = 400_000;

#[test]
#[ignore = "needs Chromium and playwright-core"]
fn page_shows_ten_thousand_nodes_and_problems_of_real_agents() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    sys::raise_descriptor_limit().unwrap();
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let mut nodes = open_all(&hub);
    let mut rng = Rng::of(1);
    for (opener, nodes) in nodes.iter_mut().enumerate() {
        for (number, node) in (opener..).step_by(OPENERS).zip(nodes) {
            describe(node, number, &mut rng);
        }
    }
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Relaxed) {
                nodes.iter_mut().for_each(|nodes| ping(nodes));
                std::thread::park_timeout(PING_INTERVAL);
            }
        });
        let pinger = StopOnDrop(&is_done);
        check_size(&hub);
        check_page(&hub);
        drop(pinger);
    });
}

/// Ends the thread that pings, also when the test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Sends what an hm-agent with eight GPUs sends, with random values: regular ones would compress better than those of a real fleet.
fn describe(node: &mut Node, number: usize, rng: &mut Rng) {
    let mut one_of = |choices: &[&'static str]| choices[rng.below(choices.len() as u64) as usize];
    let model = one_of(&["NVIDIA H200", "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"]);
    let project = one_of(&["imagenet", "speech"]);
    let description = json!({"agent_version": "0.1.0", "hostname": format!("gpu-{number}.dc1.example"),
        "project": project, "gpu_models": [model]});
    send(node, "node", &description);
    let mut gpu =
        || json!({"model": model, "state": one_of(&["active", "active", "active", "idle"])});
    let gpus: Vec<_> = (0..8).map(|_| gpu()).collect();
    let text = format!("GPU {}: XID {}", rng.below(8), rng.below(100));
    let problems = [json!({"severity": "warning", "text": text})];
    let problems = if rng.below(20) == 0 { &problems[..] } else { &[] };
    let status = json!({"gpus": gpus, "gpu_utilization_percent": rng.below(101),
        "gpu_memory_used_percent": rng.below(101), "problems": problems});
    send(node, "snapshot", &json!({"status": status, "gzip": false}));
}

fn send(node: &mut Node, name: &str, message: &Value) {
    let message = message.to_string();
    let message = format!("{{\"extension\":\"{name}\",{}\n", &message[1..]);
    node.0.send(Message::binary(message)).unwrap();
}

/// The fleet page gets all nodes in one response, and then changes only.
fn check_size(hub: &Hub) {
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

fn check_page(hub: &Hub) {
    let driver = Driver::new("gpus = 4");
    let url = format!("hm.url=ws://{}/websocket", hub.address);
    let agents: Vec<Agent> = (0..AGENTS)
        .map(|number| {
            let node_id = format!("node_id=real-{number}");
            Agent::spawn(driver.command(&[], &[&url, &node_id, "interval=2"]))
        })
        .collect();
    let start = Instant::now();
    let mut browser = Browser::at(&format!("http://{}/", hub.web));
    browser.until("document.querySelector('#rows .line')");
    println!("{:?} until the first row", start.elapsed());
    // Digits are grouped by spaces.
    let count = "document.querySelector('#count').textContent.replace(/\\D/g, '')";
    browser.until(&format!("{count} === '{}'", LINKS + AGENTS));
    let rows = browser.run("document.querySelectorAll('#rows .line').length");
    assert!(rows.as_u64().unwrap() < 100, "{rows} rows exist");
    browser.fill("#filters input[type=search]", "real-");
    browser.until(&format!("{count} === '{AGENTS}{}'", LINKS + AGENTS));
    browser.until("location.search.includes('real-')");
    driver.set_script("gpus = 4\nlost = 1");
    browser.until_seen("#rows", "GPU 1: lost");
    browser.shot("fleet-scale");
    let console = browser.console();
    assert!(console.is_empty(), "{console:#?}");
    let foreign = browser.requests();
    let own = format!("http://{}/", hub.web);
    let foreign: Vec<_> = foreign.iter().filter(|url| !url.starts_with(&own)).collect();
    assert!(foreign.iter().all(|url| url.starts_with("data:")), "{foreign:#?}");
    for agent in agents {
        agent.stop();
    }
}
