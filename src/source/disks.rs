//! How full file systems are. statvfs on a dead network mount never returns, and no thread can be
//! killed: so one thread asks another, and leaves it behind when it hangs.
//!
//! A mount that hangs is named in the log once and not asked again until its call returns.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::reason;
use crate::limits;
use crate::parse::mountinfo::Mount;
use crate::parse::quote;
use crate::snapshot::FileSystem;
use crate::sync::{Stop, lock};
use crate::sys::FsSize;

/// How long a sample waits for its file systems; what answers later is in the next sample.
const PATIENCE: Duration = Duration::from_millis(50);
/// How often a thread that waits for a slow mount looks whether the agent is stopping.
const STEP: Duration = Duration::from_millis(100);

type Statvfs = Arc<dyn Fn(&Path) -> io::Result<FsSize> + Send + Sync>;

/// The sampler's end.
pub struct Disks {
    requests: SyncSender<Request>,
    answers: Arc<Answers>,
    rounds: u64,
}

struct Request {
    round: u64,
    root: PathBuf,
    mounts: Vec<Mount>,
}

/// What is known, and after which round.
#[derive(Default)]
struct Answers {
    known: Mutex<(u64, BTreeMap<Vec<u8>, FileSystem>)>,
    round_done: Condvar,
}

/// Both ends: the sampler's, and what the thread `disks` runs until the sampler's is dropped.
pub fn pair(
    stop: Arc<Stop>,
    statvfs: impl Fn(&Path) -> io::Result<FsSize> + Send + Sync + 'static,
) -> (Disks, Asker) {
    let (requests, received) = sync_channel(1);
    let answers = Arc::new(Answers::default());
    let asker = Asker {
        requests: received,
        stop,
        statvfs: Arc::new(statvfs),
        answers: answers.clone(),
        hung: Arc::default(),
        worker: None,
    };
    (Disks { requests, answers, rounds: 0 }, asker)
}

impl Disks {
    /// Asks all `mounts`, below `root`, and returns those that answered: now, or while an earlier
    /// request is still being worked on, then.
    pub fn ask(&mut self, root: &Path, mounts: Vec<Mount>) -> Vec<FileSystem> {
        let round = self.rounds + 1;
        // Full: a mount is slow, and the round before is still going on.
        if self.requests.try_send(Request { round, root: root.to_owned(), mounts }).is_ok() {
            self.rounds = round;
        }
        let wanted = self.rounds;
        let known = lock(&self.answers.known);
        let waited =
            self.answers.round_done.wait_timeout_while(known, PATIENCE, |(done, _)| *done < wanted);
        let (known, _) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        known.1.values().cloned().collect()
    }
}

/// The end that waits for file systems.
pub struct Asker {
    requests: Receiver<Request>,
    stop: Arc<Stop>,
    statvfs: Statvfs,
    answers: Arc<Answers>,
    hung: Arc<Mutex<Vec<Vec<u8>>>>,
    worker: Option<Worker>,
}

/// The thread whose call may hang.
struct Worker {
    paths: Sender<(PathBuf, Vec<u8>)>,
    sizes: Receiver<io::Result<FsSize>>,
    thread: JoinHandle<()>,
}

impl Asker {
    /// Answers requests until nobody can make any more.
    pub fn run(mut self) {
        while let Ok(request) = self.requests.recv() {
            let points: Vec<_> = request.mounts.iter().map(|m| m.mount_point.clone()).collect();
            for mount in request.mounts {
                self.ask(&request.root, mount);
            }
            let mut known = lock(&self.answers.known);
            known.0 = request.round;
            known.1.retain(|point, _| points.contains(point));
            self.answers.round_done.notify_all();
        }
        if let Some(Worker { paths, thread, .. }) = self.worker {
            drop(paths);
            let _ = thread.join();
        }
    }

    fn ask(&mut self, root: &Path, mount: Mount) {
        let point = mount.mount_point.clone();
        let hangs = {
            let hung = lock(&self.hung);
            hung.contains(&point) || hung.len() >= limits::HUNG_MOUNTS
        };
        let answer = if hangs { None } else { self.size(&below(root, &point), &point) };
        let mut known = lock(&self.answers.known);
        match answer {
            Some(size) => known.1.insert(point, file_system(mount, size)),
            None => known.1.remove(&point),
        };
    }

    /// `None`: it did not answer, or there is no such directory.
    fn size(&mut self, path: &Path, point: &[u8]) -> Option<FsSize> {
        let worker = match self.worker.take() {
            Some(worker) => worker,
            None => self.start_worker()?,
        };
        worker.paths.send((path.to_owned(), point.to_owned())).ok()?;
        let deadline = Instant::now() + limits::STATVFS;
        loop {
            match worker.sizes.recv_timeout(STEP) {
                Ok(size) => {
                    self.worker = Some(worker);
                    return size
                        .map_err(|error| log::debug!("statvfs {}: {error}", path.display()))
                        .ok();
                }
                Err(RecvTimeoutError::Timeout) if self.stop.is_rung() => return None,
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(_) => break,
            }
        }
        // Dropping the worker leaves its thread behind; it notices when its call returns.
        lock(&self.hung).push(point.to_owned());
        let point = quote(point);
        log::warn!("file system {point} does not answer; it is left out until it does");
        None
    }

    fn start_worker(&self) -> Option<Worker> {
        let (paths, wanted) = channel::<(PathBuf, Vec<u8>)>();
        let (found, sizes) = channel();
        let (statvfs, hung) = (self.statvfs.clone(), self.hung.clone());
        let work = move || {
            while let Ok((path, point)) = wanted.recv() {
                if found.send(statvfs(&path)).is_err() {
                    lock(&hung).retain(|hanging| *hanging != point);
                    log::info!("file system {} answers again", quote(&point));
                }
            }
        };
        let started = Builder::new()
            .name("statvfs".to_owned())
            .stack_size(limits::CONNECTION_STACK_BYTES)
            .spawn(work);
        match started {
            Ok(thread) => Some(Worker { paths, sizes, thread }),
            Err(error) => {
                log::warn!("start the thread statvfs: {}", reason(&error));
                None
            }
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
        let stop = Arc::new(Stop::new().unwrap());
        let (mut disks, asker) = pair(stop, statvfs);
        let thread = std::thread::spawn(|| asker.run());
        let mut ask_until = |wanted: &[&str]| {
            let deadline = Instant::now() + limits::STATVFS * 3;
            loop {
                let found = disks.ask(Path::new("/"), mounts.clone());
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
        drop(disks);
        thread.join().unwrap();
    }
}
