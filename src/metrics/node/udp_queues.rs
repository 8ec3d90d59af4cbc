//! Data in the queues of UDP sockets: the collector udp_queues.

use crate::metrics::encoder::{Encoder, labels};
use crate::model::node::udp_queues::UdpQueuesByVersion;

pub(super) fn encode(encoder: &mut Encoder, queues: &UdpQueuesByVersion) {
    encoder.gauge("node_udp_queues", "Bytes in the queues of all UDP sockets.");
    for (version, queues) in [("v4", queues.v4), ("v6", queues.v6)] {
        let Some(queues) = queues else { continue };
        encoder
            .sample(&labels(&[("queue", "rx"), ("ip", version)]), queues.receive_bytes)
            .sample(&labels(&[("queue", "tx"), ("ip", version)]), queues.transmit_bytes);
    }
}
