//! A database file for tests.

use std::path::PathBuf;

/// A directory that is removed with its contents when it is dropped.
pub struct TempDb {
    directory: PathBuf,
    pub path: PathBuf,
}

impl TempDb {
    pub fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("hm-hub-{name}-{}", std::process::id()));
        // Fails if another test uses the same name.
        std::fs::create_dir(&directory).unwrap();
        Self { path: directory.join("hub.db"), directory }
    }
}

impl Drop for TempDb {
    fn drop(&mut self) {
        // Best effort: another run uses another directory.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
