//! Tests of the filter with tables of real machines.

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
    for pid1_mount in pid1_mounts.unwrap() {
        apply_host_read_only(&mut mounts, &pid1_mount);
    }
    let found: Vec<_> = mounts.iter().map(|mount| (mount.read_only, mount.ro_mount_only)).collect();
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

#[test]
fn keeps_root_beside_top_level_of_its_btrfs() {
    let subvolumes = "29 1 0:25 /@ / rw - btrfs /dev/a rw,subvol=/@
40 29 0:25 /@home /home rw - btrfs /dev/a rw,subvol=/@home
50 29 0:25 / /mnt/pool rw - btrfs /dev/a rw,subvolid=5,subvol=/
";
    assert_eq!(kept(subvolumes), ["/"]);
    // The root is on another disk: the first subvolume stays while the top level comes and goes.
    let elsewhere = "28 1 8:1 / / rw - ext4 /dev/b rw
40 28 0:25 /@/srv /srv rw - btrfs /dev/a rw,subvol=/@
41 28 0:25 /@home /home rw - btrfs /dev/a rw,subvol=/@home
50 28 0:25 / /run/timeshift/1/backup rw - btrfs /dev/a rw,subvolid=5,subvol=/
";
    assert_eq!(kept(elsewhere), ["/", "/home"]);
}

fn kept_read_only(mountinfo: &str) -> Vec<(String, bool)> {
    let mounts = filter_mounts(parse(mountinfo.as_bytes()).unwrap(), Path::new("/"));
    let point = |mount: &Mount| String::from_utf8_lossy(&mount.mount_point).into_owned();
    mounts.iter().map(|mount| (point(mount), mount.read_only)).collect()
}

#[test]
fn filesystem_is_read_only_if_all_its_mounts_are() {
    let ostree = "20 1 8:3 /ostree/deploy/a / ro - xfs /dev/sda3 rw
21 20 8:3 / /sysroot ro - xfs /dev/sda3 rw
22 20 8:3 /ostree/deploy/var /var rw - xfs /dev/sda3 rw
";
    assert_eq!(kept_read_only(ostree), [("/".to_owned(), false)]);
    let composefs = ostree
        .replace("8:3 /ostree/deploy/a / ro - xfs /dev/sda3", "0:30 / / ro - overlay composefs");
    assert_eq!(
        kept_read_only(&composefs),
        [("/".to_owned(), true), ("/sysroot".to_owned(), false)]
    );
    let bind = "20 1 8:3 /srv /ro ro - xfs /dev/a rw\n21 20 8:3 /a /rw rw - xfs /dev/a rw\n";
    assert_eq!(kept_read_only(bind), [("/rw".to_owned(), false)]);
    assert_eq!(kept_read_only(&bind.replace("rw - xfs", "ro - xfs")), [("/ro".to_owned(), true)]);
    let failed = "20 1 8:3 / /data rw - xfs /dev/a ro\n21 20 8:3 /a /b rw - xfs /dev/a ro\n";
    assert_eq!(kept_read_only(failed), [("/data".to_owned(), true)]);
}

#[test]
fn omits_mounts_of_containers_wherever_their_data_are() {
    let points = kept(
        "27 1 254:0 / / rw - ext4 /dev/vda rw
30 27 0:40 / /run/k3s/containerd/sandboxes/a/shm rw - tmpfs shm rw,size=65536k
31 27 0:41 / /data/docker/containers/a/mounts/shm rw - tmpfs shm rw,size=65536k
32 27 0:42 / /data/kubelet/pods/a/volumes/kubernetes.io~projected/token rw - tmpfs tmpfs rw
33 27 8:16 / /data/kubelet/plugins/kubernetes.io/csi/x/globalmount rw - ext4 /dev/sdb rw
34 27 0:43 / /home/u/.local/share/containers/storage/overlay/a/merged rw - fuse.fuse-overlayfs fuse-overlayfs rw
35 27 0:44 / /data/docker/overlay2/a/merged rw - overlay overlay rw
36 27 0:4 net:[4026532] /data/netns/a rw - nsfs nsfs rw
37 27 0:45 / /tmp rw - tmpfs tmpfs rw
38 27 8:32 / /data/shm rw - xfs /dev/sdc rw
",
    );
    assert_eq!(points, ["/", "/tmp", "/data/shm"]);
}

#[test]
fn omits_files_that_are_mounted() {
    let root = std::env::temp_dir().join(format!("hm-agent-mount-filter-{}", std::process::id()));
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::create_dir_all(root.join("data")).unwrap();
    std::fs::write(root.join("etc/hosts"), "").unwrap();
    let point = |name: &str| root.join(name).display().to_string();
    let table = format!(
        "1 0 0:50 / {} rw - overlay overlay rw
2 1 254:1 /docker/containers/a/hosts {} rw - ext4 /dev/vda1 rw
3 1 254:1 /srv/data {} rw - ext4 /dev/vda1 rw
",
        root.display(),
        point("etc/hosts"),
        point("data")
    );
    let points = kept_below(&root.display().to_string(), &table);
    std::fs::remove_dir_all(&root).unwrap();
    assert_eq!(points, ["/", "/data"]);
}

#[test]
fn hidden_mount_does_not_stand_for_its_file_system() {
    let points = kept(
        "27 1 254:0 / /data rw - ext4 /dev/vda rw
28 1 254:0 / /again rw - ext4 /dev/vda rw
29 1 254:1 / /data rw - xfs /dev/vdb rw
",
    );
    assert_eq!(points, ["/again", "/data"]);
}

#[test]
fn only_the_type_makes_a_filesystem_remote() {
    let is_network = |fs_type: &str, source: &str| {
        let line = format!("40 27 0:50 / /mnt/x rw - {fs_type} {source} rw\n");
        is_network_fs(&parse(line.as_bytes()).unwrap()[0])
    };
    for (fs_type, source) in [
        ("zfs", "host:tank"),
        ("zfs", "rpool/ROOT/debian:12"),
        ("ext4", "//disk"),
        ("btrfs", "/dev/mapper/nas:vol"),
        ("bcachefs", "/dev/sda:/dev/sdb"),
        ("tmpfs", "server:/export"),
        ("fuseblk", "/dev/sdb1"),
        ("fuse.ntfs-3g", "/dev/sdb1"),
        ("fuse.mergerfs", "1:2:3"),
        ("fuse.gocryptfs", "/srv/cipher"),
    ] {
        assert!(!is_network(fs_type, source), "{fs_type} {source}");
    }
    for (fs_type, source) in [
        ("nfs4", "nas:/export"),
        ("nfs", "local"),
        ("cifs", "//nas/share"),
        ("lustre", "10.0.0.1@o2ib:/scratch"),
        ("ceph", "none"),
        ("fuse.sshfs", "user@host:/srv"),
        ("fuse.glusterfs", "server:/volume"),
        ("fuse.rclone", "remote:"),
        ("fuse.unknown", "/dev/sda"),
        ("fuse", "x"),
        ("9p", "share"),
        ("virtiofs", "share"),
    ] {
        assert!(is_network(fs_type, source), "{fs_type} {source}");
    }
}
