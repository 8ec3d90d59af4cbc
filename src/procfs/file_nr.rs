//! `/proc/sys/fs/file-nr`: open files of all processes.
//!
//! Format: kernel `Documentation/admin-guide/sysctl/fs.rst`, "file-nr": allocated, unused (0 since 2.6), maximum.
//! A real line:
//!
//! ```text
//! 1472\t0\t9223372036854775807
//! ```

use crate::procfs::{ParseError, fields, number};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileNr {
    pub allocated: u64,
    pub maximum: u64,
}

pub fn parse(text: &[u8]) -> Result<FileNr, ParseError> {
    let mut fields = fields(text.trim_ascii());
    let allocated = number(1, fields.next())?;
    number(1, fields.next())?;
    Ok(FileNr { allocated, maximum: number(1, fields.next())? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const REAL: &[u8] = b"1472\t0\t9223372036854775807\n";

    #[test]
    fn parses_a_real_sample() {
        assert_eq!(parse(REAL), Ok(FileNr { allocated: 1472, maximum: 9223372036854775807 }));
        assert!(parse(b"1 0 2 further columns\n").is_ok());
    }

    #[test]
    fn rejects_malformed_text() {
        for bad in [&b""[..], b"1472\t0\n", b"a\t0\t1\n", b"1 0 99999999999999999999\n"] {
            assert!(parse(bad).is_err());
        }
        parse_every_prefix(REAL, parse);
    }
}
