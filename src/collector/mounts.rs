//! A file system that is asked how full it is, and what does not change about it from sample to sample.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::collector::mount_filter;
use crate::model::FileSystem;
use crate::procfs::mountinfo::Mount;
use crate::sys;
use crate::sys::FsSize;

/// All that are asked.
#[derive(Debug, Default)]
pub struct Places {
    /// In the order in which they are mounted.
    pub all: Vec<Arc<Place>>,
    /// The kernel's list of mounts, opened before it was read; it says once that it has changed. Printing it costs as much as
    /// several other files.
    watched: Option<File>,
    have_changed: AtomicBool,
}

impl Places {
    /// As they were listed after `watched` was opened.
    pub fn new(all: Vec<Arc<Place>>, watched: Option<File>) -> Self {
        Self { all, watched, have_changed: AtomicBool::new(false) }
    }

    /// Whether the kernel says that nothing was mounted or unmounted since. To ask what is not mounted any more could mount
    /// it again, where that happens by itself.
    pub fn are_as_they_were(&self) -> bool {
        let Some(list) = &self.watched else { return false };
        let events = [(list.as_fd(), sys::Interest::Priority)];
        if sys::wait(events, Some(Duration::ZERO)) == [true] {
            self.have_changed.store(true, Relaxed);
        }
        !self.have_changed.load(Relaxed)
    }
}

/// A mount, and where it is. Two are equal if mount point and device number are: a new mount at the place of a dead one is
/// another one.
#[derive(Debug)]
pub struct Place {
    /// Where it is, seen from here.
    pub path: PathBuf,
    mount: Mount,
    mount_point: Arc<str>,
    device: Arc<str>,
    fs_type: Arc<str>,
}

impl Place {
    /// A mount of the machine that is at `root`.
    pub fn new(root: &Path, mount: Mount) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into();
        let inside = mount.mount_point.strip_prefix(b"/").unwrap_or(&mount.mount_point);
        Self {
            path: root.join(OsStr::from_bytes(inside)),
            mount_point: text(&mount.mount_point),
            device: text(&mount.source),
            fs_type: text(&mount.fs_type),
            mount,
        }
    }

    /// Where it is on the machine.
    pub fn mount_point(&self) -> &[u8] {
        &self.mount.mount_point
    }

    /// Whether it answers for another machine or program, which may be dead.
    pub fn is_remote(&self) -> bool {
        mount_filter::is_remote(&self.mount)
    }

    /// What it holds.
    pub fn holding(&self, size: FsSize) -> FileSystem {
        FileSystem {
            mount_point: self.mount_point.clone(),
            device: self.device.clone(),
            fs_type: self.fs_type.clone(),
            // The kernel does the latter itself after an error, and the list of mounts does not change then.
            read_only: self.mount.read_only || (size.read_only && !self.mount.shielded),
            total_bytes: size.total_bytes,
            free_bytes: size.free_bytes,
            available_bytes: size.available_bytes,
            files: size.files,
            files_free: size.files_free,
        }
    }

    fn key(&self) -> (&[u8], &[u8]) {
        (&self.mount.mount_point, &self.mount.device_number)
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Place {}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}
