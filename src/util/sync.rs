//! Synchronization: a lock without poisoning, the shutdown signal for all threads, a token bucket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::sys::EventFd;

/// Locks a mutex. A panic aborts the process (`panic = "abort"`), so no mutex is ever poisoned.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Signals all threads to exit. It stays triggered, so no thread can miss it: a thread polls its file descriptor together with
/// its sockets, or checks [`Shutdown::is_triggered`].
pub struct Shutdown {
    triggered: AtomicBool,
    event: EventFd,
}

impl Shutdown {
    pub fn new() -> io::Result<Self> {
        Ok(Self { triggered: AtomicBool::new(false), event: EventFd::new()? })
    }

    /// Sets the flag before the event. A thread that the event wakes must find the flag set; in the other order it could see
    /// an unset flag and wait again.
    pub fn trigger(&self) {
        self.triggered.store(true, Ordering::Release);
        self.event.notify();
    }

    pub fn is_triggered(&self) -> bool {
        self.triggered.load(Ordering::Acquire)
    }

    /// Waits until it is triggered, at most `timeout`. Returns whether it is triggered.
    pub fn wait(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        while !self.is_triggered() {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return false;
            }
            crate::sys::wait_readable([self.as_fd()], Some(remaining));
        }
        true
    }
}

impl AsFd for Shutdown {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// A token bucket: `burst` tokens at once, then one per second.
#[derive(Debug)]
pub struct TokenBucket {
    burst: u32,
    tokens: u32,
    refilled: Option<Instant>,
}

impl TokenBucket {
    /// A full bucket.
    pub const fn new(burst: u32) -> Self {
        Self { burst, tokens: burst, refilled: None }
    }

    /// Takes one token. Returns whether one was available.
    pub fn take(&mut self, now: Instant) -> bool {
        let since = self.refilled.map_or(0, |at| now.saturating_duration_since(at).as_secs());
        if since > 0 || self.refilled.is_none() {
            let since = u32::try_from(since).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(since).min(self.burst);
            self.refilled = Some(now);
        }
        let taken = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_bucket_allows_burst_then_one_per_second() {
        let mut bucket = TokenBucket::new(3);
        let start = Instant::now();
        let taken = |bucket: &mut TokenBucket, seconds: f64, times: u32| {
            (0..times).filter(|_| bucket.take(start + Duration::from_secs_f64(seconds))).count()
        };
        assert_eq!(taken(&mut bucket, 0.0, 10), 3);
        assert_eq!(taken(&mut bucket, 0.9, 10), 0);
        assert_eq!(taken(&mut bucket, 1.0, 10), 1);
        assert_eq!(taken(&mut bucket, 3.5, 10), 2);
        assert_eq!(taken(&mut bucket, 1e6, 10), 3, "at most the burst");
    }

    #[test]
    fn shutdown_wakes_waiting_thread_and_stays_triggered() {
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
