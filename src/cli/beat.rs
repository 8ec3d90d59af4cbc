//! `hm-agent beat -- COMMAND`: runs a command and sends heartbeats until it exits. An unreachable server is logged once and
//! never delays or stops the command.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::heartbeat::client::{HeartbeatClient, REQUEST_TIMEOUT};
use crate::sys;
use crate::util::error::reason;
use crate::util::percent;
use crate::util::text::escape_for_terminal;

/// Longest interval (s) a server that counts seconds accepts.
const WEEK_SECONDS: u64 = 7 * 86_400;

/// A command and how to send its heartbeats.
#[derive(Debug)]
pub struct Beat {
    pub server: HeartbeatClient,
    /// Application id.
    pub id: String,
    /// Heartbeat interval.
    pub interval: Duration,
    /// The command and its arguments.
    pub command: Vec<OsString>,
}

impl Beat {
    /// Runs the command until it exits. The exit code is the command's; 128 plus the signal number if a signal ended it; 127
    /// if the command does not exist, 126 if it cannot be run, as in shells.
    pub fn run(self) -> u8 {
        // Threads inherit the signal mask, so signals are blocked before any thread starts.
        sys::reset_sigchld();
        sys::block_forwarded_signals();
        let Some((name, arguments)) = self.command.split_first() else { return 127 };
        let mut command = Command::new(name);
        sys::clear_signal_mask_in(command.args(arguments));
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                eprint_line(&format!("run {}: {}", name.display(), reason(&error)));
                return if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
            }
        };
        let (exit_sender, exited) = channel();
        let (done_sender, done) = channel::<()>();
        let sender = HeartbeatSender {
            server: self.server,
            id: percent::encode(&self.id),
            interval: self.interval,
            server_counts_seconds: false,
        };
        let send = move || {
            sender.run(&exited);
            drop(done_sender);
        };
        if let Err(error) = std::thread::Builder::new().name("heartbeats".into()).spawn(send) {
            eprint_line(&format!("start thread heartbeats: {}", reason(&error)));
        }
        let status = wait(child);
        drop(exit_sender);
        // Until hb_done is sent or has failed.
        let _ = done.recv_timeout(REQUEST_TIMEOUT + Duration::from_secs(1));
        match status {
            Ok(status) => exit_code(status),
            Err(error) => {
                eprint_line(&format!("wait for {}: {}", name.display(), reason(&error)));
                1
            }
        }
    }
}

/// Waits for the command and forwards signals to it. The terminal sends its own signals to the command directly.
fn wait(mut child: Child) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if let Some(signal) = sys::wait_forwarded_signal() {
            sys::process::send_signal(child.id(), signal);
        }
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

struct HeartbeatSender {
    server: HeartbeatClient,
    /// Percent-encoded.
    id: String,
    interval: Duration,
    /// Detected from the responses: the prototype of 2016 counts seconds.
    server_counts_seconds: bool,
}

impl HeartbeatSender {
    /// Sends heartbeats until the command has exited, then `hb_done`.
    fn run(mut self, exited: &Receiver<()>) {
        let mut next = Instant::now();
        let mut command = "hb_init";
        let mut failing = false;
        loop {
            match self.send_heartbeat(command) {
                Ok(()) => (command, failing) = ("hb_ping", false),
                Err(why) if !failing => {
                    failing = true;
                    eprint_line(&format!("cannot send heartbeats to {}: {why}", self.server.url()));
                }
                Err(_) => {}
            }
            // A slow response does not delay the next heartbeat. Missed heartbeats are not sent later.
            let now = Instant::now();
            next = (next + self.interval).max(now);
            if exited.recv_timeout(next - now) == Err(RecvTimeoutError::Disconnected) {
                break;
            }
        }
        if !failing && let Err(why) = self.request("POST", "hb_done", 0) {
            eprint_line(&format!("cannot send hb_done to {}: {why}", self.server.url()));
        }
    }

    fn send_heartbeat(&mut self, command: &str) -> Result<(), String> {
        let milliseconds = u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX);
        let seconds = milliseconds.div_ceil(1000);
        let interval = if self.server_counts_seconds { seconds } else { milliseconds };
        let response = match self.request("GET", command, interval) {
            // A server that counts seconds rejects more than a week of them, which may be a few minutes in milliseconds.
            Err(_) if milliseconds > WEEK_SECONDS && !self.server_counts_seconds => {
                let response = self.request("GET", command, seconds)?;
                self.server_counts_seconds = response.trim() == (seconds + 1).to_string();
                response
            }
            response => response?,
        };
        // A server responds with the interval plus one second, in its own unit. That shows which unit it uses.
        let timeout: u64 = response.trim().parse().unwrap_or_default();
        if !self.server_counts_seconds && milliseconds > 0 && timeout == milliseconds + 1 {
            self.server_counts_seconds = true;
            self.request("GET", "hb_ping", seconds)?;
        }
        Ok(())
    }

    fn request(&self, method: &str, command: &str, time: u64) -> Result<String, String> {
        let target = format!("/{command}?{time}&appid={}", self.id);
        match self.server.request(method, &target)? {
            (200, response) => Ok(response),
            (status, text) => Err(format!("HTTP status {status}: {}", text.trim_end())),
        }
    }
}

/// Writes to standard error. A closed standard error must not end the command.
fn eprint_line(text: &str) {
    let _ = writeln!(io::stderr(), "hm-agent beat: {}", escape_for_terminal(text));
}
