//! Ten thousand nodes at once.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hm_agent::sys;
use tungstenite::Message;

use crate::support::TempDir;
use crate::support::hub::{Hub, Node};

pub const LINKS: usize = 10_000;
/// Threads that open links.
pub const OPENERS: usize = 8;
/// The hub ends a link that is silent for 30 s, and a busy machine opens all of them in no shorter time.
pub const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Private memory of the hub per node that is online and has sent no report.
const MAX_BYTES_PER_LINK: u64 = 8_000;

/// Two tests would need more descriptors than a process may have.
pub static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn serves_ten_thousand_nodes_in_little_memory() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    sys::raise_descriptor_limit().unwrap();
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let before = hub.private_bytes();
    let mut nodes = open_all(&hub);
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
}

/// Opens every link. Those of one opener are together.
pub fn open_all(hub: &Hub) -> Vec<Vec<Node>> {
    std::thread::scope(|scope| {
        let openers: Vec<_> =
            (0..OPENERS).map(|opener| scope.spawn(move || open_every(hub, opener))).collect();
        openers.into_iter().map(|opener| opener.join().unwrap()).collect()
    })
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

pub fn ping(nodes: &mut [Node]) {
    for node in nodes {
        node.0.send(Message::Ping(Vec::new().into())).unwrap();
    }
}
