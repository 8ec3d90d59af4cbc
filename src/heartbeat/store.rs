//! The state file `heartbeat.json`, replaced as a whole with each save.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::heartbeat::table::Saved;
use crate::util::error::reason;
use crate::util::state_dir;

/// The file is smaller than this: 10 000 applications, as many dropped ones and as many in maintenance, with ids of 256 bytes,
/// each of which JSON may escape with six characters.
const MAX_FILE_BYTES: u64 = 64 << 20;

pub struct Store {
    path: PathBuf,
    /// Whether the last write failed. Only the first failure is logged.
    failing: AtomicBool,
}

impl Store {
    /// Opens the file in `state_dir`, and creates the directory if it does not exist. Logs if the file cannot be written.
    pub fn open(state_dir: &Path) -> Self {
        let store =
            Self { path: state_dir.join("heartbeat.json"), failing: AtomicBool::new(false) };
        let created = state_dir::create_dir(state_dir);
        // If something else has that name, creating the file below gives the better error.
        let created = created.or_else(|error| if state_dir.exists() { Ok(()) } else { Err(error) });
        let writable = created.and_then(|()| {
            state_dir::create_file(&store.sibling("new"), 0o600)
                .and_then(|_| fs::remove_file(store.sibling("new")))
        });
        store.log_result(writable);
        store
    }

    /// Loads the saved state. A damaged file is logged and renamed.
    pub fn load(&self) -> Option<Saved> {
        let mut text = Vec::new();
        let read = state_dir::open_file(&self.path)
            .and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut text));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                let path = self.path.display();
                log::warn!("read {path}: {}; starting without saved heartbeats", reason(&error));
                return None;
            }
        }
        match serde_json::from_slice(&text) {
            Ok(saved) => Some(saved),
            Err(error) => {
                let damaged = self.sibling("damaged");
                log::warn!(
                    "{} is damaged ({error}), renamed to {}; starting without saved heartbeats",
                    self.path.display(),
                    damaged.display()
                );
                // If the rename fails, the next save overwrites the damaged file.
                let _ = fs::rename(&self.path, damaged);
                None
            }
        }
    }

    /// Replaces the file atomically. Returns whether it was written.
    pub fn save(&self, saved: &Saved) -> bool {
        let new = self.sibling("new");
        let written = serde_json::to_vec(saved).map_err(io::Error::from).and_then(|text| {
            let mut file = state_dir::create_file(&new, 0o600)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, &self.path)
        });
        let is_written = written.is_ok();
        if !is_written {
            // Frees the space of a partial file on a full disk.
            let _ = fs::remove_file(&new);
        }
        self.log_result(written);
        is_written
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
    }

    fn sibling(&self, extension: &str) -> PathBuf {
        self.path.with_extension(format!("json.{extension}"))
    }
}
