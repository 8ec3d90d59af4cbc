//! Why there is no session: ssh's exit and its words, sorted.

use std::time::Duration;

use crate::limits;

/// Why a session did not begin, or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// For the client, and the log.
    pub(super) reason: String,
    /// The server does not let us in: trying again soon could lock an account.
    pub(super) refused: bool,
}

impl Failure {
    /// One that may mend itself.
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), refused: false }
    }

    fn refused(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), refused: true }
    }

    /// ssh cannot be started.
    pub(super) fn to_start(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::NotFound => Self::refused(
                "there is no program \"ssh\" on the agent's machine: install OpenSSH's client (openssh-client, or openssh-clients)",
            ),
            _ => Self::new(format!("ssh cannot be started: {}", crate::util::error::reason(error))),
        }
    }

    /// How long to wait at least before the next try.
    pub(super) fn floor(&self) -> Duration {
        if self.refused { limits::REFUSED_LOGIN_AGAIN } else { Duration::ZERO }
    }

    /// What ssh's end means. `words`: what it wrote to standard error; `code`: its exit code.
    pub(super) fn of(words: &str, code: Option<i32>, logged_in: bool, by_password: bool) -> Self {
        // Another code is that of the host's shell, and then the words are, too.
        let says = |text: &str| code == Some(255) && words.contains(text);
        if says("HOST IDENTIFICATION HAS CHANGED") || says("Host key verification failed") {
            return Self::refused(host_key(words));
        }
        let last = last_words(words);
        // ssh's last word, unless a jump host said it: then it goes on about the connection that ended.
        if says("Permission denied") && !last.contains("Permission denied") {
            let jump = words.lines().rfind(|line| line.contains("Permission denied"));
            let jump = last_words(jump.unwrap_or_default());
            return Self::refused(format!("a jump host lets only keys of the agent's in: {jump}"));
        }
        if says("Permission denied") || says("Too many authentication failures") {
            let with = if by_password {
                "this password"
            } else {
                "the agent's keys, and no password was given"
            };
            return Self::refused(format!("login refused: no such user, or not with {with}"));
        }
        if says("unsupported option \"accept-new\"") {
            return Self::refused(
                "the agent's machine has an OpenSSH before 7.6, which knows no \"accept-new\"",
            );
        }
        for (text, reason) in [
            ("Connection refused", "cannot be reached: connection refused"),
            ("No route to host", "cannot be reached: no route to host"),
            ("Network is unreachable", "cannot be reached: network is unreachable"),
            ("timed out during banner exchange", "no SSH server: it did not say so in time"),
            ("Connection timed out", "cannot be reached: no answer"),
            ("Operation timed out", "cannot be reached: no answer"),
            ("Could not resolve hostname", "its name has no address"),
            ("not responding", "the connection broke: the host is silent"),
        ] {
            if says(text) {
                return Self::new(reason);
            }
        }
        match (logged_in, code) {
            _ if !last.is_empty() && code == Some(255) => Self::new(format!("ssh says: {last}")),
            (true, _) => Self::new("the connection broke"),
            (false, Some(255)) => {
                Self::new("the connection was closed before the login was complete")
            }
            (false, Some(code)) if last.is_empty() => {
                Self::new(format!("the host's shell ended with code {code} before it did anything"))
            }
            (false, Some(_)) => Self::new(format!("the host's shell says: {last}")),
            (false, None) => Self::new("ssh was killed"),
        }
    }
}

/// Which key, and where the old one is.
fn host_key(words: &str) -> String {
    let fingerprint = words.split_ascii_whitespace().find(|word| word.starts_with("SHA256:"));
    let place = words.lines().find_map(|line| line.trim().strip_prefix("Offending "));
    let place = place
        .map_or(String::new(), |place| format!("; the old one is the {}", place.escape_debug()));
    let fingerprint =
        fingerprint.unwrap_or_default().trim_end_matches('.').escape_debug().to_string();
    format!(
        "its host key has changed to {fingerprint}: somebody else answers, or the host was set up anew{place}"
    )
}

/// The last line of them, for a person.
fn last_words(words: &str) -> String {
    let last = words.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    let short: String = last.chars().take(200).collect();
    short.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &str, code: i32) -> Failure {
        Failure::of(words, Some(code), false, true)
    }

    #[test]
    fn words_of_ssh() {
        for (words, reason, refused) in [
            (
                "cc@h: Permission denied (publickey,password).\r\n",
                "login refused: no such user, or not with this password",
                true,
            ),
            (
                "Permission denied, please try again.\r\njump@j: Permission denied (publickey,password).\r\nkex_exchange_identification: Connection closed by remote host\r\n",
                "a jump host lets only keys of the agent's in: jump@j: Permission denied (publickey,password).",
                true,
            ),
            (
                "ssh: connect to host h port 22: Connection refused\r\n",
                "cannot be reached: connection refused",
                false,
            ),
            (
                "ssh: connect to host h port 22: No route to host\n",
                "cannot be reached: no route to host",
                false,
            ),
            (
                "ssh: connect to host h port 22: Connection timed out\n",
                "cannot be reached: no answer",
                false,
            ),
            (
                "Connection timed out during banner exchange\r\nConnection to 10.0.0.1 port 22 timed out\n",
                "no SSH server: it did not say so in time",
                false,
            ),
            (
                "ssh: Could not resolve hostname h: Name or service not known\n",
                "its name has no address",
                false,
            ),
            (
                "Timeout, server h not responding.\r\n",
                "the connection broke: the host is silent",
                false,
            ),
            (
                "kex_exchange_identification: read: Connection reset by peer\n",
                "ssh says: kex_exchange_identification: read: Connection reset by peer",
                false,
            ),
        ] {
            assert_eq!(of(words, 255), Failure { reason: reason.into(), refused });
        }
        let keys = Failure::of("cc@h: Permission denied (publickey).", Some(255), false, false);
        assert!(keys.reason.contains("the agent's keys"), "{}", keys.reason);
        assert_eq!(
            of("This account is currently not available.\n", 1).reason,
            "the host's shell says: This account is currently not available."
        );
        assert_eq!(of("", 255).reason, "the connection was closed before the login was complete");
        assert_eq!(Failure::of("", Some(0), true, false).reason, "the connection broke");
        assert!(of("\x1b[2J", 255).reason.contains("\\u{1b}"));
    }

    #[test]
    fn a_changed_key_is_named() {
        let words = "@@@@@\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nThe fingerprint for the ED25519 key sent by the remote host is\nSHA256:abc.\nPlease contact your system administrator.\nOffending ED25519 key in /k/known_hosts:3\nHost key verification failed.\n";
        let failure = of(words, 255);
        assert!(failure.refused);
        assert_eq!(
            failure.reason,
            "its host key has changed to SHA256:abc: somebody else answers, or the host was set up anew; the old one is the ED25519 key in /k/known_hosts:3"
        );
    }
}
