//! What is known of the GPUs now, shared: the keeper writes it, the sampler asks for it ahead of each tick and
//! takes what is there at the tick. Values that have become old are not there any more.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::limits;
use crate::model::gpu::{Gpu, Gpus, NvidiaDriver, Values};
use crate::sys::EventFd;
use crate::util::sync::lock;

/// Between the keeper and the sampler.
pub struct GpuState {
    state: Mutex<State>,
    /// Rings when the sampler wants new values, or the settings have changed.
    asked: EventFd,
    /// Rings when it is known for the first time how it stands with the GPUs.
    arrived: EventFd,
    known: AtomicBool,
    /// There are GPUs to be asked.
    wanted: AtomicBool,
}

struct State {
    nvidia: Option<NvidiaDriver>,
    gpus: Dated,
    /// Indices that are NVIDIA's; AMD's come after.
    places: usize,
    amd: Dated,
    /// How long the last answer took.
    took: Duration,
}

/// GPUs, and when their values were asked for.
struct Dated {
    gpus: Vec<Gpu>,
    at: Instant,
}

impl GpuState {
    /// Nothing is known yet.
    pub fn new() -> io::Result<Self> {
        let none = || Dated { gpus: Vec::new(), at: Instant::now() };
        let state = State {
            nvidia: Some(NvidiaDriver::default()),
            gpus: none(),
            places: 0,
            amd: none(),
            took: Duration::ZERO,
        };
        Ok(Self {
            state: Mutex::new(state),
            asked: EventFd::new()?,
            arrived: EventFd::new()?,
            known: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
        })
    }

    /// The sampler's question, which the keeper sees to. Also wakes it to look at the settings.
    pub fn ask(&self) {
        self.asked.notify();
    }

    /// Whether asking makes sense: there are GPUs.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// How long before a tick to ask, so that the answer is there and still young.
    pub fn lead(&self, config: &Config) -> Duration {
        let most = config.interval.min(config.gpu.timeout).mul_f64(0.9);
        (lock(&self.state).took * 2).clamp(limits::GPU_LEAD.min(most), most)
    }

    /// Readable when it is known for the first time how it stands with the GPUs, until [`Board::is_known`].
    pub fn arrived(&self) -> BorrowedFd<'_> {
        self.arrived.as_fd()
    }

    /// Whether it is known how it stands with the GPUs.
    pub fn is_known(&self) -> bool {
        self.arrived.reset();
        self.known.load(Ordering::Acquire)
    }

    /// What is known at `now`. Values may be as old as half an interval more than one, and a slow driver's as
    /// much older as it takes, so that one late answer is no gap; and never older than the time in which a
    /// driver must answer.
    pub fn gpus(&self, config: &Config, now: Instant) -> Arc<Gpus> {
        let state = lock(&self.state);
        let oldest = (config.interval * 3 / 2 + state.took * 2).min(config.gpu.timeout);
        let amd = (0..).zip(state.amd.at(now, oldest));
        let amd = amd.map(|(at, gpu)| Gpu { index: state.places as u32 + at, ..gpu });
        let each = state.gpus.at(now, oldest).chain(amd).collect();
        Arc::new(Gpus { nvidia: state.nvidia.clone(), each })
    }

    /// How long the last answer took.
    pub fn took(&self) -> Duration {
        lock(&self.state).took
    }

    pub(super) fn asked(&self) -> &EventFd {
        &self.asked
    }

    pub(super) fn set_wanted(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    /// NVIDIA's driver, if anybody asks it, and its GPUs, with values that were asked for at `at` and `took`
    /// so long. They have the first indices, so many as `places`.
    pub(super) fn put_nvidia(
        &self,
        nvidia: Option<NvidiaDriver>,
        gpus: Vec<Gpu>,
        places: usize,
        at: Instant,
        took: Duration,
    ) {
        let mut state = lock(&self.state);
        (state.nvidia, state.places, state.took) = (nvidia, places, took);
        state.gpus = Dated { gpus, at };
    }

    /// AMD's GPUs, counted from 0.
    pub(super) fn put_amd(&self, gpus: Vec<Gpu>, at: Instant) {
        lock(&self.state).amd = Dated { gpus, at };
    }

    /// From now on it is known how it stands.
    pub(super) fn set_known(&self) {
        if !self.known.swap(true, Ordering::AcqRel) {
            self.arrived.notify();
        }
    }
}

impl Dated {
    /// The GPUs, without values that are older than `oldest`.
    fn at(&self, now: Instant, oldest: Duration) -> impl Iterator<Item = Gpu> {
        let old = now.saturating_duration_since(self.at) > oldest;
        self.gpus.iter().map(move |gpu| match old {
            true => Gpu { values: Values::default(), ..gpu.clone() },
            false => gpu.clone(),
        })
    }
}
