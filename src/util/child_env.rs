//! What programs that the agent starts inherit.

use std::process::Command;

use crate::sys;

/// Variables of a service manager that are only for the agent: sd_notify(3), sd_watchdog_enabled(3).
pub const SD_NOTIFY_VARS: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// Removes the agent's settings (with secrets) and the service manager's variables from a program's environment. The program
/// starts with no signal blocked, and with the limit of open files that the agent was started with.
pub fn clear_agent_env(command: &mut Command) {
    sys::clear_signal_mask_in(command);
    sys::restore_descriptor_limit_in(command);
    for (name, _) in std::env::vars_os() {
        let is_setting = [&b"HM_AGENT_"[..], b"HM_HUB_"]
            .iter()
            .any(|prefix| name.as_encoded_bytes().starts_with(prefix));
        if is_setting || SD_NOTIFY_VARS.iter().any(|variable| name == *variable) {
            command.env_remove(name);
        }
    }
}
