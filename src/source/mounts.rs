//! Which of the mounts are worth a line on a dashboard. Pure: mounts in, mounts out.

use std::path::Path;

use crate::parse::mountinfo::Mount;

/// File systems that hold no data of anybody's, or whose size says nothing.
const PSEUDO: &[&[u8]] = &[
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

/// Directories below which mounts come and go with containers and logins.
const TRANSIENT: &[&[u8]] = &[
    b"/dev",
    b"/proc",
    b"/sys",
    b"/run/credentials",
    b"/run/user",
    b"/run/docker",
    b"/run/containerd",
    b"/run/netns",
    b"/snap",
    b"/var/lib/containerd",
    b"/var/lib/containers",
    b"/var/lib/docker",
    b"/var/lib/kubelet",
];

/// The mounts that hold data, each file system once: where a mount hides another, the one on top; where
/// a file system is mounted several times, its whole rather than a part, and then the first.
///
/// `root` is where the machine is mounted (`path.root`): our own view of it, `/host/data`, is its `/data`.
pub fn worth_asking(mounts: Vec<Mount>, root: &Path) -> Vec<Mount> {
    let mut kept: Vec<Mount> = Vec::new();
    for mut mount in mounts {
        mount.mount_point = inside(mount.mount_point, root);
        kept.retain(|earlier| earlier.mount_point != mount.mount_point);
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

fn inside(mount_point: Vec<u8>, root: &Path) -> Vec<u8> {
    let root = root.as_os_str().as_encoded_bytes();
    match mount_point.strip_prefix(root) {
        Some(b"") => b"/".to_vec(),
        Some(inside) if root != b"/" && inside.starts_with(b"/") => inside.to_vec(),
        _ => mount_point,
    }
}

fn holds_data(mount: &Mount) -> bool {
    let fs_type = &mount.fs_type[..];
    let is_root = mount.mount_point == b"/";
    let below = |directory: &&[u8]| {
        let rest = mount.mount_point.strip_prefix(*directory);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    // A container's own root is an overlay; those elsewhere belong to other containers.
    let overlay = fs_type == b"overlay" && !is_root;
    !PSEUDO.contains(&fs_type) && !overlay && !TRANSIENT.iter().any(below)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::mountinfo::parse;

    fn kept(mountinfo: &str) -> Vec<String> {
        kept_below("/", mountinfo)
    }

    fn kept_below(root: &str, mountinfo: &str) -> Vec<String> {
        let mounts = worth_asking(parse(mountinfo.as_bytes()).unwrap(), Path::new(root));
        mounts.iter().map(|m| String::from_utf8_lossy(&m.mount_point).into_owned()).collect()
    }

    #[test]
    fn what_holds_data_stays() {
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
",
        );
        assert_eq!(points, ["/", "/run", "/mnt/nfs", "/developers"]);
    }

    #[test]
    fn a_container_sees_its_own_root() {
        assert_eq!(kept("1 0 0:50 / / rw - overlay overlay rw\n"), ["/"]);
    }

    #[test]
    fn each_file_system_once_and_its_whole_before_a_part() {
        let points = kept(
            "27 1 254:0 /part /bind rw - ext4 /dev/vda rw
28 1 254:0 / /whole rw - ext4 /dev/vda rw
29 1 254:0 / /again rw - ext4 /dev/vda rw
",
        );
        assert_eq!(points, ["/whole"]);
    }

    #[test]
    fn the_mount_on_top_hides_the_one_below() {
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
    fn a_host_mounted_in_a_container_is_seen_as_itself() {
        let points = kept_below(
            "/host",
            "1 0 0:50 / / rw - overlay overlay rw
2 1 254:0 / /host rw - ext4 /dev/vda rw
3 2 254:1 / /host/data rw - xfs /dev/vdb rw
4 1 254:2 / /hosts rw - xfs /dev/vdc rw
",
        );
        assert_eq!(points, ["/", "/data", "/hosts"]);
    }
}
