//! Names of the machine: the collector dmi.

use crate::metrics::encoder::{Encoder, labels};
use crate::model::node::dmi::Dmi;

pub(super) fn encode(encoder: &mut Encoder, dmi: &Dmi) {
    let pairs: Vec<(&str, &str)> =
        dmi.attributes.iter().map(|(name, value)| (*name, &**value)).collect();
    encoder
        .gauge(
            "node_dmi_info",
            "Names and versions of machine, board and firmware. The value is always 1.",
        )
        .sample(&labels(&pairs), 1u64);
}
