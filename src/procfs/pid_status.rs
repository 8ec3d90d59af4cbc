//! `/proc/PID/status`: the user of a process. Format: proc_pid_status(5). Two real lines among many others, with tabs between
//! the fields; the IDs are the real, effective, saved and filesystem one:
//!
//! ```text
//! Name:    python3
//! Uid:    1000    1000    1000    1000
//! ```

use crate::procfs::{ParseError, fields, key_value, lines, number};

/// Real user ID.
pub fn parse_uid(text: &[u8]) -> Result<u32, ParseError> {
    let found = lines(text).find_map(|(at, line)| match key_value(line, b':') {
        Some((b"Uid", ids)) => Some((at, ids)),
        _ => None,
    });
    let (at, ids) = found.ok_or(ParseError::missing("a line \"Uid\""))?;
    let uid = number(at, fields(ids).next())?;
    u32::try_from(uid).map_err(|_| ParseError::new(at, "a user ID", ids))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const TEXT: &[u8] = b"Name:\tpython3\nUmask:\t0022\nUid:\t1000\t0\t0\t0\nGid:\t7\t7\t7\t7\n";

    #[test]
    fn returns_the_real_user() {
        assert_eq!(parse_uid(TEXT), Ok(1000));
    }

    #[test]
    fn rejects_malformed_text() {
        for bad in ["", "Name:\tx\n", "Uid:\t\n", "Uid:\tx\n", "Uid:\t4294967296\n"] {
            assert!(parse_uid(bad.as_bytes()).is_err(), "{bad}");
        }
        let long = [b"Uid:\t", &[b'9'; 400][..]].concat();
        assert!(parse_uid(&long).is_err());
        parse_every_prefix(TEXT, parse_uid);
    }
}
