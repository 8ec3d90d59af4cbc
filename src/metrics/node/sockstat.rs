//! Sockets by protocol: the collector sockstat.

use crate::metrics::encoder::Encoder;
use crate::procfs::sockstat::Sockstat;

pub(super) fn encode(encoder: &mut Encoder, sockets: &Sockstat) {
    for (name, value) in sockets {
        encoder.gauge(&format!("node_sockstat_{name}"), help(name)).sample("", *value);
    }
}

fn help(name: &str) -> &'static str {
    match name.rsplit_once('_') {
        Some(("sockets", _)) => "Number of sockets of all protocols.",
        Some((_, "inuse")) => "Number of sockets or fragment queues of the protocol in use.",
        Some((_, "orphan")) => "Number of TCP sockets that no process has open any more.",
        Some((_, "tw")) => "Number of TCP sockets in the state TIME_WAIT.",
        Some((_, "alloc")) => "Number of TCP sockets allocated, in any state.",
        Some((_, "mem")) => "Pages of memory in buffers of the protocol.",
        _ => "Bytes of memory in buffers of the protocol.",
    }
}
