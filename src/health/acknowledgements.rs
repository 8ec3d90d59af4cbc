//! What operators have acknowledged: in memory and in the file `health` of the state directory. `hm-agent health --acknowledge` writes
//! an id to the file `acknowledge` of that directory, so only root and the agent's user can.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::util::error::reason;
use crate::util::journal::Journal;
use crate::util::state_dir;
use crate::util::state_io::StateIo;
use crate::util::sync::lock;
use crate::util::text::parse_decimal;

/// Name of the file with ids to acknowledge, one in each line.
pub const SPOOL: &str = "acknowledge";
/// Name of the state file.
const NAME: &str = "health";
/// Kind of its lines, `ID UNIX_SECONDS`.
const LINE: char = 'a';
const MAX_SPOOL_BYTES: u64 = 4096;
/// How often the spool is read, in seconds.
const SPOOL_INTERVAL_S: u64 = 2;
/// An acknowledgement of a finding that has ended is kept for this long, in seconds: the cause may return, or the agent was restarted.
const KEPT_S: u64 = 600;

pub(super) struct Acknowledgements {
    state: StateIo,
    journal: Journal,
    spool: PathBuf,
    /// Ids that the thread of the disk has read from the spool.
    inbox: Arc<Mutex<Vec<String>>>,
    /// It has not answered yet: while a disk hangs, no more is requested of it.
    is_reading: Arc<AtomicBool>,
    checked: u64,
    each: BTreeMap<String, Acknowledgement>,
}

struct Acknowledgement {
    /// Unix seconds.
    at: u64,
    /// When its finding was last seen.
    seen: Option<u64>,
}

impl Acknowledgements {
    pub(super) fn open(state: &StateIo) -> Self {
        let mut each = BTreeMap::new();
        let replay = |kind: char, text: &str| {
            let Some((id, at)) = text.split_once(' ').filter(|_| kind == LINE) else {
                return false;
            };
            let at = parse_decimal(at.as_bytes()).filter(|_| is_id(id));
            let Some(at) = at else { return false };
            each.insert(id.to_owned(), Acknowledgement { at, seen: None });
            true
        };
        let journal = Journal::read(state, NAME, "acknowledgements", replay);
        let spool = state.directory().join(SPOOL);
        let (inbox, is_reading, checked) = Default::default();
        Self { state: state.clone(), journal, spool, inbox, is_reading, checked, each }
    }

    /// When the finding was acknowledged, in Unix seconds.
    pub(super) fn time(&self, id: &str) -> Option<u64> {
        self.each.get(id).map(|it| it.at)
    }

    /// Takes new acknowledgements, and forgets those of findings that have ended. `findings`: ids of all that there are; `conditions`:
    /// ids of those that may become findings when they last.
    pub(super) fn update<'a>(
        &mut self,
        findings: impl Iterator<Item = &'a str>,
        conditions: impl Iterator<Item = &'a str>,
        now: u64,
    ) {
        let inbox = std::mem::take(&mut *lock(&self.inbox));
        let before = self.each.len();
        for id in findings {
            if inbox.iter().any(|it| it == id) {
                log::info!("finding {id} is acknowledged");
                self.each.insert(id.to_owned(), Acknowledgement { at: now, seen: Some(now) });
            } else if let Some(known) = self.each.get_mut(id) {
                known.seen = Some(now);
            }
        }
        for id in conditions {
            if let Some(known) = self.each.get_mut(id) {
                known.seen = Some(now);
            }
        }
        for known in self.each.values_mut() {
            known.seen.get_or_insert(now);
            // After a clock was set back, later occurrences must count.
            known.at = known.at.min(now);
        }
        self.each.retain(|_, it| it.seen.is_none_or(|seen| now.abs_diff(seen) < KEPT_S));
        if !inbox.is_empty() || self.each.len() != before || self.journal.should_retry() {
            let lines =
                self.each.iter().map(|(id, it)| (LINE, Cow::from(format!("{id} {}", it.at))));
            self.journal.rewrite(lines);
        }
        if now.abs_diff(self.checked) >= SPOOL_INTERVAL_S {
            self.checked = now;
            self.read_spool();
        }
    }

    fn read_spool(&self) {
        if self.state.unusable().is_some() || self.is_reading.swap(true, Ordering::AcqRel) {
            return;
        }
        let (spool, inbox) = (self.spool.clone(), self.inbox.clone());
        let is_reading = self.is_reading.clone();
        self.state.submit(move |prepared| {
            if prepared.is_ok() {
                lock(&inbox).extend(take_spool(&spool));
            }
            is_reading.store(false, Ordering::Release);
        });
    }
}

/// Reads and removes the file.
fn take_spool(spool: &Path) -> Vec<String> {
    // Usually there is none.
    let Ok(file) = state_dir::open_file(spool) else { return Vec::new() };
    // What cannot be removed would count again and again.
    if let Err(error) = std::fs::remove_file(spool) {
        log::warn!("remove {}: {}", spool.display(), reason(&error));
        return Vec::new();
    }
    let mut bytes = Vec::new();
    if let Err(error) = file.take(MAX_SPOOL_BYTES).read_to_end(&mut bytes) {
        log::warn!("read {}: {}", spool.display(), reason(&error));
    }
    let text = String::from_utf8_lossy(&bytes);
    text.lines().filter(|id| is_id(id)).map(str::to_owned).collect()
}

/// Whether a text can be the id of a finding.
pub fn is_id(text: &str) -> bool {
    let is_allowed = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || [b'-', b'_', b'.'].contains(&byte)
    };
    (1..=128).contains(&text.len()) && text.bytes().all(is_allowed)
}
