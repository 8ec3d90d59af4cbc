//! The program that ssh asks for a password (SSH_ASKPASS in ssh(1)): this one, in a process of its own.
//!
//! ssh closes what it inherits but for the standard three, so the password cannot come through it. It lies in a pipe of the
//! agent's, from which it can be taken once, by processes of the agent's own user alone; its path is what is passed on.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};

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
    Some(u8::from(!is_pipe(&path) || question.contains("(yes/no") || hand_over(&path).is_err()))
}

/// Of a process, and by number: nothing else is ever read.
fn is_pipe(path: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts = path.strip_prefix("/proc/").and_then(|path| path.split_once("/fd/"));
    parts.is_some_and(|(process, fd)| number(process) && number(fd))
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
        assert!(is_pipe("/proc/1/fd/7"));
        for bad in
            ["/etc/shadow", "/proc/1/fd/", "/proc/self/fd/7", "/proc/1/fd/7/../../environ", ""]
        {
            assert!(!is_pipe(bad), "{bad}");
        }
    }
}
