//! Five hundred agents' links in this process, and a hub that restarts: they do not come back all at once.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use hm_agent::collector::latest::LatestSample;
use hm_agent::config::Hm as Settings;
use hm_agent::hm_client::client::Link;
use hm_agent::limits;
use hm_agent::model::RawSample;
use hm_agent::model::primary_gpu::Primary;
use hm_agent::net::reconnect::Backoff;
use hm_agent::sys;
use hm_agent::sys::EventFd;
use hm_agent::util::sync::Shutdown;

use support::Scratch;
use support::hub::Hub;

const AGENTS: usize = 500;
/// So long the hub is away.
const AWAY: Duration = Duration::from_secs(20);
/// No second has more than this share of those who come back. All waits being random from nothing to their
/// longest, the fullest second has 5 % of a large fleet; the rest is chance, and a busy machine.
const LARGEST_SHARE: f64 = 0.15;

/// Tells the links to end, also when a test fails.
struct End<'a>(&'a Shutdown);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.trigger();
    }
}

fn links(hub: &Hub, state: &Scratch) -> Vec<Link> {
    let settings = Settings {
        url: format!("ws://{}/websocket", hub.address),
        project: String::new(),
        models: Vec::new(),
        report_interval: Duration::from_secs(10),
        ping_interval: Duration::from_secs(10),
    };
    let link = |number: usize| {
        let state_dir = state.0.join(number.to_string());
        Link::new(settings.clone(), format!("n{number}"), Primary::Index(0), &state_dir, None)
            .unwrap()
    };
    (0..AGENTS).map(link).collect()
}

fn wait_connections(hub: &Hub, patience: Duration) {
    let start = Instant::now();
    while hub.connections() < AGENTS {
        assert!(start.elapsed() < patience, "{} have come", hub.connections());
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// How many of `count` come back in each second after a hub was away.
fn expected(count: u32) -> Vec<f64> {
    let mut seconds = vec![0.0; limits::RECONNECT.1.as_secs() as usize + 1];
    for agent in 0..count {
        let mut backoff = Backoff::new(limits::RECONNECT.0, limits::RECONNECT.1);
        let mut at = Duration::ZERO;
        for turn in 0u32.. {
            // Numbers from 0 to 1 that look random.
            let mixed =
                (u64::from(agent) << 8 | u64::from(turn)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            at += backoff.next((mixed >> 11) as f64 / (1u64 << 53) as f64, Duration::ZERO);
            if let Some(late) = at.checked_sub(AWAY) {
                seconds[late.as_secs() as usize] += 1.0 / f64::from(count);
                break;
            }
        }
    }
    seconds
}

#[test]
#[ignore = "a minute and a half"]
fn five_hundred_agents_do_not_come_back_all_at_once() {
    sys::raise_descriptor_limit().unwrap();
    let (hub, state) = (Hub::start(), Scratch::new("fleet"));
    let address = hub.address;
    let (links, stop) = (links(&hub, &state), Shutdown::new().unwrap());
    let (feed, complete) =
        (LatestSample::new(RawSample::default()).unwrap(), EventFd::new().unwrap());
    complete.notify();
    std::thread::scope(|scope| {
        let _end = End(&stop);
        for link in &links {
            scope.spawn(|| link.deliver(&stop));
            scope.spawn(|| link.report(&feed, &complete, &stop));
        }
        wait_connections(&hub, Duration::from_secs(60));
        hub.stop();
        let away = Instant::now();
        std::thread::park_timeout(AWAY);
        let hub = Hub::on(address, false, Duration::from_secs(30));
        let back = Instant::now();
        println!("the hub was away for {:.1?}", back - away);
        wait_connections(&hub, limits::RECONNECT.1 + Duration::from_secs(30));
        let mut seconds = vec![0; expected(1).len() + 30];
        for at in hub.connected_at() {
            seconds[(at - back).as_secs() as usize] += 1;
        }
        show(&seconds);
        let most = *seconds.iter().max().unwrap();
        assert!(f64::from(most) <= LARGEST_SHARE * AGENTS as f64, "{most} in one second");
        assert_delivered(&hub, &links);
    });
}

/// Every link has delivered what waited, in order.
fn assert_delivered(hub: &Hub, links: &[Link]) {
    let start = Instant::now();
    while links.iter().any(|link| link.status().backlog > 0 || link.status().state != "online") {
        assert!(start.elapsed() < Duration::from_secs(30), "some wait for ever");
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
    println!("agents that came back, by second since the hub was there again, and as expected:");
    let expected = expected(100_000);
    let last = seconds.iter().rposition(|count| *count > 0).unwrap();
    for (second, count) in seconds.iter().enumerate().take(last + 1) {
        let expected = expected.get(second).map_or(0.0, |share| share * AGENTS as f64);
        println!("{second:>3} s {count:>4} {expected:>5.1} {}", "#".repeat(*count as usize));
    }
}
