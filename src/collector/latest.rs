//! The current sample, shared: the sampler publishes it, every connection waits for the next one.
//!
//! Each sample has a bell (an eventfd) that rings when the next one replaces it, so a connection sleeps
//! in one poll(2) on its socket and its sample's bell and is woken exactly then. Two bells take turns:
//! the one that rang is cleared when its turn comes again, an interval later.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::http::frame;
use crate::model::gpu::Gpus;
use crate::model::primary_gpu::Primary;
use crate::model::{RawSample, Snapshot};
use crate::sys::EventFd;
use crate::telemetry::messages;
use crate::util::sync::lock;

/// What is known of the machine at one tick, and the messages made of it, each made once.
pub struct Sample {
    tick: u64,
    /// When the machine was looked at.
    at: Instant,
    /// The counters.
    pub reading: RawSample,
    /// What they mean.
    pub snapshot: Snapshot,
    plain: OnceLock<Box<[u8]>>,
    detailed: OnceLock<Box<[u8]>>,
}

impl Sample {
    /// Which tick it belongs to. A sample of the same tick only refines an earlier one.
    pub fn tick(&self) -> u64 {
        self.tick
    }

    /// How old it is.
    pub fn age(&self) -> Duration {
        self.at.elapsed()
    }

    /// `usage_update` as a frame, showing the GPU that `primary` names when the message is made.
    pub fn update_frame(&self, primary: impl FnOnce() -> Primary, detailed: bool) -> &[u8] {
        let make = || frame::text(&messages::usage_update(&self.snapshot, primary(), detailed));
        self.update(detailed).get_or_init(make)
    }

    fn update(&self, detailed: bool) -> &OnceLock<Box<[u8]>> {
        if detailed { &self.detailed } else { &self.plain }
    }
}

/// Where samples are published and found.
pub struct LatestSample {
    current: Mutex<Arc<Sample>>,
    bells: [EventFd; 2],
}

impl LatestSample {
    /// Starts with a first look at the machine.
    pub fn new(first: RawSample) -> io::Result<Self> {
        let snapshot = Snapshot::derive(None, &first);
        let sample = sample(0, Instant::now(), first, snapshot);
        Ok(Self { current: Mutex::new(sample), bells: [EventFd::new()?, EventFd::new()?] })
    }

    /// The newest sample.
    pub fn current(&self) -> Arc<Sample> {
        lock(&self.current).clone()
    }

    /// What becomes readable when a sample of a later tick is there.
    pub fn bell(&self, tick: u64) -> BorrowedFd<'_> {
        self.bells[usize::from(tick % 2 == 1)].as_fd()
    }

    /// A new tick: everybody is woken. What they had of the tick before is made of this one first: of thousands, all would
    /// wait for the one that makes it, whose stack is small.
    pub fn publish(&self, reading: RawSample, primary: Primary) {
        let before = self.current();
        let tick = before.tick + 1;
        // Nobody waits for this bell now: it rang a whole tick ago.
        self.bells[usize::from(tick % 2 == 1)].reset();
        let next = successor(&before, tick, reading);
        for detailed in [false, true] {
            if before.update(detailed).get().is_some() {
                next.update_frame(|| primary, detailed);
            }
        }
        *lock(&self.current) = next;
        self.bells[usize::from(before.tick % 2 == 1)].notify();
    }

    /// A better reading of the same tick: for those who come from now on.
    pub fn refine(&self, reading: RawSample) {
        let before = self.current();
        let next = successor(&before, before.tick, reading);
        *lock(&self.current) = next;
    }

    /// The same sample with what is now known of the GPUs.
    pub fn refine_gpus(&self, gpus: Arc<Gpus>) {
        let before = self.current();
        let reading = RawSample { gpus: gpus.clone(), ..before.reading.clone() };
        let snapshot = Snapshot { gpus, ..before.snapshot.clone() };
        *lock(&self.current) = sample(before.tick, before.at, reading, snapshot);
    }

    /// Wakes everybody for the last time. Nothing may be published afterwards.
    pub fn close(&self) {
        self.bells.iter().for_each(EventFd::notify);
    }
}

fn successor(before: &Sample, tick: u64, reading: RawSample) -> Arc<Sample> {
    let snapshot = Snapshot::derive(Some((&before.reading, &before.snapshot)), &reading);
    sample(tick, Instant::now(), reading, snapshot)
}

fn sample(tick: u64, at: Instant, reading: RawSample, snapshot: Snapshot) -> Arc<Sample> {
    let (plain, detailed) = (OnceLock::new(), OnceLock::new());
    Arc::new(Sample { tick, at, reading, snapshot, plain, detailed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::wait_readable;

    const PRIMARY: Primary = Primary::Index(0);

    fn rung(feed: &LatestSample, tick: u64) -> bool {
        wait_readable([feed.bell(tick)], Some(Duration::ZERO)) == [true]
    }

    #[test]
    fn a_samples_bell_rings_when_the_next_tick_replaces_it() {
        let feed = LatestSample::new(RawSample::default()).expect("a feed");
        assert!(!rung(&feed, 0));
        feed.refine(RawSample::default());
        assert!(!rung(&feed, 0), "the same tick wakes nobody");
        for tick in 0..5 {
            assert_eq!(feed.current().tick(), tick);
            feed.publish(RawSample::default(), PRIMARY);
            assert!(rung(&feed, tick));
            assert!(!rung(&feed, tick + 1));
        }
        feed.close();
        assert!(rung(&feed, 4) && rung(&feed, 5));
    }

    #[test]
    fn a_message_is_made_once() {
        let feed = LatestSample::new(RawSample::default()).expect("a feed");
        let sample = feed.current();
        let primary = || PRIMARY;
        assert!(std::ptr::eq(
            sample.update_frame(primary, false),
            sample.update_frame(primary, false)
        ));
        assert_ne!(sample.update_frame(primary, false), sample.update_frame(primary, true));
    }

    #[test]
    fn a_message_that_somebody_had_is_made_ahead() {
        let feed = LatestSample::new(RawSample::default()).expect("a feed");
        let made = || [false, true].map(|each| feed.current().update(each).get().is_some());
        feed.publish(RawSample::default(), PRIMARY);
        assert_eq!(made(), [false, false], "nobody asks");
        feed.current().update_frame(|| PRIMARY, true);
        feed.publish(RawSample::default(), PRIMARY);
        assert_eq!(made(), [false, true]);
    }
}
