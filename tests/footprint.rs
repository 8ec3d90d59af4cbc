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
    core.wait("heartbeat", 1);
    // Somebody has asked each port once.
    agent.http("/metrics", "");
    drop(agent.subscribe());
    support::heartbeat::Line::to(agent).get("/hb_init?600000&appid=demo");
    // What only starting needs is given back after five seconds.
    std::thread::park_timeout(Duration::from_secs(20));
    let bytes = |name| agent.status(name) * 1024;
    let found = json!({
        "rss": bytes("VmRSS"),
        "own": bytes("RssAnon"),
        "threads": agent.status("Threads"),
        "files": agent.descriptors(),
    });
    println!("bench {found}");
    assert!(bytes("RssAnon") < 4 << 20, "{found}");
    monitor.stop();
}
