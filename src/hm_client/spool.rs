//! Queue of undelivered reports, oldest first, in memory and in a journal. Journal lines: `r`, a report was added; `d`, the
//! oldest report was removed.

use std::borrow::Cow;
use std::collections::VecDeque;

use crate::util::journal::Journal;
use crate::util::state_io::StateIo;

/// Three and a half days of reports every 30 s.
pub const MAX_BACKLOG_REPORTS: usize = 10_000;
/// Lines of removed reports in the journal before it is rewritten.
const MAX_STALE_LINES: usize = 2000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpooledReport {
    pub unix_milliseconds: u64,
    /// JSON.
    pub body: Box<str>,
}

pub struct Spool {
    reports: VecDeque<SpooledReport>,
    journal: Journal,
    /// Journal lines of reports that are no longer in the queue.
    stale_lines: usize,
    /// Reports dropped from the full queue since the agent started.
    dropped: u64,
    /// The log has reported that the queue is full.
    logged_full: bool,
}

impl Spool {
    /// Reads the file `name`. Without write access the queue is in memory only, and the log reports it.
    pub fn open(state: &StateIo, name: &str) -> Self {
        let mut reports = VecDeque::new();
        let journal = Journal::read(state, name, "undelivered reports", |kind, text| match kind {
            'd' => {
                reports.pop_front();
                text.is_empty()
            }
            'r' => {
                let report = parse(text);
                let good = report.is_some();
                reports.extend(report);
                good
            }
            _ => false,
        });
        let mut spool = Self { reports, journal, stale_lines: 0, dropped: 0, logged_full: false };
        spool.trim();
        spool.rewrite();
        spool
    }

    pub fn len(&self) -> usize {
        self.reports.len()
    }

    pub fn is_empty(&self) -> bool {
        self.reports.is_empty()
    }

    /// Reports dropped from the full queue since the agent started.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The oldest report.
    pub fn first(&self) -> Option<&SpooledReport> {
        self.reports.front()
    }

    /// Adds a report. If the queue is full, drops the oldest.
    pub fn push(&mut self, report: SpooledReport) {
        self.journal.append('r', &text(&report));
        self.reports.push_back(report);
        self.trim();
        if self.journal.should_retry() {
            self.rewrite();
        }
    }

    /// Removes the oldest report, because it was delivered or dropped.
    pub fn pop(&mut self) -> Option<SpooledReport> {
        let report = self.reports.pop_front()?;
        self.stale_lines += 2;
        // With hysteresis: a queue that stays nearly full would log with every report.
        self.logged_full &= self.reports.len() > MAX_BACKLOG_REPORTS / 2;
        if self.stale_lines > MAX_STALE_LINES && self.stale_lines > self.reports.len() {
            self.rewrite();
        } else {
            self.journal.append('d', "");
        }
        Some(report)
    }

    fn trim(&mut self) {
        while self.reports.len() > MAX_BACKLOG_REPORTS {
            if !self.logged_full {
                self.logged_full = true;
                let path = self.journal.path().display();
                log::warn!(
                    "{path}: backlog full ({MAX_BACKLOG_REPORTS} reports), dropping the oldest"
                );
            }
            self.pop();
            self.dropped += 1;
        }
    }

    fn rewrite(&mut self) {
        let lines = self.reports.iter().map(|report| ('r', Cow::from(text(report))));
        self.journal.rewrite(lines);
        self.stale_lines = 0;
    }
}

fn text(report: &SpooledReport) -> String {
    format!("{} {}", report.unix_milliseconds, report.body)
}

fn parse(text: &str) -> Option<SpooledReport> {
    let (time, body) = text.split_once(' ')?;
    Some(SpooledReport { unix_milliseconds: time.parse().ok()?, body: body.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::state_io::tests::Dir;
    use std::fs;
    use std::path::PathBuf;

    impl Dir {
        fn open_spool(&self) -> Spool {
            self.flush();
            Spool::open(&self.state, "reports")
        }

        fn spool_file(&self) -> PathBuf {
            self.flush();
            self.path.join("reports")
        }
    }

    fn report(number: u64) -> SpooledReport {
        SpooledReport { unix_milliseconds: number, body: format!("{{\"number\":{number}}}").into() }
    }

    fn drain(spool: &mut Spool) -> Vec<u64> {
        std::iter::from_fn(|| spool.pop()).map(|report| report.unix_milliseconds).collect()
    }

    #[test]
    fn restores_reports_in_order_after_restart() {
        let dir = Dir::new("order");
        let mut spool = dir.open_spool();
        (1..=5).for_each(|number| spool.push(report(number)));
        assert_eq!(spool.pop(), Some(report(1)));
        assert_eq!(spool.first(), Some(&report(2)));
        // Without dropping it, as after kill -9.
        std::mem::forget(spool);
        let mut spool = dir.open_spool();
        assert_eq!(spool.len(), 4);
        assert_eq!(drain(&mut spool), [2, 3, 4, 5]);
        assert!(dir.open_spool().is_empty());
    }

    #[test]
    fn torn_or_damaged_line_loses_only_itself() {
        let dir = Dir::new("torn");
        let mut spool = dir.open_spool();
        (1..=3).for_each(|number| spool.push(report(number)));
        drop(spool);
        let whole = fs::read(dir.spool_file()).unwrap();
        for cut in 0..whole.len() {
            fs::write(dir.spool_file(), &whole[..cut]).unwrap();
            let lines = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(drain(&mut dir.open_spool()).len(), lines, "cut at {cut}");
        }
        let mut damaged = whole.clone();
        damaged[whole.len() / 2] ^= 1;
        fs::write(dir.spool_file(), [&b"\xff\x00garbage\n"[..], &damaged].concat()).unwrap();
        assert_eq!(drain(&mut dir.open_spool()), [1, 3]);
    }

    #[test]
    fn drops_the_oldest_when_full_and_bounds_the_file() {
        let dir = Dir::new("bound");
        let mut spool = dir.open_spool();
        let max = MAX_BACKLOG_REPORTS as u64;
        for number in 0..max + 5000 {
            spool.push(report(number));
        }
        assert_eq!((spool.len() as u64, spool.dropped()), (max, 5000));
        assert_eq!(spool.first(), Some(&report(5000)));
        let size = fs::metadata(dir.spool_file()).unwrap().len();
        assert!(size < 2 * max * 60, "{size} bytes");
        drop(spool);
        assert_eq!(dir.open_spool().first(), Some(&report(5000)));
    }

    #[test]
    fn unreadable_file_that_cannot_be_kept_is_not_replaced() {
        let dir = Dir::new("kept");
        // Too long to be read, and ten of its kind are kept already.
        fs::File::create(dir.spool_file()).unwrap().set_len(65 << 20).unwrap();
        fs::write(dir.path.join("reports.damaged"), "0").unwrap();
        for number in 1..10 {
            fs::write(dir.path.join(format!("reports.damaged.{number}")), "").unwrap();
        }
        let mut spool = dir.open_spool();
        spool.push(report(1));
        assert_eq!(spool.first(), Some(&report(1)));
        assert_eq!(fs::metadata(dir.spool_file()).unwrap().len(), 65 << 20);
    }

    #[test]
    fn keeps_reports_in_memory_without_state_dir() {
        let dir = Dir::new("none");
        let file = dir.path.join("file");
        fs::write(&file, "").unwrap();
        let mut spool = Spool::open(&StateIo::start(&file).unwrap(), "reports");
        spool.push(report(1));
        assert_eq!(drain(&mut spool), [1]);
    }
}
