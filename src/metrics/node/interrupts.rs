//! Interrupts: the collector interrupts.

use crate::metrics::Truncation;
use crate::metrics::encoder::{Encoder, labels};
use crate::model::node::interrupts::Interrupts;

/// Without node_exporter's label `cpu`.
pub(super) fn encode(encoder: &mut Encoder, interrupts: &Interrupts, truncation: &mut Truncation) {
    truncation.add("interrupts", interrupts.truncated);
    encoder.counter(
        "node_interrupts_total",
        "Number of interrupts of the kind on all CPUs. Kinds that have not occurred are left out.",
    );
    for interrupt in &interrupts.each {
        let labels = labels(&[
            ("devices", &interrupt.devices),
            ("info", &interrupt.info),
            ("type", &interrupt.kind),
        ]);
        encoder.sample(&labels, interrupt.count);
    }
}
