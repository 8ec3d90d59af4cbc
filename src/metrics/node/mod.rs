//! Series of the collectors of [`crate::collector::node`], under node_exporter's names, one file each.

mod conntrack;
mod timex;

use crate::metrics::Truncation;
use crate::metrics::encoder::Encoder;
use crate::model::node::Measurement;

pub(super) fn encode(
    encoder: &mut Encoder,
    measurement: &Measurement,
    _truncation: &mut Truncation,
) {
    match measurement {
        Measurement::Conntrack(conntrack) => conntrack::encode(encoder, conntrack),
        Measurement::Timex(clock) => timex::encode(encoder, clock),
    }
}
