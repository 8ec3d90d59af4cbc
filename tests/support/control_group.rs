//! A cgroup for an agent, version 1 or 2. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::core_fixture::wrap;

/// A cgroup; removed when it is dropped, after its processes have exited.
#[derive(Debug)]
pub struct ControlGroup(PathBuf);

const MOUNTED: &str = "/sys/fs/cgroup";

impl ControlGroup {
    /// Creates one that limits `controller`, "pids" or "memory"; fails where cgroups cannot be created.
    pub fn new(controller: &str) -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let first = Path::new(MOUNTED).join(controller);
        let parent = if first.is_dir() {
            first
        } else {
            // If it is enabled already this may fail; if it cannot be enabled, the limit's file is missing below.
            let enable = Path::new(MOUNTED).join("cgroup.subtree_control");
            let _ = std::fs::write(enable, format!("+{controller}"));
            PathBuf::from(MOUNTED)
        };
        let group = Self(parent.join(format!("hm-agent-test-{}-{number}", std::process::id())));
        let why = |error: std::io::Error| format!("{}: {error}", group.0.display());
        std::fs::create_dir(&group.0).map_err(why)?;
        match group.limit_file(controller).is_some() {
            true => Ok(group),
            false => Err(format!("{} has no limit for {controller}", group.0.display())),
        }
    }

    fn limit_file(&self, controller: &str) -> Option<PathBuf> {
        let names = match controller {
            "pids" => ["pids.max", "pids.max"],
            _ => ["memory.limit_in_bytes", "memory.max"],
        };
        names.map(|name| self.0.join(name)).into_iter().find(|file| file.exists())
    }

    pub fn set_limit(&self, controller: &str, limit: &str) {
        std::fs::write(self.limit_file(controller).unwrap(), limit).unwrap();
    }

    /// Reads one of its counters.
    pub fn read(&self, name: &str) -> u64 {
        std::fs::read_to_string(self.0.join(name)).unwrap().trim().parse().unwrap()
    }

    /// The command, run inside the cgroup.
    pub fn wrap(&self, command: &Command) -> Command {
        let directory = self.0.display().to_string();
        let script = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";
        wrap(&["sh", "-c", script, &directory], command)
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // Its processes may still be exiting.
        let removed = || {
            std::thread::park_timeout(std::time::Duration::from_millis(10));
            std::fs::remove_dir(&self.0).is_ok()
        };
        let removed = (0..500).any(|_| removed());
        assert!(removed || std::thread::panicking(), "{} is not empty", self.0.display());
    }
}
