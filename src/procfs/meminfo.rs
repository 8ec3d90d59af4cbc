//! `/proc/meminfo`: memory usage.
//!
//! Format: kernel `Documentation/filesystems/proc.rst`, "meminfo". Two real lines:
//!
//! ```text
//! MemTotal:       32768000 kB
//! HugePages_Total:       0
//! ```

use crate::procfs::{ParseError, fields, key_value, lines, number};
use crate::util::text::parse_decimal;

/// The values that the agent computes with, in bytes (the kernel prints kB and means KiB), and every line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemInfo {
    pub mem_total_bytes: u64,
    pub mem_free_bytes: Option<u64>,
    /// What new programs can allocate without swapping; `None` before Linux 3.14.
    pub mem_available_bytes: Option<u64>,
    pub buffers_bytes: Option<u64>,
    pub cached_bytes: Option<u64>,
    pub swap_cached_bytes: Option<u64>,
    pub active_file_bytes: Option<u64>,
    pub inactive_file_bytes: Option<u64>,
    pub swap_total_bytes: Option<u64>,
    pub swap_free_bytes: Option<u64>,
    pub dirty_bytes: Option<u64>,
    pub slab_reclaimable_bytes: Option<u64>,
    /// In the order of the file.
    pub lines: Vec<Line>,
}

/// Each kept line becomes a metric. Kernels print about 55.
const MAX_LINES: usize = 128;
/// The longest name in Linux 6.12, `HardwareCorrupted`, has 17 bytes.
const MAX_NAME_BYTES: usize = 24;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// As the kernel prints it: `Active(anon)`. ASCII.
    pub name: String,
    /// Bytes, or a plain number where the kernel prints no unit.
    pub value: u64,
    pub is_bytes: bool,
}

/// Fails without MemTotal.
pub fn parse(text: &[u8]) -> Result<MemInfo, ParseError> {
    let mut info = MemInfo::default();
    let mut total = None;
    for (at, line) in lines(text) {
        let Some((key, value)) = key_value(line, b':') else { continue };
        if info.lines.len() < MAX_LINES {
            info.lines.extend(parse_line(key, value));
        }
        let slot = match key {
            b"MemTotal" => &mut total,
            b"MemFree" => &mut info.mem_free_bytes,
            b"MemAvailable" => &mut info.mem_available_bytes,
            b"Buffers" => &mut info.buffers_bytes,
            b"Cached" => &mut info.cached_bytes,
            b"SwapCached" => &mut info.swap_cached_bytes,
            b"Active(file)" => &mut info.active_file_bytes,
            b"Inactive(file)" => &mut info.inactive_file_bytes,
            b"SwapTotal" => &mut info.swap_total_bytes,
            b"SwapFree" => &mut info.swap_free_bytes,
            b"Dirty" => &mut info.dirty_bytes,
            b"SReclaimable" => &mut info.slab_reclaimable_bytes,
            _ => continue,
        };
        *slot = Some(bytes(at, value)?);
    }
    info.mem_total_bytes = total.ok_or(ParseError::missing("a line \"MemTotal\""))?;
    Ok(info)
}

/// `None` for a name or unit that no known kernel prints: future formats must not break the lines that are needed.
fn parse_line(key: &[u8], value: &[u8]) -> Option<Line> {
    let mut fields = fields(value);
    let number = parse_decimal(fields.next()?)?;
    let (value, is_bytes) = match fields.next() {
        Some(b"kB") => (number.checked_mul(1024)?, true),
        Some(_) => return None,
        None => (number, false),
    };
    let name = String::from_utf8(key.to_vec()).ok()?;
    (name.is_ascii() && name.len() <= MAX_NAME_BYTES).then_some(Line { name, value, is_bytes })
}

fn bytes(at: usize, value: &[u8]) -> Result<u64, ParseError> {
    let kib = number(at, fields(value).next())?;
    kib.checked_mul(1024).ok_or_else(|| ParseError::new(at, "a number of kB", value))
}

impl MemInfo {
    /// Memory that new programs can allocate without swapping: MemAvailable, or before Linux 3.14 the same estimate, computed from
    /// the sum of the zones' low watermarks.
    ///
    /// The estimate is that of `si_mem_available()`, described with MemAvailable in the kernel's `proc.rst`: free memory above the
    /// watermarks, plus page cache and reclaimable slab, each less the half (or the watermark, if smaller) that the system needs to
    /// keep working.
    pub fn available_bytes(&self, low_watermark_bytes: Option<u64>) -> Option<u64> {
        if let Some(available) = self.mem_available_bytes {
            return Some(available.min(self.mem_total_bytes));
        }
        let low = low_watermark_bytes?;
        let usable = |bytes: u64| bytes.saturating_sub(low.min(bytes / 2));
        let page_cache = self.active_file_bytes?.saturating_add(self.inactive_file_bytes?);
        let free = self.mem_free_bytes?.saturating_sub(low);
        let available = free
            .saturating_add(usable(page_cache))
            .saturating_add(usable(self.slab_reclaimable_bytes?));
        Some(available.min(self.mem_total_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const REAL: &[u8] = b"MemTotal:       24731712 kB
MemFree:        23105060 kB
MemAvailable:   23880244 kB
Buffers:           48492 kB
Cached:          1012480 kB
SwapCached:            0 kB
Active:           312344 kB
Active(file):     300000 kB
Inactive(file):   500000 kB
SwapTotal:       1000000 kB
SwapFree:         999999 kB
Dirty:               464 kB
SReclaimable:      80000 kB
HugePages_Total:       0
DirectMap4k:       40960 kB
";

    #[test]
    fn parses_a_real_sample() {
        let info = parse(REAL).unwrap();
        assert_eq!(info.mem_total_bytes, 24731712 * 1024);
        assert_eq!(info.available_bytes(None), Some(23880244 * 1024));
        assert_eq!(info.swap_free_bytes, Some(999999 * 1024));
        assert_eq!(info.dirty_bytes, Some(464 * 1024));
    }

    #[test]
    fn keeps_each_line_with_name_and_unit() {
        let info = parse(REAL).unwrap();
        assert_eq!(info.lines.len(), 15);
        let line = |name: &str| info.lines.iter().find(|line| line.name == name).unwrap();
        assert_eq!(
            (line("Active(file)").value, line("Active(file)").is_bytes),
            (300000 * 1024, true)
        );
        let huge = line("HugePages_Total");
        assert_eq!((huge.value, huge.is_bytes), (0, false));
        let odd = b"MemTotal: 1 kB\nNew: 1 MB\nA_name_that_is_longer_than_any: 1 kB\nB: x kB\n\xff: 1 kB\nC: 18446744073709551615 kB\n";
        assert_eq!(parse(odd).unwrap().lines.len(), 1);
        let many: String = (0..1000).map(|at| format!("L{at}: 1 kB\n")).collect();
        assert_eq!(
            parse(format!("MemTotal: 1 kB\n{many}").as_bytes()).unwrap().lines.len(),
            MAX_LINES
        );
    }

    #[test]
    fn estimates_available_memory_of_old_kernels() {
        let old: Vec<u8> = REAL
            .split_inclusive(|&byte| byte == b'\n')
            .filter(|line| !line.starts_with(b"MemAvailable"))
            .flatten()
            .copied()
            .collect();
        let info = parse(&old).unwrap();
        assert_eq!(info.available_bytes(None), None, "no estimate without watermarks");
        // Computed by hand, in kB, with a low watermark of 45056: free 23105060 - 45056; page cache 800000 - 45056;
        // slab 80000 - min(45056, 40000).
        let expected = (23105060 - 45056) + (800000 - 45056) + (80000 - 40000);
        assert_eq!(info.available_bytes(Some(45056 * 1024)), Some(expected * 1024));
    }

    #[test]
    fn rejects_malformed_text() {
        assert!(parse(b"MemFree: 12 kB\n").is_err());
        assert!(parse(b"MemTotal: twelve kB\n").is_err());
        assert!(parse(b"MemTotal: 18446744073709551615 kB\n").is_err());
        parse_every_prefix(REAL, parse);
    }
}
