//! Software RAID: the collector mdadm.

use crate::metrics::encoder::{Encoder, labels};
use crate::model::node::mdadm::{MdMembers, Mdadm};
use crate::procfs::mdstat::{MdArray, MdState};

/// As in node_exporter, an array that is reshaped has none of them.
const STATES: [(&str, MdState); 5] = [
    ("active", MdState::Active),
    ("inactive", MdState::Inactive),
    ("recovering", MdState::Recovery),
    ("resync", MdState::Resync),
    ("check", MdState::Check),
];

type ArrayFamily = (&'static str, &'static str, fn(&MdArray) -> Option<u64>);

const ARRAY_GAUGES: [ArrayFamily; 3] = [
    ("node_md_disks_required", "Number of disks of the complete array.", |array| {
        array.required_disks
    }),
    ("node_md_blocks", "Size of the array in blocks of 1024 bytes.", |array| array.blocks),
    ("node_md_blocks_synced", "Number of blocks of the array that are in sync.", |array| {
        array.synced_blocks
    }),
];

type MembersFamily = (&'static str, &'static str, fn(&MdMembers) -> Option<u64>);

const MEMBERS_GAUGES: [MembersFamily; 2] = [
    ("node_md_raid_disks", "Number of disks of the complete array, from sysfs.", |members| {
        members.raid_disks
    }),
    ("node_md_degraded", "Number of disks that the array lacks.", |members| members.degraded_disks),
];

pub(super) fn encode(encoder: &mut Encoder, mdadm: &Mdadm) {
    let named: Vec<(String, &MdArray)> =
        mdadm.arrays.iter().map(|array| (labels(&[("device", &array.device)]), array)).collect();
    encoder.gauge("node_md_disks", "Number of disks of the array by state.");
    for (labels, array) in &named {
        if let Some(active) = array.active_disks {
            encoder.sample_with_label(labels, ("state", "active"), active);
        }
        encoder.sample_with_label(labels, ("state", "failed"), array.failed_disks);
        encoder.sample_with_label(labels, ("state", "spare"), array.spare_disks);
    }
    encoder
        .gauge("node_md_state", "State of the array: 1 for the current state, 0 for the others.");
    for (labels, array) in &named {
        for (name, state) in STATES {
            encoder.sample_with_label(labels, ("state", name), array.state == state);
        }
    }
    for (name, help, value) in ARRAY_GAUGES {
        encoder.gauge(name, help);
        for (labels, array) in &named {
            encoder.sample_if(labels, value(array));
        }
    }
    for (name, help, value) in MEMBERS_GAUGES {
        encoder.gauge(name, help);
        for members in &mdadm.members {
            encoder.sample_if(&labels(&[("device", &members.device)]), value(members));
        }
    }
}
