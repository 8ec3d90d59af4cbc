//! Reads the kernel log on the thread `kmsg`, and finds the lines that are events.
//!
//! `/dev/kmsg` is polled: a log without new records costs nothing. Without it, as in a container, syslog(2) returns the whole log, which
//! is read every 15 s. Without permission for either, nothing is read.
//!
//! Only records of the kernel count. Processes may write others, but not in its name.

mod lines;
pub mod patterns;
mod source;

use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use crate::collector::kmsg::lines::LineReader;
use crate::collector::kmsg::patterns::KernelEvent;
use crate::collector::kmsg::source::{Progress, Source};
use crate::model::kernel_log::{KernelLogPosition, KernelLogStatus};
use crate::util::error::reason;
use crate::util::sync::{Shutdown, lock};

/// After reading what was there, the time until the next read, so that a burst of records is read at once.
const BURST_DELAY: Duration = Duration::from_millis(100);
/// The same if there may be more. With [`source::MAX_RECORDS`] it limits the work for a log that grows faster than it is useful.
const FLOOD_DELAY: Duration = Duration::from_secs(1);
/// Boot id of the running kernel, below `/proc`.
const BOOT_ID: &str = "sys/kernel/random/boot_id";

/// A line of the log that is an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelLogEvent {
    pub event: KernelEvent,
    pub line: String,
    /// When it was logged; `None`: now.
    pub unix_seconds: Option<u64>,
}

/// What receives the events of a read.
pub trait KernelLogSink {
    /// `position` is behind the last of the events. `lost` is the number of records that were overwritten before they were read.
    fn on_read(&self, events: Vec<KernelLogEvent>, position: &KernelLogPosition, lost: u64);
}

/// The state of the thread, for other threads.
#[derive(Default)]
pub struct KernelLog {
    status: Mutex<KernelLogStatus>,
}

impl KernelLog {
    pub fn status(&self) -> KernelLogStatus {
        *lock(&self.status)
    }

    /// Reads until shutdown. `path`: where `/dev/kmsg` is; empty: nothing is read. Continues behind `position`, if it is of this boot.
    pub fn run(
        &self,
        path: &Path,
        boot_id: String,
        position: Option<KernelLogPosition>,
        sink: &dyn KernelLogSink,
        shutdown: &Shutdown,
    ) {
        if path.as_os_str().is_empty() {
            return;
        }
        let mut source = match Source::open(path) {
            Ok(source) => source,
            Err(error) => {
                let path = path.display();
                return log::warn!("the kernel log is not read: {path}: {}", reason(&error));
            }
        };
        log::debug!("reading the kernel log from {source}");
        lock(&self.status).readable = true;
        let mut reader = LineReader::new(boot_id, position);
        let result = self.read(&mut source, &mut reader, sink, shutdown);
        if let Err(error) = result {
            log::warn!("the kernel log is not read any more: {}", reason(&error));
            lock(&self.status).readable = false;
        }
    }

    fn read(
        &self,
        source: &mut Source,
        reader: &mut LineReader,
        sink: &dyn KernelLogSink,
        shutdown: &Shutdown,
    ) -> io::Result<()> {
        while !shutdown.is_triggered() {
            let progress = source.read(reader)?;
            let (events, lost) = reader.take();
            if lost > 0 {
                let mut status = lock(&self.status);
                status.lost = status.lost.saturating_add(lost);
            }
            sink.on_read(events, reader.position(), lost);
            let delay = match progress {
                Progress::More => FLOOD_DELAY,
                Progress::Drained => BURST_DELAY,
            };
            if progress == Progress::Drained {
                reader.end_backlog();
            }
            if !shutdown.wait(delay) {
                source.wait(shutdown);
            }
        }
        Ok(())
    }
}

/// The id of the running boot; empty if it is unknown. `proc` is the host's `/proc`.
pub fn boot_id(proc: &Path) -> String {
    let id = std::fs::read_to_string(proc.join(BOOT_ID)).unwrap_or_default();
    let is_plain = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    Some(id.trim())
        .filter(|id| id.len() == 36 && id.bytes().all(is_plain))
        .unwrap_or_default()
        .to_owned()
}
