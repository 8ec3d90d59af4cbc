//! Runs calls that may block indefinitely (statvfs on a dead NFS mount, sysfs attributes backed by firmware or by a network driver
//! that holds a lock) on a worker thread. A call that is older than 3 s when the next sample starts is abandoned with its thread, because
//! a thread cannot be killed, and a new thread takes over. The stuck call is not repeated until it returns.

mod collectors;
mod statvfs;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use crate::collector::blocking_worker::collectors::{CollectorResult, ScheduledCollector};
use crate::collector::blocking_worker::statvfs::{StatvfsResult, run_statvfs};
use crate::collector::mounts::MountPoint;
use crate::model::devices::Devices;
use crate::model::{FailedFileSystem, FileSystem};
use crate::sys::FsSize;
use crate::util::error::reason;
use crate::util::sync::lock;
use crate::util::text::{EXCERPT_CHARS, escape_for_log};
use crate::util::thread::spawn_detached;

/// A call that has not returned after this is stuck. A healthy network mount answers in milliseconds, a disk that must spin up
/// first in seconds.
const STUCK_TIMEOUT: Duration = Duration::from_secs(3);

/// When this many threads are stuck in statvfs, only local filesystems are queried.
const MAX_STUCK_MOUNTS: usize = 16;

/// The worker only makes system calls and formats paths.
const STACK_BYTES: usize = 256 << 10;

type Statvfs = dyn Fn(&Path) -> io::Result<FsSize> + Send + Sync;
type ReadDevices = Box<dyn FnMut() -> Devices + Send>;

/// Handle of the worker. When it is dropped, the thread exits as soon as its current call returns.
pub struct BlockingWorker {
    statvfs: Arc<Statvfs>,
    shared: Arc<Shared>,
    /// Whether a thread runs that is not abandoned.
    started: bool,
}

struct Shared {
    state: Mutex<State>,
    /// Notified when jobs are enqueued and when the handle is dropped.
    enqueued: Condvar,
    /// Notified when a job is finished.
    finished: Condvar,
}

struct State {
    /// Incremented when a thread is abandoned; a thread of an earlier generation exits.
    generation: u64,
    round: u64,
    mount_points: Arc<[Arc<MountPoint>]>,
    /// Time between two rounds; `None` if it is not known.
    interval: Option<Duration>,
    /// The next job is the last item.
    pending: Vec<Job>,
    in_flight: Option<(Job, Instant)>,
    /// Last result of each mount point and when it arrived.
    file_systems: BTreeMap<Arc<MountPoint>, (Instant, StatvfsResult)>,
    devices: Option<DevicesResult>,
    /// Jobs in which an abandoned thread is stuck.
    stuck: Vec<Job>,
    /// `None` while a thread calls it.
    read_devices: Option<ReadDevices>,
    collectors: Vec<ScheduledCollector>,
    stopped: bool,
}

struct DevicesResult {
    round: u64,
    at: Instant,
    devices: Arc<Devices>,
}

#[derive(Debug, Clone, PartialEq)]
enum Job {
    Statvfs(Arc<MountPoint>),
    Sysfs,
    /// Index of the collector.
    Collector(usize),
}

impl BlockingWorker {
    pub fn new(
        statvfs: impl Fn(&Path) -> io::Result<FsSize> + Send + Sync + 'static,
        read_devices: impl FnMut() -> Devices + Send + 'static,
        collectors: Vec<ScheduledCollector>,
    ) -> Self {
        let state = State {
            generation: 0,
            round: 0,
            mount_points: Arc::default(),
            interval: None,
            pending: Vec::new(),
            in_flight: None,
            file_systems: BTreeMap::new(),
            devices: None,
            stuck: Vec::new(),
            read_devices: Some(Box::new(read_devices)),
            collectors,
            stopped: false,
        };
        let shared =
            Shared { state: Mutex::new(state), enqueued: Condvar::new(), finished: Condvar::new() };
        Self { statvfs: Arc::new(statvfs), shared: Arc::new(shared), started: false }
    }

    /// Starts to query sysfs, all mount points and the collectors that are due. `interval` is the time until the next round, if that is known.
    pub fn start_round(
        &mut self,
        mount_points: &Arc<[Arc<MountPoint>]>,
        interval: Option<Duration>,
    ) {
        self.replace_if_stuck();
        let mut state = lock(&self.shared.state);
        state.interval = interval;
        if !Arc::ptr_eq(&state.mount_points, mount_points) {
            state.mount_points = mount_points.clone();
            state.forget_unmounted();
        }
        state.enqueue_all();
        drop(state);
        if self.started {
            self.shared.enqueued.notify_one();
        } else {
            self.started = self.start_thread();
        }
    }

    /// Waits for the filesystems for up to `timeout`. Returns the results of this round, or of an earlier one for those that are
    /// slow or wait behind a stuck one, which is a failed one.
    pub fn file_systems(&self, timeout: Duration) -> (Vec<FileSystem>, Vec<FailedFileSystem>) {
        let state = self.wait_while(timeout, State::has_unfinished_statvfs);
        let (mut each, mut failed) = (Vec::new(), Vec::new());
        for point in state.mount_points.iter() {
            match state.statvfs_result(point) {
                Some(Ok(file_system)) => each.push(file_system),
                Some(Err(error)) => failed.push(error),
                None => {}
            }
        }
        (each, failed)
    }

    /// Waits for sysfs for up to `timeout`. Returns the result of this round, or else of an earlier one; `None` if that is too old.
    pub fn devices(&self, timeout: Duration) -> Option<Arc<Devices>> {
        let is_unfinished = |state: &State| {
            state.devices.as_ref().is_none_or(|result| result.round < state.round)
                && !state.stuck.contains(&Job::Sysfs)
        };
        let state = self.wait_while(timeout, is_unfinished);
        let result = state.devices.as_ref()?;
        state.is_fresh(result.at).then(|| result.devices.clone())
    }

    /// Waits for the collectors of every sample, or for all that are due, for up to `timeout`. Returns the last result of each.
    pub fn collector_results(&self, timeout: Duration, wait_for_all: bool) -> Vec<CollectorResult> {
        let state = self.wait_while(timeout, |state| state.has_unfinished_collector(wait_for_all));
        let (now, interval) = (Instant::now(), state.interval.unwrap_or_default());
        let result = |(index, collector): (usize, &ScheduledCollector)| {
            collector.result(now, interval, state.stuck.contains(&Job::Collector(index)))
        };
        state.collectors.iter().enumerate().filter_map(result).collect()
    }

    /// Mount points of filesystems in which statvfs is stuck.
    pub fn stuck_mount_points(&self) -> Vec<Arc<str>> {
        let state = lock(&self.shared.state);
        let name = |job: &Job| match job {
            Job::Statvfs(point) => Some(point.name()),
            Job::Sysfs | Job::Collector(_) => None,
        };
        state.stuck.iter().filter_map(name).collect()
    }

    fn wait_while(
        &self,
        timeout: Duration,
        is_unfinished: impl Fn(&State) -> bool,
    ) -> MutexGuard<'_, State> {
        let state = lock(&self.shared.state);
        let waited =
            self.shared.finished.wait_timeout_while(state, timeout, |state| is_unfinished(state));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn replace_if_stuck(&mut self) {
        let mut state = lock(&self.shared.state);
        let is_stuck = |(_, since): &mut (Job, Instant)| since.elapsed() >= STUCK_TIMEOUT;
        let Some((job, _)) = state.in_flight.take_if(is_stuck) else { return };
        state.generation += 1;
        state.stuck.push(job.clone());
        self.started = false;
        // The sampler logs which collectors do not respond.
        if let Job::Statvfs(point) = job {
            state.file_systems.remove(&point);
            let stuck_mounts = state.stuck_mounts();
            drop(state);
            let point = escape_for_log(point.mount_point(), EXCERPT_CHARS);
            log::warn!(
                "filesystem {point} is not responding; its size is unknown until it recovers"
            );
            if stuck_mounts == MAX_STUCK_MOUNTS {
                log::warn!(
                    "{MAX_STUCK_MOUNTS} filesystems are not responding; querying local disks only"
                );
            }
        }
    }

    fn start_thread(&self) -> bool {
        let generation = lock(&self.shared.state).generation;
        let (shared, statvfs) = (self.shared.clone(), self.statvfs.clone());
        // Never joined: it may be stuck.
        let work = move || worker_loop(&shared, generation, &*statvfs);
        let started = spawn_detached("blocking-io", STACK_BYTES, work);
        if let Err(error) = &started {
            log::warn!("start thread blocking-io: {}", reason(error));
        }
        started.is_ok()
    }
}

impl Drop for BlockingWorker {
    fn drop(&mut self) {
        lock(&self.shared.state).stopped = true;
        self.shared.enqueued.notify_all();
    }
}

impl State {
    fn enqueue_all(&mut self) {
        self.round += 1;
        let now = Instant::now();
        self.collectors.iter_mut().for_each(|collector| collector.start_round(now));
        self.pending = self.jobs();
    }

    /// All jobs but those in flight or stuck; the next one is the last item. Local disks come first, so that they do not wait for
    /// sysfs and network filesystems. Collectors that need not be part of every sample come last.
    fn jobs(&self) -> Vec<Job> {
        let local_only = self.stuck_mounts() >= MAX_STUCK_MOUNTS;
        let of_kind = |network: bool| {
            let points = self.mount_points.iter().rev();
            points.filter(move |point| point.is_network_fs() == network).cloned().map(Job::Statvfs)
        };
        let due = |in_every_sample: bool| {
            let collectors = self.collectors.iter().enumerate().rev();
            collectors
                .filter(move |(_, each)| {
                    each.is_due() && each.is_in_every_sample() == in_every_sample
                })
                .map(|(index, _)| Job::Collector(index))
        };
        let network = of_kind(true).filter(|_| !local_only);
        let jobs = due(false).chain(network).chain([Job::Sysfs]).chain(due(true));
        let jobs = jobs.chain(of_kind(false));
        jobs.filter(|job| !self.stuck.contains(job) && !self.is_in_flight(job)).collect()
    }

    fn is_in_flight(&self, job: &Job) -> bool {
        self.in_flight.as_ref().is_some_and(|(in_flight, _)| in_flight == job)
    }

    fn unfinished(&self) -> impl Iterator<Item = &Job> {
        self.pending.iter().chain(self.in_flight.iter().map(|(job, _)| job))
    }

    fn has_unfinished_statvfs(&self) -> bool {
        self.unfinished().any(|job| matches!(job, Job::Statvfs(_)))
    }

    fn has_unfinished_collector(&self, of_any_pace: bool) -> bool {
        let is_awaited =
            |collector: &ScheduledCollector| of_any_pace || collector.is_in_every_sample();
        self.unfinished().any(|job| match job {
            Job::Collector(index) => self.collectors.get(*index).is_some_and(is_awaited),
            Job::Statvfs(_) | Job::Sysfs => false,
        })
    }

    /// A slow mount, or one that waits behind a stuck one, keeps its last value for up to 3 s past the interval, so it does not
    /// flap.
    fn is_fresh(&self, at: Instant) -> bool {
        at.elapsed() <= self.interval.unwrap_or_default() + STUCK_TIMEOUT
    }

    fn forget_unmounted(&mut self) {
        let mut known = std::mem::take(&mut self.file_systems);
        let mounted = self.mount_points.iter();
        self.file_systems = mounted.filter_map(|point| known.remove_entry(point)).collect();
    }

    fn stuck_mounts(&self) -> usize {
        self.stuck.iter().filter(|job| matches!(job, Job::Statvfs(_))).count()
    }
}

/// Runs jobs until the handle is dropped or the thread is abandoned.
fn worker_loop(shared: &Shared, generation: u64, statvfs: &Statvfs) {
    let mut state = lock(&shared.state);
    while !state.stopped && state.generation == generation {
        let Some(job) = state.pending.pop() else {
            state = shared.enqueued.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        state.in_flight = Some((job.clone(), Instant::now()));
        state = match &job {
            Job::Statvfs(point) => run_statvfs(shared, state, generation, point, statvfs),
            Job::Sysfs => run_sysfs(shared, state),
            Job::Collector(index) => run_collector(shared, state, *index),
        };
        if state.generation == generation {
            state.in_flight = None;
        } else {
            // This thread has been abandoned. The next round repeats the job.
            state.stuck.retain(|stuck| *stuck != job);
        }
        shared.finished.notify_all();
    }
}

/// Stores the result even if the thread has been abandoned: a machine with hundreds of sensors may take seconds.
fn run_sysfs<'a>(shared: &'a Shared, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    let round = state.round;
    let Some(mut read_devices) = state.read_devices.take() else { return state };
    drop(state);
    let devices = Arc::new(read_devices());
    let mut state = lock(&shared.state);
    state.read_devices = Some(read_devices);
    state.devices = Some(DevicesResult { round, at: Instant::now(), devices });
    state
}

/// Stores the result even if the thread has been abandoned, as [`run_sysfs`] does.
fn run_collector<'a>(
    shared: &'a Shared,
    mut state: MutexGuard<'a, State>,
    index: usize,
) -> MutexGuard<'a, State> {
    let collector = state.collectors.get_mut(index);
    let Some(mut task) = collector.and_then(|each| each.take_task(Instant::now())) else {
        return state;
    };
    drop(state);
    let measured = task.run();
    let mut state = lock(&shared.state);
    if let Some(collector) = state.collectors.get_mut(index) {
        collector.finish(task, measured, Instant::now());
    }
    state
}

#[cfg(test)]
mod tests;
