//! The agent as a child process of its supervisor.

use std::ffi::OsString;
use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::agent::supervise::OPTION;
use crate::sys::{children, process};
use crate::util::child_env::SD_NOTIFY_VARS;
use crate::util::logger;

/// The agent must be ready within this. Starting takes milliseconds; a state_dir on a disk that has to spin up, seconds.
pub const START_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest time between two watchdog messages. The agent sends them twice as often.
pub const WATCHDOG_TIMEOUT: Duration = Duration::from_secs(60);
/// Added once after a timeout: if the agent was stopped, or frozen with its container, together with its supervisor, it has
/// had no time to send.
const STALL_GRACE: Duration = Duration::from_secs(10);

pub struct AgentProcess {
    child: Child,
    /// Messages of sd_notify(3).
    notifications: UnixDatagram,
    pub started_at: Instant,
    /// It has reported readiness.
    pub ready: bool,
    /// When it counts as stalled.
    pub stalled_at: Instant,
    in_grace: bool,
}

impl AgentProcess {
    /// Starts an agent. Its standard error is `stderr`, or this process's own.
    pub fn start(arguments: &[OsString], stderr: Option<&PipeWriter>) -> io::Result<Self> {
        let (notifications, stdin) = UnixDatagram::pair()?;
        notifications.set_nonblocking(true)?;
        // The same program, even if its file was replaced meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("hm-agent").args(["run", OPTION, &std::process::id().to_string()]);
        command.args(arguments);
        for name in SD_NOTIFY_VARS {
            command.env_remove(name);
        }
        command.env("WATCHDOG_USEC", WATCHDOG_TIMEOUT.as_micros().to_string());
        // A terminal signals its whole process group; the agent receives only what the supervisor forwards.
        command.process_group(0).stdin(OwnedFd::from(stdin));
        // Signals stay blocked, as they are here, until the agent waits for them: an earlier SIGHUP would kill it.
        if let Some(stderr) = stderr {
            // Makes the logger prefix lines with their level, as for the journal.
            command.env("JOURNAL_STREAM", logger::stream_name(stderr.as_fd())?);
            command.stderr(Stdio::from(OwnedFd::from(stderr.try_clone()?)));
        }
        let (child, started_at) = (command.spawn()?, Instant::now());
        let stalled_at = started_at + START_TIMEOUT;
        Ok(Self { child, notifications, started_at, ready: false, stalled_at, in_grace: false })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is stalled. The first time it gets [`STALL_GRACE`] instead.
    pub fn is_stalled(&mut self, now: Instant) -> bool {
        if now < self.stalled_at {
            return false;
        }
        self.stalled_at = now + STALL_GRACE;
        std::mem::replace(&mut self.in_grace, true)
    }

    /// Reads what it has reported.
    pub fn read_notifications(&mut self) {
        let mut message = [0; 4096];
        while let Ok(length) = self.notifications.recv(&mut message)
            && length > 0
        {
            self.ready |= message[..length].starts_with(b"READY=1");
            self.stalled_at = Instant::now() + WATCHDOG_TIMEOUT;
            self.in_grace = false;
        }
    }

    pub fn signal(&self, signal: i32) {
        process::send_signal(self.pid(), signal);
    }

    /// Its exit status, if it has exited.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        if !children::has_exited(self.pid()) {
            return None;
        }
        self.child.wait().ok()
    }
}

impl AsFd for AgentProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notifications.as_fd()
    }
}
