//! The events in memory: the recent ones, in which repetitions are counted, and compressed older ones. Without I/O and clock.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::history::event_log::chunk::Chunk;
use crate::history::event_log::limiter::{Admission, KindLimiter};
use crate::model::event::{Event, EventKind, MAX_SUBJECT_BYTES, MAX_TEXT_BYTES, NewEvent};

/// The oldest events make room for new ones.
pub const MAX_EVENTS: usize = 10_000;
/// Size of compressed events, whatever their texts are.
const MAX_COMPRESSED_BYTES: usize = 448 << 10;
/// Events that are compressed at once.
const CHUNK: usize = 128;
/// A repetition is counted if the event occurred within this time before.
const REPEAT_SECONDS: u64 = 60;
/// An event that goes on is recorded again after this time.
const MAX_REPEAT_SECONDS: u64 = 3600;
const OVERFLOW_TEXT: &str = "more events of this kind, which are not listed";
const OVERFLOW_CLASS: &str = "overflow";

#[derive(Debug, Default)]
pub(super) struct EventStore {
    chunks: VecDeque<Arc<Chunk>>,
    recent: Vec<Recent>,
    limiter: KindLimiter,
    last_id: u64,
}

#[derive(Debug)]
struct Recent {
    event: Event,
    class: &'static str,
    /// The count that is in the file.
    saved_count: u64,
}

/// What [`EventStore::record`] did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Recorded<'a> {
    New(&'a Event),
    Repeated,
}

impl EventStore {
    /// Adds an event of the file. Returns false if it is not a valid one: ids increase.
    pub(super) fn restore(&mut self, event: Event) -> bool {
        let is_valid = event.id > self.last_id
            && event.count > 0
            && event.text.len() <= MAX_TEXT_BYTES
            && event.subject.len() <= MAX_SUBJECT_BYTES;
        if is_valid {
            let saved_count = event.count;
            self.push(Recent { event, class: "", saved_count });
        }
        is_valid
    }

    /// Applies a count of the file. It may belong to an event that has been compressed since.
    pub(super) fn restore_count(&mut self, id: u64, count: u64, last_unix_seconds: u64) {
        if let Some(recent) = self.recent.iter_mut().find(|recent| recent.event.id == id) {
            recent.event.count = count;
            recent.event.last_unix_seconds = last_unix_seconds;
            recent.saved_count = count;
        }
    }

    /// Records an event, or counts a repetition. `now` is the wall clock.
    pub(super) fn record(&mut self, new: NewEvent, now: u64) -> Recorded<'_> {
        let at = new.unix_seconds.unwrap_or(now).min(now);
        if let Some(recent) = self.find_repeated(&new, at) {
            recent.repeat(at);
            return Recorded::Repeated;
        }
        let new = match self.limiter.admit(new.kind, at) {
            Admission::Record => new,
            Admission::CountTogether(id) => {
                let overflow = self.recent.iter_mut().rev();
                let mut overflow = overflow.filter(|recent| Some(recent.event.id) == id);
                if let Some(recent) = overflow.next() {
                    recent.event.severity = recent.event.severity.max(new.severity);
                    recent.repeat(at);
                    return Recorded::Repeated;
                }
                self.limiter.set_overflow(new.kind, self.next_id(now));
                NewEvent {
                    class: OVERFLOW_CLASS,
                    ..NewEvent::new(new.kind, new.severity, OVERFLOW_TEXT)
                }
            }
        };
        self.push_new(new, at, now)
    }

    /// Events whose counts differ from those in the file: id, count and last time. They count as saved then.
    pub(super) fn take_unsaved_counts(&mut self) -> Vec<(u64, u64, u64)> {
        let is_unsaved = |recent: &&mut Recent| recent.event.count != recent.saved_count;
        let take = |recent: &mut Recent| {
            recent.saved_count = recent.event.count;
            (recent.event.id, recent.event.count, recent.event.last_unix_seconds)
        };
        self.recent.iter_mut().filter(is_unsaved).map(take).collect()
    }

    pub(super) fn last_id(&self) -> u64 {
        self.last_id
    }

    /// Copies of the references to the events, so that they can be read without holding a lock.
    pub(super) fn snapshot(&self) -> Events {
        Events {
            chunks: self.chunks.iter().cloned().collect(),
            recent: self.recent.iter().map(|recent| recent.event.clone()).collect(),
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.count).sum::<usize>() + self.recent.len()
    }

    /// Ids are larger than all before, even if an earlier log was lost: a client that continues behind an id misses none.
    fn next_id(&self, now: u64) -> u64 {
        match self.last_id {
            0 => now.saturating_mul(1000).max(1),
            last => last.saturating_add(1),
        }
    }

    fn find_repeated(&mut self, new: &NewEvent, at: u64) -> Option<&mut Recent> {
        if new.kind == EventKind::Reboot {
            return None;
        }
        let subject = cut(&new.subject, MAX_SUBJECT_BYTES);
        let same = |recent: &&mut Recent| {
            let event = &recent.event;
            recent.class != OVERFLOW_CLASS
                && (event.kind, &*event.subject, event.code) == (new.kind, subject, new.code)
        };
        let is_repetition = |recent: &Recent| {
            let event = &recent.event;
            let is_same = (recent.class, event.severity) == (new.class, new.severity);
            let is_same =
                is_same && (!new.class.is_empty() || event.text == cut(&new.text, MAX_TEXT_BYTES));
            is_same
                && event.last_unix_seconds.abs_diff(at) <= REPEAT_SECONDS
                && event.unix_seconds.abs_diff(at) <= MAX_REPEAT_SECONDS
        };
        let mut candidates = self.recent.iter_mut().rev().filter(same);
        match new.kind.is_state_change(new.code) {
            // Only the last change: otherwise the order would be lost.
            true => candidates.next().filter(|recent| is_repetition(recent)),
            false => candidates.find(|recent| is_repetition(recent)),
        }
    }

    fn push_new(&mut self, new: NewEvent, at: u64, now: u64) -> Recorded<'_> {
        let event = Event {
            id: self.next_id(now),
            unix_seconds: at,
            last_unix_seconds: at,
            count: 1,
            kind: new.kind,
            severity: new.severity,
            subject: cut(&new.subject, MAX_SUBJECT_BYTES).to_owned(),
            code: new.code,
            text: cut(&new.text, MAX_TEXT_BYTES).to_owned(),
        };
        self.push(Recent { event, class: new.class, saved_count: 1 });
        match self.recent.last() {
            Some(recent) => Recorded::New(&recent.event),
            None => Recorded::Repeated,
        }
    }

    fn push(&mut self, recent: Recent) {
        self.last_id = recent.event.id;
        self.recent.push(recent);
        // A count that is not saved yet must stay where it can be saved.
        if self.recent.len() >= 2 * CHUNK && self.recent.iter().take(CHUNK).all(Recent::is_saved) {
            self.compress();
        }
        while self.recent.len() > 4 * CHUNK {
            self.compress();
        }
    }

    /// Compresses the oldest of the recent events, and forgets the oldest of all.
    fn compress(&mut self) {
        let oldest: Vec<_> = self.recent.drain(..CHUNK.min(self.recent.len())).collect();
        let chunk = Chunk::new(oldest.iter().map(|recent| &recent.event));
        self.chunks.push_back(Arc::new(chunk));
        let size = |chunks: &VecDeque<Arc<Chunk>>| {
            chunks
                .iter()
                .fold((0, 0), |(count, bytes), chunk| (count + chunk.count, bytes + chunk.size()))
        };
        loop {
            let (count, bytes) = size(&self.chunks);
            // Room for the recent ones until the next compression.
            if count + 4 * CHUNK <= MAX_EVENTS && bytes <= MAX_COMPRESSED_BYTES {
                return;
            }
            self.chunks.pop_front();
        }
    }
}

impl Recent {
    fn is_saved(&self) -> bool {
        self.event.count == self.saved_count
    }

    fn repeat(&mut self, at: u64) {
        self.event.count = self.event.count.saturating_add(1);
        self.event.last_unix_seconds = self.event.last_unix_seconds.max(at);
    }
}

/// All events of one moment.
pub(super) struct Events {
    chunks: Vec<Arc<Chunk>>,
    recent: Vec<Event>,
}

impl Events {
    /// From the oldest on: those behind the id `after`, of `since` or later.
    pub(super) fn oldest_first(self, after: u64, since: u64) -> impl Iterator<Item = Event> {
        let chunks = self.chunks.into_iter();
        let chunks = chunks.filter(move |chunk| chunk.last_id > after && chunk.latest >= since);
        let events = chunks.flat_map(|chunk| chunk.events()).chain(self.recent);
        events.filter(move |event| event.id > after && event.last_unix_seconds >= since)
    }

    /// From the newest on: those of `since` or later.
    pub(super) fn newest_first(self, since: u64) -> impl Iterator<Item = Event> {
        let chunks = self.chunks.into_iter().rev().filter(move |chunk| chunk.latest >= since);
        let older = chunks.flat_map(|chunk| chunk.events().into_iter().rev());
        let events = self.recent.into_iter().rev().chain(older);
        events.filter(move |event| event.last_unix_seconds >= since)
    }
}

/// The beginning of a text, of whole characters.
fn cut(text: &str, max_bytes: usize) -> &str {
    let mut ends = (0..=max_bytes.min(text.len())).rev();
    let end = ends.find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    &text[..end]
}

#[cfg(test)]
mod tests;
