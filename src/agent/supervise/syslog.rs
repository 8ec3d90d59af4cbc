//! `--syslog`: forwards the agent's standard error to /dev/log.
//!
//! The supervisor reads a pipe, so a panic message reaches the log too. The pipe stays open when an agent exits, because
//! programs of `heartbeat.on_overdue` outlive it.

use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use log::Level;

use crate::sys;
use crate::sys::service;
use crate::util::logger::{self, syslog_priority, unix_seconds};

/// Reads of one call: a pipe holds 16 pages, and a program that writes without a pause must not block the supervisor.
const MAX_READS: usize = 16;

pub struct Syslog {
    socket: UnixDatagram,
    reader: PipeReader,
    writer: PipeWriter,
    /// A line without its end.
    partial: Vec<u8>,
}

impl Syslog {
    pub fn open() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let (reader, writer) = io::pipe()?;
        Ok(Self { socket, reader, writer, partial: Vec::new() })
    }

    /// The standard error of agents.
    pub fn pipe(&self) -> &PipeWriter {
        &self.writer
    }

    /// The lines that were written to the pipe.
    pub fn read_lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for _ in 0..MAX_READS {
            if sys::wait_readable([self.reader.as_fd()], Some(Duration::ZERO)) == [false] {
                break;
            }
            let mut part = [0; 4096];
            let length = self.reader.read(&mut part).unwrap_or_default();
            self.partial.extend_from_slice(&part[..length]);
            while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.partial.drain(..=end).collect();
                lines.push(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.partial.len() >= logger::MAX_LINE_BYTES {
                lines.extend(self.take_partial());
            }
        }
        lines
    }

    /// The line whose end is missing.
    pub fn take_partial(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.partial);
        (!line.is_empty()).then(|| String::from_utf8_lossy(&line).into_owned())
    }

    /// Sends a line of process `pid`. The socket's path is resolved for each line, so a restarted syslog daemon is found. If
    /// there is none, or it does not read, the line is lost.
    pub fn send(&self, pid: u32, level: Level, text: &str) {
        let line = format(service::local_time(unix_seconds()), pid, level, text);
        let _ = self.socket.send_to(line.as_bytes(), "/dev/log");
    }
}

impl AsFd for Syslog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

/// Level and text of a line with a prefix of sd-daemon(3). A line without one is a panic message or from a program that the
/// agent has started.
pub fn parse_level(line: &str) -> (Level, &str) {
    let prefixed = line.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    let level = |number| match number {
        "0" | "1" | "2" | "3" => Some(Level::Error),
        "4" => Some(Level::Warn),
        "5" | "6" => Some(Level::Info),
        "7" => Some(Level::Debug),
        _ => None,
    };
    prefixed
        .and_then(|(number, text)| Some((level(number)?, text)))
        .unwrap_or_else(|| (Level::Error, line.strip_prefix("hm-agent: ").unwrap_or(line)))
}

/// A message as syslog(3) writes it, without the year and in local time: RFC 3164, 4.1.
fn format(local_time: [i32; 5], pid: u32, level: Level, text: &str) -> String {
    const DAEMON: u8 = 3 << 3;
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let [month, day, hour, minute, second] = local_time;
    let at = usize::try_from(month).unwrap_or_default() * 3;
    let month = MONTHS.get(at..at + 3).unwrap_or("Jan");
    let priority = DAEMON | syslog_priority(level);
    format!("<{priority}>{month} {day:2} {hour:02}:{minute:02}:{second:02} hm-agent[{pid}]: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syslog_line_matches_c_library_format() {
        let line = |time, level| format(time, 42, level, "text");
        assert_eq!(line([10, 1, 9, 5, 7], Level::Info), "<30>Nov  1 09:05:07 hm-agent[42]: text");
        assert_eq!(line([0, 31, 0, 0, 0], Level::Error), "<27>Jan 31 00:00:00 hm-agent[42]: text");
        assert!(line([12, 1, 0, 0, 0], Level::Warn).starts_with("<28>Jan  1"), "no such month");
        assert!(line([1, 1, 0, 0, 0], Level::Trace).starts_with("<31>Feb"));
    }

    #[test]
    fn parses_level_prefix_and_treats_other_lines_as_errors() {
        assert_eq!(parse_level("<6>usage listening"), (Level::Info, "usage listening"));
        assert_eq!(parse_level("<3>"), (Level::Error, ""));
        assert_eq!(parse_level("hm-agent: no"), (Level::Error, "no"));
        for line in ["", "<", "<>", "<9>x", "<66>x", "thread 'main' panicked at <6>"] {
            assert_eq!(parse_level(line), (Level::Error, line));
        }
    }
}
