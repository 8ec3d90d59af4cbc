//! Runs the program `heartbeat.on_overdue` once for each transition, one at a time for each application.

use std::collections::VecDeque;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::heartbeat::nagios::escape_id;
use crate::heartbeat::table::Transition;
use crate::sys::process::kill_process_group;
use crate::util::child_env;
use crate::util::error::reason;

/// A hook that runs longer is killed together with its child processes.
const HOOK_TIMEOUT: Duration = Duration::from_secs(60);
/// When every application of a host becomes overdue at once, the hooks must not use up the host's resources.
const MAX_RUNNING: usize = 8;
/// When more transitions are queued, the oldest are dropped.
const MAX_QUEUED: usize = 1000;

/// Queued transitions and running hooks.
#[derive(Default)]
pub struct HookRunner {
    queue: VecDeque<Transition>,
    running: Vec<RunningHook>,
}

impl HookRunner {
    pub fn enqueue(&mut self, transitions: Vec<Transition>) {
        self.queue.extend(transitions);
        let excess = self.queue.len().saturating_sub(MAX_QUEUED);
        if excess > 0 {
            log::warn!("heartbeat.on_overdue: queue is full, dropping the oldest {excess} runs");
            self.queue.drain(..excess);
        }
    }

    /// Reaps and kills running hooks, and starts queued ones.
    pub fn poll(&mut self, program: &[String], now: Instant) {
        self.running.retain_mut(|hook| !hook.has_exited(now));
        let Some((name, arguments)) = program.split_first() else {
            self.queue.clear();
            return;
        };
        let mut index = 0;
        while self.running.len() < MAX_RUNNING && index < self.queue.len() {
            let is_same_app = |hook: &RunningHook| hook.transition.id == self.queue[index].id;
            if self.running.iter().any(is_same_app) {
                index += 1;
            } else if let Some(transition) = self.queue.remove(index) {
                self.running.extend(start(name, arguments, transition, now));
            }
        }
    }

    /// When to poll again while a hook runs. The exit of a child process wakes no thread here, so the delay grows with the
    /// age of the youngest hook.
    pub fn poll_after(&self) -> Option<Duration> {
        let youngest = self.running.iter().map(|hook| hook.started.elapsed()).min()?;
        Some(youngest.clamp(Duration::from_millis(5), Duration::from_millis(250)))
    }

    /// Leaves running hooks to finish on their own and logs the queued ones.
    pub fn shutdown(self) {
        for transition in &self.queue {
            let (id, state) = (escape_id(&transition.id), transition.to.name());
            log::warn!("heartbeat.on_overdue skipped for app [{id}] ({state}): agent is stopping");
        }
    }
}

fn start(
    name: &str,
    arguments: &[String],
    transition: Transition,
    now: Instant,
) -> Option<RunningHook> {
    let mut command = Command::new(name);
    child_env::isolate(&mut command);
    command
        .args(arguments)
        .env("APP_ID", &transition.id)
        .env("HB_STATE", transition.to.name())
        .env("HB_OD", format!("{:.2}", transition.overdue_ratio))
        .env("HB_GRANTED_MS", transition.timeout.as_millis().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    match command.spawn() {
        Ok(child) => Some(RunningHook { transition, child, started: now, killed: false }),
        Err(error) => {
            let id = escape_id(&transition.id);
            log::warn!("heartbeat.on_overdue for app [{id}]: run {name}: {}", reason(&error));
            None
        }
    }
}

struct RunningHook {
    transition: Transition,
    child: Child,
    started: Instant,
    killed: bool,
}

impl RunningHook {
    /// Reaps the process if it has exited, and kills it after [`HOOK_TIMEOUT`].
    fn has_exited(&mut self, now: Instant) -> bool {
        match self.child.try_wait() {
            Ok(Some(status)) => {
                if !status.success() && !self.killed {
                    log::warn!("{}: {status}", self.describe());
                }
                true
            }
            Ok(None) => {
                if now.saturating_duration_since(self.started) >= HOOK_TIMEOUT && !self.killed {
                    let seconds = HOOK_TIMEOUT.as_secs();
                    log::warn!("{}: timeout ({seconds} s), killed", self.describe());
                    kill_process_group(self.child.id());
                    self.killed = true;
                }
                false
            }
            Err(error) => {
                log::warn!("{}: {}", self.describe(), reason(&error));
                true
            }
        }
    }

    fn describe(&self) -> String {
        let (id, state) = (escape_id(&self.transition.id), self.transition.to.name());
        format!("heartbeat.on_overdue for app [{id}], {state}")
    }
}
