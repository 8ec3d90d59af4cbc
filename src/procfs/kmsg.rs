//! Records of the kernel log: of `/dev/kmsg`, and lines of syslog(2).
//!
//! Format: Documentation/ABI/testing/dev-kmsg and `record_print_text` in kernel/printk/printk.c. A read of `/dev/kmsg` returns one
//! record: `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS[,…];TEXT`, then lines that begin with a blank. syslog(2) returns lines of
//! `<PRIORITY>[SECONDS.MICROSECONDS] TEXT`. Real ones:
//!
//! ```text
//! 6,1071,67542610680,-;EXT4-fs (loop0): unmounting filesystem 22069232-626c-4226-b4bc-2ce433a24b2f.
//! 3,339,5140900,-;NVRM: GPU 0000:29:00.0: GPU has fallen off the bus.
//!  SUBSYSTEM=pci
//!  DEVICE=+pci:0000:29:00.0
//! 12,1070,67519873222,-,caller=T4125;written by a process
//! <6>[67542.610680] EXT4-fs (loop0): unmounting filesystem 22069232-626c-4226-b4bc-2ce433a24b2f.
//! <3>[171167.620236][ T2024] NVRM: Xid (PCI:0000:9b:00): 79, GPU has fallen off the bus.
//! ```
//!
//! The priority is 8 × facility + level. Facility 0 is the kernel. Processes that write to `/dev/kmsg` cannot choose it: the kernel
//! replaces it by 1.

use crate::procfs::{ParseError, number};
use crate::util::text::parse_decimal;

/// A record of `/dev/kmsg`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// Counts from 0 at boot, without gaps.
    pub sequence: u64,
    pub line: Line<'a>,
}

/// What both sources have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<'a> {
    pub is_from_kernel: bool,
    /// On a clock that starts at boot and stops while the machine is suspended.
    pub microseconds: u64,
    /// Without a line end. In `/dev/kmsg`, bytes that are not printable are escaped: `\x0a`.
    pub text: &'a [u8],
}

/// Parses a record of `/dev/kmsg`. The lines after the first are skipped.
pub fn parse_record(record: &[u8]) -> Result<Record<'_>, ParseError> {
    const EXPECTED: &str = "a record of /dev/kmsg";
    let line = record.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let malformed = || ParseError::new(1, EXPECTED, line);
    let end = line.iter().position(|&byte| byte == b';').ok_or_else(malformed)?;
    let (prefix, text) = line.split_at_checked(end).ok_or_else(malformed)?;
    let mut fields = prefix.split(|&byte| byte == b',');
    let priority = number(1, fields.next())?;
    let sequence = number(1, fields.next())?;
    let microseconds = number(1, fields.next())?;
    let text = text.get(1..).unwrap_or_default();
    Ok(Record { sequence, line: Line { is_from_kernel: is_kernel(priority), microseconds, text } })
}

/// Parses a line of syslog(2). `None`: it has no time, because the kernel runs with `printk.time=0`.
pub fn parse_syslog_line(line: &[u8]) -> Option<Line<'_>> {
    let (priority, rest) = bracketed(line, b'<', b'>')?;
    let priority = parse_decimal(priority)?;
    let (time, mut rest) = bracketed(rest, b'[', b']')?;
    let point = time.iter().position(|&byte| byte == b'.')?;
    let (seconds, fraction) = time.split_at_checked(point)?;
    let seconds = parse_decimal(seconds.trim_ascii_start())?;
    let fraction = fraction.get(1..).filter(|digits| digits.len() == 6)?;
    let microseconds = seconds.checked_mul(1_000_000)?.checked_add(parse_decimal(fraction)?)?;
    // With CONFIG_PRINTK_CALLER, a thread or processor follows.
    if let Some((b"C" | b"T", after)) = caller(rest) {
        rest = after;
    }
    let text = rest.strip_prefix(b" ").unwrap_or(rest);
    Some(Line { is_from_kernel: is_kernel(priority), microseconds, text })
}

/// The letter of `[ T2024]`, and what follows the bracket.
fn caller(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (caller, rest) = bracketed(text, b'[', b']')?;
    let (letter, number) = caller.trim_ascii_start().split_at_checked(1)?;
    parse_decimal(number).map(|_| (letter, rest))
}

fn bracketed(text: &[u8], open: u8, close: u8) -> Option<(&[u8], &[u8])> {
    let text = text.strip_prefix(&[open])?;
    let end = text.iter().position(|&byte| byte == close)?;
    let (inside, rest) = text.split_at_checked(end)?;
    Some((inside, rest.get(1..)?))
}

fn is_kernel(priority: u64) -> bool {
    priority < 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const REAL: &[u8] =
        b"3,339,5140900,-;NVRM: GPU 0000:29:00.0: GPU has fallen off the bus.\n SUBSYSTEM=pci\n DEVICE=+pci:0000:29:00.0\n";
    const SYSLOG: &[u8] = b"<3>[171167.620236] NVRM: Xid (PCI:0000:9b:00): 79, GPU has fallen";

    #[test]
    fn parses_a_real_record() {
        let record = parse_record(REAL).unwrap();
        assert_eq!(record.sequence, 339);
        assert_eq!(record.line.microseconds, 5_140_900);
        assert!(record.line.is_from_kernel);
        let text = &b"NVRM: GPU 0000:29:00.0: GPU has fallen off the bus."[..];
        assert_eq!(record.line.text, text);
        let with_caller = parse_record(b"4,1,2,c,caller=T1;a;b").unwrap();
        assert_eq!(with_caller.line.text, b"a;b");
    }

    #[test]
    fn process_cannot_write_as_the_kernel() {
        let written = parse_record(b"12,1070,67519873222,-;NVRM: Xid (PCI:0000:9b:00): 79, x");
        assert!(!written.unwrap().line.is_from_kernel);
        // The kernel writes a prefix before each line of a text.
        let line = parse_syslog_line(b"<12>[    1.000000] <3>[    1.000000] NVRM: Xid").unwrap();
        assert!(!line.is_from_kernel);
        for priority in [8, 11, 30, 191, 1u64 << 40] {
            let record = format!("{priority},1,2,-;x");
            assert!(!parse_record(record.as_bytes()).unwrap().line.is_from_kernel);
        }
    }

    #[test]
    fn parses_lines_of_syslog() {
        let line = parse_syslog_line(SYSLOG).unwrap();
        assert!(line.is_from_kernel && line.text.starts_with(b"NVRM: Xid"));
        assert_eq!(line.microseconds, 171_167_620_236);
        let early = parse_syslog_line(b"<6>[    0.000000] Linux version 6.8.0").unwrap();
        assert_eq!((early.microseconds, early.text), (0, &b"Linux version 6.8.0"[..]));
        for caller in ["[T2024]", "[ T2024]", "[    C12]"] {
            let line = format!("<3>[    1.000002]{caller} text");
            let found = parse_syslog_line(line.as_bytes()).unwrap();
            assert_eq!((found.microseconds, found.text), (1_000_002, &b"text"[..]), "{caller}");
        }
        let bracket = parse_syslog_line(b"<3>[    1.000002] [drm:x [amdgpu]] *ERROR*").unwrap();
        assert_eq!(bracket.text, b"[drm:x [amdgpu]] *ERROR*");
    }

    #[test]
    fn rejects_malformed_text() {
        for text in [&b"3,339,5140900,-"[..], b"x,1,2,-;t", b"3,1;t", b"3,99999999999999999999,2;t"]
        {
            assert!(parse_record(text).is_err());
        }
        for line in [
            &b"NVRM: Xid"[..],
            b"<3>NVRM: Xid",
            b"<3>[1.5] short",
            b"<x>[1.000000] a",
            b"<3>[99999999999999999999.000000] a",
        ] {
            assert_eq!(parse_syslog_line(line), None);
        }
        parse_every_prefix(REAL, |text| parse_record(text).map(drop));
        parse_every_prefix(SYSLOG, |text| parse_syslog_line(text).map(drop).ok_or(()));
    }
}
