//! What a client can request of the event log.

use serde::{Deserialize, Serialize};

use crate::history::event_log::store::Events;
use crate::model::event::Event;
use crate::util::text::parse_decimal;

/// Events of one response: some 250 KB of JSON.
pub const MAX_PAGE: usize = 1000;

/// The query of `/events`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Only events of this time or later, in Unix seconds.
    pub since: u64,
    /// Only events behind this id, and the oldest of them first. `None`: the newest events.
    pub after: Option<u64>,
}

/// A response of `/events`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventPage {
    /// Sorted by id. The times may be in another order: those of the kernel log before the agent started are computed.
    pub events: Vec<Event>,
    /// There are more: newer ones if the request has `after`, else older ones.
    pub more: bool,
}

impl EventQuery {
    /// Parses `since=UNIX_SECONDS&after=ID`. Other parameters are ignored: `token` is one. The error is complete.
    pub fn parse(query: &str) -> Result<Self, String> {
        let mut parsed = Self::default();
        for (name, value) in query.split('&').filter_map(|item| item.split_once('=')) {
            let number = || {
                parse_decimal(value.as_bytes())
                    .ok_or_else(|| format!("\"{name}\" is not a whole number"))
            };
            match name {
                "since" => {
                    parsed.since = number().map_err(|why| format!("{why} of Unix seconds"))?;
                }
                "after" => parsed.after = Some(number()?),
                _ => {}
            }
        }
        Ok(parsed)
    }

    /// The query that [`Self::parse`] reads.
    pub fn to_text(self) -> String {
        let after = self.after.map_or(String::new(), |after| format!("&after={after}"));
        format!("since={}{after}", self.since)
    }

    pub(super) fn select(self, events: Events) -> EventPage {
        let limit = MAX_PAGE + 1;
        let mut events: Vec<Event> = match self.after {
            Some(after) => events.oldest_first(after, self.since).take(limit).collect(),
            None => events.newest_first(self.since).take(limit).collect(),
        };
        let more = events.len() > MAX_PAGE;
        events.truncate(MAX_PAGE);
        if self.after.is_none() {
            events.reverse();
        }
        EventPage { events, more }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_it_formats() {
        for query in [
            EventQuery::default(),
            EventQuery { since: 1_718_000_000, after: None },
            EventQuery { since: 5, after: Some(7) },
        ] {
            assert_eq!(EventQuery::parse(&query.to_text()), Ok(query));
        }
        assert_eq!(EventQuery::parse("token=x&y&&a="), Ok(EventQuery::default()));
        let error = EventQuery::parse("since=yesterday").unwrap_err();
        assert_eq!(error, "\"since\" is not a whole number of Unix seconds");
        assert!(EventQuery::parse("after=-1").is_err());
    }
}
