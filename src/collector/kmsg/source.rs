//! Where the kernel log is read from: `/dev/kmsg`, syslog(2), or a file that tests put in place of `/dev/kmsg`.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use crate::collector::kmsg::lines::LineReader;
use crate::sys;
use crate::sys::kernel_log::{kernel_log_size, read_kernel_log};
use crate::util::sync::Shutdown;

/// The default of `path.kmsg`. If this path, and not another one, cannot be opened, syslog(2) is read.
const DEFAULT_PATH: &str = "/dev/kmsg";
/// Records of one read. What exceeds it follows a second later.
pub(super) const MAX_RECORDS: usize = 10_000;
/// Longer than any record: `PRINTK_MESSAGE_MAX` is 2048 since Linux 6.4, `CONSOLE_EXT_LOG_MAX` 8192 before.
const RECORD_BYTES: usize = 8 << 10;
/// The kernel copies its whole log for each read.
const SYSLOG_INTERVAL: Duration = Duration::from_secs(15);
/// The newest part of a larger log is read.
const MAX_SYSLOG_BYTES: usize = 1 << 20;
/// What is read first: what the kernel logs in 15 s is shorter, usually.
const SYSLOG_TAIL_BYTES: usize = 64 << 10;
/// A file cannot be polled.
const FILE_INTERVAL: Duration = Duration::from_millis(200);

pub(super) enum Source {
    Device { file: File, buffer: Vec<u8> },
    Syslog,
    File { file: File, incomplete: Vec<u8> },
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// There may be more to read.
    More,
    Drained,
}

impl Source {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = match open {
            Ok(file) => file,
            Err(error) if path != Path::new(DEFAULT_PATH) => return Err(error),
            Err(error) => {
                // The error of /dev/kmsg says more.
                return read_kernel_log(&mut [0]).map(|_| Self::Syslog).map_err(|_| error);
            }
        };
        let kind = file.metadata()?.file_type();
        match (kind.is_char_device(), kind.is_file()) {
            (true, _) => Ok(Self::Device { file, buffer: vec![0; RECORD_BYTES] }),
            (_, true) => Ok(Self::File { file, incomplete: Vec::new() }),
            _ => Err(io::Error::other("neither a character device nor a file")),
        }
    }

    /// Reads what is there, at most [`MAX_RECORDS`].
    pub(super) fn read(&mut self, reader: &mut LineReader) -> io::Result<Progress> {
        reader.start_read();
        match self {
            Self::Device { file, buffer } => read_device(file, buffer, reader),
            Self::Syslog => read_syslog(reader),
            Self::File { file, incomplete } => read_file(file, incomplete, reader),
        }
    }

    /// Waits until there may be something to read.
    pub(super) fn wait(&self, shutdown: &Shutdown) {
        match self {
            Self::Device { file, .. } => {
                sys::wait_readable([shutdown.as_fd(), file.as_fd()], None);
            }
            Self::Syslog => drop(shutdown.wait(SYSLOG_INTERVAL)),
            Self::File { .. } => drop(shutdown.wait(FILE_INTERVAL)),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Device { .. } => "a device",
            Self::Syslog => "syslog(2)",
            Self::File { .. } => "a file",
        })
    }
}

/// Each read returns one record.
fn read_device(
    file: &mut File,
    buffer: &mut [u8],
    reader: &mut LineReader,
) -> io::Result<Progress> {
    for _ in 0..MAX_RECORDS {
        match file.read(buffer) {
            // Another device, such as /dev/null.
            Ok(0) => return Err(io::Error::other("it is not a kernel log")),
            Ok(length) => reader.on_record(buffer.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Progress::Drained),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Records were overwritten. The next read returns the oldest one, whose number tells how many.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Progress::More)
}

fn read_syslog(reader: &mut LineReader) -> io::Result<Progress> {
    let size = kernel_log_size()?.clamp(SYSLOG_TAIL_BYTES, MAX_SYSLOG_BYTES);
    let is_first = reader.position().lines == 0;
    if !is_first {
        let mut tail = vec![0; SYSLOG_TAIL_BYTES];
        let length = read_kernel_log(&mut tail)?;
        let text = tail.get(..length).unwrap_or_default();
        if reader.has_known_line(text) {
            reader.on_syslog(text);
            return Ok(Progress::Drained);
        }
    }
    let mut all = vec![0; size];
    let length = read_kernel_log(&mut all)?;
    if !reader.on_syslog(all.get(..length).unwrap_or_default()) {
        reader.add_lost();
    }
    Ok(Progress::Drained)
}

/// Reads complete lines. Those that begin with a blank belong to the record before.
fn read_file(
    file: &mut File,
    incomplete: &mut Vec<u8>,
    reader: &mut LineReader,
) -> io::Result<Progress> {
    let mut chunk = [0; RECORD_BYTES];
    let mut records = 0;
    while records < MAX_RECORDS {
        let length = file.read(&mut chunk)?;
        if length == 0 {
            return Ok(Progress::Drained);
        }
        incomplete.extend_from_slice(chunk.get(..length).unwrap_or_default());
        let Some(end) = incomplete.iter().rposition(|&byte| byte == b'\n') else { continue };
        let complete: Vec<u8> = incomplete.drain(..=end).collect();
        for line in complete.split(|&byte| byte == b'\n') {
            if !line.is_empty() && !line.starts_with(b" ") {
                reader.on_record(line);
                records += 1;
            }
        }
    }
    Ok(Progress::More)
}
