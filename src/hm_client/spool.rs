//! Reports that are not delivered yet, oldest first, in memory and in a journal of what came (`r`) and what went (`d`, the
//! oldest one).

use std::borrow::Cow;
use std::collections::VecDeque;
use std::path::Path;

use crate::limits;
use crate::util::journal::Journal;

/// One report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// When it was sampled, Unix milliseconds.
    pub unix_milliseconds: u64,
    /// Its body, JSON.
    pub body: Box<str>,
}

/// The queue.
pub struct Spool {
    waiting: VecDeque<Report>,
    journal: Journal,
    /// Lines of the journal that mean nothing any more.
    stale_lines: usize,
    /// Left out because there were too many.
    dropped: u64,
    /// The log has said that it is full, and it has been ever since.
    full: bool,
}

impl Spool {
    /// Goes on with what `state_dir/name` holds. Without write access it is a queue in memory, and the log
    /// says so.
    pub fn open(state_dir: &Path, name: &str) -> Self {
        let mut waiting = VecDeque::new();
        let journal =
            Journal::read(state_dir, name, "undelivered reports", |kind, text| match kind {
                'd' => {
                    waiting.pop_front();
                    text.is_empty()
                }
                'r' => {
                    let report = parse(text);
                    let good = report.is_some();
                    waiting.extend(report);
                    good
                }
                _ => false,
            });
        let mut spool = Self { waiting, journal, stale_lines: 0, dropped: 0, full: false };
        spool.trim();
        spool.rewrite();
        spool
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many were left out since the agent started.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The oldest.
    pub fn first(&self) -> Option<&Report> {
        self.waiting.front()
    }

    /// Another one. If there are too many, the oldest goes.
    pub fn push(&mut self, report: Report) {
        self.journal.append('r', &text(&report));
        self.waiting.push_back(report);
        self.trim();
        if self.journal.wants_another_try() {
            self.rewrite();
        }
    }

    /// The oldest is delivered, or never will be.
    pub fn pop(&mut self) -> Option<Report> {
        let report = self.waiting.pop_front()?;
        self.stale_lines += 2;
        // Not as soon as there is room for one: it may come and go with every report.
        self.full &= self.waiting.len() > limits::BACKLOG_REPORTS / 2;
        if self.stale_lines > limits::STALE_LINES && self.stale_lines > self.waiting.len() {
            self.rewrite();
        } else {
            self.journal.append('d', "");
        }
        Some(report)
    }

    fn trim(&mut self) {
        while self.waiting.len() > limits::BACKLOG_REPORTS {
            if !self.full {
                self.full = true;
                let most = limits::BACKLOG_REPORTS;
                let path = self.journal.path().display();
                log::warn!("{path}: {most} reports wait; from now on the oldest go");
            }
            self.pop();
            self.dropped += 1;
        }
    }

    fn rewrite(&mut self) {
        let lines = self.waiting.iter().map(|report| ('r', Cow::from(text(report))));
        self.journal.rewrite(lines);
        self.stale_lines = 0;
    }
}

fn text(report: &Report) -> String {
    format!("{} {}", report.unix_milliseconds, report.body)
}

fn parse(text: &str) -> Option<Report> {
    let (time, body) = text.split_once(' ')?;
    Some(Report { unix_milliseconds: time.parse().ok()?, body: body.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("hm-spool-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn open(&self) -> Spool {
            Spool::open(&self.0, "reports")
        }

        fn file(&self) -> PathBuf {
            self.0.join("reports")
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn report(number: u64) -> Report {
        Report { unix_milliseconds: number, body: format!("{{\"number\":{number}}}").into() }
    }

    fn drain(spool: &mut Spool) -> Vec<u64> {
        std::iter::from_fn(|| spool.pop()).map(|report| report.unix_milliseconds).collect()
    }

    #[test]
    fn reports_outlive_the_process_in_order() {
        let dir = Dir::new("order");
        let mut spool = dir.open();
        (1..=5).for_each(|number| spool.push(report(number)));
        assert_eq!(spool.pop(), Some(report(1)));
        assert_eq!(spool.first(), Some(&report(2)));
        // Nothing is closed in good order: as if it was killed.
        std::mem::forget(spool);
        let mut spool = dir.open();
        assert_eq!(spool.len(), 4);
        assert_eq!(drain(&mut spool), [2, 3, 4, 5]);
        assert!(dir.open().is_empty());
    }

    #[test]
    fn what_is_torn_costs_itself() {
        let dir = Dir::new("torn");
        let mut spool = dir.open();
        (1..=3).for_each(|number| spool.push(report(number)));
        drop(spool);
        let whole = fs::read(dir.file()).unwrap();
        for cut in 0..whole.len() {
            fs::write(dir.file(), &whole[..cut]).unwrap();
            let lines = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(drain(&mut dir.open()).len(), lines, "cut at {cut}");
        }
        let mut damaged = whole.clone();
        damaged[whole.len() / 2] ^= 1;
        fs::write(dir.file(), [&b"\xff\x00garbage\n"[..], &damaged].concat()).unwrap();
        assert_eq!(drain(&mut dir.open()), [1, 3]);
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_and_the_file_stays_small() {
        let dir = Dir::new("bound");
        let mut spool = dir.open();
        let most = limits::BACKLOG_REPORTS as u64;
        for number in 0..most + 5000 {
            spool.push(report(number));
        }
        assert_eq!((spool.len() as u64, spool.dropped()), (most, 5000));
        assert_eq!(spool.first(), Some(&report(5000)));
        let size = fs::metadata(dir.file()).unwrap().len();
        assert!(size < 2 * most * 60, "{size} bytes");
        drop(spool);
        assert_eq!(dir.open().first(), Some(&report(5000)));
    }

    #[test]
    fn a_directory_that_is_none_means_memory() {
        let dir = Dir::new("none");
        let file = dir.0.join("file");
        fs::write(&file, "").unwrap();
        let mut spool = Spool::open(&file, "reports");
        spool.push(report(1));
        assert_eq!(drain(&mut spool), [1]);
    }
}
