//! PCI Express links: the collector pcidevice, which is off by default in node_exporter.

use crate::metrics::Truncation;
use crate::metrics::encoder::{Encoder, labels};
use crate::model::node::pci_device::{PciAddress, PciDevice, PciDevices};

type Family = (&'static str, &'static str, fn(&PciDevice) -> Option<u64>);

const GAUGES: [Family; 5] = [
    (
        "node_pcidevice_current_link_transfers_per_second",
        "Current speed of a lane of the link, in transfers per second.",
        |device| device.link.transfers_per_second,
    ),
    ("node_pcidevice_current_link_width", "Current number of lanes of the link.", |device| {
        device.link.width
    }),
    (
        "node_pcidevice_max_link_transfers_per_second",
        "Highest speed of a lane that the device supports, in transfers per second.",
        |device| device.max_link.transfers_per_second,
    ),
    (
        "node_pcidevice_max_link_width",
        "Highest number of lanes that the device supports.",
        |device| device.max_link.width,
    ),
    ("node_pcidevice_numa_node", "NUMA node of the device.", |device| device.numa_node),
];

pub(super) fn encode(encoder: &mut Encoder, devices: &PciDevices, truncation: &mut Truncation) {
    truncation.add("pci_devices", devices.truncated);
    encoder.gauge("node_pcidevice_info", "Identifiers of the device. The value is always 1.");
    for device in &devices.devices {
        encoder.sample(&info(device), 1u64);
    }
    for (name, help, value) in GAUGES {
        encoder.gauge(name, help);
        for device in &devices.devices {
            encoder.sample_if(&address(&device.address), value(device));
        }
    }
}

fn address(address: &PciAddress) -> String {
    labels(&[
        ("bus", &address.bus),
        ("device", &address.device),
        ("function", &address.function),
        ("segment", &address.segment),
    ])
}

fn info(device: &PciDevice) -> String {
    // As in node_exporter for a device that is not behind a bridge.
    let none = "*".to_owned();
    let parent = |part: fn(&PciAddress) -> &String| device.parent.as_ref().map_or(&none, part);
    let rest = labels(&[
        ("class_id", &device.class),
        ("device_id", &device.device),
        ("parent_bus", parent(|parent| &parent.bus)),
        ("parent_device", parent(|parent| &parent.device)),
        ("parent_function", parent(|parent| &parent.function)),
        ("parent_segment", parent(|parent| &parent.segment)),
        ("revision", &device.revision),
        ("subsystem_device_id", &device.subsystem_device),
        ("subsystem_vendor_id", &device.subsystem_vendor),
        ("vendor_id", &device.vendor),
    ]);
    format!("{},{rest}", address(&device.address))
}
