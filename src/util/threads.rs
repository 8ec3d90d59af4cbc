//! The threads of a program: each has a name and is joined.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::sys;
use crate::util::error::Error;

/// Stack of a service thread. Reading and serializing a machine of 1 000 processors uses a fraction of it.
const STACK_BYTES: usize = 256 << 10;

pub struct Threads {
    running: Vec<(&'static str, JoinHandle<()>)>,
    finished: (Sender<Finished>, Receiver<Finished>),
}

/// A thread's name and result.
type Finished = (&'static str, Result<(), Error>);

impl Default for Threads {
    fn default() -> Self {
        Self { running: Vec::new(), finished: channel() }
    }
}

impl Threads {
    /// Starts a thread. If it fails, the program stops.
    pub fn start(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        self.start_with_stack(name, STACK_BYTES, work)
    }

    /// Starts a thread that needs more stack than others.
    pub fn start_with_stack(
        &mut self,
        name: &'static str,
        stack_bytes: usize,
        work: impl FnOnce() -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let finished = self.finished.0.clone();
        let spawned =
            Builder::new().name(name.to_owned()).stack_size(stack_bytes).spawn(move || {
                let result = work();
                let failed = result.is_err();
                // The receiver is dropped only when the process is exiting.
                let _ = finished.send((name, result));
                if failed {
                    sys::request_stop();
                }
            });
        let fail = |error: io::Error| Error::system(format!("start thread {name}"), error);
        self.running.push((name, spawned.map_err(fail)?));
        Ok(())
    }

    /// Waits for all threads, `timeout` in all. Returns the error of the first one that failed.
    pub fn join(mut self, timeout: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + timeout;
        let mut result = Ok(());
        while !self.running.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok((name, outcome)) = self.finished.1.recv_timeout(left) else {
                let names: Vec<_> = self.running.iter().map(|(name, _)| *name).collect();
                log::warn!("shutdown timeout, abandoning threads: {}", names.join(", "));
                break;
            };
            result = result.and(outcome);
            if let Some(at) = self.running.iter().position(|(running, _)| *running == name) {
                // It has sent its result as its last act; a panic would have ended the process.
                let _ = self.running.swap_remove(at).1.join();
            }
        }
        result
    }
}
