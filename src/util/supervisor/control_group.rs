//! A control group of its own for a program: the kernel kills its processes all at once. There is one where the agent is root
//! and the machine has cgroup v2; elsewhere `descendants` does without.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::process::Command;

use crate::sys::children;

/// Removed when it is dropped.
pub(super) struct ControlGroup {
    path: PathBuf,
    members: File,
}

impl ControlGroup {
    /// `None` if none can be made, for whatever reason.
    pub(super) fn create() -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let name = format!("hm-agent-{}", std::process::id());
        let path = PathBuf::from("/sys/fs/cgroup").join(own).join(name);
        fs::create_dir(&path).ok()?;
        let open = |file: &str| OpenOptions::new().write(true).open(path.join(file));
        // Without cgroup.kill (before Linux 5.14) the group would be of no use.
        match open("cgroup.kill").and_then(|_| open("cgroup.procs")) {
            Ok(members) => Some(Self { path, members }),
            Err(_) => {
                // It is empty.
                let _ = fs::remove_dir(&path);
                None
            }
        }
    }

    /// Starts a program in this group.
    pub(super) fn enter_in(&self, command: &mut Command) {
        children::enter_control_group_in(command, &self.members);
    }

    /// Kills every process in it. Those that have left the group, which takes privileges, are killed as descendants.
    pub(super) fn kill(&self) {
        let killed: io::Result<()> = fs::write(self.path.join("cgroup.kill"), "1");
        // Then they are all killed as descendants.
        let _ = killed;
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // It is empty, unless a process is blocked in the kernel; then the service manager removes it with the agent's own.
        let _ = fs::remove_dir(&self.path);
    }
}
