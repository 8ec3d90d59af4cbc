//! Lines of the file `events` in the state directory, which is a [`Journal`](crate::util::journal::Journal):
//!
//! ```text
//! e{"id":1718000000000,"unix_seconds":…}   an event
//! c1718000000000 17 1718000017             a count: id, count, time of the last one
//! k{"boot_id":"…","next_sequence":340,…}   what was read of the kernel log
//! r{"boot_id":"…","started":1718000000}    a start of the agent
//! s1718000500                              its stop
//! ```

use serde::{Deserialize, Serialize};

use crate::model::event::Event;
use crate::model::kernel_log::KernelLogPosition;
use crate::util::text::parse_decimal;

pub(super) const NAME: &str = "events";

/// A start of the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Empty: unknown.
    pub boot_id: String,
    /// Unix seconds.
    pub started: u64,
    /// `None`: it was not stopped, but killed, or the machine went down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<u64>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Event(Event),
    Count { id: u64, count: u64, last_unix_seconds: u64 },
    Position(KernelLogPosition),
    Start(Run),
    Stop(u64),
}

impl Line {
    pub(super) fn parse(kind: char, text: &str) -> Option<Self> {
        match kind {
            'e' => serde_json::from_str(text).ok().map(Self::Event),
            'c' => {
                let mut numbers = text.split(' ').map(|number| parse_decimal(number.as_bytes()));
                let mut next = || numbers.next().flatten();
                Some(Self::Count { id: next()?, count: next()?, last_unix_seconds: next()? })
            }
            'k' => serde_json::from_str(text).ok().map(Self::Position),
            'r' => serde_json::from_str(text).ok().map(Self::Start),
            's' => parse_decimal(text.as_bytes()).map(Self::Stop),
            _ => None,
        }
    }

    pub(super) fn kind(&self) -> char {
        match self {
            Self::Event(_) => 'e',
            Self::Count { .. } => 'c',
            Self::Position(_) => 'k',
            Self::Start(_) => 'r',
            Self::Stop(_) => 's',
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Event(event) => to_json(event),
            Self::Count { id, count, last_unix_seconds } => {
                format!("{id} {count} {last_unix_seconds}")
            }
            Self::Position(position) => to_json(position),
            Self::Start(run) => to_json(run),
            Self::Stop(at) => at.to_string(),
        }
    }
}

/// Serialization cannot fail: the types have neither maps nor custom implementations.
fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::{EventKind, EventSeverity};

    #[test]
    fn lines_are_read_as_they_were_written() {
        let event = Event {
            id: 7,
            unix_seconds: 1,
            last_unix_seconds: 2,
            count: 3,
            kind: EventKind::Xid,
            severity: EventSeverity::Critical,
            subject: "0000:9b:00.0".into(),
            code: Some(79),
            text: "a\nb".into(),
        };
        let position = KernelLogPosition { next_sequence: Some(3), ..Default::default() };
        for line in [
            Line::Event(event),
            Line::Count { id: 7, count: 8, last_unix_seconds: 9 },
            Line::Position(position),
            Line::Start(Run { boot_id: "b".into(), started: 1, stopped: None }),
            Line::Stop(5),
        ] {
            let text = line.text();
            assert!(!text.contains('\n'));
            assert_eq!(Line::parse(line.kind(), &text), Some(line));
        }
        for (kind, text) in [('e', "{}"), ('c', "1 2"), ('s', "x"), ('x', ""), ('k', "[]")] {
            assert_eq!(Line::parse(kind, text), None);
        }
    }
}
