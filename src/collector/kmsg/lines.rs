//! Lines of the kernel log, from either source: skips those that were read before, classifies the others.

use crate::collector::kmsg::KernelLogEvent;
use crate::collector::kmsg::patterns::{Classifier, names_process};
use crate::model::kernel_log::KernelLogPosition;
use crate::procfs::kmsg::{Line, Record, parse_record, parse_syslog_line};
use crate::sys::kernel_log::monotonic_microseconds;
use crate::util::logger::unix_seconds;

pub(super) struct LineReader {
    /// What was read, in this process or an earlier one.
    position: KernelLogPosition,
    classifier: Classifier,
    events: Vec<KernelLogEvent>,
    lost: u64,
    /// The record that should follow, once this process has read one.
    expected: Option<u64>,
    /// The lines that are read were logged before the agent started, at a time that must be computed.
    is_backlog: bool,
    /// Clocks at the last read: wall clock in seconds, and that of the log.
    now: (u64, u64),
}

impl LineReader {
    pub(super) fn new(boot_id: String, position: Option<KernelLogPosition>) -> Self {
        let position = position.filter(|position| position.boot_id == boot_id);
        let position = position
            .unwrap_or_else(|| KernelLogPosition { boot_id, ..KernelLogPosition::default() });
        Self {
            position,
            classifier: Classifier::default(),
            events: Vec::new(),
            lost: 0,
            expected: None,
            is_backlog: true,
            now: (0, 0),
        }
    }

    pub(super) fn position(&self) -> &KernelLogPosition {
        &self.position
    }

    /// Takes the events, and the number of records lost, since the last call.
    pub(super) fn take(&mut self) -> (Vec<KernelLogEvent>, u64) {
        (std::mem::take(&mut self.events), std::mem::take(&mut self.lost))
    }

    /// What follows is logged while it is read.
    pub(super) fn end_backlog(&mut self) {
        self.is_backlog = false;
    }

    /// Reads the clocks. Call it before each read.
    pub(super) fn start_read(&mut self) {
        self.now = (unix_seconds(), monotonic_microseconds());
    }

    /// Reads a record of `/dev/kmsg`. A malformed one is skipped.
    pub(super) fn on_record(&mut self, record: &[u8]) {
        let Ok(Record { sequence, line }) = parse_record(record) else { return };
        if let Some(expected) = self.expected {
            self.lost = self.lost.saturating_add(sequence.saturating_sub(expected));
        }
        self.expected = Some(sequence.saturating_add(1));
        let is_known = match self.position.next_sequence {
            Some(next) => sequence < next,
            // An earlier agent read the log by syslog(2).
            None => self.position.lines > 0 && line.microseconds <= self.position.microseconds,
        };
        if !is_known {
            self.position.next_sequence = self.expected;
            self.set_time(line.microseconds);
            self.on_line(&line);
        }
    }

    /// Reads the text of syslog(2), which has all lines from the oldest on. Returns whether it has one that was read before, or nothing
    /// was read before. Otherwise lines in between may be lost.
    pub(super) fn on_syslog(&mut self, text: &[u8]) -> bool {
        let KernelLogPosition { microseconds: time, lines: seen, .. } = self.position;
        let is_first = seen == 0;
        let (mut at_time, mut continues) = (0, is_first);
        let mut of_process = None;
        for line in text.split(|&byte| byte == b'\n').filter_map(parse_syslog_line) {
            // The name of a process or file may contain newlines: what follows them has the time of its record.
            let is_of_process = of_process == Some(line.microseconds);
            if names_process(&String::from_utf8_lossy(line.text)) {
                of_process = Some(line.microseconds);
            }
            if !is_first && line.microseconds <= time {
                continues = true;
                at_time += u64::from(line.microseconds == time);
                if line.microseconds < time || at_time <= seen {
                    continue;
                }
            }
            self.position.next_sequence = None;
            self.set_time(line.microseconds);
            if !is_of_process {
                self.on_line(&line);
            }
        }
        continues
    }

    /// Whether the text of syslog(2) has a line that was read before.
    pub(super) fn has_known_line(&self, text: &[u8]) -> bool {
        let mut lines = text.split(|&byte| byte == b'\n').filter_map(parse_syslog_line);
        lines.any(|line| line.microseconds <= self.position.microseconds)
    }

    /// At least one line was overwritten before it was read.
    pub(super) fn add_lost(&mut self) {
        self.lost = self.lost.saturating_add(1);
    }

    fn set_time(&mut self, microseconds: u64) {
        let position = &mut self.position;
        // Processors that log at the same time may do so in another order.
        match microseconds.cmp(&position.microseconds) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => position.lines = position.lines.saturating_add(1),
            std::cmp::Ordering::Greater => {
                (position.microseconds, position.lines) = (microseconds, 1);
            }
        }
    }

    fn on_line(&mut self, line: &Line<'_>) {
        if !line.is_from_kernel {
            return;
        }
        let text = String::from_utf8_lossy(line.text);
        let Some(event) = self.classifier.classify(&text, line.microseconds) else { return };
        let unix_seconds = self.is_backlog.then(|| self.time_of(line.microseconds));
        self.events.push(KernelLogEvent { event, line: text.into_owned(), unix_seconds });
    }

    fn time_of(&self, microseconds: u64) -> u64 {
        let (wall, log) = self.now;
        wall.saturating_sub(log.saturating_sub(microseconds) / 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const XID: &str = "NVRM: Xid (PCI:0000:9b:00): 13, pid=1, name=a, x";

    fn record(sequence: u64, priority: u32) -> String {
        format!("{priority},{sequence},{},-;{XID}\n", 1_000_000 * (sequence + 1))
    }

    fn read(reader: &mut LineReader, sequences: &[u64]) -> (usize, u64) {
        reader.start_read();
        sequences.iter().for_each(|each| reader.on_record(record(*each, 3).as_bytes()));
        let (events, lost) = reader.take();
        (events.len(), lost)
    }

    fn new(position: Option<KernelLogPosition>) -> LineReader {
        LineReader::new("boot".into(), position)
    }

    #[test]
    fn counts_overwritten_records() {
        let mut reader = new(None);
        assert_eq!(read(&mut reader, &[500, 501]), (2, 0), "older ones were never expected");
        assert_eq!(read(&mut reader, &[502, 510, 511]), (3, 7));
        assert_eq!(reader.position().next_sequence, Some(512));
    }

    #[test]
    fn continues_behind_the_position_of_this_boot_only() {
        let mut first = new(None);
        assert_eq!(read(&mut first, &[0, 1, 2]), (3, 0));
        let position = first.position().clone();
        assert_eq!(read(&mut new(Some(position.clone())), &[0, 1, 2, 3]), (1, 0));
        let other = KernelLogPosition { boot_id: "other".into(), ..position };
        assert_eq!(read(&mut new(Some(other)), &[0, 1, 2]), (3, 0));
    }

    #[test]
    fn ignores_records_of_processes() {
        let mut reader = new(None);
        reader.on_record(record(1, 12).as_bytes());
        reader.on_record(b"broken");
        assert_eq!(reader.take(), (Vec::new(), 0));
        assert_eq!(reader.position().next_sequence, Some(2));
    }

    #[test]
    fn reads_each_line_of_syslog_once() {
        let line = |microseconds: u64| format!("<3>[    1.{microseconds:06}] {XID}\n");
        let text = |times: &[u64]| times.iter().map(|time| line(*time)).collect::<String>();
        let mut reader = new(None);
        assert!(reader.on_syslog(text(&[1, 2, 2]).as_bytes()));
        assert_eq!(reader.take().0.len(), 3);
        assert!(reader.on_syslog(text(&[1, 2, 2]).as_bytes()));
        assert_eq!(reader.take().0.len(), 0);
        // A third line of the same time, and a later one.
        assert!(reader.on_syslog(text(&[2, 2, 2, 7]).as_bytes()));
        assert_eq!(reader.take().0.len(), 2);
        assert!(!reader.on_syslog(text(&[8, 9]).as_bytes()), "nothing known is left");
        assert_eq!(reader.take().0.len(), 2);
        // The next agent may read /dev/kmsg, whose records have numbers.
        let mut next = new(Some(reader.position().clone()));
        next.on_record(format!("3,7,1000009,-;{XID}").as_bytes());
        next.on_record(format!("3,8,1000010,-;{XID}").as_bytes());
        assert_eq!(next.take().0.len(), 1);
    }

    /// syslog(2) returns a line for each newline in a record.
    #[test]
    fn newline_in_a_name_begins_no_line_of_the_kernel() {
        let mut reader = new(None);
        let crash = "<6>[    7.032230] zz[32289]: segfault at 0 ip 0 sp 0 error 4 in q";
        let forged = format!("<6>[    7.032230] {XID}");
        let real = format!("<3>[    7.032231] {XID}");
        let text = [crash, &forged, &real, ""].join("\n");
        for events in [1, 0] {
            reader.on_syslog(text.as_bytes());
            assert_eq!(reader.take().0.len(), events);
        }
        // The next agent has read the first line only.
        let position = KernelLogPosition {
            boot_id: "boot".into(),
            microseconds: 7_032_230,
            lines: 1,
            ..KernelLogPosition::default()
        };
        let mut reader = new(Some(position));
        reader.on_syslog(text.as_bytes());
        assert_eq!(reader.take().0.len(), 1);
    }

    #[test]
    fn time_of_a_line_is_computed_for_the_backlog_only() {
        let mut reader = new(None);
        reader.now = (1_000_000, 500_000_000);
        reader.on_record(format!("3,1,400000000,-;{XID}").as_bytes());
        reader.end_backlog();
        reader.on_record(format!("3,2,400000000,-;{XID}").as_bytes());
        let times: Vec<_> = reader.take().0.iter().map(|event| event.unix_seconds).collect();
        assert_eq!(times, [Some(999_900), None]);
    }
}
