//! The responses of the heartbeat port: numbers, lists, and status lines in Nagios plugin format.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::config::TimeUnit;
use crate::model::status::{AppState, AppStatus};
use crate::model::status::{CRITICAL_RATIO, DROPPED_RATIO, WARNING_RATIO};

/// Ids in the status line of a host. Monitoring systems truncate long lines anyway: Nagios after 8 KiB.
pub const MAX_LISTED_IDS: usize = 50;
/// Length of all ids in that line. One id may take 1.5 KB, and many clients may request the line and not read it.
const MAX_LISTED_BYTES: usize = 4 << 10;

/// The response to `hb_done`.
pub const DONE: &str = "So long, and thanks for all the beats!";

/// The response to a heartbeat: the timeout as a bare number. Rounded up, so that it is never less than the announced interval.
pub fn timeout(timeout: Duration, unit: TimeUnit) -> String {
    let milliseconds = timeout.as_nanos().div_ceil(1_000_000);
    match unit {
        TimeUnit::Milliseconds => milliseconds.to_string(),
        TimeUnit::Seconds if milliseconds.is_multiple_of(1000) => (milliseconds / 1000).to_string(),
        TimeUnit::Seconds => {
            let text = format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000);
            text.trim_end_matches('0').to_owned()
        }
    }
}

/// Writes the response to `/list`: one id per line.
pub fn write_list(ids: &[Arc<str>], out: &mut dyn io::Write) -> io::Result<()> {
    ids.iter().try_for_each(|id| {
        out.write_all(escape_id(id).as_bytes())?;
        out.write_all(b"\n")
    })
}

/// The length of what [`write_list`] writes for an id.
pub fn list_line_length(id: &str) -> usize {
    escape_id(id).len() + 1
}

/// The response to `/status` for an application.
pub fn status_line(status: &AppStatus, unit: TimeUnit) -> String {
    let id = escape_id(&status.id);
    let delay = timeout(status.timeout, unit);
    let unit = if unit == TimeUnit::Seconds { "s" } else { "ms" };
    let numbers = format!(
        "od={:.2};{WARNING_RATIO};{CRITICAL_RATIO};0;{DROPPED_RATIO} delay={delay}{unit};;;",
        // Rounded down, so that the line never shows a threshold that is not reached.
        (status.overdue_ratio * 100.0).floor() / 100.0
    );
    if let Some(remaining) = status.maintenance {
        return format!("{}| {numbers}", in_maintenance(&format!("application [{id}]"), remaining));
    }
    let (state, how) = match status.state {
        AppState::Ok => ("OK", "fine"),
        AppState::Warning => ("WARNING", "somewhat late"),
        AppState::Critical | AppState::Dropped => ("CRITICAL", "quite late"),
    };
    format!("{state} - {how} application [{id}]| {numbers}")
}

/// Parses a line of [`status_line`]; `None` for other lines.
pub fn parse_status_line(id: &str, line: &str) -> Option<AppStatus> {
    let (text, perfdata) = line.trim_end().split_once("| od=")?;
    let (od, delay) = perfdata.split_once(" delay=")?;
    let overdue_ratio = od.split(';').next()?.parse().ok()?;
    let delay = delay.split(';').next()?;
    let seconds: f64 = match delay.strip_suffix("ms") {
        Some(milliseconds) => milliseconds.parse::<f64>().ok()? / 1000.0,
        None => delay.strip_suffix('s')?.parse().ok()?,
    };
    let state = match text.split(' ').next()? {
        "OK" => AppState::Ok,
        "WARNING" => AppState::Warning,
        "CRITICAL" => AppState::Critical,
        _ => return None,
    };
    let maintenance = text
        .rsplit_once(" in maintenance for ")
        .and_then(|(_, rest)| Some(Duration::from_secs(rest.strip_suffix(" s")?.parse().ok()?)));
    let timeout = Duration::try_from_secs_f64(seconds).ok()?;
    Some(AppStatus { id: id.to_owned(), state, overdue_ratio, timeout, maintenance })
}

/// The response to `/status` for an application that is not in the table.
pub fn unknown_line(id: &str, maintenance: Option<Duration>) -> String {
    match maintenance {
        Some(remaining) => in_maintenance(&format!("application [{}]", escape_id(id)), remaining),
        None => format!("CRITICAL - no application record for queried ID: [{}]", escape_id(id)),
    }
}

/// The response to `/status` for a host with no application, or with several: `count`, of which `first_ids` are the first ones.
pub fn host_line(count: usize, first_ids: &[Arc<str>], maintenance: Option<Duration>) -> String {
    let mut line = match maintenance {
        Some(remaining) => in_maintenance("host", remaining),
        None if count == 0 => {
            return "UNKNOWN - no heartbeat clients at the moment...".to_owned();
        }
        None => "WARNING - multiple".to_owned(),
    };
    if count > 0 {
        let comma = if maintenance.is_some() { "," } else { "" };
        let mut names: Vec<Cow<'_, str>> = Vec::new();
        let mut bytes = 0;
        for id in first_ids.iter().take(MAX_LISTED_IDS).map(|id| escape_id(id)) {
            bytes += id.len() + 1;
            if bytes > MAX_LISTED_BYTES {
                break;
            }
            names.push(id);
        }
        let _ = write!(line, "{comma} ({count}) applications: [{}", names.join(","));
        if count > names.len() {
            let _ = write!(line, " and {} more", count - names.len());
        }
        line.push(']');
    }
    line
}

/// The response to `/maintenance`.
pub fn maintenance_line(id: Option<&str>, length: Duration) -> String {
    let what = id.map_or("host".to_owned(), |id| format!("application [{}]", escape_id(id)));
    match length.is_zero() {
        true => format!("OK - {what} not in maintenance any more"),
        false => in_maintenance(&what, length),
    }
}

fn in_maintenance(what: &str, remaining: Duration) -> String {
    format!("OK - {what} in maintenance for {} s", remaining.as_millis().div_ceil(1000))
}

/// Escapes an id for a status line or a log line. An id may contain any character, but control characters would break the line
/// and `|` starts the performance data.
pub fn escape_id(id: &str) -> Cow<'_, str> {
    let is_special = |letter: char| letter.is_control() || ['|', '\\'].contains(&letter);
    if !id.contains(is_special) {
        return id.into();
    }
    let mut out = String::with_capacity(2 * id.len());
    for letter in id.chars() {
        match letter {
            '|' | '\\' => {
                let _ = write!(out, "\\x{:02x}", u32::from(letter));
            }
            letter if letter.is_control() => out.extend(letter.escape_default()),
            letter => out.push(letter),
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use TimeUnit::{Milliseconds, Seconds};

    #[test]
    fn formats_timeout_as_bare_number() {
        for (micros, unit, text) in [
            (6_000_000, Milliseconds, "6000"),
            (1_000_500, Milliseconds, "1001"),
            (6_000_000, Seconds, "6"),
            (1_500_000, Seconds, "1.5"),
            (1_000_100, Seconds, "1.001"),
            (100_000_000, Seconds, "100"),
        ] {
            assert_eq!(timeout(Duration::from_micros(micros), unit), text);
        }
    }

    fn ids(ids: &[&str]) -> Vec<Arc<str>> {
        ids.iter().map(|id| (*id).into()).collect()
    }

    fn list(names: &[&str]) -> String {
        let mut bytes = Vec::new();
        write_list(&ids(names), &mut bytes).expect("a Vec takes everything");
        assert_eq!(bytes.len(), names.iter().map(|id| list_line_length(id)).sum::<usize>());
        String::from_utf8(bytes).expect("UTF-8")
    }

    fn status(state: AppState, overdue_ratio: f64) -> AppStatus {
        let timeout = Duration::from_millis(2725);
        AppStatus { id: "Tetris".into(), state, overdue_ratio, timeout, maintenance: None }
    }

    #[test]
    fn formats_lines_of_released_server() {
        let line = |state, od| status_line(&status(state, od), Milliseconds);
        assert_eq!(
            line(AppState::Ok, 1.83),
            "OK - fine application [Tetris]| od=1.83;3;5;0;6 delay=2725ms;;;"
        );
        assert_eq!(
            line(AppState::Warning, 3.0),
            "WARNING - somewhat late application [Tetris]| od=3.00;3;5;0;6 delay=2725ms;;;"
        );
        assert_eq!(
            line(AppState::Critical, 5.999),
            "CRITICAL - quite late application [Tetris]| od=5.99;3;5;0;6 delay=2725ms;;;"
        );
        assert_eq!(
            unknown_line("Tetris", None),
            "CRITICAL - no application record for queried ID: [Tetris]"
        );
        assert_eq!(
            host_line(3, &ids(&["Tetris", "Zelda", "Sonic"]), None),
            "WARNING - multiple (3) applications: [Tetris,Zelda,Sonic]"
        );
        assert_eq!(host_line(0, &[], None), "UNKNOWN - no heartbeat clients at the moment...");
        assert_eq!(list(&["Tetris", "Zelda"]), "Tetris\nZelda\n");
        assert_eq!(list(&[]), "");
    }

    #[test]
    fn parses_its_own_lines() {
        for unit in [Milliseconds, Seconds] {
            for (state, od) in [(AppState::Ok, 0.25), (AppState::Critical, 5.5)] {
                let status = status(state, od);
                let line = status_line(&status, unit);
                assert_eq!(parse_status_line("Tetris", &line), Some(status));
            }
        }
        let left = Some(Duration::from_secs(9));
        let app = AppStatus { maintenance: left, ..status(AppState::Ok, 1.0) };
        assert_eq!(parse_status_line("Tetris", &status_line(&app, Seconds)), Some(app));
        for other in
            ["", "OK - fine", &unknown_line("x", None), "OK| od=x delay=1ms", "OK| od=1 delay=-1s"]
        {
            assert_eq!(parse_status_line("x", other), None, "{other}");
        }
    }

    #[test]
    fn formats_maintenance_as_ok() {
        let left = Some(Duration::from_millis(54_100));
        let app = AppStatus { maintenance: left, ..status(AppState::Critical, 5.5) };
        assert_eq!(
            status_line(&app, Seconds),
            "OK - application [Tetris] in maintenance for 55 s| od=5.50;3;5;0;6 delay=2.725s;;;"
        );
        assert_eq!(unknown_line("x", left), "OK - application [x] in maintenance for 55 s");
        assert_eq!(host_line(0, &[], left), "OK - host in maintenance for 55 s");
        let two = host_line(2, &ids(&["a", "b"]), left);
        assert_eq!(two, "OK - host in maintenance for 55 s, (2) applications: [a,b]");
        assert_eq!(
            maintenance_line(Some("x"), Duration::ZERO),
            "OK - application [x] not in maintenance any more"
        );
    }

    #[test]
    fn escapes_ids_so_that_lines_stay_intact() {
        assert_eq!(escape_id("a|b\nc\\d\u{1b}"), r"a\x7cb\nc\x5cd\u{1b}");
        assert_eq!(list(&["a\nb"]).lines().count(), 1);
    }

    #[test]
    fn line_of_a_host_is_bounded() {
        let many: Vec<Arc<str>> = (0..50).map(|number| number.to_string().into()).collect();
        assert!(host_line(1000, &many, None).ends_with(",49 and 950 more]"));
        assert!(host_line(50, &many, None).ends_with(",49]"));
        let long: Vec<Arc<str>> = vec!["\u{7f}".repeat(256).into(); 50];
        let line = host_line(10_000, &long, None);
        assert!(line.len() < 5000 && line.ends_with(" and 9998 more]"), "{line}");
    }
}
