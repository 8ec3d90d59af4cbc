//! The event log: one ordered list of what happened to this node, in memory and in the file `events` of the state directory.
//!
//! Nothing waits for the disk. An event that is recorded survives `kill -9`; of repetitions, those of the last minute may be lost, or
//! those of the kernel log are read again.

mod chunk;
mod file;
mod limiter;
mod query;
mod store;

use std::borrow::Cow;
use std::sync::Mutex;
use std::time::{Duration, Instant};

pub use crate::history::event_log::file::Run;
use crate::history::event_log::file::{Line, NAME};
pub use crate::history::event_log::query::{EventPage, EventQuery, MAX_PAGE};
pub use crate::history::event_log::store::MAX_EVENTS;
use crate::history::event_log::store::{EventStore, Recorded};
use crate::model::event::{Event, EventCounts, EventSeverity, NewEvent};
use crate::model::kernel_log::KernelLogPosition;
use crate::util::journal::Journal;
use crate::util::logger::unix_seconds;
use crate::util::state_io::StateIo;
use crate::util::sync::lock;

/// Counts of repetitions are written this long after each other.
const COUNT_INTERVAL: Duration = Duration::from_secs(60);
/// A file with more lines is rewritten.
const MAX_LINES: usize = 2 * MAX_EVENTS;

pub struct EventLog {
    state: Mutex<State>,
    journal: Journal,
    /// The agent before this one.
    previous_run: Option<Run>,
}

struct State {
    store: EventStore,
    counts: EventCounts,
    position: Option<KernelLogPosition>,
    /// The position that is in the file.
    saved_position: Option<KernelLogPosition>,
    /// The last run that is in the file.
    run: Option<Run>,
    /// Lines of the file.
    lines: usize,
    counts_saved_at: Instant,
}

impl EventLog {
    /// Reads the log of earlier agents.
    pub fn open(state: &StateIo) -> Self {
        let mut store = EventStore::default();
        let (mut position, mut previous_run) = (None, None);
        let replay = |kind: char, text: &str| match Line::parse(kind, text) {
            Some(Line::Event(event)) => store.restore(event),
            Some(Line::Count { id, count, last_unix_seconds }) => {
                store.restore_count(id, count, last_unix_seconds);
                true
            }
            Some(Line::Position(found)) => {
                position = Some(found);
                true
            }
            Some(Line::Start(run)) => {
                previous_run = Some(run);
                true
            }
            Some(Line::Stop(at)) => {
                previous_run = previous_run.take().map(|run| Run { stopped: Some(at), ..run });
                true
            }
            None => false,
        };
        let journal = Journal::read(state, NAME, "events", replay);
        let state = State {
            store,
            counts: EventCounts::default(),
            saved_position: position.clone(),
            position,
            run: previous_run.clone(),
            lines: 0,
            counts_saved_at: Instant::now(),
        };
        let log = Self { state: Mutex::new(state), journal, previous_run };
        log.rewrite(&mut lock(&log.state));
        log
    }

    /// The run of the agent before this one; `None`: this is the first.
    pub fn previous_run(&self) -> Option<&Run> {
        self.previous_run.as_ref()
    }

    /// Records that this agent has started, behind the events of its start: an agent that is killed in between would lose a reboot.
    /// `boot_id` is that of the running kernel; empty: unknown.
    pub fn start_run(&self, boot_id: &str) {
        let run = Run { boot_id: boot_id.to_owned(), started: unix_seconds(), stopped: None };
        let mut state = lock(&self.state);
        self.append(&mut state, &Line::Start(run.clone()));
        state.run = Some(run);
    }

    /// What earlier agents have read of the kernel log.
    pub fn kernel_log_position(&self) -> Option<KernelLogPosition> {
        lock(&self.state).position.clone()
    }

    pub fn record(&self, event: NewEvent) {
        self.record_locked(&mut lock(&self.state), event);
    }

    /// Records events of the kernel log, which was read up to `position`.
    pub fn record_kernel_log(
        &self,
        events: impl IntoIterator<Item = NewEvent>,
        position: &KernelLogPosition,
    ) {
        let mut state = lock(&self.state);
        let known = state.store.last_id();
        for event in events {
            self.record_locked(&mut state, event);
        }
        state.position = Some(position.clone());
        // Otherwise an agent that is killed would leave an event in the file and read its record again.
        if state.store.last_id() != known {
            self.save_counts(&mut state);
        }
    }

    /// Number of events since the agent started.
    pub fn counts(&self) -> EventCounts {
        lock(&self.state).counts.clone()
    }

    /// Writes what is due. Call it with each sample.
    pub fn tick(&self) {
        let mut state = lock(&self.state);
        if self.journal.should_retry() || state.lines > MAX_LINES {
            self.rewrite(&mut state);
        } else if state.counts_saved_at.elapsed() >= COUNT_INTERVAL {
            self.save_counts(&mut state);
        }
    }

    /// Records that the agent stops.
    pub fn stop(&self) {
        let mut state = lock(&self.state);
        self.save_counts(&mut state);
        let now = unix_seconds();
        if let Some(run) = &mut state.run {
            run.stopped = Some(now);
        }
        self.append(&mut state, &Line::Stop(now));
        // The machine may be shutting down.
        self.journal.batch(true);
    }

    pub fn page(&self, query: EventQuery) -> EventPage {
        let events = lock(&self.state).store.snapshot();
        query.select(events)
    }

    /// All events from `since` on, in Unix seconds, oldest first.
    pub fn since(&self, since: u64) -> impl Iterator<Item = Event> {
        let events = lock(&self.state).store.snapshot();
        events.oldest_first(0, since)
    }

    fn record_locked(&self, state: &mut State, event: NewEvent) {
        state.counts.add(event.kind);
        let line = match state.store.record(event, unix_seconds()) {
            Recorded::New(event) => Line::Event(event.clone()),
            Recorded::Repeated => return,
        };
        let is_critical =
            matches!(&line, Line::Event(event) if event.severity == EventSeverity::Critical);
        self.append(state, &line);
        if is_critical {
            // The machine may be about to crash.
            self.journal.batch(true);
        }
    }

    fn append(&self, state: &mut State, line: &Line) {
        self.journal.append(line.kind(), &line.text());
        state.lines += 1;
    }

    /// Writes the counts and the position together: what is counted was read.
    fn save_counts(&self, state: &mut State) {
        for (id, count, last_unix_seconds) in state.store.take_unsaved_counts() {
            self.append(state, &Line::Count { id, count, last_unix_seconds });
        }
        if state.position != state.saved_position
            && let Some(position) = state.position.clone()
        {
            self.append(state, &Line::Position(position.clone()));
            state.saved_position = Some(position);
        }
        state.counts_saved_at = Instant::now();
    }

    fn rewrite(&self, state: &mut State) {
        state.store.take_unsaved_counts();
        state.saved_position = state.position.clone();
        let events = state.store.snapshot().oldest_first(0, 0).map(Line::Event);
        let position = state.position.clone().map(Line::Position);
        let lines = events.chain(position).chain(state.run.clone().map(Line::Start));
        let mut count = 0;
        self.journal.rewrite(lines.map(|line| {
            count += 1;
            (line.kind(), Cow::Owned(line.text()))
        }));
        state.lines = count;
    }
}

#[cfg(test)]
mod tests;
