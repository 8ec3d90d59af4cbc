//! `hm-agent run --supervise`: a parent process that restarts the agent, for machines without a service manager.
//!
//! The agent is its child and sends readiness and watchdog messages of sd_notify(3) over a socket, its standard input. An agent
//! that exits, or stops sending, is restarted with backoff. One thread waits for the socket, signals and log lines.

mod child;
mod detach;
mod pid_file;
mod syslog;

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use log::{Level, LevelFilter};

use crate::agent::supervise::child::{AgentProcess, START_TIMEOUT, WATCHDOG_TIMEOUT};
use crate::agent::supervise::detach::{Side, Terminal, detach};
use crate::agent::supervise::pid_file::PidFile;
use crate::agent::supervise::syslog::{Syslog, parse_priority};
use crate::sys;
use crate::sys::service::AgentSupervisorSignals;
use crate::sys::{children, process};
use crate::util::backoff::Backoff;
use crate::util::error::{Error, reason};
use crate::util::logger::{self, syslog_priority};
use crate::util::text::escape_for_terminal;

/// The internal option that passes the supervisor's PID to the agent.
pub const OPTION: &str = "--supervised";

/// Time from SIGTERM to SIGKILL: more than the agent needs to stop, and less than init scripts wait.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// The delay before a restart doubles from the first to the second, so that an agent that cannot start uses no processor and
/// fills no log.
const MIN_RESTART_DELAY: Duration = Duration::from_secs(1);
const MAX_RESTART_DELAY: Duration = Duration::from_secs(60);
/// An agent that ran for this long was healthy: the next delay is the shortest one.
const STABLE_AFTER: Duration = Duration::from_secs(120);

/// Where log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTarget {
    Stderr,
    /// Lines are lost while there is no syslog daemon, which may start later.
    Syslog,
    /// The default with `--detach`: a daemon is required at start, because the operator has not chosen syslog, and there would
    /// be no log at all.
    RequiredSyslog,
}

/// Options of `run --supervise`. Paths are absolute, because `--detach` changes the directory.
#[derive(Debug, PartialEq, Eq)]
pub struct SuperviseOptions {
    /// The agent's own arguments.
    pub arguments: Vec<OsString>,
    pub pid_file: Option<PathBuf>,
    pub log: LogTarget,
    pub detach: bool,
}

/// Runs until SIGTERM or SIGINT, or until the agent stops by itself. Returns the exit code.
pub fn run(options: SuperviseOptions) -> Result<u8, Error> {
    logger::init(LevelFilter::Info);
    process::set_cloexec_on_inherited_fds()
        .map_err(|error| Error::system("close inherited files on exec", error))?;
    if options.log == LogTarget::RequiredSyslog {
        Syslog::check_daemon().map_err(|error| {
            let failure = Error::system("--detach logs to /dev/log", error);
            failure.with_hint("start a syslog daemon, or pass --syslog to start without one")
        })?;
    }
    let syslog = (options.log != LogTarget::Stderr).then(Syslog::open);
    let syslog = syslog.transpose().map_err(|error| Error::system("open syslog", error))?;
    let terminal = match options.detach.then(detach).transpose()? {
        Some(Side::Foreground(code)) => return Ok(code),
        Some(Side::Background(terminal)) => Some(terminal),
        None => None,
    };
    sys::reset_sigchld();
    let signals = AgentSupervisorSignals::block();
    let mut supervisor = Supervisor {
        arguments: options.arguments,
        syslog,
        terminal,
        signals: signals.map_err(|error| Error::system("create a signalfd", error))?,
        agent: None,
        backoff: Backoff::new(MIN_RESTART_DELAY, MAX_RESTART_DELAY),
        start_at: Some(Instant::now()),
        kill_at: None,
        was_ready: false,
    };
    // Not before detach(): dropping it in the process at the terminal would remove the file and release the lock.
    let code = match options.pid_file.map(PidFile::create).transpose() {
        Ok(_pid_file) => supervisor.supervise(),
        Err(error) if supervisor.terminal.is_none() => return Err(error),
        Err(error) => {
            supervisor.log(Level::Error, &error.to_string());
            error.exit_code()
        }
    };
    if let Some(terminal) = supervisor.terminal {
        terminal.release(code);
    }
    Ok(code)
}

struct Supervisor {
    arguments: Vec<OsString>,
    /// `None`: supervisor and agent write to standard error.
    syslog: Option<Syslog>,
    /// With `--detach`, until the first agent is ready.
    terminal: Option<Terminal>,
    signals: AgentSupervisorSignals,
    agent: Option<AgentProcess>,
    backoff: Backoff,
    /// While there is no agent.
    start_at: Option<Instant>,
    /// After a request to stop.
    kill_at: Option<Instant>,
    /// An agent has been ready.
    was_ready: bool,
}

impl Supervisor {
    /// Restarts the agent until SIGTERM or SIGINT, or until it stops by itself. Returns the exit code.
    fn supervise(&mut self) -> u8 {
        loop {
            if self.start_at.is_some_and(|at| Instant::now() >= at) {
                self.start_agent();
            }
            self.wait();
            self.read_agent(false);
            while let Some(signal) = self.signals.next() {
                self.handle_signal(signal);
            }
            self.kill_if_stalled();
            let status = self.agent.as_mut().and_then(AgentProcess::try_wait);
            if let Some(status) = status
                && let Some(code) = self.on_exit(status)
            {
                return code;
            }
            if self.agent.is_none() {
                children::reap_children(); // orphans, if this is process 1 of a container
                if self.kill_at.is_some() {
                    return 0;
                }
            }
        }
    }

    fn start_agent(&mut self) {
        self.start_at = None;
        match AgentProcess::start(
            &self.arguments,
            self.syslog.as_ref().map(|syslog| &syslog.writer),
        ) {
            Ok(agent) => self.agent = Some(agent),
            Err(error) => {
                let delay = self.schedule_restart(Duration::ZERO);
                let text = format!("start agent: {}; retrying in {delay} s", reason(&error));
                self.log(Level::Error, &text);
            }
        }
    }

    /// Schedules a restart after an agent that ran for `uptime`. Returns the delay in seconds.
    fn schedule_restart(&mut self, uptime: Duration) -> u64 {
        if uptime >= STABLE_AFTER {
            self.backoff.reset();
        }
        let delay = self.backoff.next_full_delay();
        self.start_at = Some(Instant::now() + delay);
        delay.as_secs()
    }

    fn wait(&self) {
        let signals = self.signals.as_fd();
        let log = self.syslog.as_ref().map_or(signals, AsFd::as_fd);
        let agent = self.agent.as_ref().map_or(signals, AsFd::as_fd);
        let stalled_at = self.agent.as_ref().map(|agent| agent.stalled_at);
        let until = [self.start_at, stalled_at, self.kill_at].into_iter().flatten().min();
        let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
        sys::wait_readable([signals, log, agent], timeout);
    }

    /// Reads the agent's log lines and notifications.
    fn read_agent(&mut self, exited: bool) {
        let lines = self.syslog.as_mut().map(|syslog| syslog.read_lines(exited));
        for line in lines.unwrap_or_default() {
            let pid = self.agent.as_ref().map_or(std::process::id(), AgentProcess::pid);
            let (priority, text) = parse_priority(&line);
            self.send(pid, priority, text);
        }
        let Some(agent) = &mut self.agent else { return };
        agent.read_notifications();
        if agent.ready {
            self.was_ready = true;
            if let Some(terminal) = self.terminal.take() {
                terminal.release(0);
            }
        }
    }

    fn log(&mut self, level: Level, text: &str) {
        match self.syslog {
            Some(_) => self.send(std::process::id(), syslog_priority(level), text),
            None => log::log!(level, "{text}"),
        }
    }

    fn send(&self, pid: u32, priority: u8, text: &str) {
        if let Some(syslog) = &self.syslog {
            syslog.send(pid, priority, text);
        }
        if self.terminal.is_some() && priority <= syslog_priority(Level::Warn) {
            // If it fails, the log still has it.
            let _ = writeln!(std::io::stderr(), "hm-agent: {}", escape_for_terminal(text));
        }
    }

    fn handle_signal(&mut self, signal: i32) {
        match signal {
            libc::SIGHUP => {}
            libc::SIGTERM | libc::SIGINT => {
                // A second one is for the agent, which then exits at once.
                self.kill_at.get_or_insert_with(|| Instant::now() + STOP_TIMEOUT);
                self.start_at = None;
            }
            _ => return, // SIGCHLD: the caller checks for exits
        }
        if let Some(agent) = &self.agent {
            agent.signal(signal);
        }
    }

    /// Kills an agent that does not stop, does not become ready, or sends no watchdog messages.
    fn kill_if_stalled(&mut self) {
        let now = Instant::now();
        let Some(agent) = &mut self.agent else { return };
        let why = if let Some(kill_at) = &mut self.kill_at {
            if now < *kill_at {
                return;
            }
            *kill_at = now + STOP_TIMEOUT;
            format!("it did not stop within {} s", STOP_TIMEOUT.as_secs())
        } else if !agent.is_stalled(now) {
            return;
        } else if agent.ready {
            format!("no watchdog message for {} s", WATCHDOG_TIMEOUT.as_secs())
        } else {
            format!("it is not ready after {} s", START_TIMEOUT.as_secs())
        };
        agent.signal(libc::SIGKILL);
        self.log(Level::Error, &format!("killing agent: {why}"));
    }

    /// Returns the exit code if the agent is not restarted.
    fn on_exit(&mut self, status: ExitStatus) -> Option<u8> {
        self.read_agent(true);
        let uptime = self.agent.take().map_or(Duration::ZERO, |agent| agent.started_at.elapsed());
        let code = status.code();
        if code == Some(0) || self.kill_at.is_some() {
            return Some(0);
        }
        // Wrong settings, or the operator waits at the terminal: restarting does not help.
        if !self.was_ready && (code == Some(2) || self.terminal.is_some()) {
            if code != Some(2) {
                self.log(Level::Error, &format!("agent exited ({status}), giving up"));
            }
            return Some(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
        }
        let delay = self.schedule_restart(uptime);
        self.log(Level::Warn, &format!("agent exited ({status}); restarting in {delay} s"));
        None
    }
}
