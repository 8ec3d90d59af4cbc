//! Runs the program `heartbeat.on_overdue` once for each transition, one at a time for each application.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use log::Level;

use crate::config::CurrentConfig;
use crate::heartbeat::nagios::escape_id;
use crate::heartbeat::table::Transition;
use crate::sys;
use crate::sys::EventFd;
use crate::util::error::reason;
use crate::util::logger::RateLimitedLog;
use crate::util::supervisor::{SupervisedChild, Supervision, exit};
use crate::util::sync::{Shutdown, lock};

/// A hook that runs longer is killed together with its child processes.
const HOOK_TIMEOUT: Duration = Duration::from_secs(60);
/// When every application of a host becomes overdue at once, the hooks must not use up the host's resources.
const MAX_RUNNING: usize = 8;
/// When more transitions are queued, the oldest are dropped.
const MAX_QUEUED: usize = 1000;

/// The queue of the thread `hb-hook`.
pub struct HookRunner {
    queue: Mutex<VecDeque<Transition>>,
    enqueued: EventFd,
    log: RateLimitedLog,
}

impl HookRunner {
    pub fn new() -> io::Result<Self> {
        let (queue, log) = (Mutex::default(), RateLimitedLog::new());
        Ok(Self { queue, enqueued: EventFd::new()?, log })
    }

    pub fn enqueue(&self, transitions: Vec<Transition>) {
        if transitions.is_empty() {
            return;
        }
        let mut queue = lock(&self.queue);
        queue.extend(transitions);
        let excess = queue.len().saturating_sub(MAX_QUEUED);
        queue.drain(..excess);
        drop(queue);
        if excess > 0 {
            self.warn(|| {
                format!("heartbeat.on_overdue: queue is full, dropping the oldest {excess} runs")
            });
        }
        self.enqueued.notify();
    }

    /// The loop of the thread. Leaves running hooks to finish on their own and logs the queued ones.
    pub fn run(&self, config: &CurrentConfig, stop: &Shutdown) {
        let mut running = Vec::new();
        while !stop.is_triggered() {
            // Before the queue is read, so that a transition that is enqueued meanwhile wakes the thread.
            self.enqueued.reset();
            self.poll(&mut running, &config.get().heartbeat.on_overdue, Instant::now());
            sys::wait_readable([stop.as_fd(), self.enqueued.as_fd()], poll_after(&running));
        }
        for transition in lock(&self.queue).iter() {
            let (id, state) = (escape_id(&transition.id), transition.to.name());
            self.warn(|| {
                format!("heartbeat.on_overdue skipped for app [{id}] ({state}): agent is stopping")
            });
        }
    }

    /// Reaps and kills running hooks, and starts queued ones.
    fn poll(&self, running: &mut Vec<RunningHook>, program: &[String], now: Instant) {
        running.retain_mut(|hook| !self.has_exited(hook, now));
        let Some((name, arguments)) = program.split_first() else {
            lock(&self.queue).clear();
            return;
        };
        while running.len() < MAX_RUNNING
            && let Some(transition) = self.take_next(running)
        {
            running.extend(self.start(name, arguments, transition, now));
        }
    }

    /// The oldest transition of an application of which no hook runs.
    fn take_next(&self, running: &[RunningHook]) -> Option<Transition> {
        let mut queue = lock(&self.queue);
        let is_running = |id: &str| running.iter().any(|hook| hook.transition.id == id);
        let at = queue.iter().position(|transition| !is_running(&transition.id))?;
        queue.remove(at)
    }

    fn start(
        &self,
        name: &str,
        arguments: &[String],
        transition: Transition,
        now: Instant,
    ) -> Option<RunningHook> {
        let supervision = Supervision::with_timeout(HOOK_TIMEOUT);
        let started = supervision.spawn(OsStr::new(name), |command| {
            command
                .args(arguments)
                // No variable can contain a NUL byte, but an id can.
                .env("APP_ID", transition.id.replace('\0', "\\u{0}"))
                .env("HB_STATE", transition.to.name())
                .env("HB_OD", format!("{:.2}", transition.overdue_ratio))
                .env("HB_GRANTED_MS", transition.timeout.as_millis().to_string())
                .stdin(Stdio::null())
                .stdout(Stdio::null());
        });
        match started {
            Ok(child) => Some(RunningHook { transition, child, started: now }),
            Err(error) => {
                self.warn(|| {
                    let (id, why) = (escape_id(&transition.id), reason(&error));
                    format!("heartbeat.on_overdue for app [{id}]: run {name}: {why}")
                });
                None
            }
        }
    }

    /// Reaps the process if it has exited.
    fn has_exited(&self, hook: &mut RunningHook, now: Instant) -> bool {
        match hook.child.try_wait() {
            Ok(Some(status)) => {
                let is_late = now.saturating_duration_since(hook.started) >= HOOK_TIMEOUT;
                if is_late && status.code() == Some(exit::TIMEOUT) {
                    let seconds = HOOK_TIMEOUT.as_secs();
                    self.warn(|| format!("{}: timeout ({seconds} s), killed", hook.describe()));
                } else if !status.success() {
                    self.warn(|| format!("{}: {status}", hook.describe()));
                }
                true
            }
            Ok(None) => false,
            Err(error) => {
                self.warn(|| format!("{}: {}", hook.describe(), reason(&error)));
                true
            }
        }
    }

    fn warn(&self, line: impl FnOnce() -> String) {
        self.log.write(Level::Warn, line);
    }
}

/// When to poll again while a hook runs. The exit of a child process wakes no thread here, so the delay grows with the age of
/// the youngest hook.
fn poll_after(running: &[RunningHook]) -> Option<Duration> {
    let youngest = running.iter().map(|hook| hook.started.elapsed()).min()?;
    Some(youngest.clamp(Duration::from_millis(5), Duration::from_millis(250)))
}

struct RunningHook {
    transition: Transition,
    child: SupervisedChild,
    started: Instant,
}

impl RunningHook {
    fn describe(&self) -> String {
        let (id, state) = (escape_id(&self.transition.id), self.transition.to.name());
        format!("heartbeat.on_overdue for app [{id}], {state}")
    }
}
