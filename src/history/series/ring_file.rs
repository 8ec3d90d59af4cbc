//! The file `history` of the state directory, of 1.3 MB: a header, a slot for each second of an hour, and a slot for each minute of
//! a day. The time of a record gives its slot, so there is no position that a crash could lose, and a record that is torn is
//! only absent.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::history::series::record::{RECORD_BYTES, Record};
use crate::sys::process::create_memfd;
use crate::util::state_dir;

pub const NAME: &str = "history";
/// The format and its version.
const HEADER: &[u8] = b"hm-agent history 1\n";
const HEADER_BYTES: u64 = 4096;
const FILE_BYTES: u64 = Ring::Day.offset() + Ring::Day.slots() * RECORD_BYTES as u64;
/// Records that are read at once.
const RECORDS_PER_READ: usize = 200;

/// A part of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ring {
    /// Samples of the last hour.
    Hour,
    /// Means of the last 24 hours, per minute.
    Day,
}

impl Ring {
    /// Seconds from one slot to the next.
    pub const fn seconds_per_slot(self) -> u64 {
        match self {
            Self::Hour => 1,
            Self::Day => 60,
        }
    }

    const fn slots(self) -> u64 {
        match self {
            Self::Hour => 3600,
            Self::Day => 1440,
        }
    }

    const fn offset(self) -> u64 {
        match self {
            Self::Hour => HEADER_BYTES,
            Self::Day => HEADER_BYTES + Self::Hour.slots() * RECORD_BYTES as u64,
        }
    }

    fn position(self, unix_seconds: u64) -> u64 {
        let slot = unix_seconds / self.seconds_per_slot() % self.slots();
        self.offset() + slot * RECORD_BYTES as u64
    }
}

#[derive(Debug)]
pub struct RingFile(File);

impl RingFile {
    /// Opens the file, or creates it. `None`: it has another format.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        match open_existing(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(path).map(Some),
            Err(error) => Err(error),
            Ok(file) => Self(file).validated(),
        }
    }

    /// Reserves all space now, so that a disk that is full later loses nothing.
    pub fn create(path: &Path) -> io::Result<Self> {
        let draft = path.with_extension("new");
        if let Err(error) = write_empty(&draft) {
            // The other files of a full disk need the space.
            let _ = std::fs::remove_file(&draft);
            return Err(error);
        }
        std::fs::rename(&draft, path)?;
        path.parent().map_or(Ok(()), state_dir::sync_dir)?;
        open_existing(path).map(Self)
    }

    /// A file that ends with the agent.
    pub fn in_memory() -> io::Result<Self> {
        create_memfd(c"hm-agent-history").map(Self)
    }

    pub fn write(&self, ring: Ring, record: &Record) -> io::Result<()> {
        self.0.write_all_at(&record.encode(), ring.position(record.unix_seconds))
    }

    pub fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    /// Passes all records of a ring to `each`, in no particular order.
    pub fn read(&self, ring: Ring, mut each: impl FnMut(Record)) -> io::Result<()> {
        let mut buffer = vec![0; RECORDS_PER_READ * RECORD_BYTES];
        let end = ring.offset() + ring.slots() * RECORD_BYTES as u64;
        let mut position = ring.offset();
        while position < end {
            let size = buffer.len().min((end - position) as usize);
            let read = read_at(&self.0, &mut buffer[..size], position)?;
            buffer[..read]
                .chunks_exact(RECORD_BYTES)
                .filter_map(Record::decode)
                .for_each(&mut each);
            position += size as u64;
        }
        Ok(())
    }

    fn validated(mut self) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER.len()];
        let read = read_at(&self.0, &mut header, 0)?;
        let size = self.0.metadata()?.len();
        if header[..read] != *HEADER || size > FILE_BYTES {
            return Ok(None);
        }
        // A file that was cut off keeps the rest.
        io::Seek::seek(&mut self.0, io::SeekFrom::End(0))?;
        fill(&mut self.0, size)?;
        Ok(Some(self))
    }
}

/// Not through a symbolic link, and without waiting for the writer of a pipe.
fn open_existing(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("not a regular file")),
    }
}

fn write_empty(path: &Path) -> io::Result<()> {
    let mut file = state_dir::create_file(path, 0o600)?;
    file.write_all(HEADER)?;
    fill(&mut file, HEADER.len() as u64)?;
    file.sync_all()
}

/// Writes zeros from `size`, the end of the file, to its full size.
fn fill(file: &mut File, size: u64) -> io::Result<()> {
    let missing = FILE_BYTES.saturating_sub(size);
    io::copy(&mut io::Read::take(io::repeat(0), missing), file).map(drop)
}

/// Reads until the buffer is full or the file ends.
fn read_at(file: &File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], position + read as u64) {
            Ok(0) => break,
            Ok(bytes) => read += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}
