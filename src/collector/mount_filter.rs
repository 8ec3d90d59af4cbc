//! Which mounts are reported.

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

/// Whether another machine or process serves the filesystem, so that calls block while it does not respond.
pub fn is_network_fs(mount: &Mount) -> bool {
    const TYPES: &[&[u8]] = &[
        b"9p",
        b"afs",
        b"beegfs",
        b"ceph",
        b"cifs",
        b"glusterfs",
        b"gpfs",
        b"lustre",
        b"ncpfs",
        b"nfs",
        b"nfs4",
        b"smb3",
        b"smbfs",
        b"virtiofs",
        b"wekafs",
    ];
    TYPES.contains(&&mount.fs_type[..]) || mount.fs_type.starts_with(b"fuse")
}

/// Keeps the mounts that hold data, each filesystem once. Of mounts at the same directory the last one is kept, which hides the
/// others; of several mounts of a filesystem the first, but one of its root rather than of a subdirectory.
///
/// `root` is where the host's root is mounted (`path.root`): what the agent sees at `/host/data` is the host's `/data`.
pub fn filter_mounts(mounts: Vec<Mount>, root: &Path) -> Vec<Mount> {
    let mut kept: Vec<Mount> = Vec::new();
    for mut mount in mounts {
        mount.mount_point = relative_to(mount.mount_point, root);
        // The table is the host's. Its directories are usually mounted read-only for the agent's container.
        mount.ro_from_sandbox = root != Path::new("/");
        kept.retain(|hidden| hidden.mount_point != mount.mount_point);
        if !holds_data(&mount) {
            continue;
        }
        match kept.iter_mut().find(|earlier| earlier.device_number == mount.device_number) {
            Some(earlier) if earlier.root != b"/" && mount.root == b"/" => *earlier = mount,
            Some(_) => {}
            None => kept.push(mount),
        }
    }
    kept
}

/// Sets `read_only` as process 1 sees the mount (`pid1_mounts`). A systemd sandbox mounts nearly everything read-only for
/// its service, and a read-only disk is never reported as one that can fill up.
pub fn apply_host_read_only(mounts: &mut [Mount], pid1_mounts: &[Mount]) {
    for mount in mounts.iter_mut().filter(|mount| mount.read_only) {
        let is_same = |other: &&Mount| {
            other.device_number == mount.device_number && other.mount_point == mount.mount_point
        };
        if pid1_mounts.iter().rfind(is_same).is_some_and(|other| !other.read_only) {
            (mount.read_only, mount.ro_from_sandbox) = (false, true);
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::mountinfo::parse;

    #[test]
    fn ignores_read_only_that_a_sandbox_added() {
        let list = |text: &[u8]| filter_mounts(parse(text).unwrap(), Path::new("/"));
        let mut mounts = list(
            b"1 0 8:1 / / ro - ext4 /dev/a rw\n2 1 8:2 / /cd ro - ext4 /dev/b rw\n3 1 8:3 / /z ro - xfs /dev/c rw\n",
        );
        let pid1_mounts = parse(
            b"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:2 / /cd ro - ext4 /dev/b rw\n3 1 8:4 / /z rw - xfs /dev/d rw\n",
        );
        apply_host_read_only(&mut mounts, &pid1_mounts.unwrap());
        let found: Vec<_> =
            mounts.iter().map(|mount| (mount.read_only, mount.ro_from_sandbox)).collect();
        assert_eq!(found, [(false, true), (true, false), (true, false)]);
    }

    fn kept(mountinfo: &str) -> Vec<String> {
        kept_below("/", mountinfo)
    }

    fn kept_below(root: &str, mountinfo: &str) -> Vec<String> {
        let mounts = filter_mounts(parse(mountinfo.as_bytes()).unwrap(), Path::new(root));
        mounts.iter().map(|m| String::from_utf8_lossy(&m.mount_point).into_owned()).collect()
    }

    #[test]
    fn keeps_file_systems_that_hold_data() {
        let points = kept(
            "22 27 0:21 / /proc rw - proc proc rw
24 27 0:6 / /dev rw - devtmpfs devtmpfs rw
25 24 0:23 / /dev/shm rw - tmpfs tmpfs rw
27 1 254:0 / / rw - ext4 /dev/vda rw
30 27 0:31 / /run rw - tmpfs tmpfs rw
31 27 0:32 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw
32 27 0:33 / /mnt/nfs rw - nfs4 nas:/export rw
33 27 7:1 / /snap/core/1 ro - squashfs /dev/loop1 ro
34 27 0:34 / /developers rw - xfs /dev/vdb rw
35 27 254:3 / /var/lib/docker rw - ext4 /dev/vdd rw
",
        );
        assert_eq!(points, ["/", "/run", "/mnt/nfs", "/developers", "/var/lib/docker"]);
    }

    #[test]
    fn keeps_overlay_root_of_a_container() {
        assert_eq!(kept("1 0 0:50 / / rw - overlay overlay rw\n"), ["/"]);
    }

    #[test]
    fn keeps_each_file_system_once_and_prefers_its_root() {
        let points = kept(
            "27 1 254:0 /part /bind rw - ext4 /dev/vda rw
28 1 254:0 / /whole rw - ext4 /dev/vda rw
29 1 254:0 / /again rw - ext4 /dev/vda rw
",
        );
        assert_eq!(points, ["/whole"]);
    }

    #[test]
    fn keeps_only_the_topmost_mount_at_a_directory() {
        let points = kept(
            "27 1 254:0 / /data rw - ext4 /dev/vda rw
28 1 254:1 / /data rw - xfs /dev/vdb rw
29 1 0:60 / /hidden rw - nfs4 nas:/a rw
30 1 0:61 / /hidden rw - autofs none rw
",
        );
        assert_eq!(points, ["/data"]);
    }

    #[test]
    fn maps_mount_points_to_those_of_the_host() {
        let seen = |root: &str| {
            kept_below(
                root,
                "1 0 0:50 / / rw - overlay overlay rw
2 1 254:0 / /host rw - ext4 /dev/vda rw
3 2 254:1 / /host/data rw - xfs /dev/vdb rw
4 1 254:2 / /hosts rw - xfs /dev/vdc rw
",
            )
        };
        assert_eq!(seen("/host"), ["/", "/data", "/hosts"]);
        assert_eq!(seen("/host/"), seen("/host"));
    }
}
