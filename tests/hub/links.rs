//! Ten thousand nodes at once.

use hm_agent::sys;

use crate::support::TempDir;
use crate::support::hub::{Hub, Node};

const LINKS: usize = 10_000;
/// Threads that open links.
const OPENERS: usize = 8;
/// Private memory of the hub per node that is online and has sent no report.
const MAX_BYTES_PER_LINK: u64 = 8_000;

#[test]
fn serves_ten_thousand_nodes_in_little_memory() {
    sys::raise_descriptor_limit().unwrap();
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let before = hub.private_bytes();
    let mut nodes: Vec<Node> = std::thread::scope(|scope| {
        let open = |opener: usize| {
            let hub = &hub;
            scope.spawn(move || {
                let numbers = (opener..LINKS).step_by(OPENERS);
                let open = |number: usize| {
                    let mut node = hub.node();
                    assert_eq!(node.online(&format!("n{number}")), 0);
                    node
                };
                numbers.map(open).collect::<Vec<_>>()
            })
        };
        let openers: Vec<_> = (0..OPENERS).map(open).collect();
        openers.into_iter().flat_map(|opener| opener.join().unwrap()).collect()
    });
    let per_link = (hub.private_bytes() - before) / LINKS as u64;
    println!("{per_link} bytes per link");
    assert!(per_link <= MAX_BYTES_PER_LINK, "{per_link}");
    for node in nodes.iter_mut().step_by(10) {
        assert_eq!(node.report(1), 0);
    }
}
