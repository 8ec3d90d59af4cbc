//! `ras/umc_err_count` and `ras/aca_umc` of an AMD GPU: memory errors.
//!
//! Format: kernel `drivers/gpu/drm/amd/amdgpu/amdgpu_ras.c`, "AMDGPU RAS sysfs Error Count Interface".
//! Uncorrected errors, corrected errors, and (since Linux 6.8) deferred errors:
//!
//! ```text
//! ue: 0
//! ce: 1
//! de: 0
//! ```
//!
//! While the GPU is being reset, the file contains `Query currently inaccessible`.

use crate::procfs::{ParseError, key_value, lines, number};

/// Errors since the driver was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RasErrorCount {
    pub uncorrected: u64,
    pub corrected: u64,
}

pub fn parse(text: &[u8]) -> Result<RasErrorCount, ParseError> {
    let (mut uncorrected, mut corrected) = (None, None);
    for (at, line) in lines(text) {
        match key_value(line, b':') {
            Some((b"ue", value)) => uncorrected = Some(number(at, Some(value))?),
            Some((b"ce", value)) => corrected = Some(number(at, Some(value))?),
            _ => continue,
        }
    }
    Ok(RasErrorCount {
        uncorrected: uncorrected.ok_or(ParseError::missing("a line \"ue\""))?,
        corrected: corrected.ok_or(ParseError::missing("a line \"ce\""))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const DOCUMENTED: &[u8] = b"ue: 2\nce: 1\nde: 7\n";

    #[test]
    fn parses_documented_sample() {
        assert_eq!(parse(DOCUMENTED), Ok(RasErrorCount { uncorrected: 2, corrected: 1 }));
        let before_6_8 = b"ue: 2\nce: 1\n";
        assert_eq!(parse(before_6_8), parse(DOCUMENTED));
    }

    #[test]
    fn rejects_malformed_text() {
        let bad = [&b""[..], b"ue: 1\n", b"ce: 1\n", b"ue: x\nce: 1\n", b"ue: -1\nce: 1\n"];
        for bad in bad.into_iter().chain([&b"Query currently inaccessible\n"[..]]) {
            assert!(parse(bad).is_err());
        }
        let long = [b"ue: ", &[b'9'; 400][..], b"\nce: 1\n"].concat();
        assert!(parse(&long).is_err());
        parse_every_prefix(DOCUMENTED, parse);
    }
}
