//! NVMe drives: the collector nvme.

use crate::metrics::Truncation;
use crate::metrics::encoder::{Encoder, labels};
use crate::model::node::nvme::{Nvme, NvmeController, NvmeNamespace};

/// Of the file `size`, whatever the size of a logical block. node_exporter multiplies by the latter, which is wrong if it is 4096.
const SECTOR_BYTES: u64 = 512;

type Family = (&'static str, &'static str, fn(&NvmeNamespace) -> Option<u64>);

const NAMESPACE_GAUGES: [Family; 3] = [
    ("node_nvme_namespace_capacity_bytes", "Capacity of the namespace, in bytes.", size_bytes),
    ("node_nvme_namespace_size_bytes", "Size of the namespace, in bytes.", size_bytes),
    (
        "node_nvme_namespace_logical_block_size_bytes",
        "Size of a logical block of the namespace, in bytes.",
        |namespace| namespace.logical_block_bytes,
    ),
];

fn size_bytes(namespace: &NvmeNamespace) -> Option<u64> {
    Some(namespace.size_sectors?.saturating_mul(SECTOR_BYTES))
}

pub(super) fn encode(encoder: &mut Encoder, nvme: &Nvme, truncation: &mut Truncation) {
    truncation.add("nvme", nvme.truncated);
    encoder.gauge("node_nvme_info", "Model and state of the drive. The value is always 1.");
    for controller in &nvme.controllers {
        encoder.sample(&info(controller), 1u64);
    }
    let of_each = nvme.controllers.iter().flat_map(|controller| {
        controller.namespaces.iter().map(move |namespace| {
            (labels(&[("device", &controller.device), ("nsid", &namespace.id)]), namespace)
        })
    });
    let named: Vec<(String, &NvmeNamespace)> = of_each.collect();
    encoder.gauge(
        "node_nvme_namespace_info",
        "State of the path to the namespace. The value is always 1.",
    );
    for (id, namespace) in &named {
        let state = namespace.ana_state.as_deref().unwrap_or("unknown");
        encoder.sample(&format!("{id},{}", labels(&[("ana_state", state)])), 1u64);
    }
    for (name, help, value) in NAMESPACE_GAUGES {
        encoder.gauge(name, help);
        for (labels, namespace) in &named {
            encoder.sample_if(labels, value(namespace));
        }
    }
}

fn info(controller: &NvmeController) -> String {
    labels(&[
        ("cntlid", &controller.controller_id),
        ("device", &controller.device),
        ("firmware_revision", &controller.firmware_revision),
        ("model", &controller.model),
        ("serial", &controller.serial),
        ("state", &controller.state),
    ])
}
