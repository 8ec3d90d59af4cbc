//! Errors of Btrfs: the collector btrfs.

use crate::metrics::Truncation;
use crate::metrics::encoder::{Encoder, labels};
use crate::model::node::btrfs::{Btrfs, BtrfsDevice};
use crate::procfs::btrfs_error_stats::BtrfsErrorStats;

type Kind = (&'static str, fn(&BtrfsErrorStats) -> Option<u64>);

const KINDS: [Kind; 5] = [
    ("corruption", |errors| errors.corruption),
    ("flush", |errors| errors.flush),
    ("generation", |errors| errors.generation),
    ("read", |errors| errors.read),
    ("write", |errors| errors.write),
];

pub(super) fn encode(encoder: &mut Encoder, btrfs: &Btrfs, truncation: &mut Truncation) {
    truncation.add("btrfs", btrfs.truncated);
    encoder.counter("node_btrfs_device_errors_total", "Number of errors of the device by type.");
    for device in &btrfs.devices {
        for (kind, value) in KINDS {
            if let Some(value) = value(&device.errors) {
                encoder.sample_with_label(&device_labels(device), ("type", kind), value);
            }
        }
    }
}

fn device_labels(device: &BtrfsDevice) -> String {
    let id = device.id.to_string();
    let mut pairs = vec![("devid", &*id), ("uuid", &*device.uuid)];
    pairs.extend(device.device.as_deref().map(|name| ("device", name)));
    labels(&pairs)
}
