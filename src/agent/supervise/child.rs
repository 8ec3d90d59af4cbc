//! One agent, as the supervisor's child.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::agent::supervise::OPTION;
use crate::limits;
use crate::sys::{children, process};
use crate::util::child_env::OF_THE_MANAGER;
use crate::util::logger;

/// One that runs.
pub struct Agent {
    child: Child,
    /// What it says of itself.
    words: UnixDatagram,
    started: Instant,
    ready: bool,
    silent_at: Instant,
    /// That was put off already.
    last_chance: bool,
}

/// How one has ended.
pub struct Ended {
    /// Its exit code, unless a signal ended it.
    pub code: Option<i32>,
    signal: Option<i32>,
}

impl Agent {
    /// Starts one. What it writes to standard error goes to `stderr`, or to our own.
    pub fn start(arguments: &[OsString], stderr: Option<&PipeWriter>) -> io::Result<Self> {
        let (words, its_end) = UnixDatagram::pair()?;
        words.set_nonblocking(true)?;
        // The same program, even if its file was replaced meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("hm-agent").args(["run", OPTION, &std::process::id().to_string()]);
        command.args(arguments);
        for name in OF_THE_MANAGER {
            command.env_remove(name);
        }
        command.env("WATCHDOG_USEC", limits::AGENT_SILENCE.as_micros().to_string());
        // What the terminal sends to everybody, the agent gets from here.
        command.process_group(0).stdin(OwnedFd::from(its_end));
        // Signals stay blocked, as they are here, until it waits for them itself: a SIGHUP before that would end it.
        if let Some(pipe) = stderr {
            // Lines with their level and without a time, as for the journal: see the logger.
            command.env("JOURNAL_STREAM", logger::stream_name(pipe.as_fd())?);
            command.stderr(Stdio::from(pipe.try_clone()?));
        }
        let (child, started) = (command.spawn()?, Instant::now());
        let silent_at = started + limits::AGENT_START;
        Ok(Self { child, words, started, ready: false, silent_at, last_chance: false })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has listened.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// When it will have been silent for too long.
    pub fn silent_at(&self) -> Instant {
        self.silent_at
    }

    /// From now on it may be silent as long as ever.
    pub fn excuse(&mut self) {
        self.silent_at = Instant::now() + limits::AGENT_SILENCE;
        self.last_chance = false;
    }

    /// It has been silent for too long, and may be a little longer, once: if both were stopped, it has had no time to speak.
    /// Whether that is so.
    pub fn has_a_last_chance(&mut self) -> bool {
        self.silent_at = Instant::now() + limits::LAST_CHANCE;
        !std::mem::replace(&mut self.last_chance, true)
    }

    /// How long it has been there.
    pub fn lived(&self) -> Duration {
        self.started.elapsed()
    }

    /// What it says next, if it has said something.
    pub fn hear(&mut self) -> Option<String> {
        let mut part = [0; 4096];
        let length = self.words.recv(&mut part).ok().filter(|length| *length > 0)?;
        self.excuse();
        let words = String::from_utf8_lossy(&part[..length]).into_owned();
        self.ready |= words.starts_with("READY=1");
        Some(words)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        process::signal(self.pid(), signal);
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<Ended> {
        if !children::has_ended(self.pid()) {
            return None;
        }
        let status = self.child.wait().ok()?;
        Some(Ended { code: status.code(), signal: status.signal() })
    }
}

impl AsFd for Agent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.words.as_fd()
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exited with code {code}"),
            (None, signal) => write!(f, "was killed by signal {}", signal.unwrap_or_default()),
        }
    }
}
