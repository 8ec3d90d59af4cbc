//! Statvfs on the mount points.

use std::io;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use crate::collector::blocking_worker::{Job, Shared, State, Statvfs};
use crate::collector::mounts::MountPoint;
use crate::model::{FailedFileSystem, FileSystem};
use crate::sys::FsSize;
use crate::util::error::reason;
use crate::util::sync::lock;
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

pub(super) type StatvfsResult = Result<FileSystem, FailedFileSystem>;

/// node_exporter's words for a mount point in which statvfs does not return.
const STUCK: &str = "mountpoint timeout";

impl State {
    /// What is known of a mount point lately.
    pub(super) fn statvfs_result(&self, point: &Arc<MountPoint>) -> Option<StatvfsResult> {
        if self.stuck.contains(&Job::Statvfs(point.clone())) {
            return Some(Err(point.failed(STUCK.to_owned())));
        }
        let (at, result) = self.file_systems.get(point)?;
        self.is_fresh(*at).then(|| result.clone())
    }
}

pub(super) fn run_statvfs<'a>(
    shared: &'a Shared,
    state: MutexGuard<'a, State>,
    generation: u64,
    point: &Arc<MountPoint>,
    statvfs: &Statvfs,
) -> MutexGuard<'a, State> {
    drop(state);
    let size = statvfs(&point.path);
    if let Err(error) = &size {
        // Not visible below this root, or not permitted.
        log::debug!("statvfs {}: {}", point.path.display(), reason(error));
    }
    let mut state = lock(&shared.state);
    if state.generation != generation {
        drop(state);
        log_recovery(point, &size);
        return lock(&shared.state);
    }
    match size {
        // Container runtimes mount files, which are no filesystems.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            state.file_systems.remove(point);
        }
        size => {
            let result = size
                .map(|size| point.with_usage(size))
                .map_err(|error| point.failed(reason(&error)));
            state.file_systems.insert(point.clone(), (Instant::now(), result));
        }
    }
    state
}

fn log_recovery(point: &MountPoint, size: &io::Result<FsSize>) {
    let point = escape_for_log(point.mount_point(), EXCERPT_CHARS);
    match size {
        Ok(_) => log::info!("filesystem {point} recovered"),
        Err(error) => log::warn!("filesystem {point} failed: {}", reason(error)),
    }
}
