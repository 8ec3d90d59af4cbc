//! ZFS pools: the collector zfs.

use crate::metrics::Truncation;
use crate::metrics::encoder::{Encoder, labels};
use crate::model::node::zfs::Zfs;

const STATES: [&str; 7] =
    ["online", "degraded", "faulted", "offline", "removed", "unavail", "suspended"];

pub(super) fn encode(encoder: &mut Encoder, zfs: &Zfs, truncation: &mut Truncation) {
    truncation.add("zfs", zfs.truncated);
    encoder.gauge(
        "node_zfs_zpool_state",
        "State of the pool: 1 for the current state, 0 for the others.",
    );
    for pool in &zfs.pools {
        for state in STATES {
            let labels = labels(&[("state", state), ("zpool", &pool.name)]);
            encoder.sample(&labels, pool.state.eq_ignore_ascii_case(state));
        }
    }
}
