//! Carrier changes of network interfaces, and packets without a handler: the collector netclass_rtnl.

use crate::metrics::Truncation;
use crate::metrics::encoder::{Encoder, labels};
use crate::model::node::network_links::NetworkLink;

/// A container host has an interface for each container.
const MAX_LINKS: usize = 256;

type Family = (&'static str, &'static str, fn(&NetworkLink) -> Option<u64>);

const COUNTERS: [Family; 4] = [
    (
        "node_network_carrier_changes_total",
        "Number of times the link came up or went down.",
        |link| link.carrier_changes.map(u64::from),
    ),
    ("node_network_carrier_up_changes_total", "Number of times the link came up.", |link| {
        link.carrier_up_changes.map(u64::from)
    }),
    ("node_network_carrier_down_changes_total", "Number of times the link went down.", |link| {
        link.carrier_down_changes.map(u64::from)
    }),
    (
        "node_network_receive_nohandler_total",
        "Number of packets received for which there was no handler.",
        |link| link.receive_no_handler,
    ),
];

/// `links`: the most important ones first.
pub(super) fn encode(encoder: &mut Encoder, links: &[NetworkLink], truncation: &mut Truncation) {
    let named: Vec<(String, &NetworkLink)> = truncation
        .limit("network_links", links, MAX_LINKS)
        .iter()
        .map(|link| (labels(&[("device", &link.device)]), link))
        .collect();
    for (name, help, value) in COUNTERS {
        encoder.counter(name, help);
        for (labels, link) in &named {
            encoder.sample_if(labels, value(link));
        }
    }
}
