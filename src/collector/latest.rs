//! The latest sample: the sampler publishes it, connections and upstream clients read it and wait for the next one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::model::gpu::Gpus;
use crate::model::{RawSample, Snapshot};
use crate::sys::EventFd;
use crate::util::render_cache::RenderCache;
use crate::util::sync::lock;

/// The machine at one tick of the sampler.
pub struct PublishedSample {
    tick: u64,
    collected_at: Instant,
    pub raw: RawSample,
    pub snapshot: Snapshot,
    /// Bytes that responses share.
    pub rendered: RenderCache,
}

impl PublishedSample {
    /// Number of the sampling interval since the start. A sample with the same tick as an earlier one replaces it.
    pub fn tick(&self) -> u64 {
        self.tick
    }

    pub fn age(&self) -> Duration {
        self.collected_at.elapsed()
    }
}

/// Holds the latest sample and wakes the threads that wait for the next one.
///
/// A thread polls its socket together with [`changed_fd`](Self::changed_fd), so a condition variable would not do. One eventfd
/// is readable for all threads that poll it, but it must be reset before the next wait, when some threads may not have woken
/// yet. Therefore two eventfds alternate: each is reset one interval after it was notified.
pub struct LatestSample {
    current: Mutex<Arc<PublishedSample>>,
    changed: [EventFd; 2],
}

impl LatestSample {
    pub fn new(first: RawSample) -> io::Result<Self> {
        let snapshot = Snapshot::derive(None, &first);
        let current = Mutex::new(published(0, Instant::now(), first, snapshot));
        Ok(Self { current, changed: [EventFd::new()?, EventFd::new()?] })
    }

    pub fn current(&self) -> Arc<PublishedSample> {
        lock(&self.current).clone()
    }

    /// Becomes readable when a sample with a later tick than `tick`, the current one, is published.
    pub fn changed_fd(&self, tick: u64) -> BorrowedFd<'_> {
        self.changed(tick).as_fd()
    }

    /// Publishes the sample of the next tick and wakes all waiting threads.
    pub fn publish(&self, raw: RawSample) {
        let previous = self.current();
        let tick = previous.tick + 1;
        // It was notified a whole interval ago, so no thread waits for it.
        self.changed(tick).reset();
        self.store(successor(&previous, tick, raw));
        self.changed(previous.tick).notify();
    }

    /// Replaces the current sample with a better one of the same tick. Wakes no thread.
    pub fn replace_current(&self, raw: RawSample) {
        let previous = self.current();
        self.store(successor(&previous, previous.tick, raw));
    }

    /// Replaces only the GPUs of the current sample. Wakes no thread.
    pub fn replace_gpus(&self, gpus: Arc<Gpus>) {
        let previous = self.current();
        let raw = RawSample { gpus: gpus.clone(), ..previous.raw.clone() };
        let snapshot = Snapshot { gpus, ..previous.snapshot.clone() };
        self.store(published(previous.tick, previous.collected_at, raw, snapshot));
    }

    fn changed(&self, tick: u64) -> &EventFd {
        let [even, odd] = &self.changed;
        if tick.is_multiple_of(2) { even } else { odd }
    }

    fn store(&self, sample: Arc<PublishedSample>) {
        *lock(&self.current) = sample;
    }
}

fn successor(previous: &PublishedSample, tick: u64, raw: RawSample) -> Arc<PublishedSample> {
    let snapshot = Snapshot::derive(Some((&previous.raw, &previous.snapshot)), &raw);
    published(tick, Instant::now(), raw, snapshot)
}

fn published(
    tick: u64,
    collected_at: Instant,
    raw: RawSample,
    snapshot: Snapshot,
) -> Arc<PublishedSample> {
    let rendered = RenderCache::default();
    Arc::new(PublishedSample { tick, collected_at, raw, snapshot, rendered })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::wait_readable;
    use crate::util::render_cache::Rendering;

    fn changed(latest: &LatestSample, tick: u64) -> bool {
        wait_readable([latest.changed_fd(tick)], Some(Duration::ZERO)) == [true]
    }

    #[test]
    fn notifies_waiters_when_next_tick_is_published() {
        let latest = LatestSample::new(RawSample::default()).expect("create eventfds");
        assert!(!changed(&latest, 0));
        latest.replace_current(RawSample::default());
        assert!(!changed(&latest, 0), "replaced within the same tick");
        for tick in 0..5 {
            assert_eq!(latest.current().tick(), tick);
            latest.publish(RawSample::default());
            assert!(changed(&latest, tick));
            assert!(!changed(&latest, tick + 1));
        }
    }

    #[test]
    fn replaced_sample_is_rendered_again() {
        let latest = LatestSample::new(RawSample::default()).expect("create eventfds");
        let render = |text: &[u8]| {
            let sample = latest.current();
            sample.rendered.get_or_render(Rendering::Update, || text.to_vec()).to_vec()
        };
        assert_eq!((render(b"1"), render(b"2")), (b"1".to_vec(), b"1".to_vec()));
        latest.replace_current(RawSample::default());
        assert_eq!(render(b"3"), b"3");
        latest.publish(RawSample::default());
        assert_eq!(render(b"4"), b"4");
    }
}
