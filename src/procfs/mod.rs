//! Parsers of files of the kernel (`/proc`, `/sys`), of the distribution (`os-release`, `amdgpu.ids`) and of programs that export
//! metrics ([`prometheus_text`]).
//!
//! A parser is `&[u8] -> Result<T, ParseError>`. It does no I/O and cannot panic, so the same code parses local files and text from
//! other hosts. Input is bytes, because names of interfaces, mounts and processes may be any bytes.
#![deny(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(
    test,
    allow(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

pub mod amdgpu_ids;
pub mod arp;
pub mod bad_pages;
pub mod btrfs_error_stats;
pub mod cgroup;
pub mod container;
pub mod cpu_list;
pub mod cpuinfo;
pub mod diskstats;
pub mod file_nr;
pub mod gpu_metrics;
pub mod infiniband;
pub mod interface_flags;
pub mod interface_speed;
pub mod interrupts;
pub mod kfd_node;
pub mod kmsg;
pub mod link_speed;
pub mod loadavg;
pub mod mdstat;
pub mod meminfo;
pub mod mountinfo;
pub mod net_dev;
pub mod net_udp;
pub mod netstat;
pub mod nf_conntrack;
pub mod nfs;
pub mod os_release;
pub mod passwd;
pub mod pci_ids;
pub mod pid_stat;
pub mod pid_status;
pub mod pressure;
pub mod processes;
pub mod processors;
pub mod prometheus_text;
pub mod ras_err_count;
pub mod schedstat;
pub mod snmp;
pub mod snmp6;
pub mod sockstat;
pub mod softnet_stat;
pub mod stat;
pub mod temperature;
pub mod uptime;
pub mod vmstat;
pub mod zoneinfo;

use std::fmt;

use crate::util::text::{EXCERPT_CHARS, escape_for_log, parse_decimal};

/// Why a text could not be parsed. The caller adds the file name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// Line number, from 1; 0 if a whole line is missing.
    pub line: usize,
    /// What the format requires there, e.g. "a number".
    pub expected: &'static str,
    /// The offending text, escaped and truncated.
    pub got: String,
}

impl ParseError {
    pub(crate) fn new(line: usize, expected: &'static str, got: &[u8]) -> Self {
        Self { line, expected, got: escape_for_log(got, EXCERPT_CHARS) }
    }

    pub(crate) fn missing(expected: &'static str) -> Self {
        Self { line: 0, expected, got: String::new() }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return write!(f, "expected {}, found none", self.expected);
        }
        write!(f, "line {}: expected {}, got \"{}\"", self.line, self.expected, self.got)
    }
}

impl std::error::Error for ParseError {}

/// The lines of a text with their numbers, from 1.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    (1..).zip(text.split(|&byte| byte == b'\n'))
}

/// The fields of a line, separated by spaces or tabs. Other white space may be part of a name.
pub(crate) fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|&byte| byte == b' ' || byte == b'\t').filter(|field| !field.is_empty())
}

/// Splits a line at the separator and trims both parts.
pub(crate) fn key_value(line: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = line.iter().position(|&byte| byte == separator)?;
    let (key, value) = line.split_at_checked(at)?;
    Some((key.trim_ascii(), value.get(1..)?.trim_ascii()))
}

/// The item of `names` that is `prefix`, an underscore and `field`. For series that are named after words of a kernel file: those
/// of unknown words are not served.
pub(crate) fn find_name(
    names: &[&'static str],
    prefix: &[u8],
    field: &[u8],
) -> Option<&'static str> {
    let is_same = |name: &&str| {
        let rest = name.as_bytes().strip_prefix(prefix);
        rest.and_then(|rest| rest.strip_prefix(b"_")) == Some(field)
    };
    names.iter().copied().find(is_same)
}

/// Parses an unsigned decimal number, as the kernel prints its counters.
pub(crate) fn number(line: usize, field: Option<&[u8]>) -> Result<u64, ParseError> {
    const EXPECTED: &str = "a number";
    let field = field.ok_or_else(|| ParseError::new(line, EXPECTED, b""))?;
    parse_decimal(field).ok_or_else(|| ParseError::new(line, EXPECTED, field))
}

/// Parses a decimal number with a fraction, such as a load average.
pub(crate) fn fraction(line: usize, field: Option<&[u8]>) -> Result<f64, ParseError> {
    const EXPECTED: &str = "a decimal fraction";
    let field = field.ok_or_else(|| ParseError::new(line, EXPECTED, b""))?;
    let plain = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
    std::str::from_utf8(field)
        .ok()
        .filter(|_| field.iter().all(plain))
        .and_then(|text| text.parse().ok())
        .filter(|number: &f64| number.is_finite())
        .ok_or_else(|| ParseError::new(line, EXPECTED, field))
}

#[cfg(test)]
pub(crate) mod testing {
    /// Runs a parser on every prefix of a text: it may return an error, it must not panic.
    pub fn parse_every_prefix<T, E>(text: &[u8], parse: impl Fn(&[u8]) -> Result<T, E>) {
        for end in 0..=text.len() {
            let _ = parse(&text[..end]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_plain_decimal_fractions() {
        assert_eq!(fraction(1, Some(b"0.05")), Ok(0.05));
        assert!(fraction(1, Some(&[b'9'; 400])).is_err(), "overflows");
        for bad in [&b"inf"[..], b"NaN", b"1e9", b"-0.1", b".", b"1.2.3"] {
            assert!(fraction(1, Some(bad)).is_err(), "{}", escape_for_log(bad, EXCERPT_CHARS));
        }
    }

    #[test]
    fn error_contains_line_and_truncated_text() {
        let error = number(3, Some(b"12x4\x1b[2J")).unwrap_err();
        assert_eq!(error.to_string(), r#"line 3: expected a number, got "12x4\x1b[2J""#);
        let long = number(1, Some(&[b'9'; 400])).unwrap_err().to_string();
        assert!(long.len() < 100 && long.ends_with("…\""), "{long}");
    }
}
