//! One ssh process: its command line, its pipes, and its exit.

use std::ffi::OsStr;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::config::Secret;
use crate::remote::collect::nvidia_smi;
use crate::remote::protocol::request::Target;
use crate::remote::ssh::askpass;
use crate::remote::ssh::error::SshError;
use crate::sys;
use crate::util::supervisor::{SupervisedChild, Supervision};

/// The script that the host's shell runs.
const COLLECT_SCRIPT: &str = include_str!("collect.sh");
/// ssh's own limit for a TCP connection and the server's banner, in whole seconds.
const CONNECT_TIMEOUT_SECONDS: u32 = 10;
/// How long to wait for the exit code of an ssh that has closed its output.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);
/// The end of ssh's standard error that is kept; the reason of a failure is in its last lines.
const MAX_STDERR_BYTES: usize = 4 << 10;

/// A running ssh. It is killed on drop, and when the thread that started it ends.
pub(super) struct SshProcess {
    child: SupervisedChild,
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: Option<ChildStderr>,
    /// Keeps the pipe with the password open until ssh has read it.
    password_pipe: Option<PipeReader>,
    stderr_tail: Vec<u8>,
}

impl SshProcess {
    /// Starts ssh, which logs in and runs `collect.sh` with this marker.
    pub(super) fn start(
        target: &Target,
        password: Option<&Secret>,
        known_hosts: Option<&Path>,
        marker: &str,
    ) -> io::Result<Self> {
        let password_pipe = password.map(password_pipe).transpose()?;
        let ssh = Supervision::until_agent_ends().spawn(OsStr::new("ssh"), |command| {
            configure(command, target, password.is_some(), known_hosts);
            if let Some(pipe) = &password_pipe {
                command.env(askpass::PIPE_VARIABLE, askpass::pipe_path(pipe.as_fd()));
            }
        });
        let mut child = ssh?;
        let (stdin, stdout) = (child.child.stdin.take(), child.child.stdout.take());
        let (Some(stdin), Some(stdout)) = (stdin, stdout) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let stderr = child.child.stderr.take();
        let stderr_tail = Vec::new();
        let mut process = Self { child, stdin, stdout, stderr, password_pipe, stderr_tail };
        let script = COLLECT_SCRIPT.replace("MARKER", marker).replace("FIELDS", nvidia_smi::FIELDS);
        // Does not block, because the script fits into the pipe. If ssh has exited already, its exit code has the
        // reason.
        let _ = process.write(&script);
        Ok(process)
    }

    /// Discards the password, so that no process can read it after the login.
    pub(super) fn discard_password(&mut self) {
        self.password_pipe = None;
    }

    /// Writes to the host's shell.
    pub(super) fn write(&mut self, text: &str) -> io::Result<()> {
        self.stdin.write_all(text.as_bytes())
    }

    /// Waits for output of ssh, for one of `others` to become readable, or for the timeout. Collects standard error,
    /// and returns whether standard output is readable.
    pub(super) fn wait(&mut self, others: [BorrowedFd<'_>; 2], timeout: Duration) -> bool {
        let stderr = self.stderr.as_ref().map_or(others[1], AsFd::as_fd);
        let fds = [self.stdout.as_fd(), stderr, others[0], others[1]];
        let [stdout_readable, stderr_readable, ..] = sys::wait_readable(fds, Some(timeout));
        if stderr_readable {
            self.read_stderr();
        }
        stdout_readable
    }

    /// Reads the host's output; 0 bytes at its end. Does not block after [`SshProcess::wait`] has returned true.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stdout.read(buffer)
    }

    /// Waits for the exit of an ssh that has closed its output, and classifies it. `unframed_output` is the last line
    /// that the host's shell printed outside all sections: it stands in for an empty standard error.
    pub(super) fn wait_for_exit(
        &mut self,
        logged_in: bool,
        with_password: bool,
        unframed_output: &[u8],
    ) -> SshError {
        let deadline = Instant::now() + EXIT_TIMEOUT;
        let mut status = None;
        while status.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Some(stderr) = &self.stderr {
                sys::wait_readable([stderr.as_fd()], Some(left.min(Duration::from_millis(50))));
                self.read_stderr();
            } else {
                std::thread::sleep(left.min(Duration::from_millis(5)));
            }
            status = self.child.try_wait().ok().flatten();
            if left.is_zero() {
                break;
            }
        }
        if self.stderr_tail.is_empty() {
            self.stderr_tail.extend_from_slice(unframed_output);
        }
        let stderr = String::from_utf8_lossy(&self.stderr_tail);
        let code = status.and_then(|status| status.code());
        SshError::from_exit(&stderr, code, logged_in, with_password)
    }

    /// Reads standard error of ssh, which includes that of the host's shell, and keeps its end.
    fn read_stderr(&mut self) {
        let mut buffer = [0; 1024];
        let Some(stderr) = &mut self.stderr else { return };
        if sys::wait_readable([stderr.as_fd()], Some(Duration::ZERO)) == [false] {
            return;
        }
        match stderr.read(&mut buffer) {
            Ok(0) | Err(_) => self.stderr = None,
            Ok(read) => self.stderr_tail.extend_from_slice(&buffer[..read]),
        }
        let excess = self.stderr_tail.len().saturating_sub(MAX_STDERR_BYTES);
        self.stderr_tail.drain(..excess);
    }
}

impl Drop for SshProcess {
    fn drop(&mut self) {
        // The supervisor kills ssh, the ssh processes that it has started for jump hosts, and all that these have started.
        self.child.kill();
        let _ = self.child.wait();
    }
}

/// Creates a pipe from which the password can be read once.
fn password_pipe(password: &Secret) -> io::Result<PipeReader> {
    let (reader, mut writer) = io::pipe()?;
    writer.write_all(password.expose().as_bytes())?;
    writer.write_all(b"\n")?;
    Ok(reader)
}

/// ssh reads the user's own ssh_config, which may define jump hosts and keys for each host. Options that would
/// interfere are overridden.
fn configure(
    command: &mut Command,
    target: &Target,
    with_password: bool,
    known_hosts: Option<&Path>,
) {
    command.args(["-T", "-a", "-x", "-e", "none"]);
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
        add_option(command, name, value);
    }
    add_option(command, "ConnectTimeout", &CONNECT_TIMEOUT_SECONDS.to_string());
    if let Some(path) = known_hosts {
        // Quoted, because the path may contain spaces.
        add_option(command, "UserKnownHostsFile", &format!("\"{}\"", path.display()));
    }
    if with_password {
        add_password_options(command);
    } else {
        add_option(command, "BatchMode", "yes");
    }
    command.arg("-p").arg(target.port.to_string()).args(["-l", &target.user, "--", &target.host]);
    // Every login shell understands this; the script on standard input is read by sh.
    command.arg("exec sh");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
}

fn add_password_options(command: &mut Command) {
    for (name, value) in [
        ("BatchMode", "no"),
        // Only the password may authenticate: clients that share the session later must present the same one.
        ("PubkeyAuthentication", "no"),
        ("PreferredAuthentications", "password,keyboard-interactive"),
        ("PasswordAuthentication", "yes"),
        ("KbdInteractiveAuthentication", "yes"),
        ("NumberOfPasswordPrompts", "1"),
    ] {
        add_option(command, name, value);
    }
    // The agent's own executable, even if the file at its path has been replaced since.
    command.env("SSH_ASKPASS", format!("/proc/{}/exe", std::process::id()));
    command.env("SSH_ASKPASS_REQUIRE", "force");
    // Before 8.4, ssh uses SSH_ASKPASS if there is a display and no terminal.
    command.env("DISPLAY", ":0");
}

fn add_option(command: &mut Command, name: &str, value: &str) {
    command.arg("-o").arg(format!("{name}={value}"));
}
