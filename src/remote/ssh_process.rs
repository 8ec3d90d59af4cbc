//! One ssh process: how it is started, what it is told, and its end, which is also that of whatever it has started.

use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::config::Secret;
use crate::limits;
use crate::remote::askpass;
use crate::remote::nvidia_smi;
use crate::remote::protocol::Target;
use crate::remote::ssh_error::Failure;
use crate::sys;
use crate::sys::children;
use crate::util::child_env;

/// What the host's shell runs.
const LOOP: &str = include_str!("collect.sh");

/// An ssh process. It is killed when it goes out of scope, and when the thread that has started it ends.
pub(super) struct Client {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: Option<ChildStderr>,
    /// Where the password is, until it is taken.
    password: Option<PipeReader>,
    words: Vec<u8>,
}

impl Client {
    /// Starts one that logs in and runs the loop, whose lines begin with this marker.
    pub(super) fn start(
        target: &Target,
        password: Option<&Secret>,
        known_hosts: Option<&Path>,
        marker: &str,
    ) -> io::Result<Self> {
        let mut command = command(target, password.is_some(), known_hosts);
        let pipe = password.map(password_pipe).transpose()?;
        if let Some(pipe) = &pipe {
            command.env(askpass::VARIABLE, askpass::path(pipe.as_fd()));
        }
        let mut child = command.spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (Some(stdin), Some(stdout)) = (stdin, stdout) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let stderr = child.stderr.take();
        let mut client = Self { child, stdin, stdout, stderr, password: pipe, words: Vec::new() };
        let script = LOOP.replace("MARKER", marker).replace("FIELDS", nvidia_smi::FIELDS);
        // Short enough for the pipe: nobody is waited for. If ssh has ended already, its end says why.
        let _ = client.say(&script);
        Ok(client)
    }

    /// It is logged in: what nobody has asked for nobody shall.
    pub(super) fn forget_password(&mut self) {
        self.password = None;
    }

    /// Writes to the host's shell.
    pub(super) fn say(&mut self, text: &str) -> io::Result<()> {
        self.stdin.write_all(text.as_bytes())
    }

    /// Waits until it has written something, or one of the others rings. What it says of itself is kept; whether there is
    /// something of the host's to read.
    pub(super) fn wait(&mut self, others: [BorrowedFd<'_>; 2], timeout: Duration) -> bool {
        let words = self.stderr.as_ref().map_or(others[1], AsFd::as_fd);
        let fds = [self.stdout.as_fd(), words, others[0], others[1]];
        let [readable, said, ..] = sys::wait_readable(fds, Some(timeout));
        if said {
            self.hear();
        }
        readable
    }

    /// Reads what the host printed; nothing: it has ended. It does not wait after [`Client::wait`] said so.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stdout.read(buffer)
    }

    /// What its end means.
    /// `noise`: the last that the host's shell said to standard output.
    pub(super) fn end(&mut self, logged_in: bool, by_password: bool, noise: &[u8]) -> Failure {
        let deadline = Instant::now() + limits::LINGER;
        let mut status = None;
        while status.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Some(stderr) = &self.stderr {
                sys::wait_readable([stderr.as_fd()], Some(left.min(Duration::from_millis(50))));
                self.hear();
            } else {
                std::thread::sleep(left.min(Duration::from_millis(5)));
            }
            status = self.child.try_wait().ok().flatten();
            if left.is_zero() {
                break;
            }
        }
        if self.words.is_empty() {
            self.words.extend_from_slice(noise);
        }
        let words = String::from_utf8_lossy(&self.words);
        Failure::of(&words, status.and_then(|status| status.code()), logged_in, by_password)
    }

    /// Keeps the last of what ssh and the host's shell say on standard error.
    fn hear(&mut self) {
        let mut part = [0; 1024];
        let Some(stderr) = &mut self.stderr else { return };
        if sys::wait_readable([stderr.as_fd()], Some(Duration::ZERO)) == [false] {
            return;
        }
        match stderr.read(&mut part) {
            Ok(0) | Err(_) => self.stderr = None,
            Ok(read) => self.words.extend_from_slice(&part[..read]),
        }
        let over = self.words.len().saturating_sub(limits::SSH_WORDS_BYTES);
        self.words.drain(..over);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Those whom it has started for a jump host are in its group.
        sys::process::kill_process_group(self.child.id());
        let _ = self.child.wait();
    }
}

/// The password, to be taken once.
fn password_pipe(password: &Secret) -> io::Result<PipeReader> {
    let (reader, mut writer) = io::pipe()?;
    writer.write_all(password.expose().as_bytes())?;
    writer.write_all(b"\n")?;
    Ok(reader)
}

/// The user's own ssh_config is read: jump hosts, and keys by host, are there. What of it would get in the way is
/// overridden.
fn command(target: &Target, by_password: bool, known_hosts: Option<&Path>) -> Command {
    let mut command = Command::new("ssh");
    child_env::clear_agent_env(&mut command);
    children::start_in_session(&mut command);
    command.args(["-T", "-a", "-x", "-e", "none"]);
    let mut option = |name: &str, value: &str| {
        command.arg("-o").arg(format!("{name}={value}"));
    };
    for (name, value) in [
        ("LogLevel", "ERROR"),
        ("ControlMaster", "no"),
        ("ControlPath", "none"),
        ("ClearAllForwardings", "yes"),
        ("Tunnel", "no"),
        ("PermitLocalCommand", "no"),
        ("RemoteCommand", "none"),
        ("StrictHostKeyChecking", "accept-new"),
        ("UpdateHostKeys", "no"),
        ("GSSAPIAuthentication", "no"),
        ("ConnectionAttempts", "1"),
        ("ServerAliveInterval", "5"),
        ("ServerAliveCountMax", "3"),
    ] {
        option(name, value);
    }
    option("ConnectTimeout", &limits::SSH_CONNECT_SECONDS.to_string());
    if let Some(path) = known_hosts {
        // In quotes it may hold spaces.
        option("UserKnownHostsFile", &format!("\"{}\"", path.display()));
    }
    if by_password {
        option("BatchMode", "no");
        // The password must be what opens the door: whoever shares the session later is asked for the same one.
        option("PubkeyAuthentication", "no");
        option("PreferredAuthentications", "password,keyboard-interactive");
        option("PasswordAuthentication", "yes");
        option("KbdInteractiveAuthentication", "yes");
        option("NumberOfPasswordPrompts", "1");
        // The agent's own file, even if it was replaced meanwhile.
        command.env("SSH_ASKPASS", format!("/proc/{}/exe", std::process::id()));
        command.env("SSH_ASKPASS_REQUIRE", "force");
        // Before 8.4, a display and no terminal have the same effect.
        command.env("DISPLAY", ":0");
    } else {
        option("BatchMode", "yes");
    }
    command.arg("-p").arg(target.port.to_string()).args(["-l", &target.user, "--", &target.host]);
    // Every login shell understands this, and what follows is for sh alone.
    command.arg("exec sh");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}
