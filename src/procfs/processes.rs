//! `/proc/PID/stat` of every process, concatenated.
//!
//! Format: proc_pid_stat(5). The name, in parentheses, may be any bytes, also newlines: then a process has several lines. A real line:
//!
//! ```text
//! 15718 (cat) R 15714 15714 10924 0 -1 4194304 99 0 0 0 3 1 0 0 20 0 1 0 2384670 3133440 388 18446744073709551615 …
//! ```

use crate::procfs::pid_stat;
use crate::util::text::parse_decimal;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// Name of at most 15 bytes; longer for kernel threads.
    pub name: Vec<u8>,
    /// CPU time since its start, in ticks of `USER_HZ` (100 per second).
    pub ticks: u64,
    /// Start time in ticks since boot. Distinguishes processes that reuse a pid.
    pub start_ticks: u64,
    pub resident_pages: u64,
}

/// Longest name that a user can give to a process.
const MAX_NAME_BYTES: usize = 15;

/// Skips malformed lines: a process may exit while its file is read.
pub fn parse(text: &[u8]) -> Vec<Process> {
    let mut found = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (process, length) = first(rest);
        found.extend(process);
        rest = rest.get(length..).unwrap_or_default();
    }
    found
}

/// The first process and the length of its lines; of the first line if that is malformed.
fn first(text: &[u8]) -> (Option<Process>, usize) {
    let newlines = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    let ends = newlines.map(|(at, _)| at).chain([text.len()]);
    let mut length = None;
    // A name is too short for the fields after it. So a line that lacks these continues in the next one.
    for end in ends.take(1 + MAX_NAME_BYTES) {
        let is_first_line = length.is_none();
        let process = text.get(..end).and_then(process);
        let fits = |process: &Process| is_first_line || process.name.len() <= MAX_NAME_BYTES;
        if let Some(process) = process.filter(fits) {
            return (Some(process), end.saturating_add(1));
        }
        length.get_or_insert(end.saturating_add(1));
    }
    (None, length.unwrap_or(text.len()))
}

fn process(line: &[u8]) -> Option<Process> {
    let open = line.iter().position(|&byte| byte == b'(')?;
    let close = line.iter().rposition(|&byte| byte == b')')?;
    let pid = u32::try_from(parse_decimal(line.get(..open)?.trim_ascii())?).ok()?;
    let name = line.get(open.checked_add(1)?..close)?.to_vec();
    let used = pid_stat::parse(line).ok()?;
    Some(Process {
        pid,
        name,
        ticks: used.user_ticks.saturating_add(used.system_ticks),
        start_ticks: used.start_ticks,
        resident_pages: used.resident_pages,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REAL: &[u8] = b"15718 (c ) (at) R 15714 15714 10924 0 -1 4194304 99 0 0 0 7 9 0 0 20 0 3 0 2384670 3133440 388 18446744073709551615 94758809419776
2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 41 0 0 20 0 1 0 5 0 0 18446744073709551615 0
";

    #[test]
    fn parses_a_real_sample() {
        let found = parse(REAL);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].pid, &found[0].name[..]), (15718, &b"c ) (at"[..]));
        assert_eq!((found[0].ticks, found[0].start_ticks), (16, 2384670));
        assert_eq!(found[0].resident_pages, 388);
        assert_eq!((found[1].ticks, found[1].resident_pages), (41, 0));
    }

    #[test]
    fn name_with_newlines_is_no_other_process() {
        let text = String::from_utf8_lossy(REAL).into_owned();
        for name in ["x\n1 (a", "\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n", "a)\n1 (b) R 1\n", "\n", ")\n("] {
            let found = parse(text.replace("c ) (at", name).as_bytes());
            let found: Vec<_> = found.iter().map(|found| (found.pid, &found.name[..])).collect();
            assert_eq!(found, [(15718, name.as_bytes()), (2, &b"kthreadd"[..])]);
        }
        // The end of a file is missing.
        let found = parse(text.replace("2384670 ", "\n").replacen("3 0 \n", "\n", 1).as_bytes());
        assert_eq!(found.iter().map(|found| found.pid).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn skips_malformed_lines() {
        for bad in [&b""[..], b"1 (a)", b"1 )a( R", b"x (a) R 1", b"(a", b"1 a) R"] {
            assert_eq!(parse(bad), [], "{}", crate::util::text::escape_for_log(bad, 40));
        }
        let with = |from, to| parse(String::from_utf8_lossy(REAL).replace(from, to).as_bytes());
        assert_eq!(with("2384670", "99999999999999999999").len(), 1);
        for end in 0..REAL.len() {
            assert!(parse(&REAL[..end]).len() <= 2);
        }
    }
}
