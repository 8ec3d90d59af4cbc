//! Who may log in: so many at a time, in the order in which they came.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use crate::limits;
use crate::remote::hosts::Host;
use crate::sys;
use crate::util::sync::{Shutdown, lock};

/// The line in which hosts wait for their turn.
#[derive(Default)]
pub(super) struct LoginLimiter(Mutex<Line>);

#[derive(Default)]
struct Line {
    under_way: usize,
    waiting: Vec<Arc<Host>>,
}

/// A turn; given back when it is dropped.
pub(super) struct Turn<'a>(&'a LoginLimiter);

impl LoginLimiter {
    /// Waits for a turn; none if the agent stops, or nobody wants the host any more.
    pub(super) fn wait<'a>(&'a self, host: &Arc<Host>, stop: &Shutdown) -> Option<Turn<'a>> {
        let same = |other: &Arc<Host>| Arc::ptr_eq(other, host);
        loop {
            // First: what changes from now on rings again.
            host.bell.reset();
            let mut line = lock(&self.0);
            let wanted = !stop.is_triggered() && !lock(&host.state).watchers.is_empty();
            let first = line.waiting.first().is_none_or(same);
            if !wanted || (first && line.under_way < limits::LOGINS_AT_ONCE) {
                line.waiting.retain(|other| !same(other));
                line.under_way += usize::from(wanted);
                let next = line.waiting.first().cloned();
                drop(line);
                // There may be room for that one, too.
                if let Some(next) = next {
                    next.bell.notify();
                }
                return wanted.then(|| Turn(self));
            }
            if !line.waiting.iter().any(same) {
                line.waiting.push(host.clone());
            }
            drop(line);
            sys::wait_readable([host.bell.as_fd(), stop.as_fd()], None);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut line = lock(&self.0.0);
        line.under_way -= 1;
        if let Some(next) = line.waiting.first() {
            next.bell.notify();
        }
    }
}
