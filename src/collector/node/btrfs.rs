//! Errors of the devices of Btrfs filesystems, from `/sys/fs/btrfs` (Linux 5.14 and later; kernel `fs/btrfs/sysfs.c`). node_exporter
//! uses an ioctl, which needs CAP_SYS_ADMIN.

use std::path::Path;

use crate::collector::host_files::HostFiles;
use crate::collector::node::limit;
use crate::model::node::Measurement;
use crate::model::node::btrfs::{Btrfs, BtrfsDevice};
use crate::procfs::btrfs_error_stats;

const MAX_FILESYSTEMS: usize = 64;
/// Devices of one filesystem.
const MAX_DEVICES: usize = 64;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let directory = host.sys("fs/btrfs");
    let mut names = host.names(&directory, "");
    // Beside the directories of filesystems there is one of the features of the module.
    names.retain(|name| directory.join(name).join("devinfo").is_dir());
    let mut btrfs = Btrfs::default();
    limit(&mut names, MAX_FILESYSTEMS, &mut btrfs.truncated);
    for uuid in names {
        let path = directory.join(&uuid);
        let devices = read_devices(host, &path, &uuid, &mut btrfs.truncated);
        btrfs.devices.extend(devices);
    }
    (!btrfs.devices.is_empty()).then_some(Measurement::Btrfs(btrfs))
}

fn read_devices(
    host: &mut HostFiles,
    filesystem: &Path,
    uuid: &str,
    truncated: &mut usize,
) -> Vec<BtrfsDevice> {
    let mut ids = host.numbers(&filesystem.join("devinfo"), "");
    limit(&mut ids, MAX_DEVICES, truncated);
    let mut names = host.names(&filesystem.join("devices"), "");
    let device = if ids.len() == 1 && names.len() == 1 { names.pop() } else { None };
    let read = |id: u64| {
        let path = filesystem.join(format!("devinfo/{id}/error_stats"));
        let errors = host.parse(&path, btrfs_error_stats::parse)?;
        Some(BtrfsDevice { uuid: uuid.to_owned(), id, device: device.clone(), errors })
    };
    ids.into_iter().filter_map(read).collect()
}
