//! Carrier changes of network interfaces, and packets without a handler: one request to rtnetlink, whereas sysfs has a file for each
//! value and interface, and no file has the packets. Named after node_exporter's flags for it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::collector::host_files::HostFiles;
use crate::model::node::Measurement;
use crate::model::node::network_links::{LinkKind, NetworkLink};
use crate::sys::netlink::{LINK_HEADER_BYTES, attributes, dump_links, u32_at, u64_at};
use crate::util::error::Error;

/// More interfaces than this are not read.
const MAX_LINKS: usize = 16_384;

/// Where `struct rtnl_link_stats64` has `rx_nohandler`, which Linux 4.6 added.
const NO_HANDLER_OFFSET: usize = 23 * 8;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    if !host.shares_host_netns() {
        return None;
    }
    // By name: if an interface is added during the dump, another one may appear twice.
    let mut links = BTreeMap::new();
    let result = dump_links(|message| {
        if let Some(link) = parse_link(message) {
            links.insert(link.device.clone(), link);
        }
        if links.len() < MAX_LINKS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    if let Err(error) = result {
        host.fail(Error::system("read network interfaces from rtnetlink", error));
        return None;
    }
    let mut links: Vec<NetworkLink> = links.into_values().collect();
    links.sort_by_key(|link| link.kind);
    Some(Measurement::NetworkLinks(links))
}

/// Parses a `struct ifinfomsg` with its attributes. `None` without a name.
fn parse_link(message: &[u8]) -> Option<NetworkLink> {
    let mut link = NetworkLink {
        device: String::new(),
        kind: LinkKind::Hardware,
        carrier_changes: None,
        carrier_up_changes: None,
        carrier_down_changes: None,
        receive_no_handler: None,
    };
    for (attribute, value) in attributes(message.get(LINK_HEADER_BYTES..)?) {
        match attribute {
            libc::IFLA_IFNAME => {
                let name = value.split(|&byte| byte == 0).next().unwrap_or_default();
                link.device = String::from_utf8_lossy(name).into_owned();
            }
            libc::IFLA_CARRIER_CHANGES => link.carrier_changes = u32_at(value, 0),
            libc::IFLA_CARRIER_UP_COUNT => link.carrier_up_changes = u32_at(value, 0),
            libc::IFLA_CARRIER_DOWN_COUNT => link.carrier_down_changes = u32_at(value, 0),
            libc::IFLA_STATS64 => link.receive_no_handler = u64_at(value, NO_HANDLER_OFFSET),
            libc::IFLA_LINKINFO => link.kind = link.kind.max(LinkKind::Virtual),
            libc::IFLA_LINK_NETNSID => link.kind = LinkKind::PeerInOtherNamespace,
            _ => {}
        }
    }
    (!link.device.is_empty()).then_some(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(attribute_type: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
        bytes.extend(attribute_type.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(attributes: &[Vec<u8>]) -> Vec<u8> {
        [vec![0; LINK_HEADER_BYTES], attributes.concat()].concat()
    }

    #[test]
    fn parses_counters_of_hardware() {
        let stats: Vec<u8> = (100..125u64).flat_map(u64::to_ne_bytes).collect();
        let link = message(&[
            attribute(libc::IFLA_IFNAME, b"eth0\0"),
            attribute(libc::IFLA_STATS64, &stats),
            attribute(libc::IFLA_CARRIER_CHANGES, &7u32.to_ne_bytes()),
            attribute(libc::IFLA_CARRIER_UP_COUNT, &4u32.to_ne_bytes()),
            attribute(libc::IFLA_CARRIER_DOWN_COUNT, &3u32.to_ne_bytes()),
        ]);
        let expected = NetworkLink {
            device: "eth0".to_owned(),
            kind: LinkKind::Hardware,
            carrier_changes: Some(7),
            carrier_up_changes: Some(4),
            carrier_down_changes: Some(3),
            receive_no_handler: Some(123),
        };
        assert_eq!(parse_link(&link), Some(expected));
        for end in 0..link.len() {
            let _ = parse_link(&link[..end]);
        }
    }

    #[test]
    fn counters_that_old_kernels_do_not_have_are_none() {
        let link = message(&[
            attribute(libc::IFLA_STATS64, &[1; 23 * 8]),
            attribute(libc::IFLA_IFNAME, b"eth0\0"),
        ]);
        let link = parse_link(&link).unwrap();
        assert_eq!((link.receive_no_handler, link.carrier_changes), (None, None));
        assert_eq!(parse_link(&message(&[])), None, "no name");
        assert_eq!(parse_link(&[0; 15]), None);
    }

    #[test]
    fn interfaces_of_containers_are_last() {
        let kind = |attributes: &[u16]| {
            let mut all = vec![attribute(libc::IFLA_IFNAME, b"a\0")];
            all.extend(attributes.iter().map(|each| attribute(*each, &[0; 4])));
            parse_link(&message(&all)).unwrap().kind
        };
        let (info, netns) = (libc::IFLA_LINKINFO, libc::IFLA_LINK_NETNSID);
        assert!(kind(&[]) < kind(&[info]) && kind(&[info]) < kind(&[info, netns]));
        assert_eq!(kind(&[netns, info]), LinkKind::PeerInOtherNamespace);
    }
}
