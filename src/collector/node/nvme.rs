//! NVMe controllers, from `/sys/class/nvme`. The kernel has these attributes in memory. For `nuse` it would send a command, which
//! wakes a drive; Linux 6.8.0 and 6.8.1 free memory twice if that command fails (CVE-2024-27392).

use std::path::Path;

use crate::collector::host_files::HostFiles;
use crate::collector::node::limit;
use crate::model::node::Measurement;
use crate::model::node::nvme::{Nvme, NvmeController, NvmeNamespace};

/// Also of drives in other machines, which NVMe over Fabrics connects.
const MAX_CONTROLLERS: usize = 256;
/// Namespaces of one controller. Drives have up to 128.
const MAX_NAMESPACES: usize = 128;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let directory = host.sys("class/nvme");
    let mut nvme = Nvme::default();
    let mut numbers = host.numbers(&directory, "nvme");
    limit(&mut numbers, MAX_CONTROLLERS, &mut nvme.truncated);
    for number in numbers {
        let device = format!("nvme{number}");
        let path = directory.join(&device);
        let controller = read_controller(host, &path, device, &mut nvme.truncated);
        nvme.controllers.push(controller);
    }
    (!nvme.controllers.is_empty()).then_some(Measurement::Nvme(nvme))
}

fn read_controller(
    host: &mut HostFiles,
    path: &Path,
    device: String,
    truncated: &mut usize,
) -> NvmeController {
    let mut text = |name: &str| host.line(&path.join(name)).unwrap_or_default();
    let mut controller = NvmeController {
        device,
        firmware_revision: text("firmware_rev"),
        model: text("model"),
        serial: text("serial"),
        state: text("state"),
        controller_id: text("cntlid"),
        namespaces: Vec::new(),
    };
    let names = host.names(path, &controller.device);
    let named = names.iter().filter_map(|name| Some((name, namespace_id(name)?)));
    let mut named: Vec<(&String, &str)> = named.collect();
    limit(&mut named, MAX_NAMESPACES, truncated);
    let read = |(name, id): (&String, &str)| read_namespace(host, &path.join(name), id);
    controller.namespaces = named.into_iter().map(read).collect();
    controller
}

/// The last number of `nvme0n1`, or of `nvme0c0n1`, a path to a namespace that several controllers share.
fn namespace_id(name: &str) -> Option<&str> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (controller, id) = name.strip_prefix("nvme")?.split_once('n')?;
    let mut numbers = controller.splitn(2, 'c');
    (numbers.all(is_number) && is_number(id)).then_some(id)
}

fn read_namespace(host: &mut HostFiles, path: &Path, id: &str) -> NvmeNamespace {
    NvmeNamespace {
        id: id.to_owned(),
        ana_state: host.line(&path.join("ana_state")),
        logical_block_bytes: host.number(&path.join("queue/logical_block_size")),
        size_sectors: host.number(&path.join("size")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognizes_namespaces() {
        assert_eq!(namespace_id("nvme0n1"), Some("1"));
        assert_eq!(namespace_id("nvme10c3n12"), Some("12"));
        for other in ["nvme0", "nvme0n", "nvmen1", "nvme0n1p1", "nvme-fabrics", "nvme0cn1"] {
            assert_eq!(namespace_id(other), None, "{other}");
        }
    }
}
