//! `/proc/zoneinfo`: the watermarks of the memory zones, read only where `/proc/meminfo` has no
//! MemAvailable (kernels before 3.14).
//!
//! Format: `mm/vmstat.c` of the kernel, `zoneinfo_show_print`. The lines that count:
//!
//! ```text
//! Node 0, zone    DMA32
//!         low      11264
//! ```

use crate::procfs::{ParseError, fields, lines, number};

/// The sum of all zones' low watermarks, in pages.
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
    use crate::procfs::testing::survives_every_cut;

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
    fn sums_the_zones() {
        assert_eq!(parse_low_watermark_pages(REAL), Ok(2874));
        assert!(parse_low_watermark_pages(b"Node 0, zone DMA\n").is_err());
        survives_every_cut(REAL, parse_low_watermark_pages);
    }
}
