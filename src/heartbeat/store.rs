//! The state file `heartbeat.json`, replaced as a whole with each save. The thread `state-io` writes it, because a disk that
//! hangs must not delay the detection of overdue applications.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::heartbeat::table::Saved;
use crate::sys::EventFd;
use crate::util::error::reason;
use crate::util::state_dir;
use crate::util::state_io::StateIo;
use crate::util::sync::lock;

/// The file is smaller than this: 10 000 applications, as many dropped ones and as many in maintenance, with ids of 256 bytes,
/// each of which JSON may escape with six characters.
const MAX_FILE_BYTES: u64 = 64 << 20;

pub struct HeartbeatStore {
    state: StateIo,
    file: Arc<StateFile>,
}

struct StateFile {
    path: PathBuf,
    /// What is to be written. A later save replaces it.
    pending: Mutex<Option<Saved>>,
    /// Whether the last write failed. Only the first failure is logged.
    failing: AtomicBool,
    /// The existing file cannot be used, and must not be replaced before it is set aside.
    unread: AtomicBool,
    /// Notified when a write has failed.
    failed: Arc<EventFd>,
}

impl HeartbeatStore {
    /// `failed` is notified when a write has failed, see [`HeartbeatStore::is_failing`].
    pub fn new(state: &StateIo, failed: Arc<EventFd>) -> Self {
        let file = StateFile {
            path: state.directory().join("heartbeat.json"),
            pending: Mutex::default(),
            failing: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            failed,
        };
        Self { state: state.clone(), file: Arc::new(file) }
    }

    /// Loads the saved state. Logs if the file cannot be written. A damaged file is logged and renamed.
    pub fn load(&self) -> Option<Saved> {
        let file = self.file.clone();
        let read = self.state.read(move || {
            file.log_result(file.check_writable());
            file.read()
        });
        let fault = match read {
            Ok(text) => match serde_json::from_slice(&text) {
                Ok(saved) => return Some(saved),
                Err(error) => format!("is damaged ({error})"),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) if self.state.unusable().is_some() => {
                self.file.log_result(Err(error));
                return None;
            }
            Err(error) => format!("cannot be read ({})", reason(&error)),
        };
        let failed = self.state.set_aside(&self.file.path, &fault, "heartbeats");
        self.file.unread.store(failed, Ordering::Relaxed);
        None
    }

    /// Replaces the file atomically, soon. Never waits for the disk.
    pub fn save(&self, saved: Saved) {
        let is_queued = lock(&self.file.pending).replace(saved).is_some();
        if is_queued {
            self.state.warn_if_hung();
            return;
        }
        let file = self.file.clone();
        self.state.submit(move |prepared| {
            let Some(saved) = lock(&file.pending).take() else { return };
            file.log_result(prepared.and_then(|()| file.write(&saved)));
        });
    }

    /// Logs a disk that hangs, once. Returns when to check again.
    pub fn warn_if_hung(&self) -> Option<Duration> {
        self.state.warn_if_hung()
    }

    /// Whether the last write has failed, so that the state must be saved again.
    pub fn is_failing(&self) -> bool {
        self.file.failing.load(Ordering::Relaxed)
    }
}

/// All of these run on the thread `state-io`.
impl StateFile {
    fn read(&self) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        state_dir::open_file(&self.path)?.take(MAX_FILE_BYTES).read_to_end(&mut text)?;
        Ok(text)
    }

    fn check_writable(&self) -> io::Result<()> {
        let new = self.new_path();
        state_dir::create_file(&new, 0o600).and_then(|_| fs::remove_file(new))
    }

    fn write(&self, saved: &Saved) -> io::Result<()> {
        if self.unread.load(Ordering::Relaxed) {
            state_dir::set_aside_late(&self.path)?;
            self.unread.store(false, Ordering::Relaxed);
        }
        let new = self.new_path();
        let written = write_file(&new, saved).and_then(|()| fs::rename(&new, &self.path));
        if written.is_err() {
            // Frees the space of a partial file on a full disk.
            let _ = fs::remove_file(&new);
        }
        written
    }

    fn log_result(&self, result: io::Result<()>) {
        let was_failing = self.failing.swap(result.is_err(), Ordering::Relaxed);
        match result {
            Err(error) if !was_failing => log::warn!(
                "write {}: {}; heartbeats are kept in memory only, see state_dir",
                self.path.display(),
                reason(&error)
            ),
            Ok(()) if was_failing => log::info!("write to {} recovered", self.path.display()),
            _ => {}
        }
        if self.failing.load(Ordering::Relaxed) {
            self.failed.notify();
        }
    }

    fn new_path(&self) -> PathBuf {
        self.path.with_extension("json.new")
    }
}

fn write_file(path: &Path, saved: &Saved) -> io::Result<()> {
    let text = serde_json::to_vec(saved).map_err(io::Error::from)?;
    let mut file = state_dir::create_file(path, 0o600)?;
    file.write_all(&text)?;
    file.sync_all()
}
