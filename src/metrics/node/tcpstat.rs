//! TCP sockets by state: the collector tcpstat.

use crate::metrics::encoder::Encoder;
use crate::model::node::tcp_states::{TCP_STATES, TcpStates};

pub(super) fn encode(encoder: &mut Encoder, states: &TcpStates) {
    encoder.gauge(
        "node_tcp_connection_states",
        "Number of TCP sockets in the state, and bytes in the queues of all of them.",
    );
    for (state, count) in TCP_STATES.iter().zip(states.sockets) {
        encoder.sample_with_label("", ("state", state), count);
    }
    encoder
        .sample_with_label("", ("state", "rx_queued_bytes"), states.receive_queued_bytes)
        .sample_with_label("", ("state", "tx_queued_bytes"), states.transmit_queued_bytes);
}
