//! PCI Express links of GPUs, network adapters and NVMe drives, from `/sys/bus/pci/devices` (kernel
//! `Documentation/ABI/testing/sysfs-bus-pci`). Other devices have no link whose speed matters, and virtual functions have that of
//! their adapter.

use std::path::Path;

use crate::collector::host_files::HostFiles;
use crate::collector::node::limit;
use crate::collector::sysfs::is_suspended;
use crate::model::node::Measurement;
use crate::model::node::pci_device::{PciAddress, PciDevice, PciDevices, PciLink};
use crate::procfs::link_speed;

/// A server with 8 GPUs has some 60.
const MAX_DEVICES: usize = 256;

/// Beginnings of class codes: NVMe, network, display and processing accelerator.
const CLASSES: [&str; 4] = ["0x0108", "0x02", "0x03", "0x12"];

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let directory = host.sys("bus/pci/devices");
    let mut found = PciDevices::default();
    let mut names = host.names(&directory, "");
    names.retain(|name| {
        let class = host.line(&directory.join(name).join("class")).unwrap_or_default();
        let is_virtual = directory.join(name).join("physfn").exists();
        CLASSES.iter().any(|start| class.starts_with(start)) && !is_virtual
    });
    limit(&mut names, MAX_DEVICES, &mut found.truncated);
    let read = |name: String| read_device(host, &directory.join(&name), parse_address(&name)?);
    found.devices = names.into_iter().filter_map(read).collect();
    (!found.devices.is_empty()).then_some(Measurement::PciDevices(found))
}

/// `None` if the device is suspended, because reading its link would wake it.
fn read_device(host: &mut HostFiles, path: &Path, address: PciAddress) -> Option<PciDevice> {
    if is_suspended(host.line(&path.join("power/runtime_status")).as_deref()) {
        return None;
    }
    let mut text = |name: &str| host.line(&path.join(name)).unwrap_or_default();
    let parent = std::fs::canonicalize(path).ok();
    let parent = parent.as_deref().and_then(Path::parent).and_then(Path::file_name);
    Some(PciDevice {
        address,
        parent: parent.and_then(|name| parse_address(&name.to_string_lossy())),
        class: text("class"),
        vendor: text("vendor"),
        device: text("device"),
        subsystem_vendor: text("subsystem_vendor"),
        subsystem_device: text("subsystem_device"),
        revision: text("revision"),
        // -1 if the firmware does not tell.
        numa_node: text("numa_node").parse().ok(),
        link: read_link(host, path, "current"),
        max_link: read_link(host, path, "max"),
    })
}

/// A device that does not respond has the speed `Unknown`, and the width 0 or 63. The maximum may be 255.
fn read_link(host: &mut HostFiles, path: &Path, kind: &str) -> PciLink {
    let speed = host.line(&path.join(format!("{kind}_link_speed")));
    let generation = speed.and_then(|text| link_speed::parse_generation(text.as_bytes()).ok());
    let width = host.line(&path.join(format!("{kind}_link_width")));
    let width = width.and_then(|text| text.parse().ok());
    PciLink {
        transfers_per_second: generation.and_then(link_speed::transfers_per_second),
        width: width.filter(|width| (1..=32).contains(width)),
    }
}

/// `0000:41:00.0`.
fn parse_address(text: &str) -> Option<PciAddress> {
    let (rest, function) = text.split_once('.')?;
    let mut parts = rest.split(':').map(str::to_owned);
    let (segment, bus, device) = (parts.next()?, parts.next()?, parts.next()?);
    Some(PciAddress { segment, bus, device, function: function.to_owned() })
}
