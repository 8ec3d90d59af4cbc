//! Memory of an agent with every service on. `tests/bench` runs this test with the static binary and reads the line it prints.

use crate::support;
use std::time::Duration;

use crate::support::core::Core;
use crate::support::core_wire::TOKEN;
use crate::support::hm_server::HmServer;
use crate::support::monitor::Monitor;
use serde_json::json;

#[test]
#[ignore = "a measurement, run by tests/bench"]
fn memory_stays_small_with_all_services_on() {
    let (hub, core) = (HmServer::start(), Core::start());
    let token = format!("core.token={TOKEN}");
    let monitor = Monitor::start(&[&hub.setting(), &core.setting(), &token]);
    let agent = &monitor.agent;
    hub.wait_reports(1);
    core.wait("node_register", 1);
    for _ in 0..50 {
        assert_eq!(agent.http("/metrics", "Connection: close\r\n").0, 200);
    }
    drop(agent.subscribe());
    support::heartbeat::HttpConnection::open(agent).get("/hb_init?600000&appid=demo");
    // The largest value of 20 s, in which both upstreams send reports and pings.
    let bytes = |name| agent.status(name) * 1024;
    let mut largest = (0, 0);
    for _ in 0..20 {
        std::thread::park_timeout(Duration::from_secs(1));
        largest = largest.max((bytes("VmRSS"), bytes("RssAnon")));
    }
    let (resident, private) = largest;
    println!("footprint {}", json!({"resident": resident, "private": private}));
    assert!(private < 4 << 20, "{private} bytes");
    monitor.stop();
}
