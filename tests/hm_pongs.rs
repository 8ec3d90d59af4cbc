//! Pongs, which prove something only where there were some.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::hub::Hub;
use support::{Agent, Scratch, wait_until};

/// No report after the first one.
const SILENT: &str = "hm.report_interval=3600";

/// An agent that sends a ping a second.
fn agent(hub: &Hub, state: &Scratch, reports: &str) -> Agent {
    let state = format!("state_dir={}", state.0.display());
    Agent::start(&[&hub.setting(), &state, reports, "hm.ping_interval=1", "gpu.source=none"])
}

/// Waits for `time`, in which the hub sees no other connection than the `expected` ones.
fn assert_steady(hub: &Hub, expected: usize, time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::thread::park_timeout(Duration::from_millis(100));
        assert_eq!(hub.connections(), expected, "after {:?}", start.elapsed());
    }
}

/// Longer than the silence after which a hub that has sent pongs is gone.
const LONG: Duration = Duration::from_secs(50);

#[test]
#[ignore = "waits for a pong that does not come, 100 s"]
fn pongs_that_stop_end_the_connection_and_the_next_one_must_prove_its_own() {
    let state = Scratch::new("hm");
    let hub = Hub::on("127.0.0.1:0".parse().unwrap(), true, Duration::from_secs(30));
    let agent = agent(&hub, &state, SILENT);
    wait_until("pings", || (hub.pings() >= 3).then_some(()));
    hub.pongs(false);
    let start = Instant::now();
    while hub.connections() < 2 {
        assert!(start.elapsed() < Duration::from_secs(65), "{:#?}", agent.log());
        std::thread::park_timeout(Duration::from_millis(100));
    }
    assert!(start.elapsed() > Duration::from_secs(42), "{:?}", start.elapsed());
    agent.wait_log("no pong for 45 s, and there were some; next try in ");
    // A hub of a version that sends none, or a proxy that swallows them, is no hub that is gone.
    assert_steady(&hub, 2, LONG);
    agent.stop();
}

#[test]
#[ignore = "waits for a pong that does not come, 50 s"]
fn answers_are_as_good_as_pongs() {
    let state = Scratch::new("hm");
    let hub = Hub::on("127.0.0.1:0".parse().unwrap(), true, Duration::from_secs(30));
    let agent = agent(&hub, &state, "hm.report_interval=1");
    wait_until("pings", || (hub.pings() >= 3).then_some(()));
    hub.pongs(false);
    assert_steady(&hub, 1, LONG);
    agent.stop();
}

#[test]
#[ignore = "waits for a pong that does not come, 50 s"]
fn a_hub_that_never_sent_a_pong_need_not() {
    let (hub, state) = (Hub::start(), Scratch::new("hm"));
    let agent = agent(&hub, &state, SILENT);
    wait_until("a connection", || (hub.connections() == 1).then_some(()));
    assert_steady(&hub, 1, LONG);
    assert!(hub.pings() >= 30, "{}", hub.pings());
    agent.stop();
}
