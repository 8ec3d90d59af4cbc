//! How full file systems are. statvfs on a dead network mount never returns, and no thread can be
//! killed: so a thread of its own asks, and when it hangs it is left behind and another one goes on.
//!
//! A mount that hangs is named in the log once and not asked again until its call returns.

use std::cmp::Ordering;
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
    waiting: Vec<Arc<Place>>,
    asking: Option<(Arc<Place>, Instant)>,
    /// What answered, and in which round it was asked.
    found: BTreeMap<Arc<Place>, (u64, FileSystem)>,
    hung: Vec<Arc<Place>>,
    stopped: bool,
}

/// A file system to ask, and what does not change about it from sample to sample.
#[derive(Debug)]
pub struct Place {
    /// Where it is, seen from here.
    path: PathBuf,
    mount: Mount,
    mount_point: Arc<str>,
    device: Arc<str>,
    fs_type: Arc<str>,
}

impl Place {
    /// A mount of the machine that is at `root`.
    pub fn new(root: &Path, mount: Mount) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into();
        Self {
            path: below(root, &mount.mount_point),
            mount_point: text(&mount.mount_point),
            device: text(&mount.source),
            fs_type: text(&mount.fs_type),
            mount,
        }
    }

    /// Mount point and device number: a new mount at the place of a dead one is another one.
    fn key(&self) -> (&[u8], &[u8]) {
        (&self.mount.mount_point, &self.mount.device_number)
    }

    fn holding(&self, size: FsSize) -> FileSystem {
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

    /// Asks all `places`. The machine's own disks are asked first.
    pub fn ask(&mut self, places: &[Arc<Place>]) {
        // What is left of the round before must not keep a new thread from this one's first.
        lock(&self.shared.state).waiting.clear();
        self.tend();
        if !self.started {
            self.started = self.start();
        }
        let mut state = lock(&self.shared.state);
        state.round += 1;
        let enough = state.hung.len() >= limits::HUNG_MOUNTS;
        let mut waiting = std::mem::take(&mut state.waiting);
        for remote in [true, false] {
            let is_wanted = |place: &&Arc<Place>| {
                let in_progress = state.asking.as_ref().is_some_and(|(asked, _)| asked == *place);
                mounts::is_remote(&place.mount) == remote
                    && !(in_progress || state.hung.contains(place) || enough && remote)
            };
            waiting.extend(places.iter().rev().filter(is_wanted).cloned());
        }
        state.waiting = waiting;
        // Who is woken finds the lock free.
        drop(state);
        self.shared.changed.notify_all();
    }

    /// What answered in this round or, where a slow mount keeps others waiting, in the one before.
    pub fn answers(&self, places: &[Arc<Place>]) -> Vec<FileSystem> {
        let state = lock(&self.shared.state);
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, PATIENCE, |state| !state.is_done())
            .unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::with_capacity(places.len());
        found.extend(places.iter().filter_map(|place| match state.found.get(place) {
            Some((round, found)) if *round + 1 >= state.round => Some(found.clone()),
            _ => None,
        }));
        found
    }

    /// How many file systems hang.
    pub fn hung(&self) -> usize {
        lock(&self.shared.state).hung.len()
    }

    /// Leaves the thread behind if it hangs. Says when to look again, if a call is under way.
    pub fn tend(&mut self) -> Option<Duration> {
        let mut state = lock(&self.shared.state);
        let (place, since) = state.asking.as_ref()?;
        let left = limits::STATVFS.saturating_sub(since.elapsed());
        if !left.is_zero() {
            return Some(left);
        }
        let place = place.clone();
        state.found.remove(&place);
        state.hung.push(place.clone());
        state.generation += 1;
        state.asking = None;
        let enough = state.hung.len() == limits::HUNG_MOUNTS;
        drop(state);
        let at = quote(&place.mount.mount_point);
        log::warn!("file system {at} does not answer; it is left out until it does");
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
        let Some(place) = state.waiting.pop() else {
            shared.changed.notify_all();
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let round = state.round;
        state.asking = Some((place.clone(), Instant::now()));
        drop(state);
        let size = statvfs(&place.path);
        if let Err(error) = &size {
            // Not there below this root, or not ours to see.
            log::debug!("statvfs {}: {}", place.path.display(), reason(error));
        }
        state = lock(&shared.state);
        if state.generation != generation {
            state.hung.retain(|hung| *hung != place);
            drop(state);
            log::info!("file system {} answers again", quote(&place.mount.mount_point));
            return;
        }
        state.asking = None;
        match size {
            Ok(size) => {
                let found = (round, place.holding(size));
                state.found.insert(place, found);
            }
            Err(_) => {
                state.found.remove(&place);
            }
        }
    }
}

/// A mount point of the machine, seen from here.
fn below(root: &Path, mount_point: &[u8]) -> PathBuf {
    let inside = mount_point.strip_prefix(b"/").unwrap_or(mount_point);
    root.join(std::ffi::OsStr::from_bytes(inside))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::mountinfo::parse;
    use std::sync::mpsc::sync_channel;

    fn places(mountinfo: &[u8]) -> Vec<Arc<Place>> {
        let place = |mount| Arc::new(Place::new(Path::new("/"), mount));
        parse(mountinfo).unwrap().into_iter().map(place).collect()
    }

    fn ask(disks: &mut Disks, places: &[Arc<Place>]) -> Vec<FileSystem> {
        disks.ask(places);
        disks.answers(places)
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
        let mounts = places(mountinfo);
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
                let points: Vec<_> = found.iter().map(|fs| &*fs.mount_point).collect();
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

    fn mounts(points: &[&str]) -> Vec<Arc<Place>> {
        let line =
            |(at, point): (usize, &&str)| format!("1 0 0:{at} / {point} rw - nfs4 nas:/ rw\n");
        let text: String = points.iter().enumerate().map(line).collect();
        places(text.as_bytes())
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
        let mut all = places(b"1 0 8:1 / / rw - ext4 /dev/a rw\n");
        let names: Vec<String> = (0..=limits::HUNG_MOUNTS).map(|at| format!("/{at}")).collect();
        all.splice(0..0, mounts(&names.iter().map(String::as_str).collect::<Vec<_>>()));
        for hung in 0..=limits::HUNG_MOUNTS + 1 {
            ask(&mut disks, &all);
            let asked = |state: &State| match &state.asking {
                Some((place, _)) => &*place.mount_point != "/",
                None => hung >= limits::HUNG_MOUNTS && state.is_done(),
            };
            wait_until(&disks, asked);
            let mut state = lock(&disks.shared.state);
            let found: Vec<_> =
                state.found.iter().map(|(place, found)| (&*place.mount_point, found.0)).collect();
            assert_eq!(found, [("/", state.round)], "{hung} hang");
            // As if three seconds had passed.
            if let Some((_, since)) = &mut state.asking {
                *since -= limits::STATVFS;
            }
        }
        assert_eq!(lock(&disks.shared.state).hung.len(), limits::HUNG_MOUNTS);
    }
}
