//! What an agent takes with all its services on, both uplinks among them, while nothing happens.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use serde_json::json;
use support::core::Core;
use support::core_wire::TOKEN;
use support::hub::Hub;
use support::monitor::Monitor;

/// As it is by default. `tests/bench idle` prints what this finds.
#[test]
#[ignore = "measures"]
fn all_services_idle() {
    let (hub, core) = (Hub::start(), Core::start());
    let token = format!("core.token={TOKEN}");
    let monitor = Monitor::start(&[&hub.setting(), &core.setting(), &token]);
    let agent = &monitor.agent;
    hub.wait_reports(1);
    core.wait("node_register", 1);
    // Somebody has asked each port once.
    agent.http("/metrics", "");
    drop(agent.subscribe());
    support::heartbeat::Line::to(agent).get("/hb_init?600000&appid=demo");
    // What only starting and these needed is given back once a minute. Then for half a minute, in which each link says
    // what it has to say: the most.
    std::thread::park_timeout(Duration::from_secs(70));
    let bytes = |name| agent.status(name) * 1024;
    let mut most = (0, 0);
    for _ in 0..30 {
        std::thread::park_timeout(Duration::from_secs(1));
        most = most.max((bytes("VmRSS"), bytes("RssAnon")));
    }
    let (rss, own) = most;
    let (threads, files) = (agent.status("Threads"), agent.descriptors());
    println!("bench {}", json!({"rss": rss, "own": own, "threads": threads, "files": files}));
    assert!(own < 4 << 20, "{own} bytes");
    monitor.stop();
}
