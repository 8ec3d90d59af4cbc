//! RDMA devices and the state of their ports.

pub mod counters;

use std::path::{Path, PathBuf};

use crate::collector::host_files::{HostFiles, is_absent};
use crate::model::node::Measurement;
use crate::model::node::infiniband::{Infiniband, InfinibandDevice, InfinibandPort, PortId};
use crate::procfs::{ParseError, infiniband};
use crate::util::error::Error;

/// At most this many ports are read. A port has more than fifty series, and a device has hundreds of ports when its embedded switch
/// connects virtual machines.
const MAX_PORTS: usize = 64;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let devices = devices(host);
    if devices.is_empty() {
        return None;
    }
    let mut ports = ports(host, &devices);
    let truncated_ports = ports.len().saturating_sub(MAX_PORTS);
    ports.truncate(MAX_PORTS);
    Some(Measurement::Infiniband(Infiniband {
        devices: devices.iter().take(MAX_PORTS).map(|name| device(host, name)).collect(),
        ports: ports.into_iter().map(|(id, path)| port(host, id, &path)).collect(),
        truncated_ports,
    }))
}

/// Names of all devices. Virtual functions are last if there are too many.
fn devices(host: &mut HostFiles) -> Vec<String> {
    let directory = host.sys("class/infiniband");
    let mut devices = host.names(&directory, "");
    if devices.len() > MAX_PORTS {
        devices.sort_by_key(|name| directory.join(name).join("device/physfn").exists());
    }
    devices
}

/// All ports of the devices, with their directories.
fn ports(host: &mut HostFiles, devices: &[String]) -> Vec<(PortId, PathBuf)> {
    let mut ports = Vec::new();
    for device in devices {
        let directory = host.sys("class/infiniband").join(device).join("ports");
        for name in host.names(&directory, "") {
            let Ok(port) = name.parse() else { continue };
            ports.push((PortId { device: device.clone(), port }, directory.join(name)));
        }
    }
    ports
}

fn device(host: &mut HostFiles, name: &str) -> InfinibandDevice {
    let directory = host.sys("class/infiniband").join(name);
    let mut attribute = |file| host.line(&directory.join(file)).unwrap_or_default();
    InfinibandDevice {
        board_id: attribute("board_id"),
        firmware_version: attribute("fw_ver"),
        hca_type: attribute("hca_type"),
        name: name.to_owned(),
    }
}

fn port(host: &mut HostFiles, id: PortId, directory: &Path) -> InfinibandPort {
    let mut attribute = |file, parse: fn(&[u8]) -> Result<u64, ParseError>| {
        let result = host.read(&directory.join(file), parse);
        match result {
            Ok(value) => Some(value),
            Err(error) if is_unsupported(&error) => None,
            Err(error) => {
                host.fail(error);
                None
            }
        }
    };
    InfinibandPort {
        state: attribute("state", infiniband::parse_state),
        physical_state: attribute("phys_state", infiniband::parse_state),
        rate_bytes_per_second: attribute("rate", infiniband::parse_rate),
        id,
    }
}

/// The driver does not provide the attribute, or the fabric manager owns the port.
fn is_unsupported(error: &Error) -> bool {
    is_absent(error.raw_os_error())
        || matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPERM))
}
