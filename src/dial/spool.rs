//! Reports that are not delivered yet, oldest first, in memory and in a file that survives a restart and a
//! `kill -9`: a journal of what came (`r`) and what went (`d`, the oldest one), each line with its checksum. A
//! line that is torn costs itself.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::reason;
use crate::limits;

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
    path: PathBuf,
    /// `None`: in memory only.
    file: Option<File>,
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
        let path = state_dir.join(name);
        let (waiting, torn) = match read(&path) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Default::default(),
            Err(error) => {
                log::warn!("read {}: {}; its reports are lost", path.display(), reason(&error));
                Default::default()
            }
        };
        if torn > 0 {
            log::warn!("{}: {torn} damaged lines are left out", path.display());
        }
        let mut spool = Self { waiting, path, file: None, stale_lines: 0, dropped: 0, full: false };
        spool.trim();
        let made = DirBuilder::new().recursive(true).mode(0o750).create(state_dir);
        if let Err(error) = made.and_then(|()| spool.rewrite()) {
            spool.memory_only(&error);
        }
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
        let line = line('r', &format!("{} {}", report.unix_milliseconds, report.body));
        self.waiting.push_back(report);
        self.write(&line);
        self.trim();
    }

    /// The oldest is delivered, or never will be.
    pub fn pop(&mut self) -> Option<Report> {
        let report = self.waiting.pop_front()?;
        self.stale_lines += 2;
        // Not as soon as there is room for one: it may come and go with every report.
        self.full &= self.waiting.len() > limits::BACKLOG_REPORTS / 2;
        if self.stale_lines > limits::STALE_LINES && self.stale_lines > self.waiting.len() {
            if let Err(error) = self.rewrite() {
                self.memory_only(&error);
            }
        } else {
            self.write(&line('d', ""));
        }
        Some(report)
    }

    fn trim(&mut self) {
        while self.waiting.len() > limits::BACKLOG_REPORTS {
            if !self.full {
                self.full = true;
                let most = limits::BACKLOG_REPORTS;
                log::warn!(
                    "{}: {most} reports wait; from now on the oldest go",
                    self.path.display()
                );
            }
            self.pop();
            self.dropped += 1;
        }
    }

    fn write(&mut self, line: &str) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(line.as_bytes())
        {
            self.memory_only(&error);
        }
    }

    /// Writes the journal anew, whole or not at all.
    fn rewrite(&mut self) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        let mut writer = io::BufWriter::new(file);
        for report in &self.waiting {
            let text = format!("{} {}", report.unix_milliseconds, report.body);
            writer.write_all(line('r', &text).as_bytes())?;
        }
        let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        self.file = Some(file);
        self.stale_lines = 0;
        Ok(())
    }

    /// A disk that is full, or not ours: reports go on in memory, and what the file holds is what it held.
    fn memory_only(&mut self, error: &io::Error) {
        self.file = None;
        log::warn!(
            "write {}: {}; undelivered reports are kept in memory only, see state_dir",
            self.path.display(),
            reason(error)
        );
    }
}

/// What waits, and how many lines were damaged.
fn read(path: &Path) -> io::Result<(VecDeque<Report>, usize)> {
    let mut waiting = VecDeque::new();
    let mut torn = 0;
    let mut lines = BufReader::new(File::open(path)?.take(limits::SPOOL_BYTES));
    let mut bytes = Vec::new();
    while lines.read_until(b'\n', &mut bytes)? > 0 {
        match parse(&bytes) {
            Some(Entry::Came(report)) => waiting.push_back(report),
            Some(Entry::Went) => drop(waiting.pop_front()),
            None => torn += 1,
        }
        bytes.clear();
    }
    Ok((waiting, torn))
}

enum Entry {
    Came(Report),
    Went,
}

fn line(kind: char, text: &str) -> String {
    let content = format!("{kind}{text}");
    format!("{:016x} {content}\n", checksum(content.as_bytes()))
}

fn parse(line: &[u8]) -> Option<Entry> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (sum, content) = line.split_once(' ')?;
    if u64::from_str_radix(sum, 16).ok()? != checksum(content.as_bytes()) {
        return None;
    }
    match content.split_at_checked(1)? {
        ("d", "") => Some(Entry::Went),
        ("r", text) => {
            let (time, body) = text.split_once(' ')?;
            Some(Entry::Came(Report { unix_milliseconds: time.parse().ok()?, body: body.into() }))
        }
        _ => None,
    }
}

/// FNV-1a: enough to notice a line that was not written to its end.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
