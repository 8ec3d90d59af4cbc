//! `hm-agent events`: prints the event log of the running agent.

use std::time::{Duration, UNIX_EPOCH};

use crate::cli::telemetry;
use crate::config::UsageConfig;
use crate::history::event_log::{EventPage, EventQuery};
use crate::model::event::Event;
use crate::util::error::Error;
use crate::util::logger::utc;
use crate::util::text::{escape_for_terminal, parse_decimal};

/// The events from `since` on, in Unix seconds, of the agent that listens at `usage.listen`.
pub fn fetch(usage: &UsageConfig, since: u64) -> Result<EventPage, Error> {
    let failed = |why: String| Error::system("read events", std::io::Error::other(why));
    let mut all = EventPage { events: Vec::new(), more: true };
    while all.more {
        let after = Some(all.events.last().map_or(0, |event| event.id));
        let query = EventQuery { since, after }.to_text();
        let page: EventPage = telemetry::get(usage, "/events", &query).map_err(failed)?;
        // An agent that does not advance would be read without end.
        let last = page.events.last().map(|event| event.id);
        if page.more && last <= after {
            return Err(failed("the agent sends the same page again".to_owned()));
        }
        all.more = page.more;
        all.events.extend(page.events);
    }
    Ok(all)
}

/// A line for each event, in the order of their times: the agent reads what the kernel has logged earlier after its start.
pub fn to_text(events: &[Event]) -> String {
    let mut events: Vec<&Event> = events.iter().collect();
    events.sort_by_key(|event| event.unix_seconds);
    events.into_iter().map(|event| line(event) + "\n").collect()
}

fn line(event: &Event) -> String {
    let Event { unix_seconds, last_unix_seconds, count, kind, severity, subject, text, .. } = event;
    let (time, severity, kind) = (utc(*unix_seconds), severity.name(), kind.name());
    let repeated = match count {
        1 => String::new(),
        count => format!(" ({count} times until {})", utc(*last_unix_seconds)),
    };
    let subject = match text.contains(subject.as_str()) {
        true => String::new(),
        false => format!("{subject}: "),
    };
    let line = format!("{time} {severity:<8} {kind:<16} {subject}{text}{repeated}");
    escape_for_terminal(&line).into_owned()
}

/// Parses a time: `90s`, `15m`, `2h` or `3d` before `now`, Unix seconds, or a date with or without time in UTC.
pub fn parse_since(text: &str, now: u64) -> Result<u64, String> {
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];
    for (suffix, seconds) in units {
        let number = text.strip_suffix(suffix).and_then(|number| parse_decimal(number.as_bytes()));
        if let Some(number) = number {
            return Ok(now.saturating_sub(number.saturating_mul(seconds)));
        }
    }
    if let Some(seconds) = parse_decimal(text.as_bytes()) {
        return Ok(seconds);
    }
    let text = if text.contains(['T', ' ']) { text.to_owned() } else { format!("{text}T00:00:00") };
    let time = humantime::parse_rfc3339_weak(&text).ok();
    let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.as_ref().map(Duration::as_secs).ok_or_else(|| {
        "--since needs a time such as 2h, 3d, 2026-11-30T12:00:00Z or Unix seconds".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::{EventKind, EventSeverity};

    #[test]
    fn line_has_time_severity_kind_and_count() {
        let mut event = Event {
            id: 1,
            unix_seconds: 1_795_216_253,
            last_unix_seconds: 1_795_216_255,
            count: 1,
            kind: EventKind::Xid,
            severity: EventSeverity::Critical,
            subject: "0000:9b:00.0".into(),
            code: Some(79),
            text: "NVRM: Xid\u{1b}[2J".into(),
        };
        let expected =
            "2026-11-20T23:10:53Z critical xid              0000:9b:00.0: NVRM: Xid\\u{1b}[2J";
        assert_eq!(line(&event), expected);
        event.count = 3;
        assert_eq!(line(&event), format!("{expected} (3 times until 2026-11-20T23:10:55Z)"));
        event.text = "0000:9b:00.0 is lost".into();
        assert!(line(&event).contains(" 0000:9b:00.0 is lost"), "{}", line(&event));
        assert_eq!(line(&event).matches("0000:9b:00.0").count(), 1, "{}", line(&event));
        let earlier = Event { id: 2, unix_seconds: 1_795_216_000, ..event.clone() };
        assert!(to_text(&[event, earlier]).starts_with("2026-11-20T23:06:40Z"));
    }

    #[test]
    fn parses_times() {
        let now = 1_795_216_253;
        for (text, seconds) in [
            ("90s", now - 90),
            ("15m", now - 900),
            ("2h", now - 7200),
            ("3d", now - 3 * 86_400),
            ("99999999999999d", 0),
            ("1795216253", now),
            ("2026-11-20T23:10:53Z", now),
            ("2026-11-20 23:10:53", now),
            ("2026-11-20", 1_795_132_800),
        ] {
            assert_eq!(parse_since(text, now), Ok(seconds), "{text}");
        }
        for text in ["", "yesterday", "h", "-1h", "1970", "2026-13-01"] {
            let parsed = parse_since(text, now);
            assert!(parsed.is_err() || text == "1970", "{text}: {parsed:?}");
        }
    }
}
