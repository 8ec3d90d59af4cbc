//! `ras/umc_err_count` and `ras/aca_umc` of an AMD GPU: errors of its memory.
//!
//! Format: kernel `drivers/gpu/drm/amd/amdgpu/amdgpu_ras.c`, "AMDGPU RAS sysfs Error Count Interface".
//! Errors that were not corrected, that were, and (since 6.8) that wait to be consumed:
//!
//! ```text
//! ue: 0
//! ce: 1
//! de: 0
//! ```
//!
//! While the GPU is reset, `Query currently inaccessible` stands there instead.

use crate::procfs::{ParseError, key_value, lines, number};

/// Errors of one part of a GPU since its driver was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errors {
    /// Those that were not corrected.
    pub uncorrected: u64,
    /// Those that were.
    pub corrected: u64,
}

/// Parses one part's counts.
pub fn parse(text: &[u8]) -> Result<Errors, ParseError> {
    let (mut uncorrected, mut corrected) = (None, None);
    for (at, line) in lines(text) {
        match key_value(line, b':') {
            Some((b"ue", value)) => uncorrected = Some(number(at, Some(value))?),
            Some((b"ce", value)) => corrected = Some(number(at, Some(value))?),
            _ => continue,
        }
    }
    Ok(Errors {
        uncorrected: uncorrected.ok_or(ParseError::missing("a line \"ue\""))?,
        corrected: corrected.ok_or(ParseError::missing("a line \"ce\""))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::survives_every_cut;

    const DOCUMENTED: &[u8] = b"ue: 2\nce: 1\nde: 7\n";

    #[test]
    fn what_the_kernel_documents() {
        assert_eq!(parse(DOCUMENTED), Ok(Errors { uncorrected: 2, corrected: 1 }));
        let before_6_8 = b"ue: 2\nce: 1\n";
        assert_eq!(parse(before_6_8), parse(DOCUMENTED));
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        let bad = [&b""[..], b"ue: 1\n", b"ce: 1\n", b"ue: x\nce: 1\n", b"ue: -1\nce: 1\n"];
        for bad in bad.into_iter().chain([&b"Query currently inaccessible\n"[..]]) {
            assert!(parse(bad).is_err());
        }
        let long = [b"ue: ", &[b'9'; 400][..], b"\nce: 1\n"].concat();
        assert!(parse(&long).is_err());
        survives_every_cut(DOCUMENTED, parse);
    }
}
