//! One ssh process: its command line, its pipes, and its exit.

use std::ffi::OsStr;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::config::Secret;
use crate::remote::collect::nvidia_smi;
use crate::remote::protocol::request::Target;
use crate::remote::ssh::askpass;
use crate::remote::ssh::error::{SshError, SshExit};
use crate::remote::ssh::pipe_text::PipeText;
use crate::sys;
use crate::util::supervisor::{SupervisedChild, Supervision};

/// The script that the host's shell runs.
const COLLECT_SCRIPT: &str = include_str!("collect.sh");
/// ssh's own limit for a TCP connection and the server's banner, in whole seconds.
const CONNECT_TIMEOUT_SECONDS: u32 = 10;
/// How long to wait for the exit code of an ssh that has closed its output.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);
const EXIT_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How far a session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// The host has not authenticated the agent: only ssh and its ProxyCommand have written to standard error.
    Connecting,
    /// The login shell is being started, and may write to standard error.
    Authenticated,
    /// `collect.sh` runs.
    LoggedIn,
}

/// A running ssh. It is killed on drop, and when the thread that started it ends.
pub(super) struct SshProcess {
    child: SupervisedChild,
    stdin: ChildStdin,
    stdout: ChildStdout,
    /// What the host's processes print, and the ssh processes of jump hosts.
    stderr: PipeText<ChildStderr>,
    /// What this ssh logs itself.
    log: PipeText<PipeReader>,
    login_pipes: Option<LoginPipes>,
    with_password: bool,
}

/// The agent's ends of pipes that ssh, or a child of it, opens by their paths. They stay open until the login is complete.
struct LoginPipes {
    log: PipeWriter,
    password: Option<PipeReader>,
}

impl SshProcess {
    /// Starts ssh, which logs in and runs `collect.sh` with this marker.
    pub(super) fn start(
        target: &Target,
        password: Option<&Secret>,
        known_hosts: Option<&Path>,
        marker: &str,
    ) -> io::Result<Self> {
        let (log, log_writer) = io::pipe()?;
        let login_pipes =
            LoginPipes { log: log_writer, password: password.map(password_pipe).transpose()? };
        let ssh = Supervision::until_agent_ends().spawn(OsStr::new("ssh"), |command| {
            configure(command, target, &login_pipes, known_hosts);
        });
        let mut child = ssh?;
        let pipes =
            (child.child.stdin.take(), child.child.stdout.take(), child.child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let mut process = Self {
            child,
            stdin,
            stdout,
            stderr: PipeText::new(stderr),
            log: PipeText::new(log),
            login_pipes: Some(login_pipes),
            with_password: password.is_some(),
        };
        // A host that never reads must not block the agent.
        sys::set_nonblocking(&process.stdin)?;
        let script = COLLECT_SCRIPT.replace("MARKER", marker).replace("FIELDS", nvidia_smi::FIELDS);
        // The script fits into the pipe. If ssh has exited already, its exit code has the reason.
        let _ = process.write(&script);
        Ok(process)
    }

    /// Closes the pipes of the login, so that no process can read the password after it.
    pub(super) fn close_login_pipes(&mut self) {
        self.login_pipes = None;
    }

    /// Writes to the host's shell; `WouldBlock` if it does not read.
    pub(super) fn write(&mut self, text: &str) -> io::Result<()> {
        self.stdin.write_all(text.as_bytes())
    }

    /// Waits for output of ssh, for one of `others` to become readable, or for the timeout. Collects standard error and
    /// the log, and returns whether standard output is readable.
    pub(super) fn wait(&mut self, others: [BorrowedFd<'_>; 2], timeout: Duration) -> bool {
        let stderr = self.stderr.fd().unwrap_or(others[1]);
        let log = self.log.fd().unwrap_or(others[1]);
        let fds = [self.stdout.as_fd(), stderr, log, others[0], others[1]];
        let [stdout_readable, ..] = sys::wait_readable(fds, Some(timeout));
        self.stderr.read_available();
        self.log.read_available();
        stdout_readable
    }

    /// Reads the host's output; 0 bytes at its end. Does not block after [`SshProcess::wait`] has returned true.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stdout.read(buffer)
    }

    /// Waits for the exit of an ssh that has closed its output, and classifies it. `unframed_output` is the last line
    /// that the host's shell printed outside all sections: it stands in for an empty standard error.
    pub(super) fn wait_for_exit(&mut self, progress: Progress, unframed_output: &[u8]) -> SshError {
        let deadline = Instant::now() + EXIT_TIMEOUT;
        let status = loop {
            let status = self.child.try_wait().ok().flatten();
            self.stderr.read_available();
            self.log.read_available();
            if status.is_some() || Instant::now() >= deadline {
                break status;
            }
            std::thread::sleep(EXIT_POLL_INTERVAL);
        };
        let exit = SshExit {
            code: status.and_then(|status| status.code()),
            progress,
            log: &self.log.text(),
            stderr: &self.stderr.text(),
            unframed_output: &String::from_utf8_lossy(unframed_output),
            with_password: self.with_password,
        };
        SshError::from_exit(&exit)
    }
}

impl Drop for SshProcess {
    fn drop(&mut self) {
        // The supervisor kills ssh, the ssh processes that it has started for jump hosts, and all that these have started.
        self.child.kill();
        let _ = self.child.wait();
    }
}

/// The path of a pipe of this process, for other processes of the same user. ssh closes all inherited descriptors but the
/// standard three.
fn pipe_path(pipe: BorrowedFd<'_>) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), pipe.as_raw_fd())
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
///
/// What fails is known from ssh's own log, and from standard output: its first byte is that of LocalCommand, which ssh runs after
/// the authentication. The host can write the words of ssh to standard error. At level ERROR the log has no text of the server's but in
/// the line that reports a disconnection; at higher levels, prompts and debug messages of the server could forge lines.
fn configure(
    command: &mut Command,
    target: &Target,
    pipes: &LoginPipes,
    known_hosts: Option<&Path>,
) {
    // ssh runs LocalCommand and ProxyCommand in the user's shell, which may be nologin(8).
    command.env("SHELL", "/bin/sh");
    command.args(["-T", "-a", "-x", "-e", "none", "-E", &pipe_path(pipes.log.as_fd())]);
    for (name, value) in [
        ("LogLevel", "ERROR"),
        ("ControlMaster", "no"),
        ("ControlPath", "none"),
        ("ClearAllForwardings", "yes"),
        ("Tunnel", "no"),
        ("PermitLocalCommand", "yes"),
        ("LocalCommand", "echo"),
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
    match &pipes.password {
        Some(pipe) => {
            add_password_options(command);
            command.env(askpass::PIPE_VARIABLE, pipe_path(pipe.as_fd()));
        }
        None => add_option(command, "BatchMode", "yes"),
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
