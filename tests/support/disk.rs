//! A small disk for what an agent keeps. Wants root.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::Scratch;
use super::node::behind;

/// A disk of a megabyte, in a mount namespace that lives as long as this, and no longer than this process.
pub struct Disk {
    holder: Child,
    pub directory: Scratch,
}

impl Disk {
    pub fn new() -> Self {
        let directory = Scratch::new("disk");
        let script = "mount -t tmpfs -o size=1m,mode=755 none \"$0\" && echo ready && exec cat";
        let mut holder = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
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

    /// A file on it, from outside.
    pub fn file(&self, name: &str) -> PathBuf {
        let root = format!("/proc/{}/root", self.holder.id());
        Path::new(&root).join(self.directory.0.strip_prefix("/").unwrap()).join(name)
    }

    pub fn fill(&self) {
        let mut file = File::create(self.file("fill")).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
    }

    /// The same command where this disk is.
    pub fn before(&self, command: &Command) -> Command {
        let pid = self.holder.id().to_string();
        behind(&["nsenter", "-t", &pid, "--mount", "--"], command)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
