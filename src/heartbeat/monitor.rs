//! The heartbeat table, shared by the port's connections and its own thread: there time passes, transitions are
//! logged and acted on, and what must survive a restart is written down.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::config::Current;
use crate::heartbeat::hooks::HookRunner;
use crate::heartbeat::protocol::shown;
use crate::heartbeat::store::Store;
use crate::heartbeat::table::{ActiveClock, HeartbeatTable, Saved, Transition};
use crate::limits;
use crate::model::status::AppState;
use crate::model::status::AppStatus;
use crate::sys;
use crate::sys::EventFd;
use crate::util::liveness::Liveness;
use crate::util::logger::RateLimitedLog;
use crate::util::sync::{Shutdown, lock};

/// The table's clock shows this when the agent starts: ages of applications that were saved reach back so
/// far. Nobody is later than six weeks, six times the longest promise.
const BEFORE_THE_START: Duration = Duration::from_secs(100 * 86_400);

/// The heartbeat table.
pub struct HeartbeatMonitor {
    table: Mutex<Table>,
    store: Store,
    /// By the clock that never jumps and stands still while the machine sleeps.
    started: Instant,
    /// Rings when the thread has to look earlier than it planned.
    news: EventFd,
    /// Whether the thread gets on.
    liveness: Arc<Liveness>,
}

struct Table {
    watch: HeartbeatTable,
    clock: ActiveClock,
    /// When the thread looks again.
    planned: Duration,
    /// The changes that it has seen.
    seen: u64,
}

impl HeartbeatMonitor {
    /// Goes on with what was saved in `state_dir`.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let store = Store::open(state_dir);
        let capacity = limits::HEARTBEAT_APPS;
        let watch = match store.load() {
            Some(saved) => HeartbeatTable::restore(capacity, saved, BEFORE_THE_START),
            None => HeartbeatTable::new(capacity),
        };
        let clock = ActiveClock::new(BEFORE_THE_START);
        let table = Table { seen: watch.changes(), watch, clock, planned: Duration::ZERO };
        let (table, started) = (Mutex::new(table), Instant::now());
        let liveness = Arc::new(Liveness::new("watch"));
        Ok(Self { table, store, started, news: EventFd::new()?, liveness })
    }

    /// Whether its thread gets on.
    pub fn liveness(&self) -> Arc<Liveness> {
        self.liveness.clone()
    }

    /// Does something with the table as it is now.
    pub fn with<R>(&self, then: impl FnOnce(&mut HeartbeatTable, Duration) -> R) -> R {
        let mut table = lock(&self.table);
        let now = self.time(&mut table);
        let result = then(&mut table.watch, now);
        let sooner = table.watch.next_deadline().is_some_and(|at| at < table.planned);
        let news = table.watch.changes() != table.seen || table.watch.has_transitions();
        let ring = (sooner || news) && !table.planned.is_zero();
        if ring {
            // Once is enough until it has looked.
            table.planned = Duration::ZERO;
        }
        drop(table);
        if ring {
            self.news.notify();
        }
        result
    }

    /// How everybody is.
    pub fn statuses(&self) -> Vec<AppStatus> {
        self.with(HeartbeatTable::statuses)
    }

    fn time(&self, table: &mut Table) -> Duration {
        table.clock.now(BEFORE_THE_START + self.started.elapsed())
    }

    /// The thread's life.
    pub fn run(&self, settings: &Current, stop: &Shutdown) {
        let mut actions = HookRunner::default();
        // What is left of maintenance is written down, so from time to time it is written anew.
        let mut save_by: Option<Duration> = None;
        let log = RateLimitedLog::new();
        while !stop.is_triggered() {
            self.liveness.busy();
            self.news.reset();
            let (transitions, changed, now) = self.look();
            for transition in &transitions {
                say(&log, transition);
            }
            actions.add(transitions);
            actions.tend(&settings.get().heartbeat.on_overdue, Instant::now());
            if changed {
                let soon = now + limits::SAVE_PAUSE;
                save_by = Some(save_by.map_or(soon, |by| by.min(soon)));
            }
            if save_by.is_some_and(|by| now >= by) {
                // A disk that hangs is no reason to start anew: that would hang in reading it.
                self.liveness.idle(None);
                let saved = self.save();
                self.liveness.busy();
                let again = !saved || lock(&self.table).watch.in_maintenance();
                save_by = again.then(|| now + limits::SAVE_AGAIN);
            }
            self.sleep(stop, save_by, actions.next_look());
        }
        self.save();
        actions.end();
    }

    /// Lets time pass. Says what has happened, whether it must be saved, and what time it is.
    fn look(&self) -> (Vec<Transition>, bool, Duration) {
        let mut table = lock(&self.table);
        let now = self.time(&mut table);
        table.watch.advance(now);
        let changes = table.watch.changes();
        let changed = std::mem::replace(&mut table.seen, changes) != changes;
        (table.watch.take_transitions(), changed, now)
    }

    fn sleep(&self, stop: &Shutdown, save_by: Option<Duration>, look: Option<Duration>) {
        let mut table = lock(&self.table);
        let now = self.time(&mut table);
        let deadlines = [table.watch.next_deadline(), save_by, look.map(|look| now + look)];
        let until = deadlines.into_iter().flatten().min();
        if table.watch.changes() != table.seen || table.watch.has_transitions() {
            return;
        }
        table.planned = until.unwrap_or(Duration::MAX);
        drop(table);
        let wait = until.map(|until| until.saturating_sub(now).min(limits::HEARTBEAT_LOOK));
        self.liveness.idle(wait);
        sys::wait_readable([stop.as_fd(), self.news.as_fd()], wait);
        self.liveness.busy();
        lock(&self.table).planned = Duration::ZERO;
    }

    /// Says whether it is written.
    fn save(&self) -> bool {
        let saved: Saved = self.with(HeartbeatTable::save);
        self.store.save(&saved)
    }
}

fn say(log: &RateLimitedLog, transition: &Transition) {
    let Transition { id, to, od, granted } = transition;
    let level = if *to == AppState::Ok { log::Level::Info } else { log::Level::Warn };
    log.write(level, || {
        let (id, seconds) = (shown(id), granted.as_secs_f64());
        match to {
            AppState::Ok => format!("heartbeat: [{id}] beats again"),
            AppState::Dropped => format!("heartbeat: [{id}] is dropped, od {od:.2} of {seconds} s"),
            late => format!("heartbeat: [{id}] is {}, od {od:.2} of {seconds} s", late.name()),
        }
    });
}
