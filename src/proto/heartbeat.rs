//! Requests and answers of the heartbeat protocol: `specs/heartbeat.md` as it was released in version 1.0.0.
//!
//! A request is the last part of a path and a query whose first item, without a name, is a time `T`. The unit
//! of `T` and of the answers is the server's: milliseconds, or seconds as in the prototype of 2016.

use std::fmt::Write;
use std::time::Duration;

use crate::parse::{percent_decode, quote};
use crate::watch::{CRITICAL, DROPPED, Lateness, Status, WARNING};

/// The longest id, in bytes.
pub const ID_BYTES: usize = 256;
/// The longest time that can be promised: longer ones are mistakes.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);
/// Ids that a status line names; monitoring systems cut longer lines anyway.
const NAMED: usize = 50;

/// What the answer to `hb_done` says.
pub const GOODBYE: &str = "So long, and thanks for all the beats!";

/// What `T` and the answers count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Version 1.0.0.
    Milliseconds,
    /// The prototype.
    Seconds,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A beat; the next one is promised within a time. Its answer is in this unit.
    Beat(String, Duration, Unit),
    /// A goodbye.
    Done(String),
    /// Which applications are there?
    List,
    /// How is an application, or the host?
    Status(Option<String>),
    /// Maintenance of an application, or of the host, for a time; for no time: it ends.
    Maintenance(Option<String>, Duration),
}

impl Request {
    /// Reads a request from its path and its query. The error says what is wrong with it.
    pub fn parse(path: &str, query: &str, unit: Unit) -> Result<Self, String> {
        let command = path.rsplit('/').next().unwrap_or_default();
        let id = |name| item(query, name).map_or(Ok(None), valid_id);
        match command {
            "hb_init" | "hb_ping" => {
                let promised = first(query).map_or(Ok(Duration::ZERO), |t| time("T", &t, unit))?;
                Ok(Self::Beat(some_id(id("appid")?, "appid")?, promised, unit))
            }
            "hb_done" => Ok(Self::Done(some_id(id("appid")?, "appid")?)),
            "list" => Ok(Self::List),
            "status" => Ok(Self::Status(id("appid")?)),
            "maintenance" => {
                let length = first(query).ok_or("T is missing: /maintenance?T, or ?T&appid=ID")?;
                Ok(Self::Maintenance(id("appid")?, time("T", &length, unit)?))
            }
            // The form of the design notes, whose times are milliseconds.
            "heartbeat.html" => {
                let next = item(query, "next").unwrap_or_else(|| b"0".to_vec());
                let promised = time("next", &next, Unit::Milliseconds)?;
                let id = some_id(id("container")?, "container")?;
                Ok(Self::Beat(id, promised, Unit::Milliseconds))
            }
            other => Err(format!(
                "there is no \"{}\" here; there are hb_init, hb_ping, hb_done, list, status and maintenance",
                quote(other.as_bytes())
            )),
        }
    }
}

/// The first item, if it has no name.
fn first(query: &str) -> Option<Vec<u8>> {
    let first = query.split('&').next().unwrap_or_default();
    (!first.is_empty() && !first.contains('=')).then(|| percent_decode(first))
}

/// The value of a named item.
fn item(query: &str, name: &str) -> Option<Vec<u8>> {
    let items = query.split('&').filter_map(|item| item.split_once('='));
    items.into_iter().find(|(key, _)| *key == name).map(|(_, value)| percent_decode(value))
}

fn valid_id(id: Vec<u8>) -> Result<Option<String>, String> {
    if id.len() > ID_BYTES {
        return Err(format!("the id has {} bytes; {ID_BYTES} are the most", id.len()));
    }
    let id = String::from_utf8(id).map_err(|_| "the id is not UTF-8".to_owned())?;
    Ok(Some(id).filter(|id| !id.is_empty()))
}

fn some_id(id: Option<String>, name: &str) -> Result<String, String> {
    id.ok_or_else(|| format!("{name} is missing: who beats?"))
}

/// A decimal number of the unit: digits, and perhaps a fraction.
fn time(name: &str, text: &[u8], unit: Unit) -> Result<Duration, String> {
    let wrong = |why: &str| {
        let unit = if unit == Unit::Seconds { "seconds" } else { "milliseconds" };
        let shown = quote(text);
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
    let seconds = if unit == Unit::Seconds { number } else { number / 1000.0 };
    if seconds > LONGEST.as_secs_f64() {
        return wrong("it is longer than a week");
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// How long the next beat is waited for: a bare number, never less than was promised.
pub fn granted(granted: Duration, unit: Unit) -> String {
    let milliseconds = granted.as_nanos().div_ceil(1_000_000);
    match unit {
        Unit::Milliseconds => milliseconds.to_string(),
        Unit::Seconds if milliseconds.is_multiple_of(1000) => (milliseconds / 1000).to_string(),
        Unit::Seconds => {
            let text = format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000);
            text.trim_end_matches('0').to_owned()
        }
    }
}

/// `/list`: one id a line.
pub fn list(ids: &[&str]) -> String {
    ids.iter().fold(String::new(), |mut all, id| {
        all.push_str(&shown(id));
        all.push('\n');
        all
    })
}

/// The line of one application, in the form of Nagios' plugins.
pub fn status_line(status: &Status, unit: Unit) -> String {
    let id = shown(&status.id);
    let delay = granted(status.granted, unit);
    let unit = if unit == Unit::Seconds { "s" } else { "ms" };
    let numbers = format!(
        "od={:.2};{WARNING};{CRITICAL};0;{DROPPED} delay={delay}{unit};;;",
        // Rounding must not show a threshold that is not reached.
        (status.od * 100.0).floor() / 100.0
    );
    if let Some(left) = status.maintenance {
        return format!("{}| {numbers}", in_maintenance(&format!("application [{id}]"), left));
    }
    let (state, how) = match status.lateness {
        Lateness::Ok => ("OK", "fine"),
        Lateness::Warning => ("WARNING", "somewhat late"),
        Lateness::Critical | Lateness::Dropped => ("CRITICAL", "quite late"),
    };
    format!("{state} - {how} application [{id}]| {numbers}")
}

/// Reads such a line again. `None`: it says something else.
pub fn parse_status_line(id: &str, line: &str) -> Option<Status> {
    let (words, numbers) = line.trim_end().split_once("| od=")?;
    let (od, delay) = numbers.split_once(" delay=")?;
    let od = od.split(';').next()?.parse().ok()?;
    let delay = delay.split(';').next()?;
    let seconds: f64 = match delay.strip_suffix("ms") {
        Some(milliseconds) => milliseconds.parse::<f64>().ok()? / 1000.0,
        None => delay.strip_suffix('s')?.parse().ok()?,
    };
    let lateness = match words.split(' ').next()? {
        "OK" => Lateness::Ok,
        "WARNING" => Lateness::Warning,
        "CRITICAL" => Lateness::Critical,
        _ => return None,
    };
    let left = words
        .rsplit_once(" in maintenance for ")
        .and_then(|(_, left)| Some(Duration::from_secs(left.strip_suffix(" s")?.parse().ok()?)));
    let granted = Duration::try_from_secs_f64(seconds).ok()?;
    Some(Status { id: id.to_owned(), lateness, od, granted, maintenance: left })
}

/// The line of an application that is not in the table.
pub fn unknown_line(id: &str, maintenance: Option<Duration>) -> String {
    match maintenance {
        Some(left) => in_maintenance(&format!("application [{}]", shown(id)), left),
        None => format!("CRITICAL - no application record for queried ID: [{}]", shown(id)),
    }
}

/// The line of a host with no applications, or with several.
pub fn host_line(ids: &[&str], maintenance: Option<Duration>) -> String {
    let mut line = match maintenance {
        Some(left) => in_maintenance("host", left),
        None if ids.is_empty() => {
            return "UNKNOWN - no heartbeat clients at the moment...".to_owned();
        }
        None => "WARNING - multiple".to_owned(),
    };
    if !ids.is_empty() {
        let comma = if maintenance.is_some() { "," } else { "" };
        let names: Vec<String> = ids.iter().take(NAMED).map(|id| shown(id)).collect();
        let _ = write!(line, "{comma} ({}) applications: [{}", ids.len(), names.join(","));
        if ids.len() > NAMED {
            let _ = write!(line, " and {} more", ids.len() - NAMED);
        }
        line.push(']');
    }
    line
}

/// The confirmation of maintenance.
pub fn maintenance_line(id: Option<&str>, length: Duration) -> String {
    let what = id.map_or("host".to_owned(), |id| format!("application [{}]", shown(id)));
    match length.is_zero() {
        true => format!("OK - {what} not in maintenance any more"),
        false => in_maintenance(&what, length),
    }
}

fn in_maintenance(what: &str, left: Duration) -> String {
    format!("OK - {what} in maintenance for {} s", left.as_millis().div_ceil(1000))
}

/// An id as it is shown. It may hold anything; a line must stay one, and `|` begins its numbers.
pub fn shown(id: &str) -> String {
    id.chars().fold(String::with_capacity(id.len()), |mut out, letter| {
        match letter {
            '|' | '\\' => {
                let _ = write!(out, "\\x{:02x}", u32::from(letter));
            }
            letter if letter.is_control() => out.extend(letter.escape_default()),
            letter => out.push(letter),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Unit::{Milliseconds, Seconds};

    fn beat(id: &str, milliseconds: u64, unit: Unit) -> Result<Request, String> {
        Ok(Request::Beat(id.into(), Duration::from_millis(milliseconds), unit))
    }

    fn ms(target: &str) -> Result<Request, String> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Request::parse(path, query, Milliseconds)
    }

    fn s(target: &str) -> Result<Request, String> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Request::parse(path, query, Seconds)
    }

    #[test]
    fn beats_of_the_released_clients() {
        let demo = beat("demo", 5000, Milliseconds);
        assert_eq!(ms("/hb_ping?5000&appid=demo&cache_buster=1700000000_123"), demo);
        assert_eq!(ms("/hb_init?5000&appid=demo&cache_buster=1521475200.5"), demo);
        assert_eq!(ms("//some/prefix/hb_init?5000&appid=demo"), demo);
        assert_eq!(ms("/hb_ping?appid=demo"), beat("demo", 0, Milliseconds));
        assert_eq!(ms("/hb_ping?&appid=demo"), beat("demo", 0, Milliseconds));
        assert_eq!(ms("/hb_ping?0&appid=a%20b%26c"), beat("a b&c", 0, Milliseconds));
        assert_eq!(ms("/heartbeat.html?container=pong&next=700"), beat("pong", 700, Milliseconds));
        assert_eq!(s("/hb_ping?5&appid=demo"), beat("demo", 5000, Seconds));
        assert_eq!(s("/hb_ping?0.5&appid=demo"), beat("demo", 500, Seconds));
        assert_eq!(ms("/hb_done?0&appid=demo"), Ok(Request::Done("demo".into())));
        assert_eq!(ms("/list?cache_buster=1"), Ok(Request::List));
        assert_eq!(ms("/status?cache_buster=1"), Ok(Request::Status(None)));
        assert_eq!(ms("/status?0&appid=demo&c=1"), Ok(Request::Status(Some("demo".into()))));
        assert_eq!(ms("/status?appid="), Ok(Request::Status(None)));
        let minute = Duration::from_secs(60);
        assert_eq!(ms("/maintenance?60000"), Ok(Request::Maintenance(None, minute)));
        let of_demo = Request::Maintenance(Some("demo".into()), Duration::ZERO);
        assert_eq!(s("/maintenance?0&appid=demo"), Ok(of_demo));
    }

    #[test]
    fn what_is_wrong_is_said() {
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
            ("/", "there is no \"\" here"),
            ("/hb_pong?1&appid=a", "there is no \"hb_pong\" here"),
            ("/hb_ping\u{1b}?1", r#"there is no "hb_ping\x1b""#),
        ] {
            let error = ms(target).unwrap_err();
            assert!(error.contains(why), "{target}: {error}");
        }
        assert!(ms(&format!("/hb_ping?1&appid={}", "x".repeat(256))).is_ok());
        let long = ms(&format!("/hb_ping?1&appid={}", "x".repeat(257))).unwrap_err();
        assert_eq!(long, "the id has 257 bytes; 256 are the most");
        assert!(ms("/hb_ping?604800000&appid=a").is_ok());
    }

    #[test]
    fn what_is_granted_is_a_bare_number() {
        for (micros, unit, text) in [
            (6_000_000, Milliseconds, "6000"),
            (1_000_500, Milliseconds, "1001"),
            (6_000_000, Seconds, "6"),
            (1_500_000, Seconds, "1.5"),
            (1_000_100, Seconds, "1.001"),
            (100_000_000, Seconds, "100"),
        ] {
            assert_eq!(granted(Duration::from_micros(micros), unit), text);
        }
    }

    fn status(lateness: Lateness, od: f64) -> Status {
        let granted = Duration::from_millis(2725);
        Status { id: "Tetris".into(), lateness, od, granted, maintenance: None }
    }

    #[test]
    fn the_lines_of_the_released_server() {
        let line = |lateness, od| status_line(&status(lateness, od), Milliseconds);
        assert_eq!(
            line(Lateness::Ok, 1.83),
            "OK - fine application [Tetris]| od=1.83;3;5;0;6 delay=2725ms;;;"
        );
        assert_eq!(
            line(Lateness::Warning, 3.0),
            "WARNING - somewhat late application [Tetris]| od=3.00;3;5;0;6 delay=2725ms;;;"
        );
        assert_eq!(
            line(Lateness::Critical, 5.999),
            "CRITICAL - quite late application [Tetris]| od=5.99;3;5;0;6 delay=2725ms;;;"
        );
        assert_eq!(
            unknown_line("Tetris", None),
            "CRITICAL - no application record for queried ID: [Tetris]"
        );
        assert_eq!(
            host_line(&["Tetris", "Zelda", "Sonic"], None),
            "WARNING - multiple (3) applications: [Tetris,Zelda,Sonic]"
        );
        assert_eq!(host_line(&[], None), "UNKNOWN - no heartbeat clients at the moment...");
        assert_eq!(list(&["Tetris", "Zelda"]), "Tetris\nZelda\n");
    }

    #[test]
    fn lines_can_be_read_again() {
        for unit in [Milliseconds, Seconds] {
            for (lateness, od) in [(Lateness::Ok, 0.25), (Lateness::Critical, 5.5)] {
                let status = status(lateness, od);
                let line = status_line(&status, unit);
                assert_eq!(parse_status_line("Tetris", &line), Some(status));
            }
        }
        let left = Some(Duration::from_secs(9));
        let app = Status { maintenance: left, ..status(Lateness::Ok, 1.0) };
        assert_eq!(parse_status_line("Tetris", &status_line(&app, Seconds)), Some(app));
        for other in
            ["", "OK - fine", &unknown_line("x", None), "OK| od=x delay=1ms", "OK| od=1 delay=-1s"]
        {
            assert_eq!(parse_status_line("x", other), None, "{other}");
        }
    }

    #[test]
    fn maintenance_is_ok_and_said() {
        let left = Some(Duration::from_millis(54_100));
        let app = Status { maintenance: left, ..status(Lateness::Critical, 5.5) };
        assert_eq!(
            status_line(&app, Seconds),
            "OK - application [Tetris] in maintenance for 55 s| od=5.50;3;5;0;6 delay=2.725s;;;"
        );
        assert_eq!(unknown_line("x", left), "OK - application [x] in maintenance for 55 s");
        assert_eq!(host_line(&[], left), "OK - host in maintenance for 55 s");
        let two = host_line(&["a", "b"], left);
        assert_eq!(two, "OK - host in maintenance for 55 s, (2) applications: [a,b]");
        assert_eq!(
            maintenance_line(Some("x"), Duration::ZERO),
            "OK - application [x] not in maintenance any more"
        );
    }

    #[test]
    fn ids_cannot_break_a_line() {
        assert_eq!(shown("a|b\nc\\d\u{1b}"), r"a\x7cb\nc\x5cd\u{1b}");
        assert_eq!(list(&["a\nb"]).lines().count(), 1);
        let many: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(host_line(&many, None).ends_with(",49 and 950 more]"));
    }
}
