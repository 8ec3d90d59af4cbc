//! Hung tasks: the collector kernel_hung.

use crate::metrics::encoder::{Encoder, MetricType};

pub(super) fn encode(encoder: &mut Encoder, tasks: u64) {
    encoder
        .family(
            "node_kernel_hung_tasks_total",
            MetricType::AliasedCounter,
            "Number of tasks that did not respond for longer than the limit of the kernel's detector, since boot.",
        )
        .sample("", tasks);
    // node_exporter has the other one only. Not a counter: promtool demands that the name of one ends in `_total`.
    encoder
        .family(
            "node_kernel_hung_tasks",
            MetricType::Untyped,
            "The same as node_kernel_hung_tasks_total, by the name that dashboard 1860 queries.",
        )
        .sample("", tasks);
}
