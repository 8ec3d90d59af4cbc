//! A file of lines that survives a restart and a `kill -9`: each has a kind, a text, and a checksum, so that one that is
//! torn costs itself and no other.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::limits;
use crate::util::error::reason;
use crate::util::state_dir;

/// The file, or the memory of it where it cannot be written.
pub struct Journal {
    path: PathBuf,
    /// What it holds, for the log.
    holds: &'static str,
    /// `None`: in memory only.
    file: Option<File>,
    /// When writing it last failed, if that was the last thing that happened to it.
    failed: Option<Instant>,
}

impl Journal {
    /// Hands every good line of `state_dir/name` to `each`, which says whether it understands it. Nothing can be
    /// appended before [`Journal::rewrite`].
    pub fn read(
        state_dir: &Path,
        name: &str,
        holds: &'static str,
        each: impl FnMut(char, &str) -> bool,
    ) -> Self {
        let path = state_dir.join(name);
        match read(&path, each) {
            Ok(0) => {}
            Ok(torn) => log::warn!("{}: {torn} damaged lines are left out", path.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                log::warn!("read {}: {}; its {holds} are lost", path.display(), reason(&error));
            }
        }
        Self { path, holds, file: None, failed: None }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes it anew, whole or not at all, and goes on from there.
    pub fn rewrite<'a>(&mut self, lines: impl Iterator<Item = (char, std::borrow::Cow<'a, str>)>) {
        match self.replace(lines) {
            Ok(file) => {
                self.file = Some(file);
                if self.failed.take().is_some() {
                    log::info!("{} can be written again", self.path.display());
                }
            }
            Err(error) => self.memory_only(&error),
        }
    }

    /// It could not be written, and that is a while ago: it is worth writing anew.
    pub fn wants_another_try(&self) -> bool {
        self.failed.is_some_and(|at| at.elapsed() >= limits::JOURNAL_AGAIN)
    }

    /// Adds a line.
    pub fn append(&mut self, kind: char, text: &str) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(line(kind, text).as_bytes())
        {
            self.memory_only(&error);
        }
    }

    /// Returns when all lines are on the disk.
    pub fn sync(&mut self) {
        if let Some(file) = &self.file
            && let Err(error) = file.sync_data()
        {
            self.memory_only(&error);
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
            // A full disk has better use for the room.
            let _ = fs::remove_file(&new);
        }
        let file = written?;
        fs::rename(&new, &self.path)?;
        Ok(file)
    }

    /// A disk that is full, or not ours: it goes on in memory, and what the file holds is what it held.
    fn memory_only(&mut self, error: &io::Error) {
        self.file = None;
        // Said once, not at each try.
        if self.failed.replace(Instant::now()).is_none() {
            log::warn!(
                "write {}: {}; {} are kept in memory only, see state_dir",
                self.path.display(),
                reason(error),
                self.holds
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

/// How many lines were damaged.
fn read(path: &Path, mut each: impl FnMut(char, &str) -> bool) -> io::Result<usize> {
    let mut torn = 0;
    let mut lines = BufReader::new(state_dir::open_file(path)?.take(limits::JOURNAL_BYTES));
    let mut bytes = Vec::new();
    while lines.read_until(b'\n', &mut bytes)? > 0 {
        let good = parse(&bytes).is_some_and(|(kind, text)| each(kind, text));
        torn += usize::from(!good);
        bytes.clear();
    }
    Ok(torn)
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
    let mut letters = content.chars();
    Some((letters.next()?, letters.as_str()))
}

/// FNV-1a: enough to notice a line that was not written to its end.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
