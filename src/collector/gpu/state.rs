//! Latest known state of the GPUs, shared between the probe supervisor, which writes it, and the sampler, which requests a
//! poll before each tick and reads the result at the tick. Values that are too old are omitted.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::collector::gpu::kernel_xids::KernelXids;
use crate::config::Config;
use crate::model::gpu::{Gpu, Gpus, NvidiaDriver, Values};
use crate::model::pci_address::PciAddress;
use crate::sys::EventFd;
use crate::util::sync::lock;

/// Minimum time between the poll and the tick. A driver with persistence mode replies within milliseconds.
const MIN_PREFETCH_LEAD: Duration = Duration::from_millis(100);

pub struct GpuState {
    results: Mutex<Results>,
    /// Notified when the sampler wants new values and when the configuration was reloaded.
    poll_requested: EventFd,
    first_result: Mutex<FirstResult>,
    /// Readable while [`FirstResult::Available`].
    first_result_available: EventFd,
    poll_needed: AtomicBool,
    kernel_xids: Mutex<KernelXids>,
}

/// The event is notified and reset under the lock of this state, so that the two never differ: a notification that came after
/// its reset would be readable for ever, and every wait for it would return at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FirstResult {
    Awaited,
    Available,
    Taken,
}

struct Results {
    driver: Option<NvidiaDriver>,
    nvidia: Timestamped,
    /// Number of indices used by NVIDIA GPUs. The others follow.
    nvidia_count: usize,
    /// AMD and Intel GPUs.
    drm: Timestamped,
    /// Time from the last poll to its reply.
    poll_duration: Duration,
}

struct Timestamped {
    gpus: Vec<Gpu>,
    /// When their values were requested.
    at: Instant,
}

impl GpuState {
    pub fn new() -> io::Result<Self> {
        let none = || Timestamped { gpus: Vec::new(), at: Instant::now() };
        let results = Results {
            driver: Some(NvidiaDriver::default()),
            nvidia: none(),
            nvidia_count: 0,
            drm: none(),
            poll_duration: Duration::ZERO,
        };
        Ok(Self {
            results: Mutex::new(results),
            poll_requested: EventFd::new()?,
            first_result: Mutex::new(FirstResult::Awaited),
            first_result_available: EventFd::new()?,
            poll_needed: AtomicBool::new(false),
            kernel_xids: Mutex::default(),
        })
    }

    /// Makes the supervisor poll the GPUs and check for changed settings.
    pub fn request_poll(&self) {
        self.poll_requested.notify();
    }

    /// Whether there are GPUs to poll.
    pub fn is_poll_needed(&self) -> bool {
        self.poll_needed.load(Ordering::Relaxed)
    }

    /// How long before a tick to poll, so that the reply arrives in time and is recent.
    pub fn prefetch_lead(&self, config: &Config) -> Duration {
        let max = config.interval.min(config.gpu.timeout).mul_f64(0.9);
        (self.poll_duration() * 2).clamp(MIN_PREFETCH_LEAD.min(max), max)
    }

    /// Readable from the first result on, until [`Self::take_first_result`] is called.
    pub fn first_result(&self) -> BorrowedFd<'_> {
        self.first_result_available.as_fd()
    }

    /// Whether the state of the GPUs is known. Makes [`Self::first_result`] unreadable.
    pub fn take_first_result(&self) -> bool {
        let mut state = lock(&self.first_result);
        if *state == FirstResult::Available {
            *state = FirstResult::Taken;
            self.first_result_available.reset();
        }
        *state == FirstResult::Taken
    }

    /// All GPUs at `now`. Values are kept for 1.5 intervals plus twice the poll duration, so that one late reply of a slow
    /// driver causes no gap, but not longer than `gpu.timeout`.
    pub fn gpus(&self, config: &Config, now: Instant) -> Arc<Gpus> {
        let results = lock(&self.results);
        let max_age = (config.interval * 3 / 2 + results.poll_duration * 2).min(config.gpu.timeout);
        let drm = (0..).zip(results.drm.at(now, max_age));
        let drm = drm.map(|(at, gpu)| Gpu { index: results.nvidia_count as u32 + at, ..gpu });
        let mut each: Vec<Gpu> = results.nvidia.at(now, max_age).chain(drm).collect();
        let xids = lock(&self.kernel_xids);
        each.iter_mut().for_each(|gpu| xids.merge_into(gpu));
        Arc::new(Gpus { nvidia: results.driver.clone(), each })
    }

    /// Whether the NVIDIA driver has returned values.
    pub fn has_nvidia_values(&self) -> bool {
        lock(&self.results).nvidia.gpus.iter().any(|gpu| gpu.values != Values::default())
    }

    /// When the values of the NVIDIA GPUs were requested.
    pub fn nvidia_polled_at(&self) -> Instant {
        lock(&self.results).nvidia.at
    }

    /// Counts an XID of the kernel log, which has those that NVML does not report.
    pub fn count_kernel_xid(&self, gpu: PciAddress, code: u32, unix_seconds: u64) {
        lock(&self.kernel_xids).count(gpu, code, unix_seconds);
    }

    /// Time from the last poll to its reply.
    pub fn poll_duration(&self) -> Duration {
        lock(&self.results).poll_duration
    }

    pub(super) fn poll_requested(&self) -> &EventFd {
        &self.poll_requested
    }

    pub(super) fn set_poll_needed(&self, needed: bool) {
        self.poll_needed.store(needed, Ordering::Relaxed);
    }

    /// Replaces the NVIDIA GPUs, whose values were requested at `at`. They use the first `count` indices. `driver` is
    /// `None` if GPU collection is disabled.
    pub(super) fn set_nvidia(
        &self,
        driver: Option<NvidiaDriver>,
        gpus: Vec<Gpu>,
        count: usize,
        at: Instant,
        poll_duration: Duration,
    ) {
        let mut results = lock(&self.results);
        (results.driver, results.nvidia_count) = (driver, count);
        results.poll_duration = poll_duration;
        results.nvidia = Timestamped { gpus, at };
    }

    /// Replaces the AMD and Intel GPUs, whose indices count from 0.
    pub(super) fn set_drm(&self, gpus: Vec<Gpu>, at: Instant) {
        lock(&self.results).drm = Timestamped { gpus, at };
    }

    /// Marks the state as known.
    pub(super) fn set_has_result(&self) {
        let mut state = lock(&self.first_result);
        if *state == FirstResult::Awaited {
            *state = FirstResult::Available;
            self.first_result_available.notify();
        }
    }
}

impl Timestamped {
    /// The GPUs, without their values if those are older than `max_age`.
    fn at(&self, now: Instant, max_age: Duration) -> impl Iterator<Item = Gpu> {
        let is_stale = now.saturating_duration_since(self.at) > max_age;
        self.gpus.iter().map(move |gpu| match is_stale {
            true => Gpu { values: Values::default(), ..gpu.clone() },
            false => gpu.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::wait_readable;

    fn is_readable(state: &GpuState) -> bool {
        wait_readable([state.first_result()], Some(Duration::ZERO)) == [true]
    }

    #[test]
    fn first_result_is_readable_until_taken_and_never_again() {
        let state = GpuState::new().expect("eventfds");
        assert!(!state.take_first_result() && !is_readable(&state));
        state.set_has_result();
        assert!(is_readable(&state));
        assert!(state.take_first_result() && !is_readable(&state));
        state.set_has_result();
        assert!(state.take_first_result() && !is_readable(&state));
    }

    /// The sampler stops taking once it has the result. An event that is notified later would wake it for ever.
    #[test]
    fn event_is_unreadable_when_result_is_taken_while_it_is_set() {
        for _ in 0..2000 {
            let state = GpuState::new().expect("eventfds");
            std::thread::scope(|scope| {
                scope.spawn(|| state.set_has_result());
                while !state.take_first_result() {
                    std::hint::spin_loop();
                }
            });
            assert!(!is_readable(&state));
        }
    }
}
