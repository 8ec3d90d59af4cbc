//! An append-only file of lines that survives a restart and `kill -9`. A line is `CHECKSUM KINDTEXT`; a torn or damaged line
//! loses only itself.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::util::error::reason;
use crate::util::state_dir;

/// A longer file is not read to its end. Its owners rewrite it long before.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// After a write error, the time until the next attempt, which happens with the next append.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// If the file cannot be written, its owner continues in memory only.
pub struct Journal {
    path: PathBuf,
    /// What the file contains, for the log.
    contents: &'static str,
    /// `None`: in memory only.
    file: Option<File>,
    /// Time of the last write error, until a write succeeds.
    failed_at: Option<Instant>,
}

impl Journal {
    /// Passes kind and text of every intact line of `state_dir/name` to `replay`, which returns whether the line is
    /// valid. [`Journal::rewrite`] must be called before anything is appended.
    pub fn read(
        state_dir: &Path,
        name: &str,
        contents: &'static str,
        replay: impl FnMut(char, &str) -> bool,
    ) -> Self {
        let path = state_dir.join(name);
        match read(&path, replay) {
            Ok(0) => {}
            Ok(damaged) => log::warn!("{}: skipped {damaged} damaged lines", path.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                log::warn!("read {}: {}; {contents} are lost", path.display(), reason(&error));
            }
        }
        Self { path, contents, file: None, failed_at: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the file atomically; later lines are appended to the new one.
    pub fn rewrite<'a>(&mut self, lines: impl Iterator<Item = (char, std::borrow::Cow<'a, str>)>) {
        match self.replace(lines) {
            Ok(file) => {
                self.file = Some(file);
                if self.failed_at.take().is_some() {
                    log::info!("write to {} recovered", self.path.display());
                }
            }
            Err(error) => self.continue_in_memory(&error),
        }
    }

    /// Whether to call [`Journal::rewrite`] again after a write error.
    pub fn should_retry(&self) -> bool {
        self.failed_at.is_some_and(|at| at.elapsed() >= RETRY_INTERVAL)
    }

    pub fn append(&mut self, kind: char, text: &str) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(line(kind, text).as_bytes())
        {
            self.continue_in_memory(&error);
        }
    }

    /// Returns when all lines are on disk.
    pub fn sync(&mut self) {
        if let Some(file) = &self.file
            && let Err(error) = file.sync_data()
        {
            self.continue_in_memory(&error);
        }
    }

    fn replace<'a>(
        &self,
        lines: impl Iterator<Item = (char, std::borrow::Cow<'a, str>)>,
    ) -> io::Result<File> {
        if let Some(directory) = self.path.parent() {
            state_dir::create_dir(directory)?;
        }
        let new = self.path.with_extension("new");
        let written = write_all(&new, lines);
        if written.is_err() {
            // Do not occupy a full disk with an incomplete file.
            let _ = fs::remove_file(&new);
        }
        let file = written?;
        fs::rename(&new, &self.path)?;
        if let Some(directory) = self.path.parent() {
            state_dir::sync_dir(directory)?;
        }
        Ok(file)
    }

    /// After a write error, for example on a full disk. The file keeps its old content.
    fn continue_in_memory(&mut self, error: &io::Error) {
        self.file = None;
        // Logged once, not with each attempt.
        if self.failed_at.replace(Instant::now()).is_none() {
            log::warn!(
                "write {}: {}; {} are kept in memory only, see state_dir",
                self.path.display(),
                reason(error),
                self.contents
            );
        }
    }
}

fn write_all<'a>(
    path: &Path,
    lines: impl Iterator<Item = (char, std::borrow::Cow<'a, str>)>,
) -> io::Result<File> {
    let mut writer = io::BufWriter::new(state_dir::create_file(path, 0o600)?);
    for (kind, text) in lines {
        writer.write_all(line(kind, &text).as_bytes())?;
    }
    let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(file)
}

/// Returns the number of damaged lines.
fn read(path: &Path, mut replay: impl FnMut(char, &str) -> bool) -> io::Result<usize> {
    let mut damaged = 0;
    let mut lines = BufReader::new(state_dir::open_file(path)?.take(MAX_FILE_BYTES));
    let mut bytes = Vec::new();
    while lines.read_until(b'\n', &mut bytes)? > 0 {
        let intact = parse(&bytes).is_some_and(|(kind, text)| replay(kind, text));
        damaged += usize::from(!intact);
        bytes.clear();
    }
    Ok(damaged)
}

fn line(kind: char, text: &str) -> String {
    let content = format!("{kind}{text}");
    format!("{:016x} {content}\n", checksum(content.as_bytes()))
}

fn parse(line: &[u8]) -> Option<(char, &str)> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (sum, content) = line.split_once(' ')?;
    if u64::from_str_radix(sum, 16).ok()? != checksum(content.as_bytes()) {
        return None;
    }
    let mut chars = content.chars();
    Some((chars.next()?, chars.as_str()))
}

/// FNV-1a, which is part of the file format. It detects lines that were not written completely.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
