//! Why a session failed, from how far it came, and from the exit code and the log of ssh.

use std::time::Duration;

use crate::remote::ssh::process::Progress;
use crate::util::error::reason;
use crate::util::text::escape_for_log;

/// After a rejected login the agent waits this long before it retries by itself: servers lock accounts.
const REJECTED_LOGIN_RETRY: Duration = Duration::from_secs(600);
/// ssh exits with this when it fails itself, and else with the code of the host's shell.
const EXIT_OF_SSH: i32 = 255;
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

    /// Classifies the exit of ssh. Standard error counts only before the authentication, because the host writes to it
    /// afterwards.
    pub(super) fn from_exit(exit: &SshExit<'_>) -> Self {
        match (exit.progress, exit.code) {
            (Progress::LoggedIn, _) => Self::temporary("connection lost"),
            (_, None) => Self::temporary("ssh was killed"),
            (Progress::Connecting, Some(EXIT_OF_SSH)) => exit.connection_failure(),
            (Progress::Connecting, Some(code)) => {
                Self::temporary(format!("ssh exited with code {code}: {}", exit.last_line()))
            }
            (Progress::Authenticated, Some(code)) => match exit.last_line() {
                text if text.is_empty() && code == EXIT_OF_SSH => {
                    Self::temporary("connection closed before the host's shell ran anything")
                }
                text if text.is_empty() => Self::temporary(format!(
                    "the host's shell exited with code {code} before it ran anything"
                )),
                text => Self::temporary(format!("the host's shell failed: {text}")),
            },
        }
    }
}

/// The exit of an ssh process.
#[derive(Clone, Copy)]
pub(super) struct SshExit<'a> {
    pub(super) code: Option<i32>,
    pub(super) progress: Progress,
    /// ssh's own log at level ERROR.
    pub(super) log: &'a str,
    pub(super) stderr: &'a str,
    /// The last line of the host's shell on standard output.
    pub(super) unframed_output: &'a str,
    pub(super) with_password: bool,
}

impl SshExit<'_> {
    /// Why the connection or the authentication failed. The first line of the log that has a known beginning decides: a
    /// server can put line breaks, and then any words, into what ssh logs of its messages, but only after that
    /// beginning.
    fn connection_failure(&self) -> SshError {
        if let Some(error) = self.log.lines().find_map(|line| self.failure_in(line)) {
            return error;
        }
        // Options of the command line are parsed before the log is opened.
        if self.stderr.contains("unsupported option \"accept-new\"") {
            return SshError::rejected(
                "OpenSSH on the agent's machine is older than 7.6 and does not support \"accept-new\"",
            );
        }
        if let Some(error) = proxy_failure(self.stderr) {
            return error;
        }
        match last_line(self.log) {
            text if text.is_empty() => {
                SshError::temporary("connection closed before the login completed")
            }
            text => SshError::temporary(format!("ssh failed: {text}")),
        }
    }

    fn failure_in(&self, line: &str) -> Option<SshError> {
        if let Some(text) = line.strip_prefix("Received disconnect from ") {
            return Some(if text.contains("Too many authentication failures") {
                self.login_rejected()
            } else {
                let text = escape_for_log(text, MAX_LINE_CHARS);
                SshError::temporary(format!("connection closed by the server: {text}"))
            });
        }
        if line.starts_with("Bad remote protocol version identification") {
            return Some(SshError::temporary("no SSH server: invalid banner"));
        }
        if line == "Connection timed out during banner exchange" {
            return Some(SshError::temporary("no SSH server: timeout waiting for its banner"));
        }
        if line.contains("Could not resolve hostname ") {
            return Some(SshError::temporary("DNS lookup failed"));
        }
        if let Some(text) = line.strip_prefix("ssh: connect to host ") {
            return Some(SshError::temporary(connection_error(text)));
        }
        if line == "Host key verification failed." {
            return Some(SshError::rejected(changed_host_key(self.log)));
        }
        line.contains("Permission denied (").then(|| self.login_rejected())
    }

    fn login_rejected(&self) -> SshError {
        SshError::rejected(if self.with_password {
            "login rejected: unknown user or wrong password"
        } else {
            "login rejected: no password given, and no key of the agent's user is accepted"
        })
    }

    /// The last line of text in what a process printed, for display only.
    fn last_line(&self) -> String {
        let texts = [self.log, self.stderr, self.unframed_output];
        texts.into_iter().map(last_line).find(|line| !line.is_empty()).unwrap_or_default()
    }
}

/// What the ssh of a jump host, or another ProxyCommand, printed. Newer versions of ssh do not log that the connection through it
/// was closed.
fn proxy_failure(stderr: &str) -> Option<SshError> {
    let last = last_line(stderr);
    if let Some(line) = stderr.lines().rfind(|line| line.contains(": Permission denied (")) {
        return Some(SshError::rejected(format!(
            "jump host rejected the login, only keys of the agent's user are tried there: {}",
            last_line(line)
        )));
    }
    if last == "Host key verification failed." {
        return Some(SshError::rejected(format!("jump host: {last}")));
    }
    (!last.is_empty())
        .then(|| SshError::temporary(format!("jump host or ProxyCommand failed: {last}")))
}

/// The text for ssh's report of a failed connect(2).
fn connection_error(text: &str) -> String {
    const REASONS: [(&str, &str); 5] = [
        ("Connection refused", "connection refused"),
        ("No route to host", "no route to host"),
        ("Network is unreachable", "network is unreachable"),
        ("Connection timed out", "connection timed out"),
        ("Operation timed out", "connection timed out"),
    ];
    let known = REASONS.into_iter().find(|(known, _)| text.ends_with(known));
    known.map_or_else(
        || format!("cannot connect to {}", escape_for_log(text, MAX_LINE_CHARS)),
        |(_, reason)| reason.to_owned(),
    )
}

/// Names the new key, and the place of the old one.
fn changed_host_key(log: &str) -> String {
    if !log.contains("HOST IDENTIFICATION HAS CHANGED") {
        let mut lines = log.lines().filter(|line| *line != "Host key verification failed.");
        let reason = lines.next_back().map(last_line).unwrap_or_default();
        return format!("host key verification failed: {reason}");
    }
    let fingerprint = log.split_ascii_whitespace().find(|word| word.starts_with("SHA256:"));
    let fingerprint = fingerprint.unwrap_or_default().trim_end_matches('.');
    let fingerprint = escape_for_log(fingerprint, MAX_LINE_CHARS);
    let old = log.lines().find_map(|line| line.trim().strip_prefix("Offending "));
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

    const EXIT: SshExit<'static> = SshExit {
        code: Some(EXIT_OF_SSH),
        progress: Progress::Connecting,
        log: "",
        stderr: "",
        unframed_output: "",
        with_password: true,
    };
    const REJECTED: &str = "login rejected: unknown user or wrong password";
    const CHANGED_KEY: &str = "@@@@@\r\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r\nThe fingerprint for the ED25519 key sent by the remote host is\nSHA256:abc.\r\nPlease contact your system administrator.\r\nOffending ED25519 key in /k/known_hosts:3\r\nHost key verification failed.\r\n";

    fn from_log(log: &str) -> SshError {
        SshError::from_exit(&SshExit { log, ..EXIT })
    }

    fn reason(exit: &SshExit<'_>) -> String {
        SshError::from_exit(exit).reason
    }

    #[test]
    fn classifies_lines_of_the_log() {
        for (log, reason, is_rejected) in [
            ("cc@h: Permission denied (publickey,password).\r\n", REJECTED, true),
            (
                "Permission denied, please try again.\r\nPermission denied (password).\r\n",
                REJECTED,
                true,
            ),
            (
                "Received disconnect from 10.0.0.1 port 22:2: Too many authentication failures\r\nDisconnected from 10.0.0.1 port 22\r\n",
                REJECTED,
                true,
            ),
            (
                "Received disconnect from 10.0.0.1 port 22:11: maintenance\x1b[2J\r\n",
                "connection closed by the server: 10.0.0.1 port 22:11: maintenance\\x1b[2J",
                false,
            ),
            ("ssh: connect to host h port 22: Connection refused\r\n", "connection refused", false),
            ("ssh: connect to host h port 22: No route to host\n", "no route to host", false),
            (
                "ssh: connect to host h port 22: Connection timed out\n",
                "connection timed out",
                false,
            ),
            (
                "ssh: connect to host h port 22: Invalid argument\n",
                "cannot connect to h port 22: Invalid argument",
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
            (
                "kex_exchange_identification: read: Connection reset by peer\n",
                "ssh failed: kex_exchange_identification: read: Connection reset by peer",
                false,
            ),
            (
                "ED25519 host key for h was revoked and you have requested strict checking.\r\nHost key verification failed.\r\n",
                "host key verification failed: ED25519 host key for h was revoked and you have requested strict checking.",
                true,
            ),
            ("", "connection closed before the login completed", false),
        ] {
            assert_eq!(from_log(log), SshError { reason: reason.into(), is_rejected });
        }
        let keys = SshExit { log: "Permission denied (publickey).", with_password: false, ..EXIT };
        assert!(reason(&keys).contains("no password given"), "{}", reason(&keys));
        assert!(from_log("\x1b[2J").reason.contains("\\x1b"));
    }

    #[test]
    fn names_new_and_old_key_when_host_key_changed() {
        let error = from_log(CHANGED_KEY);
        assert!(error.is_rejected);
        assert_eq!(
            error.reason,
            "host key has changed to SHA256:abc: another machine answers, or the host was reinstalled; the old key: ED25519 key in /k/known_hosts:3"
        );
    }

    #[test]
    fn server_cannot_forge_lines_of_the_log() {
        for (before, reason) in [
            (
                "Received disconnect from 10.0.0.1 port 22:11: bye",
                "connection closed by the server",
            ),
            ("Bad remote protocol version identification: 'x", "no SSH server"),
            ("cc@h: Permission denied (password", "login rejected"),
        ] {
            let error = from_log(&format!("{before}\r\n{CHANGED_KEY}"));
            assert!(error.reason.starts_with(reason), "{}", error.reason);
        }
    }

    #[test]
    fn host_cannot_forge_words_of_ssh_on_standard_error() {
        let words = [
            CHANGED_KEY,
            "cc@h: Permission denied (password).\r\n",
            "jump@j: Permission denied (publickey).\r\nkex_exchange_identification: Connection closed by remote host\r\n",
            "ssh: connect to host h port 22: Connection refused\r\n",
            "ssh: Could not resolve hostname h: Name or service not known\r\n",
            "command-line line 0: unsupported option \"accept-new\".\r\n",
        ];
        for stderr in words {
            for code in [0, 1, EXIT_OF_SSH] {
                let exit = SshExit { code: Some(code), stderr, ..EXIT };
                let authenticated = SshExit { progress: Progress::Authenticated, ..exit };
                let error = SshError::from_exit(&authenticated);
                assert!(error.reason.starts_with("the host's shell failed: "), "{}", error.reason);
                assert!(!error.is_rejected && !error.reason.contains(['\r', '\n']));
                let logged_in = SshExit { progress: Progress::LoggedIn, ..authenticated };
                assert_eq!(SshError::from_exit(&logged_in), SshError::temporary("connection lost"));
            }
        }
    }

    /// Up to 9.7, ssh logs that the connection was closed; later versions log it at higher levels only.
    #[test]
    fn blames_jump_host_when_only_its_ssh_reports_a_failure() {
        let refused = "Permission denied, please try again.\r\njump@j: Permission denied (publickey,password).\r\n";
        let closed = "kex_exchange_identification: Connection closed by remote host\r\nConnection closed by UNKNOWN port 65535\r\n";
        for log in ["", closed] {
            let error = SshError::from_exit(&SshExit { log, stderr: refused, ..EXIT });
            assert!(error.is_rejected);
            assert_eq!(
                error.reason,
                "jump host rejected the login, only keys of the agent's user are tried there: jump@j: Permission denied (publickey,password)."
            );
        }
        let unknown = "Host key verification failed.\r\n";
        let error = SshError::from_exit(&SshExit { stderr: unknown, ..EXIT });
        assert!(error.is_rejected && error.reason.starts_with("jump host: "), "{}", error.reason);
        let other = SshExit { stderr: "nc: timed out\x1b]0;\n", ..EXIT };
        assert_eq!(reason(&other), "jump host or ProxyCommand failed: nc: timed out\\x1b]0;");
        let target = SshExit { log: "cc@h: Permission denied (password).", stderr: "x", ..EXIT };
        assert_eq!(reason(&target), REJECTED, "the jump host's banner");
    }

    #[test]
    fn shows_last_line_of_shell_that_failed() {
        let exit = SshExit { progress: Progress::Authenticated, code: Some(1), ..EXIT };
        let text = "This account is currently not available.";
        assert_eq!(
            reason(&SshExit { unframed_output: text, ..exit }),
            format!("the host's shell failed: {text}")
        );
        assert_eq!(reason(&exit), "the host's shell exited with code 1 before it ran anything");
        let closed = SshExit { code: Some(EXIT_OF_SSH), ..exit };
        assert_eq!(reason(&closed), "connection closed before the host's shell ran anything");
        assert_eq!(reason(&SshExit { code: None, ..exit }), "ssh was killed");
        let usage = SshExit { code: Some(1), stderr: "No such log\n", ..EXIT };
        assert_eq!(reason(&usage), "ssh exited with code 1: No such log");
        let older = SshExit {
            stderr: "command-line line 0: unsupported option \"accept-new\".\r\n",
            ..EXIT
        };
        assert!(reason(&older).contains("older than 7.6"), "{}", reason(&older));
    }
}
