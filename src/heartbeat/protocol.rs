//! Parses requests of the heartbeat protocol, version 1.0.0.
//!
//! A request is the last component of a path and a query whose first item, without a name, is a time `T`. The server's
//! configuration sets the unit of `T` and of the responses: milliseconds, or seconds as in the prototype of 2016.

use std::time::Duration;

use crate::config::TimeUnit;
use crate::util::text::{EXCERPT_CHARS, escape_for_log};
use percent_encoding::percent_decode_str;

pub const MAX_ID_BYTES: usize = 256;
/// The longest time in a request. A longer one is a mistake.
const MAX_TIME: Duration = Duration::from_secs(7 * 86_400);
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeartbeatRequest {
    /// A heartbeat of an application, with the interval to the next one. The response is in this unit.
    Heartbeat(String, Duration, TimeUnit),
    /// An application has finished.
    Done(String),
    List,
    /// Status of an application; `None`: of the host.
    Status(Option<String>),
    /// Start maintenance of an application, or of the host. A length of zero ends it.
    Maintenance(Option<String>, Duration),
}

impl HeartbeatRequest {
    /// Parses a request from its path and its query.
    pub fn parse(path: &str, query: &str, unit: TimeUnit) -> Result<Self, String> {
        let command = path.rsplit('/').next().unwrap_or_default();
        let id = |name| item(query, name).map_or(Ok(None), valid_id);
        match command {
            "hb_init" | "hb_ping" => {
                let interval =
                    first(query).map_or(Ok(Duration::ZERO), |t| parse_time("T", &t, unit))?;
                Ok(Self::Heartbeat(require(id("appid")?, "appid")?, interval, unit))
            }
            "hb_done" => Ok(Self::Done(require(id("appid")?, "appid")?)),
            "list" => Ok(Self::List),
            "status" => Ok(Self::Status(id("appid")?)),
            "maintenance" => {
                let length = first(query).ok_or("T is missing: /maintenance?T, or ?T&appid=ID")?;
                Ok(Self::Maintenance(id("appid")?, parse_time("T", &length, unit)?))
            }
            // An older form of the protocol, whose times are always milliseconds.
            "heartbeat.html" => {
                let next = item(query, "next").unwrap_or_else(|| b"0".to_vec());
                let interval = parse_time("next", &next, TimeUnit::Milliseconds)?;
                let id = require(id("container")?, "container")?;
                Ok(Self::Heartbeat(id, interval, TimeUnit::Milliseconds))
            }
            other => Err(format!(
                "unknown command \"{}\"; commands: hb_init, hb_ping, hb_done, list, status, maintenance",
                escape_for_log(other, EXCERPT_CHARS)
            )),
        }
    }
}

/// The first item of the query, if it has no name.
fn first(query: &str) -> Option<Vec<u8>> {
    let first = query.split('&').next().unwrap_or_default();
    (!first.is_empty() && !first.contains('=')).then(|| percent_decode_str(first).collect())
}

/// The value of a named item of the query.
fn item(query: &str, name: &str) -> Option<Vec<u8>> {
    let items = query.split('&').filter_map(|item| item.split_once('='));
    items
        .into_iter()
        .find(|(key, _)| *key == name)
        .map(|(_, value)| percent_decode_str(value).collect())
}

fn valid_id(id: Vec<u8>) -> Result<Option<String>, String> {
    if id.len() > MAX_ID_BYTES {
        return Err(format!("the id has {} bytes, the limit is {MAX_ID_BYTES}", id.len()));
    }
    let id = String::from_utf8(id).map_err(|_| "the id is not UTF-8".to_owned())?;
    Ok(Some(id).filter(|id| !id.is_empty()))
}

fn require(id: Option<String>, name: &str) -> Result<String, String> {
    id.ok_or_else(|| format!("{name} is missing: the application's id"))
}

/// Parses a decimal number: digits and an optional fraction. Rejects signs and exponents, which Rust's parser accepts.
fn parse_time(name: &str, text: &[u8], unit: TimeUnit) -> Result<Duration, String> {
    let wrong = |why: &str| {
        let unit = if unit == TimeUnit::Seconds { "seconds" } else { "milliseconds" };
        let shown = escape_for_log(text, EXCERPT_CHARS);
        Err(format!("{name} must be {unit} from 0 to a week, got \"{shown}\": {why}"))
    };
    let digits = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
    if text.first() == Some(&b'-') {
        return wrong("it is negative");
    }
    let number = std::str::from_utf8(text).ok().filter(|_| text.iter().all(digits));
    let Some(number) = number.and_then(|number| number.parse::<f64>().ok()) else {
        return wrong("it is not a number");
    };
    let seconds = if unit == TimeUnit::Seconds { number } else { number / 1000.0 };
    if seconds > MAX_TIME.as_secs_f64() {
        return wrong("it is longer than a week");
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use TimeUnit::{Milliseconds, Seconds};

    fn heartbeat(id: &str, milliseconds: u64, unit: TimeUnit) -> Result<HeartbeatRequest, String> {
        Ok(HeartbeatRequest::Heartbeat(id.into(), Duration::from_millis(milliseconds), unit))
    }

    fn ms(target: &str) -> Result<HeartbeatRequest, String> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        HeartbeatRequest::parse(path, query, Milliseconds)
    }

    fn s(target: &str) -> Result<HeartbeatRequest, String> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        HeartbeatRequest::parse(path, query, Seconds)
    }

    #[test]
    fn parses_requests_of_released_clients() {
        let demo = heartbeat("demo", 5000, Milliseconds);
        assert_eq!(ms("/hb_ping?5000&appid=demo&cache_buster=1700000000_123"), demo);
        assert_eq!(ms("/hb_init?5000&appid=demo&cache_buster=1521475200.5"), demo);
        assert_eq!(ms("//some/prefix/hb_init?5000&appid=demo"), demo);
        assert_eq!(ms("/hb_ping?appid=demo"), heartbeat("demo", 0, Milliseconds));
        assert_eq!(ms("/hb_ping?&appid=demo"), heartbeat("demo", 0, Milliseconds));
        assert_eq!(ms("/hb_ping?0&appid=a%20b%26c"), heartbeat("a b&c", 0, Milliseconds));
        assert_eq!(
            ms("/heartbeat.html?container=pong&next=700"),
            heartbeat("pong", 700, Milliseconds)
        );
        assert_eq!(s("/hb_ping?5&appid=demo"), heartbeat("demo", 5000, Seconds));
        assert_eq!(s("/hb_ping?0.5&appid=demo"), heartbeat("demo", 500, Seconds));
        assert_eq!(ms("/hb_done?0&appid=demo"), Ok(HeartbeatRequest::Done("demo".into())));
        assert_eq!(ms("/list?cache_buster=1"), Ok(HeartbeatRequest::List));
        assert_eq!(ms("/status?cache_buster=1"), Ok(HeartbeatRequest::Status(None)));
        assert_eq!(
            ms("/status?0&appid=demo&c=1"),
            Ok(HeartbeatRequest::Status(Some("demo".into())))
        );
        assert_eq!(ms("/status?appid="), Ok(HeartbeatRequest::Status(None)));
        let minute = Duration::from_secs(60);
        assert_eq!(ms("/maintenance?60000"), Ok(HeartbeatRequest::Maintenance(None, minute)));
        let of_demo = HeartbeatRequest::Maintenance(Some("demo".into()), Duration::ZERO);
        assert_eq!(s("/maintenance?0&appid=demo"), Ok(of_demo));
    }

    #[test]
    fn rejects_invalid_requests_with_reason() {
        for (target, why) in [
            ("/hb_ping?-1&appid=a", "it is negative"),
            ("/hb_ping?1e3&appid=a", "got \"1e3\": it is not a number"),
            ("/hb_ping?NaN&appid=a", "it is not a number"),
            ("/hb_ping?1.2.3&appid=a", "it is not a number"),
            ("/hb_ping?.&appid=a", "it is not a number"),
            ("/hb_ping?604800001&appid=a", "it is longer than a week"),
            ("/hb_ping?99999999999999999999999999999999&appid=a", "longer than a week"),
            ("/hb_ping?5000", "appid is missing"),
            ("/hb_ping?5000&appid=", "appid is missing"),
            ("/hb_ping?5000&appid=%ff", "not UTF-8"),
            ("/heartbeat.html?next=5", "container is missing"),
            ("/maintenance", "T is missing"),
            ("/", "unknown command \"\""),
            ("/hb_pong?1&appid=a", "unknown command \"hb_pong\""),
            ("/hb_ping\u{1b}?1", r#"unknown command "hb_ping\x1b""#),
        ] {
            let error = ms(target).unwrap_err();
            assert!(error.contains(why), "{target}: {error}");
        }
        assert!(ms(&format!("/hb_ping?1&appid={}", "x".repeat(256))).is_ok());
        let long = ms(&format!("/hb_ping?1&appid={}", "x".repeat(257))).unwrap_err();
        assert_eq!(long, "the id has 257 bytes, the limit is 256");
        assert!(ms("/hb_ping?604800000&appid=a").is_ok());
    }
}
