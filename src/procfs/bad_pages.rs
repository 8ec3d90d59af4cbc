//! `ras/gpu_vram_bad_pages` of an AMD GPU: pages of its memory that are not used because of errors.
//!
//! Format: kernel `drivers/gpu/drm/amd/amdgpu/amdgpu_ras.c`, "AMDGPU RAS sysfs gpu_vram_bad_pages Interface": page number,
//! page size, and `R` (retired), `P` (to be retired at the next reset) or `F` (could not be retired). The file is empty if
//! there are none. A documented line:
//!
//! ```text
//! 0x00000001 : 0x00001000 : R
//! ```

use crate::procfs::{ParseError, lines};

/// Numbers of pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BadPages {
    pub retired: u64,
    pub pending: u64,
    pub failed: u64,
}

pub fn parse(text: &[u8]) -> Result<BadPages, ParseError> {
    let mut pages = BadPages::default();
    for (at, line) in lines(text).filter(|(_, line)| !line.trim_ascii().is_empty()) {
        let mut fields = line.rsplitn(3, |&byte| byte == b':').map(<[u8]>::trim_ascii);
        let (state, size, page) = (fields.next(), fields.next(), fields.next());
        let count = match state {
            Some(b"R") => &mut pages.retired,
            Some(b"P") => &mut pages.pending,
            Some(b"F") => &mut pages.failed,
            _ => return Err(ParseError::new(at, "the state of a page", line)),
        };
        if ![page, size].into_iter().all(is_address) {
            return Err(ParseError::new(at, "a page and its size", line));
        }
        *count = count.saturating_add(1);
    }
    Ok(pages)
}

fn is_address(field: Option<&[u8]>) -> bool {
    let digits = field.and_then(|field| field.strip_prefix(b"0x"));
    digits.is_some_and(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const DOCUMENTED: &[u8] =
        b"0x00000001 : 0x00001000 : R\n0x00000002 : 0x00001000 : P\n0x00000003 : 0x00001000 : R\n";

    #[test]
    fn counts_pages_by_state() {
        let expected = BadPages { retired: 2, pending: 1, failed: 0 };
        assert_eq!(parse(DOCUMENTED), Ok(expected));
        let failed = BadPages { failed: 1, ..BadPages::default() };
        assert_eq!(parse(b"0x3fffffff : 0x00001000 : F\n"), Ok(failed));
        assert_eq!(parse(b""), Ok(BadPages::default()));
    }

    #[test]
    fn rejects_malformed_lines() {
        for bad in ["0x1 : 0x1000 : X\n", "0x1 : 0x1000\n", "0x1 : R\n", "x : 0x1000 : R\n", ":::"]
        {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let long = [b"0x1 : ", &[b'9'; 400][..], b" : R\n"].concat();
        assert!(parse(&long).is_err());
        parse_every_prefix(DOCUMENTED, parse);
    }
}
