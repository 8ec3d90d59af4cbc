//! `hm-agent run --supervise`: a small process that keeps the agent alive on a machine where nobody else does.
//!
//! It starts the agent as its child, which tells it over a socket, its standard input, when it listens and, again and again, that
//! it is well: the words of sd_notify(3). An agent that ends, or falls silent, is started again. Its standard error is a
//! pipe to here unless the log is standard error itself: so the last words of an agent that dies are in the log, one process
//! has the file open, and a disk that hangs holds nobody who has something better to do. The pipe stays when an agent ends, for
//! programs of `heartbeat.on_overdue` outlive it.
//!
//! One thread, which waits for all of this at a time.

pub mod background;
pub mod child;
pub mod output;
pub mod pid_file;
pub mod restart_delay;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use log::{Level, LevelFilter};

use crate::agent::sd_notify::SdNotifier;
use crate::agent::supervise::background::{Background, Side};
use crate::agent::supervise::child::{Agent, Ended};
use crate::agent::supervise::output::Output;
pub use crate::agent::supervise::output::Target;
use crate::agent::supervise::pid_file::PidFile;
use crate::agent::supervise::restart_delay::Backoff;
use crate::limits;
use crate::sys;
use crate::sys::children;
use crate::sys::process;
use crate::sys::service::Signals;
use crate::util::error::{Error, reason};
use crate::util::logger;

/// The option by which an agent is told its supervisor's number. Not for people.
pub const OPTION: &str = "--supervised";

/// What was asked for. Paths are absolute: the supervisor may go to another directory.
#[derive(Debug, PartialEq, Eq)]
pub struct SuperviseOptions {
    /// The agent's own arguments.
    pub arguments: Vec<OsString>,
    /// `--pid-file`.
    pub pid_file: Option<PathBuf>,
    /// `--log-file`, `--syslog`.
    pub log: Target,
    /// `--detach`.
    pub detach: bool,
}

/// Does it. What comes back is the exit code.
pub fn run(plan: SuperviseOptions) -> Result<u8, Error> {
    logger::init(LevelFilter::Info);
    process::keep_descriptors();
    let mut pid_file = plan.pid_file.map(PidFile::take).transpose()?;
    let piped = plan.log != Target::Stderr;
    let output = Output::open(plan.log)?;
    let echo = if piped { io::stderr().as_fd().try_clone_to_owned().ok() } else { None };
    let background = match plan.detach {
        true => match background::detach()? {
            Side::Terminal(code) => return Ok(code),
            Side::Background(background) => Some(background),
        },
        false => None,
    };
    sys::heed_children();
    let signals = Signals::block().map_err(|error| Error::system("block signals", error))?;
    let pipe = if piped { Some(io::pipe()) } else { None };
    let pipe = pipe.transpose().map_err(|error| Error::system("create a pipe", error))?;
    let mut supervisor = Supervisor {
        arguments: plan.arguments,
        output,
        echo: echo.map(File::from),
        background,
        signals,
        pipe,
        unfinished: Vec::new(),
        manager: SdNotifier::from_environment(),
        backoff: Backoff::default(),
        agent: None,
        again: Some(Instant::now()),
        stop_by: None,
        begun: false,
    };
    let code = match pid_file.as_mut().map_or(Ok(()), PidFile::write) {
        Ok(()) => supervisor.keep(),
        Err(error) => {
            supervisor.say(Level::Error, &error.to_string());
            error.exit_code()
        }
    };
    drop(pid_file);
    if let Some(mut background) = supervisor.background {
        background.tell(code);
    }
    Ok(code)
}

struct Supervisor {
    arguments: Vec<OsString>,
    output: Output,
    /// Where it was started, until the first agent listens: what goes wrong until then is said there too.
    echo: Option<File>,
    /// Who waits for the first agent to listen.
    background: Option<Background>,
    signals: Signals,
    /// What agents write to standard error, if it comes here.
    pipe: Option<(PipeReader, PipeWriter)>,
    /// A line of it that has no end yet.
    unfinished: Vec<u8>,
    manager: SdNotifier,
    backoff: Backoff,
    agent: Option<Agent>,
    /// When there is none: when one is to be started.
    again: Option<Instant>,
    /// When it was asked to stop: when it is killed.
    stop_by: Option<Instant>,
    /// An agent has listened.
    begun: bool,
}

impl Supervisor {
    /// Its life. What comes back is the exit code.
    fn keep(&mut self) -> u8 {
        loop {
            let now = Instant::now();
            if self.again.is_some_and(|at| now >= at) {
                self.start();
            }
            let beat = self.manager.tend(|| None).map(|wait| now + wait);
            let silent = self.agent.as_ref().map(Agent::silent_at);
            let until = [self.again, beat, silent, self.stop_by].into_iter().flatten().min();
            self.wait(until);
            self.listen();
            while let Some(signal) = self.signals.next() {
                self.obey(signal);
            }
            self.look_after();
            let ended = self.agent.as_mut().and_then(Agent::ended);
            if let Some(ended) = ended
                && let Some(code) = self.bury(ended)
            {
                return code;
            }
            if self.agent.is_none() {
                children::reap();
                if self.stop_by.is_some() {
                    return 0;
                }
            }
        }
    }

    fn start(&mut self) {
        self.again = None;
        match Agent::start(&self.arguments, self.pipe.as_ref().map(|(_, writer)| writer)) {
            Ok(agent) => self.agent = Some(agent),
            Err(error) => {
                let wait = self.backoff.after(Duration::ZERO);
                let seconds = wait.as_secs();
                let why = reason(&error);
                self.say(
                    Level::Error,
                    &format!("start the agent: {why}; tried again in {seconds} s"),
                );
                self.again = Some(Instant::now() + wait);
            }
        }
    }

    /// Waits until there is something to do.
    fn wait(&self, until: Option<Instant>) {
        let signals = self.signals.as_fd();
        let pipe = self.pipe.as_ref().map_or(signals, |(reader, _)| reader.as_fd());
        let agent = self.agent.as_ref().map_or(signals, |agent| agent.as_fd());
        let wait = until.map(|until| until.saturating_duration_since(Instant::now()));
        sys::wait_readable([signals, pipe, agent], wait);
    }

    /// Takes what the agent has written and said.
    fn listen(&mut self) {
        // A pipe holds 16 pages; whoever writes without a pause must not keep this from anything else.
        for _ in 0..16 {
            let Some((reader, _)) = &mut self.pipe else { break };
            if sys::wait_readable([reader.as_fd()], Some(Duration::ZERO)) == [false] {
                break;
            }
            let mut part = [0; 4096];
            let length = reader.read(&mut part).unwrap_or_default();
            self.write_lines(&part[..length]);
        }
        while let Some(words) = self.agent.as_mut().and_then(Agent::hear) {
            if words.lines().any(|word| word == "READY=1") {
                self.ready();
            }
            // Of itself the supervisor says that it is well: an agent that is not, it ends.
            if words != "WATCHDOG=1" {
                let own = std::process::id();
                self.manager.say(format!("{words}\nMAINPID={own}"));
            }
        }
    }

    fn ready(&mut self) {
        self.begun = true;
        self.echo = None;
        if let Some(mut background) = self.background.take() {
            background.tell(0);
        }
        // Most of what it took to come here is not needed again.
        process::release_program();
    }

    fn write_lines(&mut self, part: &[u8]) {
        self.unfinished.extend_from_slice(part);
        while let Some(end) = self.unfinished.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unfinished.drain(..=end).collect();
            self.write_line(&line[..end]);
        }
        if self.unfinished.len() >= logger::LINE_BYTES {
            self.end_line();
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.unfinished);
        if !line.is_empty() {
            self.write_line(&line);
        }
    }

    fn write_line(&mut self, line: &[u8]) {
        let pid = self.agent.as_ref().map_or(std::process::id(), Agent::pid);
        let line = String::from_utf8_lossy(line);
        let (level, text) = output::level(&line);
        self.write(pid, level, text);
    }

    fn say(&mut self, level: Level, text: &str) {
        self.write(std::process::id(), level, text);
    }

    fn write(&mut self, pid: u32, level: Level, text: &str) {
        self.output.write(pid, level, text);
        if level <= Level::Warn
            && let Some(echo) = &mut self.echo
        {
            // As the agent itself would: nobody is left to tell if that fails.
            let _ = echo.write_all(format!("hm-agent: {text}\n").as_bytes());
        }
    }

    fn obey(&mut self, signal: i32) {
        match signal {
            libc::SIGHUP => {
                if let Err(why) = self.output.reopen() {
                    self.say(Level::Warn, &why);
                }
            }
            libc::SIGTERM | libc::SIGINT => {
                // A second one is for the agent, which then ends at once.
                self.stop_by.get_or_insert_with(|| Instant::now() + limits::AGENT_STOP);
                self.again = None;
            }
            _ => return, // of a child, which is looked at in any case
        }
        if let Some(agent) = &self.agent {
            agent.signal(signal);
        }
    }

    /// Ends an agent that does not stop, does not begin, or is silent.
    fn look_after(&mut self) {
        let now = Instant::now();
        let Some(agent) = &mut self.agent else { return };
        let why = if self.stop_by.is_some_and(|by| now >= by) {
            format!("it has not stopped within {} s", limits::AGENT_STOP.as_secs())
        } else if now < agent.silent_at() || self.stop_by.is_some() || agent.has_a_last_chance() {
            return;
        } else if agent.is_ready() {
            format!("it has not said for {} s that it is well", limits::AGENT_SILENCE.as_secs())
        } else {
            format!("it does not listen after {} s", limits::AGENT_START.as_secs())
        };
        agent.signal(libc::SIGKILL);
        agent.excuse();
        self.stop_by = self.stop_by.map(|_| now + limits::AGENT_STOP);
        self.say(Level::Error, &format!("the agent is killed: {why}"));
    }

    /// The agent has ended. The exit code, if it is not started again.
    fn bury(&mut self, ended: Ended) -> Option<u8> {
        // Its last words.
        self.listen();
        self.end_line();
        let lived = self.agent.take().map_or(Duration::ZERO, |agent| agent.lived());
        if ended.code == Some(0) || self.stop_by.is_some() {
            return Some(0);
        }
        if !self.begun && (ended.code == Some(2) || self.background.is_some()) {
            // Nobody but who started it can mend that, and that one is still there.
            let code = ended.code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
            if ended.code != Some(2) {
                self.say(Level::Error, &format!("the agent {ended}, and is given up"));
            }
            return Some(code);
        }
        let wait = self.backoff.after(lived);
        let news = format!("the agent {ended}; started again in {} s", wait.as_secs());
        self.say(Level::Warn, &news);
        self.manager.say(format!("STATUS={news}"));
        self.again = Some(Instant::now() + wait);
        None
    }
}
