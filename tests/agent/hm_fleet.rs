//! The hm clients of 500 agents in this process, and a server that restarts: reconnects spread over time.

use std::time::{Duration, Instant};

use hm_agent::net::reconnecting_client::RECONNECT_BACKOFF;
use hm_agent::sys;
use hm_agent::util::backoff::Backoff;

use crate::support::TempDir;
use crate::support::hm_clients::HmClients;
use crate::support::hm_server::HmServer;

const AGENTS: usize = 500;
/// How long the server is down.
const DOWNTIME: Duration = Duration::from_secs(20);
/// No second has more than this share of the reconnects. With uniform random delays the busiest second has 5 % of a large
/// fleet; the rest is tolerance for chance and a busy machine.
const LARGEST_SHARE: f64 = 0.15;

fn wait_connections(hub: &HmServer, timeout: Duration) {
    let start = Instant::now();
    while hub.connections() < AGENTS {
        assert!(start.elapsed() < timeout, "{} connected", hub.connections());
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// The share of `count` agents that reconnects in each second after the downtime.
fn expected(count: u32) -> Vec<f64> {
    let mut seconds = vec![0.0; RECONNECT_BACKOFF.1.as_secs() as usize + 1];
    for agent in 0..count {
        let mut backoff = Backoff::new(RECONNECT_BACKOFF.0, RECONNECT_BACKOFF.1);
        let mut at = Duration::ZERO;
        for attempt in 0u32.. {
            // Pseudo-random numbers from 0 to 1.
            let mixed =
                (u64::from(agent) << 8 | u64::from(attempt)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            at += backoff.next_delay((mixed >> 11) as f64 / (1u64 << 53) as f64, Duration::ZERO);
            if let Some(late) = at.checked_sub(DOWNTIME) {
                seconds[late.as_secs() as usize] += 1.0 / f64::from(count);
                break;
            }
        }
    }
    seconds
}

#[test]
#[ignore = "a minute and a half"]
fn reconnects_of_500_agents_spread_over_time() {
    sys::raise_descriptor_limit().unwrap();
    let (hub, state) = (HmServer::start(), TempDir::new("fleet"));
    let address = hub.address;
    let clients = HmClients::new(address, AGENTS, Duration::from_secs(10), &state);
    std::thread::scope(|scope| {
        let _running = clients.start(scope);
        wait_connections(&hub, Duration::from_secs(60));
        hub.stop();
        let away = Instant::now();
        std::thread::park_timeout(DOWNTIME);
        let hub = HmServer::on(address, false, Duration::from_secs(30));
        let back = Instant::now();
        println!("server down for {:.1?}", back - away);
        wait_connections(&hub, RECONNECT_BACKOFF.1 + Duration::from_secs(30));
        let mut seconds = vec![0; expected(1).len() + 30];
        for at in hub.connected_at() {
            seconds[(at - back).as_secs() as usize] += 1;
        }
        show(&seconds);
        let most = *seconds.iter().max().unwrap();
        assert!(f64::from(most) <= LARGEST_SHARE * AGENTS as f64, "{most} in one second");
        assert_delivered(&hub, &clients);
    });
}

/// Every client has delivered its backlog in order.
fn assert_delivered(hub: &HmServer, clients: &HmClients) {
    let start = Instant::now();
    while !clients.have_delivered() {
        assert!(start.elapsed() < Duration::from_secs(30), "timeout waiting for the backlogs");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let mut last = vec![0; hub.connections()];
    for seen in hub.seen().iter().filter(|seen| seen.kind == 2) {
        assert!(seen.timestamp > last[seen.connection], "{seen:?}");
        last[seen.connection] = seen.timestamp;
    }
    assert!(last.iter().filter(|last| **last > 0).count() >= AGENTS);
}

fn show(seconds: &[u32]) {
    println!("reconnects by second after the server returned, actual and expected:");
    let expected = expected(100_000);
    let last = seconds.iter().rposition(|count| *count > 0).unwrap();
    for (second, count) in seconds.iter().enumerate().take(last + 1) {
        let expected = expected.get(second).map_or(0.0, |share| share * AGENTS as f64);
        println!("{second:>3} s {count:>4} {expected:>5.1} {}", "#".repeat(*count as usize));
    }
}
