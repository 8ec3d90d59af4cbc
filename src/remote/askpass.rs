//! The program that ssh asks for a password (SSH_ASKPASS in ssh(1)): this one, in a process of its own.
//!
//! ssh closes what it inherits but for the standard three, so the password cannot come through it. It lies in a pipe of the
//! agent's, from which it can be taken once, by processes of the agent's own user alone; its path is what is passed on.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::parent_id;

use crate::procfs::fields;
use crate::util::text::parse_decimal;

/// Where the path is passed on.
pub const VARIABLE: &str = "HM_AGENT_ASKPASS";

/// The path of a pipe of this process, for others of the same user.
pub(super) fn path(pipe: BorrowedFd<'_>) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), pipe.as_raw_fd())
}

/// Answers ssh if it was ssh that started this process; the exit code.
pub fn answer() -> Option<u8> {
    let path = std::env::var(VARIABLE).ok()?;
    let question = std::env::args().nth(1).unwrap_or_default();
    let asks = owner(&path).is_some_and(|agent| parent_of(parent_id()) == Some(agent));
    Some(u8::from(!asks || question.contains("(yes/no") || hand_over(&path).is_err()))
}

/// The process whose pipe it is. By number: nothing else is ever read.
fn owner(path: &str) -> Option<u32> {
    let number =
        |text: &str| parse_decimal(text.as_bytes()).and_then(|number| u32::try_from(number).ok());
    let (process, fd) = path.strip_prefix("/proc/")?.split_once("/fd/")?;
    number(fd).and(number(process))
}

/// Whoever started a process. The ssh that the agent has started gets the password; one that this starts for a jump host
/// inherits the environment, and would tell that host another one's password.
fn parent_of(process: u32) -> Option<u32> {
    let stat = std::fs::read(format!("/proc/{process}/stat")).ok()?;
    let after_name = stat.rsplit(|&byte| byte == b')').next()?;
    u32::try_from(parse_decimal(fields(after_name).nth(1)?)?).ok()
}

fn hand_over(path: &str) -> std::io::Result<()> {
    let mut password = Vec::new();
    std::fs::File::open(path)?.read_to_end(&mut password)?;
    if password.is_empty() {
        // It was taken already: ssh asks again after a wrong one.
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    std::io::stdout().write_all(&password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pipe_of_a_process_is_read() {
        assert_eq!(owner("/proc/1/fd/7"), Some(1));
        for bad in
            ["/etc/shadow", "/proc/1/fd/", "/proc/self/fd/7", "/proc/1/fd/7/../../environ", ""]
        {
            assert_eq!(owner(bad), None, "{bad}");
        }
    }

    #[test]
    fn who_asks_is_known_by_whom_it_was_started() {
        assert_eq!(parent_of(std::process::id()), Some(parent_id()));
        assert_eq!(parent_of(0), None);
    }
}
