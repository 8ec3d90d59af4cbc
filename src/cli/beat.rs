//! `hm-agent beat -- COMMAND`: runs a command and beats while it lives. The command comes first: a server
//! that is away is said once and costs it nothing.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::heartbeat::client::{Server, encode};
use crate::limits;
use crate::sys;
use crate::util::error::reason;

/// The longest promise, as a server that counts seconds has it.
const WEEK_SECONDS: u64 = 7 * 86_400;

/// What to run, and how to beat for it.
#[derive(Debug)]
pub struct Beat {
    /// Where to.
    pub server: Server,
    /// Who beats.
    pub id: String,
    /// Time between two beats.
    pub every: Duration,
    /// The command and its arguments.
    pub command: Vec<OsString>,
}

impl Beat {
    /// Runs it to its end. The exit code is the command's; 128 and the signal's number if one ended it; 127 or
    /// 126 if it cannot be run, as shells say it.
    pub fn run(self) -> u8 {
        // Before any thread is started, so that all leave them to this one.
        sys::heed_children();
        sys::block_passed_signals();
        let Some((name, arguments)) = self.command.split_first() else { return 127 };
        let mut command = Command::new(name);
        sys::unblock_in(command.args(arguments));
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                complain(&format!("run {}: {}", name.display(), reason(&error)));
                return if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
            }
        };
        let (ended, end) = channel();
        let (finished, done) = channel::<()>();
        let pulse =
            Pulse { server: self.server, id: encode(&self.id), every: self.every, seconds: false };
        std::thread::spawn(move || {
            pulse.keep(&end);
            drop(finished);
        });
        let status = wait(child);
        drop(ended);
        // Until the goodbye is said, or cannot be.
        let _ = done.recv_timeout(limits::QUESTION + Duration::from_secs(1));
        match status {
            Ok(status) => exit_code(status),
            Err(error) => {
                complain(&format!("wait for {}: {}", name.display(), reason(&error)));
                1
            }
        }
    }
}

/// Waits for the command and passes signals on to it. Those of the terminal it gets by itself.
fn wait(mut child: Child) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if let Some(signal) = sys::wait_passed_signal() {
            sys::process::signal(child.id(), signal);
        }
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

struct Pulse {
    server: Server,
    /// Percent-encoded.
    id: String,
    every: Duration,
    /// The server counts seconds, as the prototype did.
    seconds: bool,
}

impl Pulse {
    /// Beats until the command has ended, and says goodbye.
    fn keep(mut self, end: &Receiver<()>) {
        let mut next = Instant::now();
        let mut command = "hb_init";
        let mut away = false;
        loop {
            match self.beat(command) {
                Ok(()) => (command, away) = ("hb_ping", false),
                Err(why) if !away => {
                    away = true;
                    complain(&format!("no heartbeats to {}: {why}", self.server.url()));
                }
                Err(_) => {}
            }
            // On a grid: a slow answer does not put off the next beat. Those that it has overrun are not made
            // up for.
            let now = Instant::now();
            next = (next + self.every).max(now);
            let wait = next - now;
            if end.recv_timeout(wait) == Err(RecvTimeoutError::Disconnected) {
                break;
            }
        }
        if !away && let Err(why) = self.ask("POST", "hb_done", 0) {
            complain(&format!("no goodbye to {}: {why}", self.server.url()));
        }
    }

    fn beat(&mut self, command: &str) -> Result<(), String> {
        let milliseconds = u64::try_from(self.every.as_millis()).unwrap_or(u64::MAX);
        let seconds = milliseconds.div_ceil(1000);
        let promised = if self.seconds { seconds } else { milliseconds };
        let answer = match self.ask("GET", command, promised) {
            // More seconds than a week has may be milliseconds that nobody recognises.
            Err(_) if milliseconds > WEEK_SECONDS && !self.seconds => {
                let answer = self.ask("GET", command, seconds)?;
                self.seconds = answer.trim() == (seconds + 1).to_string();
                answer
            }
            answer => answer?,
        };
        // A server grants a second more than was promised, in its own unit: that tells which it is.
        let granted: u64 = answer.trim().parse().unwrap_or_default();
        if !self.seconds && milliseconds > 0 && granted == milliseconds + 1 {
            self.seconds = true;
            self.ask("GET", "hb_ping", seconds)?;
        }
        Ok(())
    }

    fn ask(&self, method: &str, command: &str, time: u64) -> Result<String, String> {
        let target = format!("/{command}?{time}&appid={}", self.id);
        match self.server.ask(method, &target)? {
            (200, answer) => Ok(answer),
            (status, text) => Err(format!("it answers {status}: {}", text.trim_end())),
        }
    }
}

/// To standard error, where it must not end the command if nobody reads it.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "hm-agent beat: {text}");
}
