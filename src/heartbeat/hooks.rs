//! `heartbeat.on_overdue`: a program that is run once for each transition, never twice at a time for one
//! application.

use std::collections::VecDeque;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::heartbeat::protocol::shown;
use crate::heartbeat::table::Transition;
use crate::limits;
use crate::sys::process::kill_process_group;
use crate::util::child_env;
use crate::util::error::reason;

/// Transitions to act on, and programs that run.
#[derive(Default)]
pub struct HookRunner {
    waiting: VecDeque<Transition>,
    running: Vec<Running>,
}

struct Running {
    transition: Transition,
    child: Child,
    since: Instant,
    killed: bool,
}

impl HookRunner {
    /// These have happened.
    pub fn add(&mut self, transitions: Vec<Transition>) {
        self.waiting.extend(transitions);
        let too_many = self.waiting.len().saturating_sub(limits::ACTIONS_WAITING);
        if too_many > 0 {
            log::warn!("heartbeat.on_overdue: too slow; the oldest {too_many} runs are left out");
            self.waiting.drain(..too_many);
        }
    }

    /// Starts what can be started, and sees to what runs.
    pub fn tend(&mut self, program: &[String], now: Instant) {
        self.running.retain_mut(|running| !running.has_ended(now));
        let Some((name, arguments)) = program.split_first() else {
            self.waiting.clear();
            return;
        };
        let mut at = 0;
        while self.running.len() < limits::ACTIONS_AT_ONCE && at < self.waiting.len() {
            let busy = |running: &Running| running.transition.id == self.waiting[at].id;
            if self.running.iter().any(busy) {
                at += 1;
            } else if let Some(transition) = self.waiting.remove(at) {
                self.running.extend(start(name, arguments, transition, now));
            }
        }
    }

    /// When to tend again, if anything runs. A program that has ended tells nobody but who asks.
    pub fn next_look(&self) -> Option<Duration> {
        let youngest = self.running.iter().map(|running| running.since.elapsed()).min()?;
        Some(youngest.clamp(Duration::from_millis(5), Duration::from_millis(250)))
    }

    /// The agent ends: programs that run are left to finish on their own, those that wait are named.
    pub fn end(self) {
        for transition in &self.waiting {
            let (id, state) = (shown(&transition.id), transition.to.name());
            log::warn!("heartbeat.on_overdue: not run for [{id}], {state}: the agent is stopping");
        }
    }
}

fn start(
    name: &str,
    arguments: &[String],
    transition: Transition,
    now: Instant,
) -> Option<Running> {
    let mut command = Command::new(name);
    child_env::prepare(&mut command);
    command
        .args(arguments)
        .env("APP_ID", &transition.id)
        .env("HB_STATE", transition.to.name())
        .env("HB_OD", format!("{:.2}", transition.od))
        .env("HB_GRANTED_MS", transition.granted.as_millis().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    match command.spawn() {
        Ok(child) => Some(Running { transition, child, since: now, killed: false }),
        Err(error) => {
            let id = shown(&transition.id);
            log::warn!("heartbeat.on_overdue for [{id}]: run {name}: {}", reason(&error));
            None
        }
    }
}

impl Running {
    fn has_ended(&mut self, now: Instant) -> bool {
        let what = || {
            let id = shown(&self.transition.id);
            format!("heartbeat.on_overdue for [{id}], {}", self.transition.to.name())
        };
        match self.child.try_wait() {
            Ok(Some(status)) => {
                if !status.success() && !self.killed {
                    log::warn!("{}: {status}", what());
                }
                true
            }
            Ok(None) => {
                if now.saturating_duration_since(self.since) >= limits::ACTION && !self.killed {
                    let seconds = limits::ACTION.as_secs();
                    log::warn!("{}: killed, for it has not ended within {seconds} s", what());
                    kill_process_group(self.child.id());
                    self.killed = true;
                }
                false
            }
            Err(error) => {
                log::warn!("{}: {}", what(), reason(&error));
                true
            }
        }
    }
}
