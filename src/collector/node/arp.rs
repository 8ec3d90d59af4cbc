//! Neighbours of IPv4, counted by interface.
//!
//! node_exporter requests them from rtnetlink and leaves out those of IPv6 and those that need no address resolution. That is what
//! `/proc/net/arp` contains, and the file of process 1 is that of the host, also in a container.

use std::collections::BTreeMap;

use crate::collector::host_files::HostFiles;
use crate::model::node::Measurement;
use crate::model::node::arp::ArpEntries;
use crate::procfs::arp;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let counts = host.parse_net_lines("arp", |counts: &mut BTreeMap<Vec<u8>, u64>, at, line| {
        if let Some(device) = arp::parse_device(at, line)? {
            match counts.get_mut(device) {
                Some(count) => *count += 1,
                None => drop(counts.insert(device.to_owned(), 1)),
            }
        }
        Ok(())
    })?;
    let entries = counts.into_iter().map(|(device, entries)| {
        let device = String::from_utf8_lossy(&device).into_owned();
        ArpEntries { device, entries }
    });
    Some(Measurement::Arp(entries.collect()))
}
