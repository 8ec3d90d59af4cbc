//! Limits the logins in progress; hosts wait in order of arrival.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use crate::remote::host::Host;
use crate::sys;
use crate::util::sync::{Shutdown, lock};

/// Logins in progress at a time: each takes 10 ms of processor time for its key exchange, and as much on a host that
/// several targets may share.
const MAX_CONCURRENT_LOGINS: usize = 16;

/// The queue of hosts that wait to log in.
#[derive(Default)]
pub(super) struct LoginLimiter(Mutex<Waiters>);

#[derive(Default)]
struct Waiters {
    in_progress: usize,
    waiting: Vec<Arc<Host>>,
}

/// Permission to log in, returned on drop.
pub(super) struct LoginPermit<'a>(&'a LoginLimiter);

impl LoginLimiter {
    /// Waits for a permit; `None` if the agent shuts down or the host has no watchers left.
    pub(super) fn acquire<'a>(
        &'a self,
        host: &Arc<Host>,
        shutdown: &Shutdown,
    ) -> Option<LoginPermit<'a>> {
        let is_same = |other: &Arc<Host>| Arc::ptr_eq(other, host);
        loop {
            // Reset before the checks, so that a change after them wakes this thread.
            host.changed.reset();
            let mut waiters = lock(&self.0);
            let is_wanted = !shutdown.is_triggered() && !lock(&host.state).watchers.is_empty();
            let is_first = waiters.waiting.first().is_none_or(is_same);
            if !is_wanted || (is_first && waiters.in_progress < MAX_CONCURRENT_LOGINS) {
                waiters.waiting.retain(|other| !is_same(other));
                waiters.in_progress += usize::from(is_wanted);
                let next = waiters.waiting.first().cloned();
                drop(waiters);
                // A permit may be free for the next host as well.
                if let Some(next) = next {
                    next.changed.notify();
                }
                return is_wanted.then(|| LoginPermit(self));
            }
            if !waiters.waiting.iter().any(is_same) {
                waiters.waiting.push(host.clone());
            }
            drop(waiters);
            sys::wait_readable([host.changed.as_fd(), shutdown.as_fd()], None);
        }
    }
}

impl Drop for LoginPermit<'_> {
    fn drop(&mut self) {
        let mut waiters = lock(&self.0.0);
        waiters.in_progress -= 1;
        if let Some(next) = waiters.waiting.first() {
            next.changed.notify();
        }
    }
}
