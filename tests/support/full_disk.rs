//! A small filesystem for `state_dir` that can be filled. Needs root.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::TempDir;
use super::core_fixture::wrap;

/// A tmpfs in a mount namespace that is removed when this is dropped.
pub struct FullDisk {
    holder: Child,
    pub directory: TempDir,
}

impl FullDisk {
    /// Of 4 MB: the agent's history takes 1.3 MB of it.
    pub fn new() -> Self {
        Self::of_mebibytes(4)
    }

    pub fn of_mebibytes(size: u32) -> Self {
        let directory = TempDir::new("disk");
        let script = format!(
            "mount -t tmpfs -o size={size}m,mode=755 none \"$0\" && echo ready && exec cat"
        );
        let mut holder = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .arg(&directory.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "this test needs root");
        Self { holder, directory }
    }

    /// The path of a file on it from outside the namespace.
    pub fn file(&self, name: &str) -> PathBuf {
        let root = format!("/proc/{}/root", self.holder.id());
        Path::new(&root).join(self.directory.0.strip_prefix("/").unwrap()).join(name)
    }

    pub fn fill(&self) {
        let mut file = File::create(self.file("fill")).unwrap();
        while file.write_all(&[0; 64 << 10]).is_ok() {}
        while file.write_all(&[0; 512]).is_ok() {}
    }

    pub fn empty(&self) {
        std::fs::remove_file(self.file("fill")).unwrap();
    }

    /// Runs a command in the mount namespace.
    pub fn run_inside(&self, command: &Command) -> Command {
        let pid = self.holder.id().to_string();
        wrap(&["nsenter", "-t", &pid, "--mount", "--"], command)
    }
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
