//! If a supervisor itself is killed, its descendants become children of the agent, which is a subreaper for that case. Then the
//! agent kills them.

use std::ffi::CStr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::procfs::pid_stat;
use crate::sys::children::{self, Signal};
use crate::util::supervisor::{KILL_TIMEOUT, descendants};

/// The name of a supervisor process, also when it is a zombie.
pub(super) const SUPERVISOR_NAME: &CStr = c"hm-supervisor";

/// Kills the children of this process that are no supervisors, and those that these leave behind.
pub(super) fn kill() {
    let deadline = Instant::now() + KILL_TIMEOUT;
    loop {
        let mut left = false;
        for orphan in descendants::children_of(std::process::id()).filter(|pid| is_orphan(*pid)) {
            children::signal_process(orphan, Signal::SIGKILL);
            left |= !children::reap(orphan);
        }
        if !left {
            return;
        }
        if Instant::now() >= deadline {
            log::warn!("some processes of a killed supervisor cannot be killed");
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A supervisor runs the agent's own program, from the fork on.
fn is_orphan(process: u32) -> bool {
    let program = |path: &str| {
        let metadata = std::fs::metadata(Path::new("/proc").join(path).join("exe"));
        metadata.map(|file| (file.dev(), file.ino()))
    };
    match program(&process.to_string()) {
        Ok(found) => program("self").is_ok_and(|own| own != found),
        // A zombie.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let stat = std::fs::read(format!("/proc/{process}/stat")).unwrap_or_default();
            let is_zombie = pid_stat::parse(&stat).is_ok_and(|stat| stat.state == b'Z');
            let name = [b" (", SUPERVISOR_NAME.to_bytes(), b") "].concat();
            is_zombie && !stat.windows(name.len()).any(|window| window == name)
        }
        // It has become another user, which a supervisor does not.
        Err(_) => true,
    }
}
