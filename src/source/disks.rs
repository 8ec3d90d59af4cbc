//! How full file systems are. statvfs on a dead network mount never returns, and no thread can be
//! killed: so a thread of its own asks, and when it hangs it is left behind and another one goes on.
//!
//! A mount that hangs is named in the log once and not asked again until its call returns.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::reason;
use crate::limits;
use crate::parse::mountinfo::Mount;
use crate::parse::quote;
use crate::snapshot::FileSystem;
use crate::sync::lock;
use crate::sys::FsSize;

/// How long a sample waits for its file systems; what answers later is in the next sample.
const PATIENCE: Duration = Duration::from_millis(50);

type Statvfs = dyn Fn(&Path) -> io::Result<FsSize> + Send + Sync;

/// The sampler's end. Dropping it ends the thread, unless that hangs.
pub struct Disks {
    statvfs: Arc<Statvfs>,
    hung: Arc<Mutex<Vec<Vec<u8>>>>,
    asker: Option<Asker>,
    known: Vec<FileSystem>,
}

/// The thread whose call may hang, and what is shared with it.
struct Asker {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    round: Mutex<Round>,
    changed: Condvar,
}

/// One look at all mounts.
#[derive(Default)]
struct Round {
    /// Still to be asked, the next one last.
    waiting: Vec<(PathBuf, Mount)>,
    /// Being asked, and since when.
    asking: Option<(Vec<u8>, Instant)>,
    found: Vec<FileSystem>,
    /// Nobody waits for this thread any more.
    abandoned: bool,
}

impl Round {
    fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.asking.is_none()
    }
}

impl Disks {
    /// Will ask with `statvfs`.
    pub fn new(statvfs: impl Fn(&Path) -> io::Result<FsSize> + Send + Sync + 'static) -> Self {
        Self { statvfs: Arc::new(statvfs), hung: Arc::default(), asker: None, known: Vec::new() }
    }

    /// Asks all `mounts`, below `root`, and returns those that answered. While a mount keeps the thread
    /// waiting that is what was known before, without that mount.
    pub fn ask(&mut self, root: &Path, mounts: &[Mount]) -> Vec<FileSystem> {
        self.leave_behind_if_it_hangs();
        let Some(asker) = self.asker.take().or_else(|| self.start()) else { return Vec::new() };
        let hung = lock(&self.hung).clone();
        let mut round = lock(&asker.shared.round);
        if round.is_done() {
            let wanted = mounts.iter().rev().filter(|mount| !hung.contains(&mount.mount_point));
            round.found.clear();
            round.waiting =
                wanted.map(|mount| (below(root, &mount.mount_point), mount.clone())).collect();
            asker.shared.changed.notify_all();
        }
        let (round, _) = asker
            .shared
            .changed
            .wait_timeout_while(round, PATIENCE, |round| !round.is_done())
            .unwrap_or_else(PoisonError::into_inner);
        if round.is_done() {
            self.known.clone_from(&round.found);
        } else if let Some((slow, since)) = &round.asking {
            // What was known stays for as long as a disk may take to spin up, but for this one.
            let slow = String::from_utf8_lossy(slow);
            let fresh = since.elapsed() < limits::STATVFS;
            self.known.retain(|known| fresh && known.mount_point != slow);
        }
        drop(round);
        self.asker = Some(asker);
        self.known.clone()
    }

    fn leave_behind_if_it_hangs(&mut self) {
        let Some(asker) = &self.asker else { return };
        let mut round = lock(&asker.shared.round);
        let Some((point, since)) = &round.asking else { return };
        if since.elapsed() < limits::STATVFS || lock(&self.hung).len() >= limits::HUNG_MOUNTS {
            return;
        }
        log::warn!("file system {} does not answer; it is left out until it does", quote(point));
        lock(&self.hung).push(point.clone());
        round.abandoned = true;
        drop(round);
        self.asker = None;
    }

    fn start(&self) -> Option<Asker> {
        let shared = Arc::new(Shared::default());
        let (ours, statvfs, hung) = (shared.clone(), self.statvfs.clone(), self.hung.clone());
        let started = Builder::new()
            .name("disks".to_owned())
            .stack_size(limits::CONNECTION_STACK_BYTES)
            .spawn(move || keep_asking(&ours, &*statvfs, &hung));
        match started {
            Ok(thread) => Some(Asker { shared, thread }),
            Err(error) => {
                log::warn!("start the thread disks: {}", reason(&error));
                None
            }
        }
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        let Some(Asker { shared, thread }) = self.asker.take() else { return };
        let mut round = lock(&shared.round);
        round.waiting.clear();
        round.abandoned = true;
        let hangs = round.asking.is_some();
        drop(round);
        shared.changed.notify_all();
        if !hangs {
            // It is waiting for the next round, and now ends.
            let _ = thread.join();
        }
    }
}

/// The thread's life: asks one mount after the other, until nobody wants to know any more.
fn keep_asking(shared: &Shared, statvfs: &Statvfs, hung: &Mutex<Vec<Vec<u8>>>) {
    let mut round = lock(&shared.round);
    loop {
        let Some((path, mount)) = round.waiting.pop() else {
            if round.abandoned {
                return;
            }
            shared.changed.notify_all();
            round = shared.changed.wait(round).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        round.asking = Some((mount.mount_point.clone(), Instant::now()));
        drop(round);
        let size = statvfs(&path);
        round = lock(&shared.round);
        round.asking = None;
        if round.abandoned {
            let mut hung = lock(hung);
            if let Some(at) = hung.iter().position(|point| *point == mount.mount_point) {
                hung.remove(at);
                log::info!("file system {} answers again", quote(&mount.mount_point));
            }
            return;
        }
        match size {
            Ok(size) => round.found.push(file_system(mount, size)),
            // Not there below this root, or not ours to see.
            Err(error) => log::debug!("statvfs {}: {}", path.display(), reason(&error)),
        }
    }
}

/// A mount point of the machine, seen from here.
fn below(root: &Path, mount_point: &[u8]) -> PathBuf {
    let inside = mount_point.strip_prefix(b"/").unwrap_or(mount_point);
    root.join(std::ffi::OsStr::from_bytes(inside))
}

fn file_system(mount: Mount, size: FsSize) -> FileSystem {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    FileSystem {
        mount_point: text(mount.mount_point),
        device: text(mount.source),
        fs_type: text(mount.fs_type),
        read_only: mount.read_only,
        total_bytes: size.total_bytes,
        free_bytes: size.free_bytes,
        available_bytes: size.available_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::mountinfo::parse;
    use std::sync::mpsc::sync_channel;

    #[test]
    fn a_mount_that_hangs_is_left_out_until_it_answers_and_others_go_on() {
        let mountinfo = b"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:9 / /nfs rw - nfs4 nas:/ rw\n3 1 8:2 / /z rw - xfs /dev/b rw\n";
        let mounts = parse(mountinfo).unwrap();
        let (release, hanging) = sync_channel::<()>(0);
        let hanging = Mutex::new(hanging);
        let size = FsSize { total_bytes: 9, free_bytes: 5, available_bytes: 4 };
        let statvfs = move |path: &Path| {
            if path == Path::new("/nfs") {
                let _ = lock(&hanging).recv();
            }
            Ok(size)
        };
        let mut disks = Disks::new(statvfs);
        let mut ask_until = |wanted: &[&str]| {
            let deadline = Instant::now() + limits::STATVFS * 3;
            loop {
                let found = disks.ask(Path::new("/"), &mounts);
                let points: Vec<_> = found.iter().map(|fs| fs.mount_point.as_str()).collect();
                if points == wanted {
                    break;
                }
                assert!(Instant::now() < deadline, "{points:?}, wanted {wanted:?}");
            }
        };
        ask_until(&["/", "/z"]);
        release.send(()).unwrap();
        drop(release);
        ask_until(&["/", "/nfs", "/z"]);
    }
}
