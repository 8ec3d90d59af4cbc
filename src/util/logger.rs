//! Logger that writes to standard error.
//!
//! A line is `2026-11-21T09:00:00Z warn text`, or `<4>text` for systemd's journal, which adds the time and reads the level from
//! the prefix (sd-daemon(3)). It does not use `eprintln!`, which panics when the reader has closed the pipe or the disk is
//! full: a line that cannot be written is lost and the agent continues. It never waits for a reader that does not read.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::sys;
use crate::sys::Interest;
use crate::util::sync::{TokenBucket, lock};
use crate::util::text::escape_for_terminal;

/// Longer lines are truncated. A pipe accepts this much in one write or nothing (pipe(7), PIPE_BUF).
pub const MAX_LINE_BYTES: usize = 4096;

struct Logger {
    journal: bool,
    output: Mutex<LineOutput>,
}

/// Writes whole lines. On a full disk a part of a line may be written, which the next line must not continue.
#[derive(Default)]
struct LineOutput {
    ends_within_line: bool,
}

impl LineOutput {
    /// A failure is ignored, see the module documentation.
    fn write_line(&mut self, out: &mut impl Write, mut line: String) {
        if self.ends_within_line {
            line.insert(0, '\n');
        }
        let mut rest = line.as_bytes();
        while let Ok(written @ 1..) = out.write(rest) {
            rest = rest.get(written..).unwrap_or_default();
            self.ends_within_line = !rest.is_empty();
        }
    }
}

/// Starts logging at `level`.
pub fn init(level: LevelFilter) {
    let journal = writes_to_journal().unwrap_or(false);
    // It fails only if a logger is already set, which then stays in use.
    let _ = log::set_boxed_logger(Box::new(Logger { journal, output: Mutex::default() }));
    log::set_max_level(level);
}

/// systemd sets `JOURNAL_STREAM` to the journal's socket. Child processes inherit the variable even if their standard error is
/// redirected, so the value is compared with the actual stream.
fn writes_to_journal() -> io::Result<bool> {
    let Ok(journal) = std::env::var("JOURNAL_STREAM") else { return Ok(false) };
    Ok(journal == stream_name(io::stderr().as_fd())?)
}

/// The value of `JOURNAL_STREAM` for a process whose standard error is this stream.
pub fn stream_name(stream: BorrowedFd<'_>) -> io::Result<String> {
    let stream = File::from(stream.try_clone_to_owned()?).metadata()?;
    Ok(format!("{}:{}", stream.dev(), stream.ino()))
}

impl Log for Logger {
    // Libraries log what peers send, unescaped and with secrets, so only lines of this crate are logged.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with(env!("CARGO_CRATE_NAME"))
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let text = record.args().to_string();
            // Peers' text is escaped where it is logged. This covers paths, settings and what libraries report.
            let text = escape_for_terminal(&text);
            let line = if self.journal {
                format!("<{}>{text}", syslog_priority(record.level()))
            } else {
                let level = record.level().as_str().to_ascii_lowercase();
                format!("{} {level} {text}", utc(unix_seconds()))
            };
            let line = truncate_line(line);
            // One write, so that lines of different threads do not mix. A writable pipe has room for a page, until another
            // thread writes: the lock comes first.
            let mut output = lock(&self.output);
            let mut stderr = io::stderr().lock();
            let writable = (stderr.as_fd(), Interest::Writable);
            if sys::wait([writable], Some(Duration::ZERO)) == [true] {
                output.write_line(&mut stderr, line);
            }
        }
    }

    fn flush(&self) {}
}

/// Adds the line feed to a line; cuts the line before it, between two characters, if it is too long.
fn truncate_line(mut line: String) -> String {
    let mut end = line.len().min(MAX_LINE_BYTES - 1);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.truncate(end);
    line.push('\n');
    line
}

/// The priority of a level in syslog(3).
pub fn syslog_priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Wall clock time in Unix seconds.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Wall clock time in Unix milliseconds.
pub fn unix_milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    u64::try_from(since).unwrap_or(u64::MAX)
}

/// Formats a time by RFC 3339, in UTC. Times after the year 9999 are its end.
pub fn utc(unix_seconds: u64) -> String {
    const END: u64 = 253_402_300_799;
    let time = UNIX_EPOCH + Duration::from_secs(unix_seconds.min(END));
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Limits log lines that peers can cause: of each level a burst of 20, then one per second. Suppressed lines are counted, and
/// the next line that is written contains their number.
pub struct RateLimitedLog([Mutex<(TokenBucket, u64)>; 5]);

impl RateLimitedLog {
    const BURST: u32 = 20;

    pub const fn new() -> Self {
        Self([const { Mutex::new((TokenBucket::new(Self::BURST), 0)) }; 5])
    }

    /// Writes `line` unless the limit is reached. Text from a peer must be escaped.
    pub fn write(&self, level: Level, line: impl FnOnce() -> String) {
        if level > log::max_level() {
            return;
        }
        let suppressed = {
            let mut state = lock(&self.0[level as usize - 1]);
            if !state.0.take(Instant::now()) {
                state.1 += 1;
                return;
            }
            std::mem::take(&mut state.1)
        };
        match suppressed {
            0 => log::log!(level, "{}", line()),
            more => log::log!(level, "{} ({more} similar lines suppressed)", line()),
        }
    }
}

impl Default for RateLimitedLog {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_lines_end_with_a_line_feed() {
        assert_eq!(truncate_line("short".to_owned()), "short\n");
        let fits = "x".repeat(MAX_LINE_BYTES - 1);
        assert_eq!(truncate_line(fits.clone()), format!("{fits}\n"));
        assert_eq!(truncate_line(format!("{fits}yz")), format!("{fits}\n"));
        let wide = truncate_line("ü".repeat(MAX_LINE_BYTES));
        assert_eq!(wide, format!("{}\n", "ü".repeat(MAX_LINE_BYTES / 2 - 1)));
    }

    /// A file on a disk with room for this many bytes.
    struct Disk(usize, Vec<u8>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let written = bytes.len().min(self.0);
            self.0 -= written;
            self.1.extend_from_slice(&bytes[..written]);
            if written == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(written) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn line_after_a_partial_one_starts_a_new_line() {
        let (mut output, mut disk) = (LineOutput::default(), Disk(8, Vec::new()));
        for (line, room) in [("first\n", 0), ("second\n", 0), ("lost\n", 100), ("third\n", 0)] {
            output.write_line(&mut disk, line.to_owned());
            disk.0 += room;
        }
        output.write_line(&mut disk, "fourth\n".to_owned());
        assert_eq!(String::from_utf8_lossy(&disk.1), "first\nse\nthird\nfourth\n");
    }

    #[test]
    fn formats_utc_around_leap_days() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_678_901_234, "2023-03-15T17:27:14Z"),
            (1_795_216_252, "2026-11-20T23:10:52Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }
}
