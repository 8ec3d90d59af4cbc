//! Connection tracking: the collector conntrack.

use crate::metrics::encoder::Encoder;
use crate::model::node::conntrack::Conntrack;
use crate::procfs::nf_conntrack::NfConntrackStats;

type Family = (&'static str, &'static str, fn(&NfConntrackStats) -> Option<u64>);

const STATS: [Family; 8] = [
    ("node_nf_conntrack_stat_found", "Number of searched entries that were found.", |stats| {
        stats.found
    }),
    ("node_nf_conntrack_stat_invalid", "Number of packets that cannot be tracked.", |stats| {
        stats.invalid
    }),
    ("node_nf_conntrack_stat_ignore", "Number of packets that are tracked already.", |stats| {
        stats.ignore
    }),
    ("node_nf_conntrack_stat_insert", "Number of entries inserted.", |stats| stats.insert),
    (
        "node_nf_conntrack_stat_insert_failed",
        "Number of entries that could not be inserted because one exists already.",
        |stats| stats.insert_failed,
    ),
    (
        "node_nf_conntrack_stat_drop",
        "Number of packets dropped because their connection could not be tracked.",
        |stats| stats.drop,
    ),
    (
        "node_nf_conntrack_stat_early_drop",
        "Number of entries dropped for new ones because the table was full.",
        |stats| stats.early_drop,
    ),
    (
        "node_nf_conntrack_stat_search_restart",
        "Number of searches restarted because the table was resized.",
        |stats| stats.search_restart,
    ),
];

pub(super) fn encode(encoder: &mut Encoder, conntrack: &Conntrack) {
    encoder
        .gauge("node_nf_conntrack_entries", "Number of connections that are tracked.")
        .sample("", conntrack.entries);
    encoder
        .gauge("node_nf_conntrack_entries_limit", "Maximum number of connections to track.")
        .sample_if("", conntrack.limit);
    for (name, help, value) in STATS {
        encoder.gauge(name, help).sample_if("", conntrack.stats.as_ref().and_then(value));
    }
}
