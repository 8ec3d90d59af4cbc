//! Why a session failed, from the exit code and the standard error of ssh.

use std::time::Duration;

use crate::util::error::reason;
use crate::util::text::escape_for_log;

/// After a rejected login the agent waits this long before it retries by itself: servers lock accounts.
const REJECTED_LOGIN_RETRY: Duration = Duration::from_secs(600);
/// Limit of a line of ssh's output in an error.
const MAX_LINE_CHARS: usize = 200;

/// Why a session was not established, or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::remote) struct SshError {
    /// Text for the client and the log.
    pub(in crate::remote) reason: String,
    /// The server rejected the login, or the host's key: a retry in a short time could lock an account.
    pub(in crate::remote) is_rejected: bool,
}

impl SshError {
    /// An error that may disappear by itself.
    pub(in crate::remote) fn temporary(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_rejected: false }
    }

    fn rejected(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_rejected: true }
    }

    /// ssh could not be started.
    pub(super) fn from_spawn_error(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::NotFound => Self::rejected(
                "program \"ssh\" not found on the agent's machine: install the OpenSSH client (package openssh-client or openssh-clients)",
            ),
            _ => Self::temporary(format!("cannot start ssh: {}", reason(error))),
        }
    }

    /// How long to wait at least before the next attempt.
    pub(super) fn min_retry_delay(&self) -> Duration {
        if self.is_rejected { REJECTED_LOGIN_RETRY } else { Duration::ZERO }
    }

    /// Classifies the exit of ssh by its exit code and its standard error.
    pub(super) fn from_exit(
        stderr: &str,
        code: Option<i32>,
        logged_in: bool,
        with_password: bool,
    ) -> Self {
        // ssh exits with 255. Any other code, and then stderr as well, is that of the host's shell.
        let is_from_ssh = code == Some(255);
        if is_from_ssh && let Some(error) = rejection(stderr, with_password) {
            return error;
        }
        if is_from_ssh && let Some(reason) = connection_error(stderr) {
            return Self::temporary(reason);
        }
        let last = last_line(stderr);
        match (logged_in, code) {
            _ if is_from_ssh && !last.is_empty() => Self::temporary(format!("ssh failed: {last}")),
            (true, _) => Self::temporary("connection lost"),
            (false, Some(255)) => Self::temporary("connection closed before the login completed"),
            (false, Some(code)) if last.is_empty() => Self::temporary(format!(
                "the host's shell exited with code {code} before it ran anything"
            )),
            (false, Some(_)) => Self::temporary(format!("the host's shell failed: {last}")),
            (false, None) => Self::temporary("ssh was killed"),
        }
    }
}

/// Errors after which a retry in a short time does harm or no good.
fn rejection(stderr: &str, with_password: bool) -> Option<SshError> {
    const DENIED: &str = "Permission denied";
    let contains = |text: &str| stderr.contains(text);
    if contains("HOST IDENTIFICATION HAS CHANGED") || contains("Host key verification failed") {
        return Some(SshError::rejected(changed_host_key(stderr)));
    }
    // This is the last line of ssh, unless a jump host denied the login: then ssh reports the closed connection after
    // it.
    if contains(DENIED) && !last_line(stderr).contains(DENIED) {
        let jump = stderr.lines().rfind(|line| line.contains(DENIED));
        let jump = last_line(jump.unwrap_or_default());
        return Some(SshError::rejected(format!(
            "jump host rejected the login, only keys of the agent's user are tried there: {jump}"
        )));
    }
    if contains(DENIED) || contains("Too many authentication failures") {
        return Some(SshError::rejected(if with_password {
            "login rejected: unknown user or wrong password"
        } else {
            "login rejected: no password given, and no key of the agent's user is accepted"
        }));
    }
    contains("unsupported option \"accept-new\"").then(|| {
        SshError::rejected(
            "OpenSSH on the agent's machine is older than 7.6 and does not support \"accept-new\"",
        )
    })
}

fn connection_error(stderr: &str) -> Option<&'static str> {
    [
        ("Connection refused", "connection refused"),
        ("No route to host", "no route to host"),
        ("Network is unreachable", "network is unreachable"),
        ("timed out during banner exchange", "no SSH server: timeout waiting for its banner"),
        ("Connection timed out", "connection timed out"),
        ("Operation timed out", "connection timed out"),
        ("Could not resolve hostname", "DNS lookup failed"),
        ("not responding", "connection lost: keepalive timeout"),
    ]
    .into_iter()
    .find(|(text, _)| stderr.contains(text))
    .map(|(_, reason)| reason)
}

/// Names the new key, and the place of the old one.
fn changed_host_key(stderr: &str) -> String {
    let fingerprint = stderr.split_ascii_whitespace().find(|word| word.starts_with("SHA256:"));
    let fingerprint = fingerprint.unwrap_or_default().trim_end_matches('.');
    let fingerprint = escape_for_log(fingerprint, MAX_LINE_CHARS);
    let old = stderr.lines().find_map(|line| line.trim().strip_prefix("Offending "));
    let old = old.map_or(String::new(), |old| {
        format!("; the old key: {}", escape_for_log(old, MAX_LINE_CHARS))
    });
    format!(
        "host key has changed to {fingerprint}: another machine answers, or the host was reinstalled{old}"
    )
}

/// The last line that is not empty, shortened and escaped.
fn last_line(text: &str) -> String {
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    escape_for_log(last, MAX_LINE_CHARS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_exit(stderr: &str, code: i32) -> SshError {
        SshError::from_exit(stderr, Some(code), false, true)
    }

    #[test]
    fn classifies_messages_of_ssh() {
        for (stderr, reason, is_rejected) in [
            (
                "cc@h: Permission denied (publickey,password).\r\n",
                "login rejected: unknown user or wrong password",
                true,
            ),
            (
                "Permission denied, please try again.\r\njump@j: Permission denied (publickey,password).\r\nkex_exchange_identification: Connection closed by remote host\r\n",
                "jump host rejected the login, only keys of the agent's user are tried there: jump@j: Permission denied (publickey,password).",
                true,
            ),
            ("ssh: connect to host h port 22: Connection refused\r\n", "connection refused", false),
            ("ssh: connect to host h port 22: No route to host\n", "no route to host", false),
            (
                "ssh: connect to host h port 22: Connection timed out\n",
                "connection timed out",
                false,
            ),
            (
                "Connection timed out during banner exchange\r\nConnection to 10.0.0.1 port 22 timed out\n",
                "no SSH server: timeout waiting for its banner",
                false,
            ),
            (
                "ssh: Could not resolve hostname h: Name or service not known\n",
                "DNS lookup failed",
                false,
            ),
            ("Timeout, server h not responding.\r\n", "connection lost: keepalive timeout", false),
            (
                "kex_exchange_identification: read: Connection reset by peer\n",
                "ssh failed: kex_exchange_identification: read: Connection reset by peer",
                false,
            ),
        ] {
            assert_eq!(from_exit(stderr, 255), SshError { reason: reason.into(), is_rejected });
        }
        let keys = "cc@h: Permission denied (publickey).";
        let keys = SshError::from_exit(keys, Some(255), false, false);
        assert!(keys.reason.contains("no password given"), "{}", keys.reason);
        assert_eq!(
            from_exit("This account is currently not available.\n", 1).reason,
            "the host's shell failed: This account is currently not available."
        );
        assert_eq!(from_exit("", 255).reason, "connection closed before the login completed");
        assert_eq!(SshError::from_exit("", Some(0), true, false).reason, "connection lost");
        assert!(from_exit("\x1b[2J", 255).reason.contains("\\x1b"));
    }

    #[test]
    fn names_new_and_old_key_when_host_key_changed() {
        let stderr = "@@@@@\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nThe fingerprint for the ED25519 key sent by the remote host is\nSHA256:abc.\nPlease contact your system administrator.\nOffending ED25519 key in /k/known_hosts:3\nHost key verification failed.\n";
        let error = from_exit(stderr, 255);
        assert!(error.is_rejected);
        assert_eq!(
            error.reason,
            "host key has changed to SHA256:abc: another machine answers, or the host was reinstalled; the old key: ED25519 key in /k/known_hosts:3"
        );
    }
}
