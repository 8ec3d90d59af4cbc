//! `/proc/zoneinfo`: watermarks of the memory zones, read only if `/proc/meminfo` has no MemAvailable (before Linux 3.14).
//!
//! Format: kernel `mm/vmstat.c`, `zoneinfo_show_print`. Two real lines:
//!
//! ```text
//! Node 0, zone    DMA32
//!         low      11264
//! ```

use crate::procfs::{ParseError, fields, lines, number};

/// The sum of the low watermarks of all zones, in pages.
pub fn parse_low_watermark_pages(text: &[u8]) -> Result<u64, ParseError> {
    let mut sum: Option<u64> = None;
    for (at, line) in lines(text) {
        let mut fields = fields(line);
        if fields.next() == Some(b"low") {
            let pages = number(at, fields.next())?;
            sum = Some(sum.unwrap_or(0).saturating_add(pages));
        }
    }
    sum.ok_or(ParseError::missing("a line \"low\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const REAL: &[u8] = b"Node 0, zone      DMA
  per-node stats
      nr_inactive_anon 11
  pages free     3840
        boost    0
        min      10
        low      13
        high     16
        spanned  4095
Node 0, zone    DMA32
  pages free     765183
        min      2094
        low      2861
        high     3628
";

    #[test]
    fn sums_low_watermarks_of_all_zones() {
        assert_eq!(parse_low_watermark_pages(REAL), Ok(2874));
        assert!(parse_low_watermark_pages(b"Node 0, zone DMA\n").is_err());
        parse_every_prefix(REAL, parse_low_watermark_pages);
    }
}
