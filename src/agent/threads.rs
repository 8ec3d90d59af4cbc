//! The agent's threads: each has a name, and is waited for.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::limits;
use crate::sys;
use crate::util::error::Error;

/// The threads that were started, and what became of them.
pub(super) struct Threads {
    running: Vec<(&'static str, JoinHandle<()>)>,
    ended: (Sender<Ended>, Receiver<Ended>),
}

/// A thread's name, and how it ended.
type Ended = (&'static str, Result<(), Error>);

impl Threads {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { running: Vec::new(), ended: channel() }
    }

    /// Starts a thread. One that fails stops the agent.
    pub(super) fn start(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let ended = self.ended.0.clone();
        let thread = Builder::new().name(name.to_owned()).stack_size(limits::SERVICE_STACK_BYTES);
        let spawned = thread.spawn(move || {
            let result = work();
            let failed = result.is_err();
            // Nobody listens only when the process is ending anyway.
            let _ = ended.send((name, result));
            if failed {
                sys::ask_to_stop();
            }
        });
        let fail = |error: io::Error| Error::system(format!("start the thread {name}"), error);
        self.running.push((name, spawned.map_err(fail)?));
        Ok(())
    }

    /// Waits for all threads, `patience` in all. The error is that of the first one that failed.
    pub(super) fn join(mut self, patience: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + patience;
        let mut result = Ok(());
        while !self.running.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok((name, outcome)) = self.ended.1.recv_timeout(left) else {
                let names: Vec<_> = self.running.iter().map(|(name, _)| *name).collect();
                log::warn!("ending without waiting any longer for: {}", names.join(", "));
                break;
            };
            result = result.and(outcome);
            if let Some(at) = self.running.iter().position(|(running, _)| *running == name) {
                // It has sent its last message; a panic would have ended the process.
                let _ = self.running.swap_remove(at).1.join();
            }
        }
        result
    }
}
