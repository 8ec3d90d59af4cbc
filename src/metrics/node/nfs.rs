//! The NFS client: the collector nfs.

use crate::metrics::encoder::{Encoder, labels};
use crate::procfs::nfs::Nfs;

pub(super) fn encode(encoder: &mut Encoder, nfs: &Nfs) {
    let network = nfs.network;
    encoder
        .counter("node_nfs_packets_total", "Number of packets by transport protocol.")
        .sample_if("protocol=\"tcp\"", network.map(|network| network.tcp_packets))
        .sample_if("protocol=\"udp\"", network.map(|network| network.udp_packets));
    encoder
        .counter("node_nfs_connections_total", "Number of TCP connections.")
        .sample_if("", network.map(|network| network.tcp_connections));
    encoder
        .counter("node_nfs_rpcs_total", "Number of remote procedure calls.")
        .sample_if("", nfs.rpc.map(|rpc| rpc.calls));
    encoder
        .counter(
            "node_nfs_rpc_retransmissions_total",
            "Number of calls sent again because the server did not answer in time.",
        )
        .sample_if("", nfs.rpc.map(|rpc| rpc.retransmissions));
    encoder
        .counter(
            "node_nfs_rpc_authentication_refreshes_total",
            "Number of times credentials were refreshed.",
        )
        .sample_if("", nfs.rpc.map(|rpc| rpc.authentication_refreshes));
    encoder.counter("node_nfs_requests_total", "Number of requests by method and version of NFS.");
    for each in &nfs.requests {
        let labels = labels(&[("method", each.method), ("proto", each.version)]);
        encoder.sample(&labels, each.count);
    }
}
