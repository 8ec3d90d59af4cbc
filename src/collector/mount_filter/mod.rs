//! Which mounts are reported.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::procfs::mountinfo::Mount;

/// Types that hold no user data, or whose size is meaningless.
const PSEUDO_TYPES: &[&[u8]] = &[
    b"autofs",
    b"binfmt_misc",
    b"bpf",
    b"cgroup",
    b"cgroup2",
    b"configfs",
    b"debugfs",
    b"devpts",
    b"devtmpfs",
    b"efivarfs",
    b"erofs",
    b"fusectl",
    b"fuse.gvfsd-fuse",
    b"fuse.lxcfs",
    b"fuse.portal",
    b"fuse.snapfuse",
    b"hugetlbfs",
    b"iso9660",
    b"mqueue",
    b"nsfs",
    b"proc",
    b"pstore",
    b"ramfs",
    b"rootfs",
    b"rpc_pipefs",
    b"securityfs",
    b"selinuxfs",
    b"squashfs",
    b"sysfs",
    b"tracefs",
];

/// Mounts at and below these come and go with containers and logins.
const TRANSIENT_DIRECTORIES: &[&str] = &[
    "/dev",
    "/proc",
    "/sys",
    "/run/credentials",
    "/run/user",
    "/run/docker",
    "/run/containerd",
    "/run/netns",
    "/snap",
];

/// Mounts below these belong to containers. A disk may be mounted at them.
const CONTAINER_DIRECTORIES: &[&str] =
    &["/var/lib/containerd", "/var/lib/containers", "/var/lib/docker", "/var/lib/kubelet"];

/// Whether another machine serves the filesystem, so that calls block while it does not respond. Only the type tells: the source
/// of a ZFS dataset may be `host:tank`, and a disk's may be any text. FUSE filesystems are of other machines unless they are
/// known to be of local disks.
pub fn is_network_fs(mount: &Mount) -> bool {
    const TYPES: &[&[u8]] = &[
        b"9p",
        b"afs",
        b"beegfs",
        b"ceph",
        b"cifs",
        b"coda",
        b"gfs2",
        b"glusterfs",
        b"gpfs",
        b"lustre",
        b"ncpfs",
        b"nfs",
        b"nfs4",
        b"ocfs2",
        b"orangefs",
        b"panfs",
        b"pvfs2",
        b"smb3",
        b"smbfs",
        b"vboxsf",
        b"virtiofs",
        b"wekafs",
    ];
    const LOCAL_FUSE: &[&[u8]] = &[
        b"fuse.bindfs",
        b"fuse.cryfs",
        b"fuse.dwarfs",
        b"fuse.encfs",
        b"fuse.exfat",
        b"fuse.exfat-fuse",
        b"fuse.ext2",
        b"fuse.fuse-ext2",
        b"fuse.gocryptfs",
        b"fuse.lowntfs-3g",
        b"fuse.mergerfs",
        b"fuse.mhddfs",
        b"fuse.ntfs",
        b"fuse.ntfs-3g",
        b"fuse.securefs",
        b"fuse.unionfs",
        b"fuse.unionfs-fuse",
        b"fuse.vmware-vmblock",
        b"fuse.zfs",
        b"fuseblk",
    ];
    let fs_type = &mount.fs_type[..];
    TYPES.contains(&fs_type) || (fs_type.starts_with(b"fuse") && !LOCAL_FUSE.contains(&fs_type))
}

/// Keeps the mounts that hold data, each filesystem once.
///
/// Of mounts at the same directory the last one hides the others. Of several mounts of a filesystem `/` is kept, else one of the
/// whole filesystem rather than of a directory within, else a writable one, else the first.
pub struct MountFilter<'a> {
    /// Where the host's root is mounted (`path.root`): what the agent sees at `/host/data` is the host's `/data`.
    root: &'a Path,
    /// In the order in which they were mounted; `None` if hidden.
    visible: Vec<Option<Mount>>,
    by_mount_point: HashMap<Vec<u8>, usize>,
}

impl<'a> MountFilter<'a> {
    pub fn new(root: &'a Path) -> Self {
        Self { root, visible: Vec::new(), by_mount_point: HashMap::new() }
    }

    pub fn push(&mut self, mut mount: Mount) {
        mount.mount_point = relative_to(mount.mount_point, self.root);
        // The table is the host's. Its directories are usually mounted read-only for the agent's container.
        mount.ro_mount_only = self.root != Path::new("/");
        let hidden = self.by_mount_point.remove(&mount.mount_point);
        if let Some(hidden) = hidden.and_then(|at| self.visible.get_mut(at)) {
            *hidden = None;
        }
        if holds_data(&mount) {
            self.by_mount_point.insert(mount.mount_point.clone(), self.visible.len());
            self.visible.push(Some(mount));
        }
    }

    pub fn finish(self) -> Vec<Mount> {
        let visible: Vec<Mount> = self.visible.into_iter().flatten().collect();
        let network: Vec<Vec<u8>> = visible
            .iter()
            .filter(|mount| is_network_fs(mount))
            .map(|mount| mount.mount_point.clone())
            .collect();
        let mut kept: Vec<Mount> = Vec::new();
        let mut by_device: HashMap<Vec<u8>, usize> = HashMap::new();
        for mount in visible {
            if is_file(&mount, self.root, &network) {
                continue;
            }
            let at = *by_device.entry(mount.device_number.clone()).or_insert(kept.len());
            match kept.get_mut(at) {
                Some(best) => merge(best, mount),
                None => kept.push(mount),
            }
        }
        kept
    }
}

/// The mounts that [`MountFilter`] keeps.
pub fn filter_mounts(mounts: impl IntoIterator<Item = Mount>, root: &Path) -> Vec<Mount> {
    let mut filter = MountFilter::new(root);
    mounts.into_iter().for_each(|mount| filter.push(mount));
    filter.finish()
}

/// Keeps the better one of two mounts of a filesystem.
fn merge(best: &mut Mount, mut other: Mount) {
    let rank = |mount: &Mount| (mount.mount_point == b"/", mount.is_whole, !mount.read_only);
    if rank(&other) > rank(best) {
        std::mem::swap(best, &mut other);
    }
    // One writable mount shows that the filesystem is not read-only. Statvfs returns the flag of the mount.
    if best.read_only && !other.read_only {
        (best.read_only, best.ro_mount_only) = (false, true);
    }
}

/// Whether a file is mounted, as container runtimes do with `/etc/hosts`. Files on network filesystems are found by statvfs: the
/// sampler must not wait for a server.
fn is_file(mount: &Mount, root: &Path, network: &[Vec<u8>]) -> bool {
    let point = Path::new(OsStr::from_bytes(&mount.mount_point));
    let may_block = || network.iter().any(|served| point.starts_with(OsStr::from_bytes(served)));
    if mount.root == b"/" || may_block() {
        return false;
    }
    let path = root.join(point.strip_prefix("/").unwrap_or(point));
    path.symlink_metadata().is_ok_and(|metadata| !metadata.is_dir())
}

/// Takes over from a mount of process 1 that its filesystem is writable. A systemd sandbox mounts nearly everything read-only for
/// its service, and a read-only disk is never reported as one that can fill up.
pub fn apply_host_read_only(mounts: &mut [Mount], pid1_mount: &Mount) {
    let is_same = |mount: &&mut Mount| mount.device_number == pid1_mount.device_number;
    for mount in mounts.iter_mut().filter(is_same) {
        if mount.read_only && !pid1_mount.read_only {
            (mount.read_only, mount.ro_mount_only) = (false, true);
        }
    }
}

fn relative_to(mount_point: Vec<u8>, root: &Path) -> Vec<u8> {
    match Path::new(OsStr::from_bytes(&mount_point)).strip_prefix(root) {
        Ok(relative) if root != Path::new("/") => {
            Path::new("/").join(relative).into_os_string().into_vec()
        }
        _ => mount_point,
    }
}

fn holds_data(mount: &Mount) -> bool {
    let fs_type = &mount.fs_type[..];
    let point = Path::new(OsStr::from_bytes(&mount.mount_point));
    // The root of the agent's own container is an overlay; overlays elsewhere belong to other containers.
    let is_overlay = fs_type == b"overlay" && point != Path::new("/");
    let is_transient = TRANSIENT_DIRECTORIES.iter().any(|directory| point.starts_with(directory));
    let below = |directory: &&str| point.starts_with(directory) && point != Path::new(directory);
    !PSEUDO_TYPES.contains(&fs_type)
        && !is_overlay
        && !is_transient
        && !CONTAINER_DIRECTORIES.iter().any(below)
        && !is_of_container(mount, point)
}

/// Container runtimes and kubelets keep their data wherever their configuration says. These marks do not depend on it: a tmpfs for
/// `/dev/shm` of a container has the source `shm` (Docker, containerd, CRI-O, Podman), and the directory of a kubelet's volume is
/// named after the plugin, `kubernetes.io~projected`, or is the `globalmount` of a volume of several pods.
fn is_of_container(mount: &Mount, point: &Path) -> bool {
    let is_shm = mount.fs_type == b"tmpfs" && mount.source == b"shm";
    let mut names = point.components().map(|part| part.as_os_str().as_encoded_bytes());
    let is_container_overlay = mount.fs_type.starts_with(b"fuse.fuse-overlay")
        || (mount.fs_type == b"aufs" && point != Path::new("/"));
    let is_volume = names.any(|name| {
        name.starts_with(b"kubernetes.io~") || name == b"globalmount" || name == b"volume-subpaths"
    });
    is_shm || is_volume || is_container_overlay
}

#[cfg(test)]
mod tests;
