//! A day of the most important series, in a file of the state directory: of the last hour each sample, of the last 24 hours the mean
//! of each minute. Nothing waits for the disk. What is recorded is written once a minute, so `kill -9` and a power cut lose a minute
//! at most.

mod mean;
mod query;
mod record;
mod ring_file;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::history::series::mean::RecordMean;
use crate::history::series::query::Steps;
pub use crate::history::series::query::{History, Range};
use crate::history::series::record::{Record, gpu_identity};
use crate::history::series::ring_file::{NAME, Ring, RingFile};
use crate::model::Snapshot;
use crate::util::error::reason;
use crate::util::logger::unix_seconds;
use crate::util::state_io::StateIo;
use crate::util::sync::lock;

/// A client does not wait longer for the disk.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// More requests are refused: while a disk hangs, each would wait for it.
const MAX_READERS: usize = 64;
/// Records that wait for a disk that hangs. Later ones replace the oldest.
const MAX_PENDING: usize = 600;

pub struct SeriesHistory {
    storage: Storage,
    pending: Mutex<Pending>,
}

enum Storage {
    Disk {
        state: StateIo,
        file: Arc<StateFile>,
    },
    /// The state directory cannot be used.
    Memory(RingFile),
    /// There is no memory file either: before Linux 3.17.
    None,
}

struct StateFile {
    file: RingFile,
    /// Requests that wait for the disk, or have given up.
    readers: AtomicUsize,
    is_being_written: AtomicBool,
    is_failing: AtomicBool,
}

/// What is not yet written.
#[derive(Default)]
struct Pending {
    records: Vec<(Ring, Record)>,
    minute: u64,
    mean: RecordMean,
}

impl SeriesHistory {
    /// Opens the file of earlier agents, or creates it.
    pub fn open(state: &StateIo) -> Self {
        Self { storage: open_storage(state), pending: Mutex::default() }
    }

    /// Records a sample.
    pub fn record(&self, snapshot: &Snapshot) {
        let record = Record::of(snapshot);
        let mut pending = lock(&self.pending);
        let minute = record.unix_seconds / Ring::Day.seconds_per_slot();
        if pending.minute != minute {
            pending.end_minute();
            pending.minute = minute;
            if !self.is_being_written() {
                self.write(&mut pending);
            }
        }
        pending.mean.add(&record);
        pending.push(Ring::Hour, record);
    }

    /// Writes what is pending. The rest of this minute is lost if the agent is started again within it.
    pub fn stop(&self) {
        let mut pending = lock(&self.pending);
        pending.end_minute();
        self.write(&mut pending);
    }

    /// The series of this node and of its present GPUs. `interval` is that of the samples. The error is the reason why they cannot be
    /// read.
    pub fn read(
        &self,
        range: Range,
        interval: Duration,
        snapshot: &Snapshot,
    ) -> Result<History, String> {
        let new = move || Steps::new(range, interval, unix_seconds());
        let mut steps = match &self.storage {
            Storage::Disk { state, file } => read_disk(state, file, range, new)?,
            Storage::Memory(file) => {
                read_ring(file, range, new()).map_err(|error| reason(&error))?
            }
            Storage::None => new(),
        };
        let pending = lock(&self.pending);
        let is_of_ring = |(ring, _): &&(Ring, Record)| *ring == range.ring();
        pending.records.iter().filter(is_of_ring).for_each(|(_, record)| steps.add(record));
        if range == Range::Day {
            steps.add(&pending.mean_record());
        }
        let gpus = snapshot.gpus.each.iter();
        let gpus: Vec<_> = gpus.map(|gpu| (gpu.index, gpu_identity(gpu))).collect();
        Ok(steps.history(&gpus))
    }

    /// Then the disk hangs, or is slow.
    fn is_being_written(&self) -> bool {
        match &self.storage {
            Storage::Disk { file, .. } => file.is_being_written.load(Ordering::Acquire),
            Storage::Memory(_) | Storage::None => false,
        }
    }

    fn write(&self, pending: &mut Pending) {
        match &self.storage {
            Storage::Disk { state, file } => {
                file.is_being_written.store(true, Ordering::Release);
                let (file, records) = (file.clone(), std::mem::take(&mut pending.records));
                state.submit(move |prepared| {
                    let written = prepared.and_then(|()| file.write(&records));
                    file.report(written);
                    file.is_being_written.store(false, Ordering::Release);
                });
            }
            Storage::Memory(file) => {
                for (ring, record) in pending.records.drain(..) {
                    // It fails if memory is short, and then this is the least that is lost.
                    let _ = file.write(ring, &record);
                }
            }
            Storage::None => pending.records.clear(),
        }
    }
}

impl Pending {
    fn push(&mut self, ring: Ring, record: Record) {
        if self.records.len() >= MAX_PENDING {
            self.records.remove(0);
        }
        self.records.push((ring, record));
    }

    fn mean_record(&self) -> Record {
        self.mean.record(self.minute * Ring::Day.seconds_per_slot())
    }

    fn end_minute(&mut self) {
        if self.minute != 0 {
            let record = self.mean_record();
            self.push(Ring::Day, record);
        }
        self.mean = RecordMean::default();
    }
}

impl StateFile {
    fn write(&self, records: &[(Ring, Record)]) -> std::io::Result<()> {
        for (ring, record) in records {
            self.file.write(*ring, record)?;
        }
        self.file.sync()
    }

    /// Logs the first failure, and its end.
    fn report(&self, written: std::io::Result<()>) {
        let was_failing = self.is_failing.swap(written.is_err(), Ordering::Relaxed);
        match written {
            Err(error) if !was_failing => {
                log::warn!("{NAME} cannot be written: {}; the curves have gaps", reason(&error));
            }
            Ok(()) if was_failing => log::info!("{NAME} is written again"),
            _ => {}
        }
    }
}

fn open_storage(state: &StateIo) -> Storage {
    let path = state.directory().join(NAME);
    let existing = path.clone();
    let opened = match state.read(move || RingFile::open(&existing)) {
        Ok(Some(file)) => Ok(file),
        Ok(None) => {
            let fault = "is no history of this version";
            match state.set_aside(&path, fault, "series") {
                true => Err("a foreign file is in its place".to_owned()),
                false => state.read(move || RingFile::create(&path)).map_err(|e| reason(&e)),
            }
        }
        Err(error) => Err(reason(&error)),
    };
    match opened {
        Ok(file) => {
            let (readers, is_being_written, is_failing) = Default::default();
            let file = Arc::new(StateFile { file, readers, is_being_written, is_failing });
            Storage::Disk { state: state.clone(), file }
        }
        Err(why) => {
            // Another log line has the reason if no file of the directory can be used.
            if state.unusable().is_none() {
                log::warn!("history is kept in memory only: {why}");
            }
            RingFile::in_memory().map_or(Storage::None, Storage::Memory)
        }
    }
}

fn read_ring(file: &RingFile, range: Range, mut steps: Steps) -> std::io::Result<Steps> {
    file.read(range.ring(), |record| steps.add(&record))?;
    Ok(steps)
}

/// Reads on the thread of the disk. Gives up without consequences for other files.
fn read_disk(
    state: &StateIo,
    file: &Arc<StateFile>,
    range: Range,
    new: impl FnOnce() -> Steps + Send + 'static,
) -> Result<Steps, String> {
    if file.readers.fetch_add(1, Ordering::AcqRel) >= MAX_READERS {
        file.readers.fetch_sub(1, Ordering::AcqRel);
        return Err("too many requests wait for the history".to_owned());
    }
    let (sender, receiver) = sync_channel(1);
    let file = file.clone();
    // Memory for the values is taken one request after the other.
    state.submit(move |_| {
        let read = read_ring(&file.file, range, new());
        file.readers.fetch_sub(1, Ordering::AcqRel);
        // The receiver is gone if the disk took too long.
        let _ = sender.send(read);
    });
    match receiver.recv_timeout(READ_TIMEOUT) {
        Ok(read) => read.map_err(|error| reason(&error)),
        Err(_) => Err("the disk of state_dir does not respond".to_owned()),
    }
}

#[cfg(test)]
mod tests;
