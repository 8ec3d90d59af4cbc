//! `/proc/PID/stat` and `/proc/PID/task/TID/stat`: state, parent and resource usage of a process or thread.
//!
//! Format: proc_pid_stat(5). The name, in parentheses, may be any bytes, also newlines; numbers follow the last parenthesis. A real line:
//!
//! ```text
//! 15718 (cat) R 15714 15714 10924 0 -1 4194304 99 0 0 0 0 0 0 0 20 0 1 0 2384670 3133440 388 18446744073709551615 …
//! ```

use crate::procfs::{ParseError, fields, number};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PidStat {
    /// `R` (running), `S` (sleeping), `D` (uninterruptible sleep), …
    pub state: u8,
    pub parent_pid: u32,
    /// CPU time in user mode, in ticks of `USER_HZ` (100 per second).
    pub user_ticks: u64,
    /// CPU time in kernel mode, in ticks.
    pub system_ticks: u64,
    pub threads: u64,
    /// Start time, in ticks since boot.
    pub start_ticks: u64,
    /// Size of the address space.
    pub virtual_bytes: u64,
    pub resident_pages: u64,
}

pub fn parse(text: &[u8]) -> Result<PidStat, ParseError> {
    let bracket = text.iter().rposition(|&byte| byte == b')');
    let rest = bracket.and_then(|at| text.get(at.checked_add(1)?..));
    let rest = rest.ok_or_else(|| ParseError::new(1, "a name in parentheses", text))?;
    // The first of these fields is the third one of the line.
    let mut fields = fields(rest.trim_ascii());
    let state = fields.next().and_then(<[u8]>::first).copied();
    let state = state.ok_or_else(|| ParseError::new(1, "a state", text))?;
    let parent = number(1, fields.next())?;
    let parent_pid =
        u32::try_from(parent).map_err(|_| ParseError::new(1, "the pid of the parent", text))?;
    let mut fields = fields.skip(9);
    let (user_ticks, system_ticks) = (number(1, fields.next())?, number(1, fields.next())?);
    let mut fields = fields.skip(4);
    let threads = number(1, fields.next())?;
    let mut fields = fields.skip(1);
    let (start_ticks, virtual_bytes) = (number(1, fields.next())?, number(1, fields.next())?);
    let resident_pages = number(1, fields.next())?;
    Ok(PidStat {
        state,
        parent_pid,
        user_ticks,
        system_ticks,
        threads,
        start_ticks,
        virtual_bytes,
        resident_pages,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const REAL: &[u8] = b"15718 (c ) (at) R 15714 15714 10924 0 -1 4194304 99 0 0 0 7 9 0 0 20 0 3 0 2384670 3133440 388 18446744073709551615 94758809419776\n";

    #[test]
    fn parses_a_real_sample() {
        let found = parse(REAL).unwrap();
        assert_eq!((found.state, found.parent_pid), (b'R', 15714));
        assert_eq!((found.user_ticks, found.system_ticks, found.threads), (7, 9, 3));
        assert_eq!((found.start_ticks, found.virtual_bytes), (2384670, 3133440));
        assert_eq!(found.resident_pages, 388);
        let name = String::from_utf8_lossy(REAL).replace("c ) (at", "a\n1 (b) R 1\n");
        assert_eq!(parse(name.as_bytes()), parse(REAL));
    }

    #[test]
    fn rejects_malformed_text() {
        let with = |from: &str, to: &str| {
            parse(String::from_utf8_lossy(REAL).replace(from, to).as_bytes())
        };
        assert!(with(")", "").is_err());
        assert!(with("R 15714", "R 99999999999").is_err());
        assert!(with("2384670", "soon").is_err());
        assert!(with("2384670", "99999999999999999999").is_err());
        assert!(parse(b"").is_err() && parse(b"1 (a)").is_err());
        parse_every_prefix(REAL, parse);
    }
}
