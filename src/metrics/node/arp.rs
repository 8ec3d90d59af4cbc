//! Neighbours of IPv4: the collector arp.

use std::cmp::Reverse;

use crate::metrics::Truncation;
use crate::metrics::encoder::{Encoder, labels};
use crate::model::node::arp::ArpEntries;

/// A container host may have thousands of interfaces.
const MAX_DEVICES: usize = 256;

pub(super) fn encode(encoder: &mut Encoder, entries: &[ArpEntries], truncation: &mut Truncation) {
    let mut entries: Vec<&ArpEntries> = entries.iter().collect();
    if entries.len() > MAX_DEVICES {
        // An overflowing table is what matters; the interface of a container has one or two entries.
        entries.sort_by_key(|each| Reverse(each.entries));
    }
    encoder.gauge("node_arp_entries", "Number of entries in the ARP cache.");
    for each in truncation.limit("arp_devices", &entries, MAX_DEVICES) {
        encoder.sample(&labels(&[("device", &each.device)]), each.entries);
    }
}
