//! `--syslog`: forwards the agent's standard error to /dev/log.
//!
//! The supervisor reads it from a pipe, so a panic message reaches the log too; a socket would do, but programs could not open
//! it as /dev/stderr. The pipe stays open when an agent exits, because programs of `heartbeat.on_overdue` outlive it.

use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;

use crate::sys::service::pipe_with_nonblocking_reader;
use crate::util::logger;

/// Lines of one call: a program that writes without a pause must not block the supervisor.
const MAX_LINES: usize = 1000;
/// syslog(3)'s number of an error.
const ERROR: u8 = 3;
/// The socket of the syslog daemon.
const DEV_LOG: &str = "/dev/log";

pub struct Syslog {
    daemon: UnixDatagram,
    reader: BufReader<PipeReader>,
    /// The standard error of agents.
    pub writer: PipeWriter,
    /// A line without its end.
    partial: Vec<u8>,
}

impl Syslog {
    pub fn open() -> io::Result<Self> {
        let daemon = UnixDatagram::unbound()?;
        daemon.set_nonblocking(true)?;
        let (reader, writer) = pipe_with_nonblocking_reader()?;
        Ok(Self { daemon, reader: BufReader::new(reader), writer, partial: Vec::new() })
    }

    /// The lines that were written so far; with `flush`, also one without its end.
    pub fn read_lines(&mut self, flush: bool) -> Vec<String> {
        let mut lines = Vec::new();
        for _ in 0..MAX_LINES {
            let room = (logger::MAX_LINE_BYTES - self.partial.len()) as u64;
            // If there is no more data it fails, and what it has read stays in the buffer.
            if self.reader.by_ref().take(room).read_until(b'\n', &mut self.partial).is_err() {
                break;
            }
            lines.extend(self.take_partial());
        }
        if flush {
            lines.extend(self.take_partial());
        }
        lines
    }

    fn take_partial(&mut self) -> Option<String> {
        let line =
            String::from_utf8_lossy(&std::mem::take(&mut self.partial)).trim_end().to_owned();
        (!line.is_empty()).then_some(line)
    }

    /// Sends a line of process `pid`, with facility daemon and without a time, which the syslog daemon adds. The path is resolved
    /// for each line, so a restarted daemon is found. If there is none, or it does not read, the line is lost.
    pub fn send(&self, pid: u32, priority: u8, text: &str) {
        let message = format!("<{}>hm-agent[{pid}]: {text}", 3 << 3 | priority);
        let _ = self.daemon.send_to(message.as_bytes(), DEV_LOG);
    }

    /// Fails if no daemon receives the lines at present.
    pub fn check_daemon() -> io::Result<()> {
        UnixDatagram::unbound()?.connect(DEV_LOG)
    }
}

impl AsFd for Syslog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.get_ref().as_fd()
    }
}

/// Priority and text of a line with a prefix of sd-daemon(3). A line without one is a panic message or from a program that the
/// agent has started.
pub fn parse_priority(line: &str) -> (u8, &str) {
    match line.as_bytes() {
        [b'<', priority @ b'0'..=b'7', b'>', ..] => (priority - b'0', &line[3..]),
        _ => (ERROR, line.strip_prefix("hm-agent: ").unwrap_or(line)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn parses_priority_prefix_and_treats_other_lines_as_errors() {
        assert_eq!(parse_priority("<6>usage listening"), (6, "usage listening"));
        assert_eq!(parse_priority("<3>"), (3, ""));
        assert_eq!(parse_priority("hm-agent: no"), (3, "no"));
        for line in ["", "<", "<>", "<9>x", "<66>x", "thread 'main' panicked at <6>"] {
            assert_eq!(parse_priority(line), (3, line));
        }
    }

    #[test]
    fn reads_whole_lines_and_bounds_partial_ones() {
        let mut syslog = Syslog::open().unwrap();
        syslog.writer.write_all(b"one\ntwo\nth").unwrap();
        assert_eq!(syslog.read_lines(false), ["one", "two"]);
        syslog.writer.write_all(b"ree\nfour").unwrap();
        assert_eq!(syslog.read_lines(false), ["three"]);
        assert_eq!(syslog.read_lines(true), ["four"]);
        syslog.writer.write_all(&[b'x'; logger::MAX_LINE_BYTES]).unwrap();
        assert_eq!(syslog.read_lines(false).len(), 1);
        assert_eq!(syslog.read_lines(true), [""; 0]);
    }
}
