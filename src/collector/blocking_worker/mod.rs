//! What may take long to answer, or for ever: statvfs on a dead network mount, the firmware behind a sensor, a network driver that
//! holds the lock its files want. No thread can be killed: so a thread of its own asks, one after the other, and when it
//! hangs it is left behind and another one goes on. One for all of them, for to wake a thread costs more than what most of
//! them take.
//!
//! What hangs is not asked again until its call returns; a mount that does is named in the log once.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::collector::mounts::{Place, Places};
use crate::limits;
use crate::limits::{ASIDE_LEAD as LEAD, ASIDE_PATIENCE as PATIENCE};
use crate::model::FileSystem;
use crate::model::devices::Devices;
use crate::sys;
use crate::sys::FsSize;
use crate::util::error::reason;
use crate::util::sync::lock;
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

type Statvfs = dyn Fn(&Path) -> io::Result<FsSize> + Send + Sync;
type ReadDevices = Box<dyn FnMut() -> Devices + Send>;

/// The end of who wants to know. Dropping it ends the thread, as soon as that can.
pub struct BlockingWorker {
    statvfs: Arc<Statvfs>,
    shared: Arc<Shared>,
    started: bool,
}

struct Shared {
    state: Mutex<State>,
    /// There is something to ask, or nobody wants to know any more.
    asked: Condvar,
    /// Something has answered, and somebody waits for it.
    answered: Condvar,
}

struct State {
    /// Which thread is the one that asks; any other was left behind.
    generation: u64,
    /// Counts how often all was asked.
    round: u64,
    /// What to ask.
    places: Arc<Places>,
    /// How often there is a look, and when the next one is due. The thread gets up by itself then: being woken by another
    /// one costs both of them as much as asking, on an idle machine.
    interval: Option<Duration>,
    due: Option<Instant>,
    /// When it did so, and nobody has come yet.
    ahead_since: Option<Instant>,
    /// Still to be asked, the next one last.
    waiting: Vec<Question>,
    asking: Option<(Question, Instant)>,
    file_systems: BTreeMap<Arc<Place>, (Instant, FileSystem)>,
    devices: Option<Found>,
    hung: Vec<Question>,
    /// With the thread while it reads.
    read_devices: Option<ReadDevices>,
    is_awaited: bool,
    stopped: bool,
}

/// What sysfs said, in which round it was asked, and when it answered.
struct Found {
    round: u64,
    at: Instant,
    devices: Arc<Devices>,
}

#[derive(Debug, Clone, PartialEq)]
enum Question {
    Place(Arc<Place>),
    /// What sysfs says.
    Devices,
}

impl State {
    /// The next look will be so much less than an interval after this one.
    fn expect(&mut self, now: Instant, lead: Duration) {
        self.due = self.interval.map(|interval| now + interval.saturating_sub(lead));
    }

    fn begin(&mut self) {
        self.round += 1;
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.clear();
        waiting.extend(self.questions());
        self.waiting = waiting;
    }

    fn is_under_way(&self, is_meant: impl Fn(&Question) -> bool) -> bool {
        self.waiting.iter().chain(self.asking.iter().map(|(asked, _)| asked)).any(is_meant)
    }

    /// Whether an answer is still shown. Who is slow, or waits for who hangs until that is clear, does not vanish meanwhile.
    fn is_shown(&self, at: Instant) -> bool {
        at.elapsed() <= self.interval.unwrap_or_default() + limits::STATVFS
    }

    /// Forgets what is not asked any more.
    fn tidy(&mut self) {
        let mut known = std::mem::take(&mut self.file_systems);
        let kept = self.places.all.iter().filter_map(|place| known.remove_entry(place)).collect();
        self.file_systems = kept;
    }

    fn hung_mounts(&self) -> usize {
        self.hung.iter().filter(|hung| **hung != Question::Devices).count()
    }

    /// What to ask of all there is, the next one last: the machine's own disks are asked first.
    fn questions(&self) -> impl Iterator<Item = Question> {
        let enough = self.hung_mounts() >= limits::HUNG_MOUNTS;
        let of = move |remote: bool| {
            let places =
                self.places.all.iter().rev().filter(move |place| place.is_remote() == remote);
            places.filter(move |_| !(enough && remote)).cloned().map(Question::Place)
        };
        let all = of(true).chain([Question::Devices]).chain(of(false));
        all.filter(|question| {
            !self.hung.contains(question)
                && !self.asking.as_ref().is_some_and(|(asked, _)| asked == question)
        })
    }
}

impl BlockingWorker {
    /// Will ask file systems with `statvfs`, and sysfs with `read_devices`.
    pub fn new(
        statvfs: impl Fn(&Path) -> io::Result<FsSize> + Send + Sync + 'static,
        read_devices: impl FnMut() -> Devices + Send + 'static,
    ) -> Self {
        let state = State {
            generation: 0,
            round: 0,
            places: Arc::default(),
            interval: None,
            due: None,
            ahead_since: None,
            waiting: Vec::new(),
            asking: None,
            file_systems: BTreeMap::new(),
            devices: None,
            hung: Vec::new(),
            read_devices: Some(Box::new(read_devices)),
            is_awaited: false,
            stopped: false,
        };
        let shared =
            Shared { state: Mutex::new(state), asked: Condvar::new(), answered: Condvar::new() };
        Self { statvfs: Arc::new(statvfs), shared: Arc::new(shared), started: false }
    }

    /// Asks sysfs and all `places`, if that was not done just now. The next time will be an `interval` later, if that is
    /// known.
    pub fn ask(&mut self, places: &Arc<Places>, interval: Option<Duration>) {
        let mut state = lock(&self.shared.state);
        state.interval = interval;
        state.expect(Instant::now(), LEAD);
        let is_done = state.ahead_since.take().is_some_and(|since| since.elapsed() < PATIENCE);
        if is_done && Arc::ptr_eq(&state.places, places) {
            return;
        }
        if !Arc::ptr_eq(&state.places, places) {
            state.places = places.clone();
            state.tidy();
        }
        // What is left of the round before must not keep a new thread from this one's first.
        state.waiting.clear();
        drop(state);
        self.tend();
        if !self.started {
            self.started = self.start();
        }
        lock(&self.shared.state).begin();
        // Who is woken finds the lock free.
        self.shared.asked.notify_one();
    }

    /// How full they are that answered, in this round or, where a slow mount keeps others waiting, lately.
    pub fn file_systems(&self) -> Vec<FileSystem> {
        let is_place = |question: &Question| *question != Question::Devices;
        let state = self.wait_while(PATIENCE, |state| state.is_under_way(is_place));
        let mut found = Vec::with_capacity(state.places.all.len());
        found.extend(state.places.all.iter().filter_map(|place| {
            let (at, found) = state.file_systems.get(place)?;
            state.is_shown(*at).then(|| found.clone())
        }));
        found
    }

    /// What sysfs says, if that comes within `patience`, or else what it said lately. `None`: it takes longer than that.
    pub fn devices(&self, patience: Duration) -> Option<Arc<Devices>> {
        let is_late = |state: &State| {
            state.devices.as_ref().is_none_or(|found| found.round < state.round)
                && !state.hung.contains(&Question::Devices)
        };
        let state = self.wait_while(patience, is_late);
        let found = state.devices.as_ref()?;
        state.is_shown(found.at).then(|| found.devices.clone())
    }

    fn wait_while(
        &self,
        patience: Duration,
        is_late: impl Fn(&State) -> bool,
    ) -> MutexGuard<'_, State> {
        let mut state = lock(&self.shared.state);
        if is_late(&state) {
            state.is_awaited = true;
            let waited =
                self.shared.answered.wait_timeout_while(state, patience, |state| is_late(state));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.is_awaited = false;
        }
        state
    }

    /// How many file systems hang.
    pub fn hung_mounts(&self) -> usize {
        lock(&self.shared.state).hung_mounts()
    }

    /// Leaves the thread behind if it hangs. Says when to look again, if a call is under way.
    pub fn tend(&mut self) -> Option<Duration> {
        let mut state = lock(&self.shared.state);
        let (_, since) = state.asking.as_ref()?;
        let left = limits::STATVFS.saturating_sub(since.elapsed());
        if !left.is_zero() {
            return Some(left);
        }
        let (question, _) = state.asking.take()?;
        state.generation += 1;
        state.hung.push(question.clone());
        match question {
            // Who asks for it next says in the log that it is missing.
            Question::Devices => drop(state),
            Question::Place(place) => {
                state.file_systems.remove(&place);
                let enough = state.hung_mounts() == limits::HUNG_MOUNTS;
                drop(state);
                let at = escape_for_log(place.mount_point(), EXCERPT_CHARS);
                log::warn!("file system {at} does not answer; it is left out until it does");
                if enough {
                    let hung = limits::HUNG_MOUNTS;
                    log::warn!(
                        "{hung} file systems do not answer; of the others only disks are asked"
                    );
                }
            }
        }
        self.started = self.start();
        None
    }

    fn start(&self) -> bool {
        let generation = lock(&self.shared.state).generation;
        let (shared, statvfs) = (self.shared.clone(), self.statvfs.clone());
        let work = Box::new(move || keep_asking(&shared, generation, &*statvfs));
        let started = sys::start_thread(c"aside", limits::SERVICE_STACK_BYTES, work);
        if let Err(error) = &started {
            log::warn!("start the thread aside: {}", reason(error));
        }
        started.is_ok()
    }
}

impl Drop for BlockingWorker {
    fn drop(&mut self) {
        lock(&self.shared.state).stopped = true;
        self.shared.asked.notify_all();
    }
}

/// The thread's life: asks one after the other, until nobody wants to know any more.
fn keep_asking(shared: &Shared, generation: u64, statvfs: &Statvfs) {
    let mut state = lock(&shared.state);
    while !state.stopped && state.generation == generation {
        let Some(question) = state.waiting.pop() else {
            state = wait(shared, state);
            continue;
        };
        state.asking = Some((question.clone(), Instant::now()));
        state = match &question {
            Question::Place(place) => ask_place(shared, state, generation, place, statvfs),
            Question::Devices => ask_devices(shared, state),
        };
        if state.generation == generation {
            state.asking = None;
        } else {
            // It was left behind, and another thread asks now.
            state.hung.retain(|hung| *hung != question);
        }
        if state.is_awaited {
            shared.answered.notify_one();
        }
    }
}

/// Waits until there is something to ask, or a look is due.
fn wait<'a>(shared: &'a Shared, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    let now = Instant::now();
    let left = state.due.map(|due| due.saturating_duration_since(now));
    match left {
        // To sleep for less than this is not worth it.
        Some(left) if left > LEAD / 2 => {
            let waited = shared.asked.wait_timeout(state, left);
            waited.unwrap_or_else(PoisonError::into_inner).0
        }
        Some(_) if state.ahead_since.is_none() && state.places.are_as_they_were() => {
            state.ahead_since = Some(now);
            state.expect(now, Duration::ZERO);
            state.begin();
            state
        }
        // Nobody comes any more, or who comes knows what else to ask.
        _ => shared.asked.wait(state).unwrap_or_else(PoisonError::into_inner),
    }
}

fn ask_place<'a>(
    shared: &'a Shared,
    state: MutexGuard<'a, State>,
    generation: u64,
    place: &Arc<Place>,
    statvfs: &Statvfs,
) -> MutexGuard<'a, State> {
    drop(state);
    let size = statvfs(&place.path);
    if let Err(error) = &size {
        // Not there below this root, or not ours to see.
        log::debug!("statvfs {}: {}", place.path.display(), reason(error));
    }
    let mut state = lock(&shared.state);
    if state.generation != generation {
        drop(state);
        log::info!(
            "file system {} answers again",
            escape_for_log(place.mount_point(), EXCERPT_CHARS)
        );
        return lock(&shared.state);
    }
    match size {
        Ok(size) => {
            state.file_systems.insert(place.clone(), (Instant::now(), place.holding(size)));
        }
        Err(_) => {
            state.file_systems.remove(place);
        }
    }
    state
}

/// What comes late is better than nothing: a machine with hundreds of sensors may take seconds for them.
fn ask_devices<'a>(shared: &'a Shared, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    let round = state.round;
    let Some(mut read) = state.read_devices.take() else { return state };
    drop(state);
    let devices = Arc::new(read());
    let mut state = lock(&shared.state);
    state.read_devices = Some(read);
    state.devices = Some(Found { round, at: Instant::now(), devices });
    state
}

#[cfg(test)]
mod tests;
