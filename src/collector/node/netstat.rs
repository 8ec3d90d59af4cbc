//! Counters of IP, ICMP, TCP and UDP.

use crate::collector::host_files::HostFiles;
use crate::model::node::Measurement;
use crate::procfs::{netstat, snmp6};

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let snmp = host.parse_net("snmp", netstat::parse);
    let extensions = host.parse_net("netstat", netstat::parse);
    // Does not exist without IPv6.
    let ipv6 = host.parse_net("snmp6", snmp6::parse);
    if snmp.is_none() && extensions.is_none() && ipv6.is_none() {
        return None;
    }
    let mut netstat = snmp.unwrap_or_default();
    netstat.counters.extend(extensions.unwrap_or_default().counters);
    netstat.counters.extend(ipv6.unwrap_or_default());
    Some(Measurement::Netstat(netstat))
}
