//! SSH sessions with remote hosts, each an `ssh` process of the system's OpenSSH that runs `collect.sh` on the host.

pub mod askpass;
pub(super) mod error;
mod host_thread;
pub(super) mod known_hosts;
mod pipe_text;
mod process;
mod session;
