//! Limits how many events of a kind are recorded one by one: a storm of one kind, such as thousands of applications that become overdue
//! at once, must not push all others out of the log.

use crate::model::event::EventKind;

/// Events of a kind within a minute. Further ones are counted together.
pub(super) const MAX_PER_MINUTE: u32 = 60;

#[derive(Debug, Clone, Copy, Default)]
struct Window {
    minute: u64,
    recorded: u32,
    /// The event that counts further ones.
    overflow: Option<u64>,
}

#[derive(Debug)]
pub(super) struct KindLimiter([Window; EventKind::ALL.len()]);

impl Default for KindLimiter {
    fn default() -> Self {
        Self([Window::default(); EventKind::ALL.len()])
    }
}

pub(super) enum Admission {
    Record,
    /// It is one more of the event with this id, or the first one of such an event.
    CountTogether(Option<u64>),
}

impl KindLimiter {
    /// Whether an event at this time is recorded by itself.
    pub(super) fn admit(&mut self, kind: EventKind, unix_seconds: u64) -> Admission {
        let Some(window) = self.0.get_mut(kind as usize) else { return Admission::Record };
        let minute = unix_seconds / 60;
        if window.minute != minute {
            *window = Window { minute, ..Window::default() };
        }
        if window.recorded >= MAX_PER_MINUTE {
            return Admission::CountTogether(window.overflow);
        }
        window.recorded += 1;
        Admission::Record
    }

    /// Further events of this minute are counted by the event `id`.
    pub(super) fn set_overflow(&mut self, kind: EventKind, id: u64) {
        if let Some(window) = self.0.get_mut(kind as usize) {
            window.overflow = Some(id);
        }
    }
}
