//! A control group of its own for an agent, in either version of them. Wants root.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::node::behind;

/// It is gone when it goes out of scope, after all that was in it.
#[derive(Debug)]
pub struct ControlGroup(PathBuf);

const MOUNTED: &str = "/sys/fs/cgroup";

impl ControlGroup {
    /// One in which this is limited, "pids" or "memory". Where nobody may make one, the error says so.
    pub fn new(controller: &str) -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let first = Path::new(MOUNTED).join(controller);
        let parent = if first.is_dir() {
            first
        } else {
            // It may be so already, and where it is not and cannot be, a file is missing below.
            let enable = Path::new(MOUNTED).join("cgroup.subtree_control");
            let _ = std::fs::write(enable, format!("+{controller}"));
            PathBuf::from(MOUNTED)
        };
        let group = Self(parent.join(format!("hm-agent-test-{}-{number}", std::process::id())));
        let why = |error: std::io::Error| format!("{}: {error}", group.0.display());
        std::fs::create_dir(&group.0).map_err(why)?;
        match group.limit(controller).is_some() {
            true => Ok(group),
            false => Err(format!("{} limits no {controller}", group.0.display())),
        }
    }

    fn limit(&self, controller: &str) -> Option<PathBuf> {
        let names = match controller {
            "pids" => ["pids.max", "pids.max"],
            _ => ["memory.limit_in_bytes", "memory.max"],
        };
        names.map(|name| self.0.join(name)).into_iter().find(|file| file.exists())
    }

    /// From now on there is no more than this of it.
    pub fn set(&self, controller: &str, most: &str) {
        std::fs::write(self.limit(controller).unwrap(), most).unwrap();
    }

    /// A number that the kernel counts in it.
    pub fn count(&self, name: &str) -> u64 {
        std::fs::read_to_string(self.0.join(name)).unwrap().trim().parse().unwrap()
    }

    /// The same command in it.
    pub fn hold(&self, command: &Command) -> Command {
        let directory = self.0.display().to_string();
        let script = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";
        behind(&["sh", "-c", script, &directory], command)
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // What was in it may still be ending.
        let is_gone = || {
            std::thread::park_timeout(std::time::Duration::from_millis(10));
            std::fs::remove_dir(&self.0).is_ok()
        };
        let gone = (0..500).any(|_| is_gone());
        assert!(gone || std::thread::panicking(), "{} is not empty", self.0.display());
    }
}
