//! Programs that the agent starts: what they inherit, and how they end.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::sys;

/// By which a service manager tells a program where to report how it does, and that it is waited for: sd_notify(3),
/// sd_watchdog_enabled(3). That is for the agent alone.
pub const OF_THE_MANAGER: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// Prepares a program that knows nothing of the agent: none of its settings, secrets among them, and not how
/// only the agent speaks to its service manager. It starts with no signal blocked and the limit of open files that the
/// agent was started with, and has a process group of its own: what a terminal sends to the agent's is for the agent alone,
/// and the program ends together with what it has started.
pub fn prepare(command: &mut Command) {
    command.process_group(0);
    forget(command);
}

/// The same without a process group of its own, for a program that gets more than that.
pub fn forget(command: &mut Command) {
    sys::clear_signal_mask_in(command);
    sys::restore_descriptor_limit_in(command);
    for (name, _) in std::env::vars_os() {
        let ours = name.as_encoded_bytes().starts_with(b"HM_AGENT_");
        if ours || OF_THE_MANAGER.iter().any(|managers| name == *managers) {
            command.env_remove(name);
        }
    }
}
