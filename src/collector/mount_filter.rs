//! Which of the mounts are worth a line on a dashboard. Pure: mounts in, mounts out.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::procfs::mountinfo::Mount;

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

/// Directories at and below which mounts come and go with containers and logins.
const TRANSIENT: &[&str] = &[
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

/// Directories below which containers have their mounts; a disk may be mounted at them.
const OF_CONTAINERS: &[&str] =
    &["/var/lib/containerd", "/var/lib/containers", "/var/lib/docker", "/var/lib/kubelet"];

/// Whether a file system answers for another machine or program, which may be dead.
pub fn is_remote(mount: &Mount) -> bool {
    const REMOTE: &[&[u8]] = &[
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
    REMOTE.contains(&&mount.fs_type[..]) || mount.fs_type.starts_with(b"fuse")
}

/// The mounts that hold data, each file system once: where a mount hides another, the one on top; where
/// a file system is mounted several times, its whole rather than a part, and then the first.
///
/// `root` is where the machine is mounted (`path.root`): our own view of it, `/host/data`, is its `/data`.
pub fn worth_asking(mounts: Vec<Mount>, root: &Path) -> Vec<Mount> {
    let mut kept: Vec<Mount> = Vec::new();
    for mut mount in mounts {
        mount.mount_point = inside(mount.mount_point, root);
        // The list is the machine's, and what we see of it is mounted for us, read-only as a rule.
        mount.shielded = root != Path::new("/");
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

/// A service manager's sandbox has nearly everything mounted read-only for its service, and so no disk would ever be one
/// that can fill up: what counts is how process 1 has it mounted.
pub fn unshield(mounts: &mut [Mount], of_init: &[Mount]) {
    for mount in mounts.iter_mut().filter(|mount| mount.read_only) {
        let is_same = |other: &&Mount| {
            other.device_number == mount.device_number && other.mount_point == mount.mount_point
        };
        if of_init.iter().rfind(is_same).is_some_and(|other| !other.read_only) {
            (mount.read_only, mount.shielded) = (false, true);
        }
    }
}

fn inside(mount_point: Vec<u8>, root: &Path) -> Vec<u8> {
    match Path::new(OsStr::from_bytes(&mount_point)).strip_prefix(root) {
        Ok(inside) if root != Path::new("/") => {
            Path::new("/").join(inside).into_os_string().into_vec()
        }
        _ => mount_point,
    }
}

fn holds_data(mount: &Mount) -> bool {
    let fs_type = &mount.fs_type[..];
    let point = Path::new(OsStr::from_bytes(&mount.mount_point));
    // A container's own root is an overlay; those elsewhere belong to other containers.
    let overlay = fs_type == b"overlay" && point != Path::new("/");
    let transient = TRANSIENT.iter().any(|directory| point.starts_with(directory));
    let below = |directory: &&str| point.starts_with(directory) && point != Path::new(directory);
    !PSEUDO.contains(&fs_type) && !overlay && !transient && !OF_CONTAINERS.iter().any(below)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::mountinfo::parse;

    #[test]
    fn what_a_sandbox_has_made_read_only_is_not_so_for_the_machine() {
        let list = |text: &[u8]| worth_asking(parse(text).unwrap(), Path::new("/"));
        let mut ours = list(
            b"1 0 8:1 / / ro - ext4 /dev/a rw\n2 1 8:2 / /cd ro - ext4 /dev/b rw\n3 1 8:3 / /z ro - xfs /dev/c rw\n",
        );
        let of_init = parse(
            b"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:2 / /cd ro - ext4 /dev/b rw\n3 1 8:4 / /z rw - xfs /dev/d rw\n",
        );
        unshield(&mut ours, &of_init.unwrap());
        let found: Vec<_> = ours.iter().map(|mount| (mount.read_only, mount.shielded)).collect();
        assert_eq!(found, [(false, true), (true, false), (true, false)]);
    }

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
35 27 254:3 / /var/lib/docker rw - ext4 /dev/vdd rw
",
        );
        assert_eq!(points, ["/", "/run", "/mnt/nfs", "/developers", "/var/lib/docker"]);
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
