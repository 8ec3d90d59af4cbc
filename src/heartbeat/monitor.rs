//! The heartbeat table, shared by the connections of the port and the thread `hb-monitor`, which advances the table, logs
//! transitions, runs hooks and saves the state.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::config::CurrentConfig;
use crate::heartbeat::active_clock::ActiveClock;
use crate::heartbeat::hooks::HookRunner;
use crate::heartbeat::nagios::escape_id;
use crate::heartbeat::store::HeartbeatStore;
use crate::heartbeat::table::{HeartbeatTable, MAX_APPS, Transition};
use crate::model::status::{AppState, AppSummary};
use crate::sys;
use crate::sys::EventFd;
use crate::util::liveness::Liveness;
use crate::util::logger::RateLimitedLog;
use crate::util::state_io::StateIo;
use crate::util::sync::{Shutdown, lock};

/// The table's time when the agent starts. It is larger than the age of any saved heartbeat: the longest timeout is a week,
/// and an application is dropped after six of them.
const START_TIME: Duration = Duration::from_secs(100 * 86_400);
/// How often the thread reads the clock while an event is due, so that [`ActiveClock`] notices pauses of the process.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);
/// Changes are saved this long after the first of them, so that one write covers many.
const SAVE_DELAY: Duration = Duration::from_secs(1);
/// How often the remaining maintenance is saved, and a failed save is retried.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);

/// The shared table and the work of the thread `hb-monitor`.
pub struct HeartbeatMonitor {
    state: Mutex<State>,
    store: HeartbeatStore,
    /// Monotonic clock that stops while the machine is suspended.
    started: Instant,
    /// Wakes the thread before `wake_at`.
    changed: Arc<EventFd>,
    hooks: HookRunner,
    liveness: Arc<Liveness>,
}

struct State {
    table: HeartbeatTable,
    clock: ActiveClock,
    /// When the waiting thread wakes up; zero while it runs or has been notified.
    wake_at: Duration,
    /// The value of [`HeartbeatTable::changes`] that the thread has processed.
    last_change: u64,
}

impl State {
    fn has_unprocessed_changes(&self) -> bool {
        self.table.changes() != self.last_change || self.table.has_transitions()
    }
}

impl HeartbeatMonitor {
    /// Continues with the saved state.
    pub fn open(state: &StateIo) -> io::Result<Self> {
        let changed = Arc::new(EventFd::new()?);
        let store = HeartbeatStore::new(state, changed.clone());
        let table = match store.load() {
            Some(saved) => HeartbeatTable::restore(MAX_APPS, saved, START_TIME),
            None => HeartbeatTable::new(MAX_APPS),
        };
        let clock = ActiveClock::new(START_TIME);
        let last_change = table.changes();
        Ok(Self {
            state: Mutex::new(State { table, clock, wake_at: Duration::ZERO, last_change }),
            store,
            started: Instant::now(),
            changed,
            hooks: HookRunner::new()?,
            liveness: Arc::new(Liveness::new("hb-monitor")),
        })
    }

    /// Liveness of the thread `hb-monitor`.
    pub fn liveness(&self) -> Arc<Liveness> {
        self.liveness.clone()
    }

    /// Calls `then` with the locked table and the current time, and wakes the thread if that caused an earlier event.
    pub fn with_table<R>(&self, then: impl FnOnce(&mut HeartbeatTable, Duration) -> R) -> R {
        let mut state = lock(&self.state);
        let now = self.now(&mut state);
        let result = then(&mut state.table, now);
        let is_earlier = state.table.next_event().is_some_and(|at| at < state.wake_at);
        let notify = (is_earlier || state.has_unprocessed_changes()) && !state.wake_at.is_zero();
        if notify {
            // One notification is enough until the thread has run.
            state.wake_at = Duration::ZERO;
        }
        drop(state);
        if notify {
            self.changed.notify();
        }
        result
    }

    /// The status of the applications that need attention most.
    pub fn summary(&self) -> AppSummary {
        self.with_table(HeartbeatTable::summary)
    }

    /// The loop of the thread `hb-hook`, which may wait for the disk that the program is on.
    pub fn run_hooks(&self, config: &CurrentConfig, stop: &Shutdown) {
        self.hooks.run(config, stop);
    }

    /// The loop of the thread `hb-monitor`. It never waits for a disk or a program, and neither must `on_transition`.
    pub fn run(&self, stop: &Shutdown, on_transition: &dyn Fn(&Transition)) {
        let mut save_at: Option<Duration> = None;
        let log = RateLimitedLog::new();
        while !stop.is_triggered() {
            self.liveness.busy();
            self.changed.reset();
            let (transitions, changed, now) = self.advance();
            for transition in &transitions {
                log_transition(&log, transition);
                on_transition(transition);
            }
            self.hooks.enqueue(transitions);
            if changed {
                let soon = now + SAVE_DELAY;
                save_at = Some(save_at.map_or(soon, |at| at.min(soon)));
            }
            if save_at.is_some_and(|at| now >= at) {
                self.save();
                save_at = None;
            }
            if self.store.is_failing() || lock(&self.state).table.in_maintenance() {
                let later = now + SAVE_INTERVAL;
                save_at = Some(save_at.map_or(later, |at| at.min(later)));
            }
            self.wait(stop, save_at);
        }
        self.save();
    }

    /// Advances the table. Returns the transitions, whether the table must be saved, and the current time.
    fn advance(&self) -> (Vec<Transition>, bool, Duration) {
        let mut state = lock(&self.state);
        let now = self.now(&mut state);
        state.table.advance(now);
        let changes = state.table.changes();
        let changed = std::mem::replace(&mut state.last_change, changes) != changes;
        (state.table.take_transitions(), changed, now)
    }

    fn wait(&self, stop: &Shutdown, save_at: Option<Duration>) {
        let mut state = lock(&self.state);
        let now = self.now(&mut state);
        let check_disk_at = self.store.warn_if_hung().map(|after| now + after);
        let times = [state.table.next_event(), save_at, check_disk_at];
        let until = times.into_iter().flatten().min();
        if state.has_unprocessed_changes() {
            return;
        }
        state.wake_at = until.unwrap_or(Duration::MAX);
        drop(state);
        let timeout = until.map(|until| until.saturating_sub(now).min(CLOCK_INTERVAL));
        self.liveness.idle(timeout);
        sys::wait_readable([stop.as_fd(), self.changed.as_fd()], timeout);
        self.liveness.busy();
        lock(&self.state).wake_at = Duration::ZERO;
    }

    fn save(&self) {
        self.store.save(self.with_table(HeartbeatTable::save));
    }

    fn now(&self, state: &mut State) -> Duration {
        state.clock.now(START_TIME + self.started.elapsed())
    }
}

fn log_transition(log: &RateLimitedLog, transition: &Transition) {
    let Transition { id, to, overdue_ratio, timeout } = transition;
    let level = if *to == AppState::Ok { log::Level::Info } else { log::Level::Warn };
    log.write(level, || {
        let id = escape_id(id);
        let how = format!("overdue ratio {overdue_ratio:.2}, timeout {} s", timeout.as_secs_f64());
        match to {
            AppState::Ok => format!("heartbeat: app [{id}] recovered"),
            AppState::Dropped => format!("heartbeat: app [{id}] dropped, {how}"),
            state => format!("heartbeat: app [{id}] is {}, {how}", state.name()),
        }
    });
}
