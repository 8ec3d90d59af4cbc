//! statvfs(3).

use std::io;
use std::path::Path;

use nix::sys::statvfs::FsFlags;

/// Size and usage of a filesystem.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FsSize {
    pub total_bytes: u64,
    pub free_bytes: u64,
    /// Free for users other than root.
    pub available_bytes: u64,
    pub files: u64,
    pub files_free: u64,
    pub read_only: bool,
}

/// Reads a filesystem's size. Blocks without limit when its network server does not answer.
pub fn statvfs(path: &Path) -> io::Result<FsSize> {
    // Container runtimes mount files (/etc/hosts) into containers. Statvfs would return the filesystem that holds the file. A FUSE
    // server that implements statfs but not getattr is still a filesystem.
    if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_dir()) {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let found = nix::sys::statvfs::statvfs(path)?;
    let (blocks, files) = (signed(found.blocks()), signed(found.files()));
    let bytes = |blocks: u64| blocks.saturating_mul(found.fragment_size());
    Ok(FsSize {
        total_bytes: bytes(blocks),
        free_bytes: bytes(part_of(blocks, found.blocks_free())),
        available_bytes: bytes(part_of(blocks, found.blocks_available())),
        files,
        files_free: part_of(files, found.files_free()),
        read_only: found.flags().contains(FsFlags::ST_RDONLY),
    })
}

/// Filesystems store signed numbers in the unsigned fields of statvfs: less than nothing is free if a quota or the space reserved
/// for root is overdrawn (NFS, CephFS, UFS). Less than nothing is nothing.
fn signed(count: u64) -> u64 {
    if i64::try_from(count).is_ok() { count } else { 0 }
}

/// A negative number of 32 bits is larger than the total.
fn part_of(total: u64, count: u64) -> u64 {
    if signed(count) <= total { signed(count) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_counts_are_zero() {
        assert_eq!(part_of(200_000_000, 100), 100);
        assert_eq!(part_of(200_000_000, 200_000_000), 200_000_000);
        for negative in [-1i64, -5000, i64::MIN] {
            assert_eq!(part_of(200_000_000, negative.cast_unsigned()), 0, "{negative}");
            assert_eq!(signed(negative.cast_unsigned()), 0, "{negative}");
        }
        let negative = u64::from((-5000i32).cast_unsigned());
        assert_eq!(part_of(200_000_000, negative), 0, "in 32 bits");
    }

    #[test]
    fn refuses_mount_points_that_are_files() {
        let error = statvfs(Path::new("/proc/self/status")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
    }

    #[test]
    fn statvfs_reads_size_of_root_filesystem() {
        let size = statvfs(Path::new("/")).expect("statvfs of /");
        assert!(size.total_bytes > 0 && size.free_bytes >= size.available_bytes);
        assert!(statvfs(Path::new("/nonexistent")).is_err());
        assert!(statvfs(Path::new("with\0nul")).is_err());
    }
}
