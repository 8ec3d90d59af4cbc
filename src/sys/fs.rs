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
    let found = nix::sys::statvfs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.fragment_size());
    Ok(FsSize {
        total_bytes: bytes(found.blocks()),
        free_bytes: bytes(found.blocks_free()),
        available_bytes: bytes(found.blocks_available()),
        files: found.files(),
        files_free: found.files_free(),
        read_only: found.flags().contains(FsFlags::ST_RDONLY),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statvfs_reads_size_of_root_filesystem() {
        let size = statvfs(Path::new("/")).expect("statvfs of /");
        assert!(size.total_bytes > 0 && size.free_bytes >= size.available_bytes);
        assert!(statvfs(Path::new("/nonexistent")).is_err());
        assert!(statvfs(Path::new("with\0nul")).is_err());
    }
}
