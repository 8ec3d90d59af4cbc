//! Small things that threads share: a lock that cannot poison, the stop that wakes everybody, a bucket
//! that bounds how often something happens.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::sys::EventFd;

/// Locks. A panic ends the process (`panic = "abort"`), so there is no poison to handle.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells every thread to end. Once rung it stays rung, so nobody can miss it.
pub struct Shutdown {
    stopped: AtomicBool,
    event: EventFd,
}

impl Shutdown {
    /// Not yet rung.
    pub fn new() -> io::Result<Self> {
        Ok(Self { stopped: AtomicBool::new(false), event: EventFd::new()? })
    }

    /// From now on everything ends.
    pub fn trigger(&self) {
        self.stopped.store(true, Ordering::Release);
        self.event.notify();
    }

    /// Has it been rung?
    pub fn is_triggered(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Waits until it is rung, `timeout` at most; says whether it was.
    pub fn wait(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        while !self.is_triggered() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            crate::sys::wait_readable([self.as_fd()], Some(left));
        }
        true
    }
}

impl AsFd for Shutdown {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// A token bucket: `burst` at once, then one a second.
#[derive(Debug)]
pub struct TokenBucket {
    burst: u32,
    left: u32,
    refilled: Option<Instant>,
}

impl TokenBucket {
    /// A full one.
    pub const fn new(burst: u32) -> Self {
        Self { burst, left: burst, refilled: None }
    }

    /// Takes one token, if there is one at `now`.
    pub fn take(&mut self, now: Instant) -> bool {
        let since = self.refilled.map_or(0, |at| now.saturating_duration_since(at).as_secs());
        if since > 0 || self.refilled.is_none() {
            let since = u32::try_from(since).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(since).min(self.burst);
            self.refilled = Some(now);
        }
        let taken = self.left > 0;
        self.left = self.left.saturating_sub(1);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_a_burst_and_then_one_a_second() {
        let mut bucket = TokenBucket::new(3);
        let start = Instant::now();
        let taken = |bucket: &mut TokenBucket, seconds: f64, times: u32| {
            (0..times).filter(|_| bucket.take(start + Duration::from_secs_f64(seconds))).count()
        };
        assert_eq!(taken(&mut bucket, 0.0, 10), 3);
        assert_eq!(taken(&mut bucket, 0.9, 10), 0);
        assert_eq!(taken(&mut bucket, 1.0, 10), 1);
        assert_eq!(taken(&mut bucket, 3.5, 10), 2);
        assert_eq!(taken(&mut bucket, 1e6, 10), 3, "never more than the burst");
    }

    #[test]
    fn a_stop_wakes_who_waits_and_stays_rung() {
        let stop = Shutdown::new().expect("an event");
        assert!(!stop.wait(Duration::from_millis(1)));
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| stop.wait(Duration::from_secs(60)));
            stop.trigger();
            assert!(waiter.join().expect("joined"));
        });
        assert!(stop.wait(Duration::ZERO) && stop.is_triggered());
    }
}
