//! RFC 6455 conformance over raw sockets: `/usage` and `/monitor` are tested as servers, the hm and Core clients as clients. The
//! cases are written from the RFC and numbered like the sections of the Autobahn test suite (1 to 7, 9, 10), which needs Python 2.
//! No peer here echoes messages: that a message was accepted shows in its answer, or in the answer to a ping after it.

mod cases;
mod judge;
mod peer;
mod utf8;
mod wire;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::monitor::Monitor;
use cases::{Case, all};
use judge::check_results;
use peer::{PEERS, Ports};

/// Conversations at a time. Most of the time they wait for the peer.
const PARALLEL: usize = 6;

type Results = BTreeMap<(usize, usize), Result<String, String>>;

#[test]
fn every_rfc_6455_case_ends_as_required() {
    let monitor = Monitor::start(&["interval=3600"]);
    let ports = Ports { usage: monitor.agent.address, monitor: monitor.address() };
    let cases = all();
    let results = run(&cases, &ports);
    monitor.stop();
    for ((case, peer), result) in &results {
        let Case { id, what, .. } = &cases[*case];
        println!("{id} {what}, {}: {result:?}", PEERS[*peer].name());
    }
    let failures: Vec<String> = results
        .iter()
        .filter_map(|((case, peer), result)| {
            let why = result.as_ref().err()?;
            Some(format!("{} with {}: {why}", cases[*case].id, PEERS[*peer].name()))
        })
        .collect();
    assert!(failures.is_empty(), "{} cases fail:\n{}", failures.len(), failures.join("\n"));
}

fn run(cases: &[Case], ports: &Ports) -> Results {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Results::new()));
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let (case, peer) = (number / PEERS.len(), number % PEERS.len());
                    let Some(one) = cases.get(case) else { return };
                    let Some(exchange) = (one.exchange)(PEERS[peer]) else { continue };
                    let result = peer::with(PEERS[peer], ports, |wire| {
                        check_results(wire, PEERS[peer], &exchange)
                    });
                    results.lock().unwrap().insert((case, peer), result);
                }
            });
        }
    });
    results.into_inner().unwrap()
}
