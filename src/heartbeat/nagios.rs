//! What is answered: numbers, lists, and lines in the form of Nagios' plugins.

use std::fmt::Write;
use std::time::Duration;

use crate::heartbeat::protocol::Unit;
use crate::model::status::AppState;
use crate::model::status::AppStatus;
use crate::model::status::{CRITICAL_RATIO, DROPPED_RATIO, WARNING_RATIO};

/// Ids that a status line names; monitoring systems cut longer lines anyway.
const NAMED: usize = 50;

/// What the answer to `hb_done` says.
pub const GOODBYE: &str = "So long, and thanks for all the beats!";

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
pub fn status_line(status: &AppStatus, unit: Unit) -> String {
    let id = shown(&status.id);
    let delay = granted(status.timeout, unit);
    let unit = if unit == Unit::Seconds { "s" } else { "ms" };
    let numbers = format!(
        "od={:.2};{WARNING_RATIO};{CRITICAL_RATIO};0;{DROPPED_RATIO} delay={delay}{unit};;;",
        // Rounding must not show a threshold that is not reached.
        (status.overdue_ratio * 100.0).floor() / 100.0
    );
    if let Some(left) = status.maintenance {
        return format!("{}| {numbers}", in_maintenance(&format!("application [{id}]"), left));
    }
    let (state, how) = match status.state {
        AppState::Ok => ("OK", "fine"),
        AppState::Warning => ("WARNING", "somewhat late"),
        AppState::Critical | AppState::Dropped => ("CRITICAL", "quite late"),
    };
    format!("{state} - {how} application [{id}]| {numbers}")
}

/// Reads such a line again. `None`: it says something else.
pub fn parse_status_line(id: &str, line: &str) -> Option<AppStatus> {
    let (words, numbers) = line.trim_end().split_once("| od=")?;
    let (od, delay) = numbers.split_once(" delay=")?;
    let od = od.split(';').next()?.parse().ok()?;
    let delay = delay.split(';').next()?;
    let seconds: f64 = match delay.strip_suffix("ms") {
        Some(milliseconds) => milliseconds.parse::<f64>().ok()? / 1000.0,
        None => delay.strip_suffix('s')?.parse().ok()?,
    };
    let lateness = match words.split(' ').next()? {
        "OK" => AppState::Ok,
        "WARNING" => AppState::Warning,
        "CRITICAL" => AppState::Critical,
        _ => return None,
    };
    let left = words
        .rsplit_once(" in maintenance for ")
        .and_then(|(_, left)| Some(Duration::from_secs(left.strip_suffix(" s")?.parse().ok()?)));
    let granted = Duration::try_from_secs_f64(seconds).ok()?;
    Some(AppStatus {
        id: id.to_owned(),
        state: lateness,
        overdue_ratio: od,
        timeout: granted,
        maintenance: left,
    })
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

    fn status(lateness: AppState, od: f64) -> AppStatus {
        let granted = Duration::from_millis(2725);
        AppStatus {
            id: "Tetris".into(),
            state: lateness,
            overdue_ratio: od,
            timeout: granted,
            maintenance: None,
        }
    }

    #[test]
    fn the_lines_of_the_released_server() {
        let line = |lateness, od| status_line(&status(lateness, od), Milliseconds);
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
            host_line(&["Tetris", "Zelda", "Sonic"], None),
            "WARNING - multiple (3) applications: [Tetris,Zelda,Sonic]"
        );
        assert_eq!(host_line(&[], None), "UNKNOWN - no heartbeat clients at the moment...");
        assert_eq!(list(&["Tetris", "Zelda"]), "Tetris\nZelda\n");
    }

    #[test]
    fn lines_can_be_read_again() {
        for unit in [Milliseconds, Seconds] {
            for (lateness, od) in [(AppState::Ok, 0.25), (AppState::Critical, 5.5)] {
                let status = status(lateness, od);
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
    fn maintenance_is_ok_and_said() {
        let left = Some(Duration::from_millis(54_100));
        let app = AppStatus { maintenance: left, ..status(AppState::Critical, 5.5) };
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
