//! Programs that the agent starts: what they inherit, and how they end.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::sys;

/// Prepares a program that knows nothing of the agent: none of its settings, secrets among them, and not the
/// socket on which only the agent speaks to systemd. It starts with no signal blocked and the limit of open files that the
/// agent was started with, and has a process group of its own: what a terminal sends to the agent's is for the agent alone,
/// and the program ends together with what it has started.
pub fn prepare(command: &mut Command) {
    command.process_group(0);
    forget(command);
}

/// The same without a process group of its own, for a program that gets more than that.
pub fn forget(command: &mut Command) {
    sys::unblock_in(command);
    sys::lower_descriptor_limit_in(command);
    for (name, _) in std::env::vars_os() {
        let ours = name.as_encoded_bytes().starts_with(b"HM_AGENT_");
        if ours || name == "NOTIFY_SOCKET" {
            command.env_remove(name);
        }
    }
}
