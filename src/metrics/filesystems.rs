//! Filesystems under node_exporter's names.

use crate::metrics::Truncation;
use crate::metrics::devices::{MAX_DEVICES, prioritize};
use crate::metrics::encoder::{Encoder, labels};
use crate::model::{FailedFileSystem, FileSystem, RawSample};

type Family = (&'static str, &'static str, fn(&FileSystem) -> u64);

const GAUGES: [Family; 5] = [
    ("node_filesystem_size_bytes", "Filesystem size in bytes.", |fs| fs.total_bytes),
    ("node_filesystem_free_bytes", "Filesystem free space in bytes.", |fs| fs.free_bytes),
    (
        "node_filesystem_avail_bytes",
        "Filesystem space available to non-root users, in bytes.",
        |fs| fs.available_bytes,
    ),
    ("node_filesystem_files", "Total number of inodes.", |fs| fs.files),
    ("node_filesystem_files_free", "Number of free inodes.", |fs| fs.files_free),
];

pub(super) fn encode(encoder: &mut Encoder, sample: &RawSample, truncation: &mut Truncation) {
    let mut mounted: Vec<&FileSystem> = sample.file_systems.iter().collect();
    prioritize(&mut mounted, |fs| rank(&fs.mount_point, &fs.fs_type));
    let mounted: Vec<(String, &FileSystem)> = truncation
        .limit("filesystems", &mounted, MAX_DEVICES)
        .iter()
        .map(|fs| (labels(&of_mount(&fs.device, &fs.fs_type, &fs.mount_point)), *fs))
        .collect();
    let mut failed: Vec<&FailedFileSystem> = sample.file_systems_failed.iter().collect();
    prioritize(&mut failed, |fs| rank(&fs.mount_point, &fs.fs_type));
    let failed: Vec<(String, &FailedFileSystem)> = truncation
        .limit("filesystems", &failed, MAX_DEVICES)
        .iter()
        .map(|fs| (labels_of_failed(fs), *fs))
        .collect();
    for (name, help, value) in GAUGES {
        encoder.gauge(name, help);
        for (labels, fs) in &mounted {
            encoder.sample(labels, value(fs));
        }
    }
    states(encoder, &mounted, &failed);
    mount_info(encoder, &mounted);
}

/// The root, then disks and network filesystems, then what is in memory or made of other filesystems.
fn rank(mount_point: &str, fs_type: &str) -> u8 {
    match fs_type {
        _ if mount_point == "/" => 0,
        "tmpfs" | "ramfs" | "overlay" | "aufs" => 2,
        fuse if fuse.starts_with("fuse.") => 2,
        _ => 1,
    }
}

fn of_mount<'a>(
    device: &'a str,
    fs_type: &'a str,
    mount_point: &'a str,
) -> [(&'static str, &'a str); 3] {
    [("device", device), ("fstype", fs_type), ("mountpoint", mount_point)]
}

/// With the label that node_exporter leaves empty for others, which is as if it did not exist.
fn labels_of_failed(fs: &FailedFileSystem) -> String {
    let [device, fs_type, mount_point] = of_mount(&fs.device, &fs.fs_type, &fs.mount_point);
    labels(&[device, ("device_error", &fs.reason), fs_type, mount_point])
}

fn states(
    encoder: &mut Encoder,
    mounted: &[(String, &FileSystem)],
    failed: &[(String, &FailedFileSystem)],
) {
    encoder.gauge("node_filesystem_readonly", "Whether the filesystem is mounted read-only.");
    for (labels, fs) in mounted {
        encoder.sample(labels, fs.read_only);
    }
    for (labels, fs) in failed {
        encoder.sample(labels, fs.read_only);
    }
    encoder.gauge(
        "node_filesystem_device_error",
        "Whether the size of the filesystem cannot be read. The label device_error is the reason.",
    );
    for (labels, _) in mounted {
        encoder.sample(labels, false);
    }
    for (labels, _) in failed {
        encoder.sample(labels, true);
    }
}

fn mount_info(encoder: &mut Encoder, mounted: &[(String, &FileSystem)]) {
    encoder.gauge(
        "node_filesystem_mount_info",
        "Major and minor number of the filesystem's device. The value is always 1.",
    );
    for (_, fs) in mounted {
        let Some((major, minor)) = fs.device_number else { continue };
        let info = labels(&[
            ("device", &fs.device),
            ("major", &major.to_string()),
            ("minor", &minor.to_string()),
            ("mountpoint", &fs.mount_point),
        ]);
        encoder.sample(&info, 1u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_disks_of_the_machine_when_there_are_too_many() {
        let file_system = |at: usize, fs_type: &str| FileSystem {
            mount_point: if at == 299 { "/".into() } else { format!("/{at:03}").into() },
            device: "a".into(),
            fs_type: fs_type.into(),
            device_number: None,
            read_only: false,
            total_bytes: 1,
            free_bytes: 1,
            available_bytes: 1,
            files: 0,
            files_free: 0,
        };
        let mut mounted: Vec<FileSystem> = (0..298).map(|at| file_system(at, "tmpfs")).collect();
        mounted.extend([file_system(298, "zfs"), file_system(299, "overlay")]);
        let mut sorted: Vec<&FileSystem> = mounted.iter().collect();
        prioritize(&mut sorted, |fs| rank(&fs.mount_point, &fs.fs_type));
        let first: Vec<&str> = sorted.iter().take(3).map(|fs| &*fs.mount_point).collect();
        assert_eq!(first, ["/", "/298", "/000"]);
        let mut few: Vec<&FileSystem> = mounted.iter().skip(200).collect();
        prioritize(&mut few, |fs| rank(&fs.mount_point, &fs.fs_type));
        assert_eq!(&*few[0].mount_point, "/200", "order of the mount table");
    }
}
