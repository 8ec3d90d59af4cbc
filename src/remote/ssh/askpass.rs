//! The SSH_ASKPASS program (ssh(1)): hm-agent itself, started by ssh as a separate process.
//!
//! ssh closes all inherited descriptors but the standard three, so the password cannot be passed in one. The agent
//! writes it to a pipe, which can be read once, by processes of the agent's user only, and passes the path of that
//! pipe.

use std::io::{Read, Write};
use std::os::unix::process::parent_id;

use crate::procfs::pid_stat;
use crate::util::text::parse_decimal;

/// Environment variable with the path of the pipe.
pub(super) const PIPE_VARIABLE: &str = "HM_AGENT_ASKPASS";

/// If ssh started this process for a password, answers it and returns the exit code.
pub fn run_if_requested() -> Option<u8> {
    let path = std::env::var(PIPE_VARIABLE).ok()?;
    let mut arguments = std::env::args().skip(1);
    // The supervisor of ssh has the variable too, and more arguments than a prompt.
    let (prompt, None) = (arguments.next().unwrap_or_default(), arguments.next()) else {
        return None;
    };
    let supervisor = parent_of(parent_id());
    let is_trusted =
        pipe_owner(&path).is_some_and(|agent| supervisor.and_then(parent_of) == Some(agent));
    Some(u8::from(!is_trusted || prompt.contains("(yes/no") || print_password(&path).is_err()))
}

/// Parses the process ID out of a pipe's path. Accepts numbers only, so that no other file is ever read.
fn pipe_owner(path: &str) -> Option<u32> {
    let number =
        |text: &str| parse_decimal(text.as_bytes()).and_then(|number| u32::try_from(number).ok());
    let (process, fd) = path.strip_prefix("/proc/")?.split_once("/fd/")?;
    number(fd).and(number(process))
}

/// The parent of a process. Only an ssh whose supervisor the agent itself started gets the password: an ssh that this one
/// starts for a jump host inherits the environment, and would send the password to the wrong host.
fn parent_of(process: u32) -> Option<u32> {
    let stat = std::fs::read(format!("/proc/{process}/stat")).ok()?;
    Some(pid_stat::parse(&stat).ok()?.parent_pid)
}

fn print_password(path: &str) -> std::io::Result<()> {
    let mut password = Vec::new();
    std::fs::File::open(path)?.read_to_end(&mut password)?;
    if password.is_empty() {
        // The pipe has been read before: ssh prompts again after a wrong password.
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    std::io::stdout().write_all(&password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_pipe_paths_below_proc() {
        assert_eq!(pipe_owner("/proc/1/fd/7"), Some(1));
        for bad in
            ["/etc/shadow", "/proc/1/fd/", "/proc/self/fd/7", "/proc/1/fd/7/../../environ", ""]
        {
            assert_eq!(pipe_owner(bad), None, "{bad}");
        }
    }

    #[test]
    fn finds_parent_of_process() {
        assert_eq!(parent_of(std::process::id()), Some(parent_id()));
        assert_eq!(parent_of(0), None);
    }
}
