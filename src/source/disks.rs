//! How full file systems are. statvfs on a dead network mount never returns, and no thread can be
//! killed: so a thread of its own asks, and when it hangs it is left behind and another one goes on.
//!
//! A mount that hangs is named in the log once and not asked again until its call returns.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::mounts;
use crate::error::reason;
use crate::limits;
use crate::parse::mountinfo::Mount;
use crate::parse::quote;
use crate::snapshot::FileSystem;
use crate::sync::lock;
use crate::sys::{self, FsSize};

/// How long a sample waits for its file systems; what answers later is in the next sample.
const PATIENCE: Duration = Duration::from_millis(50);

type Statvfs = dyn Fn(&Path) -> io::Result<FsSize> + Send + Sync;

/// The sampler's end. Dropping it ends the thread, as soon as that can.
pub struct Disks {
    statvfs: Arc<Statvfs>,
    shared: Arc<Shared>,
    started: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Which thread is the one that asks; any other was left behind.
    generation: u64,
    /// Counts calls of `ask`.
    round: u64,
    /// Still to be asked, the next one last.
    waiting: Vec<(PathBuf, Mount)>,
    asking: Option<(Key, Instant)>,
    /// What answered, and in which round it was asked.
    found: BTreeMap<Key, (u64, FileSystem)>,
    hung: Vec<Key>,
    stopped: bool,
}

/// Mount point and device number: a new mount at the place of a dead one is another one.
type Key = (Vec<u8>, Vec<u8>);

fn key(mount: &Mount) -> Key {
    (mount.mount_point.clone(), mount.device_number.clone())
}

impl State {
    fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.asking.is_none()
    }
}

impl Disks {
    /// Will ask with `statvfs`.
    pub fn new(statvfs: impl Fn(&Path) -> io::Result<FsSize> + Send + Sync + 'static) -> Self {
        Self { statvfs: Arc::new(statvfs), shared: Arc::default(), started: false }
    }

    /// Asks all `mounts`, below `root`. The machine's own disks are asked first.
    pub fn ask(&mut self, root: &Path, mounts: &[Mount]) {
        // What is left of the round before must not keep a new thread from this one's first.
        lock(&self.shared.state).waiting.clear();
        self.tend();
        if !self.started {
            self.started = self.start();
        }
        let mut state = lock(&self.shared.state);
        state.round += 1;
        let enough = state.hung.len() >= limits::HUNG_MOUNTS;
        let wanted = |mount: &&Mount| {
            let key = key(mount);
            let in_progress = state.asking.as_ref().is_some_and(|(asked, _)| *asked == key);
            !(in_progress || state.hung.contains(&key) || enough && mounts::is_remote(mount))
        };
        let (remote, local): (Vec<&Mount>, Vec<&Mount>) =
            mounts.iter().filter(wanted).partition(|mount| mounts::is_remote(mount));
        let order = remote.into_iter().rev().chain(local.into_iter().rev());
        state.waiting =
            order.map(|mount| (below(root, &mount.mount_point), mount.clone())).collect();
        self.shared.changed.notify_all();
    }

    /// What answered in this round or, where a slow mount keeps others waiting, in the one before.
    pub fn answers(&self, mounts: &[Mount]) -> Vec<FileSystem> {
        let state = lock(&self.shared.state);
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, PATIENCE, |state| !state.is_done())
            .unwrap_or_else(PoisonError::into_inner);
        let fresh = |mount: &Mount| match state.found.get(&key(mount)) {
            Some((round, found)) if *round + 1 >= state.round => Some(found.clone()),
            _ => None,
        };
        mounts.iter().filter_map(fresh).collect()
    }

    /// How many file systems hang.
    pub fn hung(&self) -> usize {
        lock(&self.shared.state).hung.len()
    }

    /// Leaves the thread behind if it hangs. Says when to look again, if a call is under way.
    pub fn tend(&mut self) -> Option<Duration> {
        let mut state = lock(&self.shared.state);
        let (key, since) = state.asking.as_ref()?;
        let left = limits::STATVFS.saturating_sub(since.elapsed());
        if !left.is_zero() {
            return Some(left);
        }
        let key = key.clone();
        state.found.remove(&key);
        state.hung.push(key.clone());
        state.generation += 1;
        state.asking = None;
        let enough = state.hung.len() == limits::HUNG_MOUNTS;
        drop(state);
        log::warn!("file system {} does not answer; it is left out until it does", quote(&key.0));
        if enough {
            let hung = limits::HUNG_MOUNTS;
            log::warn!("{hung} file systems do not answer; of the others only disks are asked");
        }
        self.started = self.start();
        None
    }

    fn start(&self) -> bool {
        let generation = lock(&self.shared.state).generation;
        let (shared, statvfs) = (self.shared.clone(), self.statvfs.clone());
        let work = Box::new(move || keep_asking(&shared, generation, &*statvfs));
        let started = sys::start_thread(c"disks", limits::CONNECTION_STACK_BYTES, work);
        if let Err(error) = &started {
            log::warn!("start the thread disks: {}", reason(error));
        }
        started.is_ok()
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        lock(&self.shared.state).stopped = true;
        self.shared.changed.notify_all();
    }
}

/// The thread's life: asks one mount after the other, until nobody wants to know any more.
fn keep_asking(shared: &Shared, generation: u64, statvfs: &Statvfs) {
    let mut state = lock(&shared.state);
    while !state.stopped && state.generation == generation {
        let Some((path, mount)) = state.waiting.pop() else {
            shared.changed.notify_all();
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let (key, round) = (key(&mount), state.round);
        state.asking = Some((key.clone(), Instant::now()));
        drop(state);
        let size = statvfs(&path);
        if let Err(error) = &size {
            // Not there below this root, or not ours to see.
            log::debug!("statvfs {}: {}", path.display(), reason(error));
        }
        state = lock(&shared.state);
        if state.generation != generation {
            state.hung.retain(|hung| *hung != key);
            drop(state);
            log::info!("file system {} answers again", quote(&key.0));
            return;
        }
        state.asking = None;
        match size {
            Ok(size) => state.found.insert(key, (round, file_system(mount, size))),
            Err(_) => state.found.remove(&key),
        };
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
        // The kernel does the latter itself after an error, and the list of mounts does not change then.
        read_only: mount.read_only || (size.read_only && !mount.shielded),
        total_bytes: size.total_bytes,
        free_bytes: size.free_bytes,
        available_bytes: size.available_bytes,
        files: size.files,
        files_free: size.files_free,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::mountinfo::parse;
    use std::sync::mpsc::sync_channel;

    fn ask(disks: &mut Disks, mounts: &[Mount]) -> Vec<FileSystem> {
        disks.ask(Path::new("/"), mounts);
        disks.answers(mounts)
    }

    /// Waits until the thread that asks has come so far, on a machine that is busy.
    fn wait_until(disks: &Disks, come_so_far: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !come_so_far(&lock(&disks.shared.state)) {
            assert!(Instant::now() < deadline, "waited too long");
            std::thread::sleep(PATIENCE / 50);
        }
    }

    #[test]
    fn a_mount_that_hangs_is_left_out_until_it_answers_and_others_go_on() {
        let mountinfo = b"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:9 / /nfs rw - nfs4 nas:/ rw\n3 1 8:2 / /z rw - xfs /dev/b rw\n";
        let mounts = parse(mountinfo).unwrap();
        let (release, hanging) = sync_channel::<()>(0);
        let hanging = Mutex::new(hanging);
        let size = FsSize {
            total_bytes: 9,
            free_bytes: 5,
            available_bytes: 4,
            files: 3,
            files_free: 2,
            read_only: false,
        };
        let statvfs = move |path: &Path| {
            if path == Path::new("/nfs") {
                let _ = lock(&hanging).recv();
            }
            Ok(size)
        };
        let mut disks = Disks::new(statvfs);
        let mut ask_until = |wanted: &[&str]| {
            let deadline = Instant::now() + Duration::from_secs(60);
            loop {
                let found = ask(&mut disks, &mounts);
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

    fn mounts(points: &[&str]) -> Vec<Mount> {
        let line =
            |(at, point): (usize, &&str)| format!("1 0 0:{at} / {point} rw - nfs4 nas:/ rw\n");
        let text: String = points.iter().enumerate().map(line).collect();
        parse(text.as_bytes()).unwrap()
    }

    const SIZE: FsSize = FsSize {
        total_bytes: 9,
        free_bytes: 5,
        available_bytes: 4,
        files: 3,
        files_free: 2,
        read_only: false,
    };

    #[test]
    fn what_answers_after_the_sample_is_in_the_next_one() {
        let points = ["/a", "/slow", "/z"];
        let mut disks = Disks::new(|path| {
            if path == Path::new("/slow") {
                std::thread::sleep(PATIENCE * 2);
            }
            Ok(SIZE)
        });
        ask(&mut disks, &mounts(&points));
        wait_until(&disks, State::is_done);
        assert_eq!(ask(&mut disks, &mounts(&points)).len(), 3);
    }

    #[test]
    fn beyond_the_cap_of_hanging_mounts_disks_are_still_asked() {
        let mut disks = Disks::new(|path| {
            while path != Path::new("/") {
                std::thread::park();
            }
            Ok(SIZE)
        });
        let mut all = parse(b"1 0 8:1 / / rw - ext4 /dev/a rw\n").unwrap();
        let names: Vec<String> = (0..=limits::HUNG_MOUNTS).map(|at| format!("/{at}")).collect();
        all.splice(0..0, mounts(&names.iter().map(String::as_str).collect::<Vec<_>>()));
        for hung in 0..=limits::HUNG_MOUNTS + 1 {
            ask(&mut disks, &all);
            let asked = |state: &State| match &state.asking {
                Some((key, _)) => key.0 != b"/",
                None => hung >= limits::HUNG_MOUNTS && state.is_done(),
            };
            wait_until(&disks, asked);
            let mut state = lock(&disks.shared.state);
            let found: Vec<_> = state.found.iter().map(|(key, found)| (&*key.0, found.0)).collect();
            assert_eq!(found, [(&b"/"[..], state.round)], "{hung} hang");
            // As if three seconds had passed.
            if let Some((_, since)) = &mut state.asking {
                *since -= limits::STATVFS;
            }
        }
        assert_eq!(lock(&disks.shared.state).hung.len(), limits::HUNG_MOUNTS);
    }
}
