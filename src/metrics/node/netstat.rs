//! Counters of the network protocols: the collector netstat.

use crate::metrics::encoder::{Encoder, MetricType};
use crate::procfs::netstat::Netstat;

const HELP: &str =
    "Statistic of a network protocol, from /proc/net/snmp, /proc/net/snmp6 or /proc/net/netstat.";

pub(super) fn encode(encoder: &mut Encoder, netstat: &Netstat) {
    for (name, value) in &netstat.counters {
        let name = format!("node_netstat_{name}");
        encoder.family(&name, MetricType::Untyped, HELP).sample("", *value);
    }
    // The default of node_exporter leaves it out, but the dashboard 1860 queries it.
    let limit = netstat.tcp_max_connections.map(|limit| limit as f64);
    let help = "Maximum number of TCP connections; -1 if there is none.";
    encoder.family("node_netstat_Tcp_MaxConn", MetricType::Untyped, help).sample_if("", limit);
}
