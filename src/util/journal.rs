//! An append-only file of lines that survives a restart and `kill -9`. A line is `CHECKSUM KINDTEXT`; a torn or damaged line
//! loses only itself.
//!
//! Its owner never waits for the disk: the thread `state-io` writes what the owner has added, in batches.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::util::error::reason;
use crate::util::state_dir;
use crate::util::state_io::StateIo;
use crate::util::sync::lock;

/// A longer file is not read. Its owners rewrite it long before.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// After a write error, the time until the next attempt, which happens with the next append.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Lines kept for a disk that does not respond: more than any owner keeps. When there are more, the owner's next rewrite
/// replaces them.
const MAX_PENDING_BYTES: usize = 16 << 20;

/// If the file cannot be written, its owner continues in memory only.
pub struct Journal {
    shared: Arc<Shared>,
    state: StateIo,
}

/// What [`Journal::wait`] waits for.
#[derive(Debug, Clone, Copy)]
pub struct Batch(u64);

struct Shared {
    path: PathBuf,
    /// What the file contains, for the log.
    contents: &'static str,
    pending: Mutex<Pending>,
    /// A batch was written, or failed.
    progress: Condvar,
    /// Only the thread `state-io` locks it. `None`: in memory only.
    file: Mutex<Option<File>>,
}

#[derive(Default)]
struct Pending {
    /// New content of the file, which `lines` follow.
    replacement: Option<Vec<u8>>,
    lines: Vec<u8>,
    /// A thread waits for this batch.
    awaited: bool,
    /// This batch must be on disk before it is done.
    sync: bool,
    /// Number of the batch that is being collected.
    collecting: u64,
    /// Batches before this one are done.
    done: u64,
    /// A job is queued or running.
    scheduled: bool,
    /// The file lacks lines, so it must be rewritten before anything is appended.
    incomplete: bool,
    /// The last write error, until a write succeeds.
    failure: Option<Failure>,
    /// The existing file could not be read, and must not be replaced before it is set aside.
    unread: bool,
}

struct Failure {
    reason: String,
    at: Instant,
}

impl Journal {
    /// Passes kind and text of every intact line of the file `name` to `replay`, which returns whether the line is
    /// valid. [`Journal::rewrite`] must be called before anything is appended.
    pub fn read(
        state: &StateIo,
        name: &str,
        contents: &'static str,
        replay: impl FnMut(char, &str) -> bool,
    ) -> Self {
        let path = state.directory().join(name);
        let file = path.clone();
        let mut pending = Pending::default();
        match state.read(move || read_file(&file)) {
            Ok(bytes) => replay_lines(state, &path, &bytes, replay),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) if state.unusable().is_some() => {}
            Err(error) => {
                let fault = format!("cannot be read ({})", reason(&error));
                pending.unread = state.set_aside(&path, &fault, contents);
            }
        }
        let shared = Shared {
            path,
            contents,
            pending: Mutex::new(pending),
            progress: Condvar::new(),
            file: Mutex::default(),
        };
        Self { shared: Arc::new(shared), state: state.clone() }
    }

    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Replaces the file atomically; later lines are appended to the new one.
    pub fn rewrite<'a>(&self, lines: impl Iterator<Item = (char, Cow<'a, str>)>) {
        if self.state.unusable().is_some() {
            return self.schedule(&mut lock(&self.shared.pending));
        }
        let mut content = Vec::new();
        for (kind, text) in lines {
            push_line(&mut content, kind, &text);
        }
        let mut pending = lock(&self.shared.pending);
        pending.replacement = Some(content);
        (pending.lines, pending.incomplete) = (Vec::new(), false);
        self.schedule(&mut pending);
    }

    /// Whether to call [`Journal::rewrite`] again after a write error.
    pub fn should_retry(&self) -> bool {
        let pending = lock(&self.shared.pending);
        let failed_at = pending.failure.as_ref().map(|failure| failure.at);
        self.state.unusable().is_none()
            && pending.incomplete
            && failed_at.is_none_or(|at| at.elapsed() >= RETRY_INTERVAL)
    }

    /// Whether appended lines are dropped, because the file must be rewritten first.
    pub fn is_incomplete(&self) -> bool {
        lock(&self.shared.pending).incomplete
    }

    pub fn append(&self, kind: char, text: &str) {
        let mut pending = lock(&self.shared.pending);
        if pending.incomplete {
            return;
        }
        push_line(&mut pending.lines, kind, text);
        if pending.lines.len() > MAX_PENDING_BYTES {
            pending.discard("disk does not respond".to_owned());
        }
        self.schedule(&mut pending);
    }

    /// The batch with the lines appended so far. If `sync`, it is done when they are on disk, and survive a power loss.
    pub fn batch(&self, sync: bool) -> Batch {
        let mut pending = lock(&self.shared.pending);
        (pending.awaited, pending.sync) = (true, pending.sync | sync);
        let batch = Batch(pending.collecting);
        self.schedule(&mut pending);
        batch
    }

    /// Waits until a batch is written. The error is the reason why it is not.
    pub fn wait(&self, batch: Batch, timeout: Duration) -> Result<(), String> {
        let pending = lock(&self.shared.pending);
        let is_open = |pending: &mut Pending| pending.done <= batch.0;
        let waited = self.shared.progress.wait_timeout_while(pending, timeout, is_open);
        let (pending, timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
        match &pending.failure {
            _ if timed_out.timed_out() => Err("disk does not respond".to_owned()),
            Some(failure) => Err(failure.reason.clone()),
            None => Ok(()),
        }
    }

    fn schedule(&self, pending: &mut Pending) {
        if let Some(why) = self.state.unusable() {
            pending.finish_batch();
            return self.shared.on_error(pending, format!("state_dir {why}"));
        }
        if std::mem::replace(&mut pending.scheduled, true) {
            self.state.warn_if_hung();
            return;
        }
        let shared = self.shared.clone();
        self.state.submit(move |prepared| shared.write_batches(&prepared));
    }
}

impl Shared {
    /// Runs on the thread `state-io` until there is nothing left to write.
    fn write_batches(&self, prepared: &io::Result<()>) {
        let mut pending = lock(&self.pending);
        while pending.has_work() {
            if !pending.incomplete {
                let (replacement, lines) = pending.take_content();
                let (sync, unread) = (pending.sync, pending.unread);
                (pending.awaited, pending.sync) = (false, false);
                pending.collecting += 1;
                drop(pending);
                let written = match prepared {
                    Ok(()) => self.write(replacement, &lines, sync, unread),
                    Err(error) => Err(io::Error::other(reason(error))),
                };
                pending = lock(&self.pending);
                pending.done = pending.collecting;
                match written {
                    Ok(()) => self.on_written(&mut pending),
                    Err(error) => self.on_error(&mut pending, reason(&error)),
                }
            } else {
                pending.finish_batch();
            }
            self.progress.notify_all();
        }
        pending.scheduled = false;
    }

    fn write(
        &self,
        replacement: Option<Vec<u8>>,
        lines: &[u8],
        sync: bool,
        unread: bool,
    ) -> io::Result<()> {
        let mut file = lock(&self.file);
        if let Some(content) = replacement {
            if unread {
                state_dir::set_aside_late(&self.path)?;
                lock(&self.pending).unread = false;
            }
            *file = None;
            *file = Some(self.replace(&content)?);
        }
        let open = file.as_mut().filter(|file| state_dir::is_linked(file));
        let open = open.ok_or_else(|| io::Error::other("the file was removed"))?;
        let written =
            open.write_all(lines).and_then(|()| if sync { open.sync_data() } else { Ok(()) });
        if written.is_err() {
            // It may end with an incomplete line, which the next one would continue.
            *file = None;
        }
        written
    }

    fn replace(&self, content: &[u8]) -> io::Result<File> {
        let new = self.path.with_extension("new");
        let written = write_file(&new, content);
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

    fn on_written(&self, pending: &mut Pending) {
        if pending.failure.take().is_some() {
            log::info!("write to {} recovered", self.path.display());
        }
    }

    /// After a write error, for example on a full disk. The file keeps its old content.
    fn on_error(&self, pending: &mut Pending, why: String) {
        // Logged once, not with each attempt.
        if pending.failure.is_none() {
            log::warn!(
                "write {}: {why}; {} are kept in memory only, see state_dir",
                self.path.display(),
                self.contents
            );
        }
        match pending.replacement {
            // It was enqueued meanwhile, and has everything.
            Some(_) => pending.failure = Some(Failure { reason: why, at: Instant::now() }),
            None => pending.discard(why),
        }
    }
}

impl Pending {
    fn has_work(&self) -> bool {
        self.replacement.is_some() || !self.lines.is_empty() || self.awaited
    }

    fn take_content(&mut self) -> (Option<Vec<u8>>, Vec<u8>) {
        (self.replacement.take(), std::mem::take(&mut self.lines))
    }

    /// Ends a batch of which nothing is written.
    fn finish_batch(&mut self) {
        self.take_content();
        (self.awaited, self.sync) = (false, false);
        self.collecting += 1;
        self.done = self.collecting;
    }

    /// Gives up the lines. The next rewrite has them.
    fn discard(&mut self, why: String) {
        self.take_content();
        self.incomplete = true;
        self.failure = Some(Failure { reason: why, at: Instant::now() });
    }
}

fn write_file(path: &Path, content: &[u8]) -> io::Result<File> {
    let mut file = state_dir::create_file(path, 0o600)?;
    file.write_all(content)?;
    file.sync_all()?;
    Ok(file)
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    state_dir::open_file(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_FILE_BYTES {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(bytes),
    }
}

/// Logs damaged lines. The file is kept, unless only its last line is torn, as after a power loss.
fn replay_lines(
    state: &StateIo,
    path: &Path,
    bytes: &[u8],
    mut replay: impl FnMut(char, &str) -> bool,
) {
    let is_damaged = |line: &&[u8]| !parse(line).is_some_and(|(kind, text)| replay(kind, text));
    let damaged = bytes.split_inclusive(|byte| *byte == b'\n').filter(is_damaged).count();
    let shown = path.display();
    match damaged {
        0 => {}
        1 if !bytes.ends_with(b"\n") => log::warn!("{shown}: skipped 1 damaged lines"),
        damaged => {
            let path = path.to_owned();
            match state.read(move || state_dir::keep_copy(&path)) {
                Ok(kept) => log::warn!(
                    "{shown}: skipped {damaged} damaged lines, which are kept in {}",
                    kept.display()
                ),
                Err(error) => log::warn!(
                    "{shown}: skipped {damaged} damaged lines, which cannot be kept: {}",
                    reason(&error)
                ),
            }
        }
    }
}

/// Makes no copy of the text, which may have megabytes.
fn push_line(lines: &mut Vec<u8>, kind: char, text: &str) {
    let mut buffer = [0; 4];
    let kind = kind.encode_utf8(&mut buffer);
    let sum = checksum(kind.bytes().chain(text.bytes()));
    lines.reserve(text.len() + 32);
    lines.extend_from_slice(format!("{sum:016x} {kind}").as_bytes());
    lines.extend_from_slice(text.as_bytes());
    lines.push(b'\n');
}

fn parse(line: &[u8]) -> Option<(char, &str)> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (sum, content) = line.split_once(' ')?;
    if u64::from_str_radix(sum, 16).ok()? != checksum(content.bytes()) {
        return None;
    }
    let mut chars = content.chars();
    Some((chars.next()?, chars.as_str()))
}

/// FNV-1a, which is part of the file format. It detects lines that were not written completely.
fn checksum(bytes: impl Iterator<Item = u8>) -> u64 {
    let add = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.fold(0xcbf2_9ce4_8422_2325, add)
}
