//! What survives a restart: one small file, replaced as a whole.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::heartbeat::table::Saved;
use crate::limits;
use crate::util::error::reason;
use crate::util::state_dir;

/// The file, if there can be one.
pub struct Store {
    path: PathBuf,
    /// Whether the log has said already that it cannot be written.
    failing: AtomicBool,
}

impl Store {
    /// The file in `state_dir`, which is made if it is not there. One that cannot be written is said once.
    pub fn open(state_dir: &Path) -> Self {
        let store =
            Self { path: state_dir.join("heartbeat.json"), failing: AtomicBool::new(false) };
        let made = state_dir::make(state_dir);
        // Something else may be in its place, which the next line names better.
        let made = made.or_else(|error| if state_dir.exists() { Ok(()) } else { Err(error) });
        let writable = made.and_then(|()| {
            state_dir::create(&store.beside("new"), 0o600)
                .and_then(|_| fs::remove_file(store.beside("new")))
        });
        store.note(writable);
        store
    }

    /// What was saved. A file that cannot be understood is kept beside, and said.
    pub fn load(&self) -> Option<Saved> {
        let mut text = Vec::new();
        let read = state_dir::open(&self.path)
            .and_then(|file| file.take(limits::STATE_FILE_BYTES).read_to_end(&mut text));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                log::warn!(
                    "read {}: {}; heartbeats begin anew",
                    self.path.display(),
                    reason(&error)
                );
                return None;
            }
        }
        match serde_json::from_slice(&text) {
            Ok(saved) => Some(saved),
            Err(error) => {
                let damaged = self.beside("damaged");
                log::warn!(
                    "{} is damaged ({error}); it is kept as {}, and heartbeats begin anew",
                    self.path.display(),
                    damaged.display()
                );
                // If it cannot be kept, it is written over with the next change.
                let _ = fs::rename(&self.path, damaged);
                None
            }
        }
    }

    /// Writes it: whole or not at all, whatever happens meanwhile. Says whether it is written.
    pub fn save(&self, saved: &Saved) -> bool {
        let new = self.beside("new");
        let written = serde_json::to_vec(saved).map_err(io::Error::from).and_then(|text| {
            let mut file = state_dir::create(&new, 0o600)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, &self.path)
        });
        let good = written.is_ok();
        if !good {
            // A full disk has better use for the room.
            let _ = fs::remove_file(&new);
        }
        self.note(written);
        good
    }

    fn note(&self, result: io::Result<()>) {
        let failed = result.is_err();
        let before = self.failing.swap(failed, Ordering::Relaxed);
        match result {
            Err(error) if !before => log::warn!(
                "write {}: {}; heartbeats are kept in memory only, see state_dir",
                self.path.display(),
                reason(&error)
            ),
            Ok(()) if before => log::info!("{} can be written again", self.path.display()),
            _ => {}
        }
    }

    fn beside(&self, extension: &str) -> PathBuf {
        self.path.with_extension(format!("json.{extension}"))
    }
}
