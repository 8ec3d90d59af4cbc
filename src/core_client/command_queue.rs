//! Accepts commands from Core: checks the policy, bounds how many run at a time, and runs none twice.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::Scope;
use std::time::Duration;

use log::Level;

use crate::config::CommandPolicy;
use crate::core_client::command;
use crate::core_client::command::CommandJob;
use crate::core_client::command_log::{Acceptance, CommandLog};
use crate::core_client::messages::{CommandRequest, CommandResult};
use crate::net::reconnecting_client::MAX_LOGGED_CHARS;
use crate::sys::EventFd;
use crate::sys::users;
use crate::sys::users::User;
use crate::util::error::{Error, reason};
use crate::util::logger::RateLimitedLog;
use crate::util::shell_words;
use crate::util::state_io::{DISK_TIMEOUT, StateIo};
use crate::util::supervisor::exit;
use crate::util::sync::{Shutdown, lock};
use crate::util::text::escape_for_log;
use crate::util::thread::spawn_scoped;

/// Timeout of commands that set none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longer timeouts are reduced to this.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
const MAX_RUNNING: usize = 4;
const MAX_WAITING: usize = 16;
/// More are dropped when Core does not register the node, because it is sent none.
const MAX_STARTED: usize = MAX_RUNNING + MAX_WAITING;
/// Longest time to wait until a command is on disk, before it runs.
const RECORD_TIMEOUT: Duration = DISK_TIMEOUT;
/// A command's thread starts the supervisor and reads output into the heap.
const THREAD_STACK_BYTES: usize = 128 << 10;

/// The client's thread submits commands; each running command has a thread. Command threads report through the command log
/// and the queue of [`StartedCommand`]s, and wake the client's thread.
pub struct CommandQueue {
    policy: CommandPolicy,
    user: User,
    log: Mutex<CommandLog>,
    jobs: Mutex<Jobs>,
    /// The last commands that have started, which Core does not know yet.
    started: Mutex<VecDeque<StartedCommand>>,
    /// For lines about commands that run.
    run_log: RateLimitedLog,
    /// Results that Core has not confirmed. A copy, so that reading it never waits for the log's disk I/O.
    unconfirmed: AtomicU64,
    /// Notified when there is something new to send to Core.
    outbox_ready: Arc<EventFd>,
}

#[derive(Default)]
struct Jobs {
    running: usize,
    waiting: VecDeque<CommandJob>,
}

pub struct StartedCommand {
    /// Id of the message that requested the command.
    pub request_id: String,
    pub command_id: String,
}

/// What became of a [`CommandRequest`].
pub enum Submitted {
    /// It runs, or waits until another command ends.
    Accepted,
    /// It was requested before and is not run again.
    Duplicate,
    /// The reason, which is also the result sent to Core.
    Rejected(String),
}

impl CommandQueue {
    /// Reads earlier commands.
    pub fn open(
        policy: CommandPolicy,
        user: User,
        state: &StateIo,
        outbox_ready: Arc<EventFd>,
    ) -> Self {
        let queue = Self {
            policy,
            user,
            log: Mutex::new(CommandLog::open(state)),
            jobs: Mutex::default(),
            started: Mutex::default(),
            run_log: RateLimitedLog::new(),
            unconfirmed: AtomicU64::new(0),
            outbox_ready,
        };
        queue.with_log(|_| ());
        queue
    }

    /// The user that commands run as.
    pub fn user_name(&self) -> &str {
        &self.user.name
    }

    /// Logs a line about a command that runs, rate-limited.
    pub fn log(&self, level: Level, line: impl FnOnce() -> String) {
        self.run_log.write(level, line);
    }

    /// Runs a command or rejects it. `result_id` becomes the id of the result's message.
    pub fn submit<'scope>(
        &'scope self,
        request: CommandRequest,
        result_id: String,
        scope: &'scope Scope<'scope, '_>,
        shutdown: &'scope Shutdown,
    ) -> Submitted {
        let accepted = self.with_log(|log| log.accept(&request.command_id, result_id));
        match accepted {
            Acceptance::New => {}
            Acceptance::Pending | Acceptance::Finished => return Submitted::Duplicate,
        }
        let scheduled = self.job(request).and_then(|job| self.schedule(job, scope, shutdown));
        match scheduled {
            Ok(()) => Submitted::Accepted,
            Err(rejection) => {
                let why = rejection.stderr.clone();
                self.with_log(|log| log.finish(rejection));
                Submitted::Rejected(why)
            }
        }
    }

    /// The next command that has started.
    pub fn take_started(&self) -> Option<StartedCommand> {
        lock(&self.started).pop_front()
    }

    /// Number of results that Core has not confirmed. Never blocks on disk I/O.
    pub fn unconfirmed(&self) -> u64 {
        self.unconfirmed.load(Relaxed)
    }

    /// Accesses the command log. Never waits for the disk.
    pub fn with_log<R>(&self, access: impl FnOnce(&mut CommandLog) -> R) -> R {
        let mut log = lock(&self.log);
        let result = access(&mut log);
        self.unconfirmed.store(log.pending().count() as u64, Relaxed);
        result
    }

    /// What to run; the error is the result that rejects the request.
    fn job(&self, request: CommandRequest) -> Result<CommandJob, CommandResult> {
        let CommandRequest { message_id, command_id, text, timeout_seconds } = request;
        let reject = |why: &str| rejection(&command_id, why);
        let text = text.map_err(reject)?;
        self.words(&text).map_err(|why| reject(&why))?;
        let seconds = timeout_seconds.filter(|seconds| *seconds > 0);
        let timeout = seconds.map_or(DEFAULT_TIMEOUT, Duration::from_secs).min(MAX_TIMEOUT);
        Ok(CommandJob { command_id, request_id: message_id, text, timeout })
    }

    /// Program and arguments of a command line; the error is why it is rejected. Words take many times the memory of the
    /// line, so waiting commands are kept as lines.
    fn words(&self, text: &str) -> Result<Vec<String>, String> {
        match &self.policy {
            CommandPolicy::Off => Err("this node runs no commands; see core.commands".to_owned()),
            CommandPolicy::Any if text.contains('\0') => {
                Err("command contains a NUL byte".to_owned())
            }
            CommandPolicy::Any => Ok(["/bin/sh", "-c", text].map(str::to_owned).into()),
            CommandPolicy::Allow(prefixes) => {
                let words = shell_words::split(text).map_err(|why| why.to_string())?;
                match prefixes.iter().any(|prefix| words.starts_with(prefix)) {
                    true => Ok(words),
                    false => Err("no prefix in core.allow matches".to_owned()),
                }
            }
        }
    }

    /// Runs a job now or later; the error is the result that rejects it.
    fn schedule<'scope>(
        &'scope self,
        job: CommandJob,
        scope: &'scope Scope<'scope, '_>,
        shutdown: &'scope Shutdown,
    ) -> Result<(), CommandResult> {
        let mut jobs = lock(&self.jobs);
        if jobs.running >= MAX_RUNNING {
            let (running, waiting) = (jobs.running, jobs.waiting.len());
            if waiting < MAX_WAITING {
                jobs.waiting.push_back(job);
                return Ok(());
            }
            let why = format!("{running} commands are running and {waiting} are waiting");
            lock(&self.log).allow_retry(&job.command_id);
            return Err(rejection(&job.command_id, &why));
        }
        let command_id = job.command_id.clone();
        let run = move || self.run_jobs(job, shutdown);
        match spawn_scoped(scope, "command", THREAD_STACK_BYTES, run) {
            Ok(()) => {
                jobs.running += 1;
                Ok(())
            }
            Err(error) => {
                Err(rejection(&command_id, &format!("start a thread: {}", reason(&error))))
            }
        }
    }

    /// A command's thread: runs `first` and then waiting jobs.
    fn run_jobs(&self, first: CommandJob, shutdown: &Shutdown) {
        let mut next = Some(first);
        while let Some(job) = next {
            let result = self.record_and_run(job, shutdown);
            self.report(result);
            let mut jobs = lock(&self.jobs);
            next = if shutdown.is_triggered() { None } else { jobs.waiting.pop_front() };
            jobs.running -= usize::from(next.is_none());
        }
    }
}

/// On the thread of a command, which may wait for the disk.
impl CommandQueue {
    /// A command that cannot be recorded is not run: after a restart it would run a second time.
    fn record_and_run(&self, job: CommandJob, shutdown: &Shutdown) -> CommandResult {
        let CommandJob { command_id, request_id, text, timeout } = job;
        let recorded = self.with_log(CommandLog::record).wait(RECORD_TIMEOUT);
        if let Err(why) = recorded {
            self.with_log(|log| log.allow_retry(&command_id));
            let why = format!("command cannot be recorded: {why}; see state_dir");
            return self.reject_late(&command_id, &why);
        }
        let words = match self.words(&text) {
            Ok(words) => words,
            Err(why) => return self.reject_late(&command_id, &why),
        };
        let mut started = lock(&self.started);
        if started.len() >= MAX_STARTED {
            started.pop_front();
        }
        started.push_back(StartedCommand { request_id, command_id: command_id.clone() });
        drop(started);
        self.outbox_ready.notify();
        let result = command::run(command_id, words, timeout, &self.user, shutdown);
        self.log(Level::Info, || {
            let id = escape_for_log(&result.command_id, MAX_LOGGED_CHARS);
            let (code, time) = (result.exit_code, result.execution_time_ms);
            format!("core: command {id} finished with exit code {code} after {time} ms")
        });
        result
    }

    fn reject_late(&self, command_id: &str, why: &str) -> CommandResult {
        self.log(Level::Warn, || {
            let id = escape_for_log(command_id, MAX_LOGGED_CHARS);
            format!("core: command {id} is not run: {why}")
        });
        rejection(command_id, why)
    }

    /// The result is sent when it is written, so that it is the only one even if the agent is killed meanwhile.
    fn report(&self, result: CommandResult) {
        let command_id = result.command_id.clone();
        let written = self.with_log(|log| log.finish_and_hold(result));
        // If it cannot be written, the journal has logged why. The result is sent from memory.
        let _ = written.wait(RECORD_TIMEOUT);
        self.with_log(|log| log.release(&command_id));
        self.outbox_ready.notify();
    }
}

/// The user that `core.run_as` names. The error is an invalid setting.
pub fn user_to_run_as(run_as: Option<&str>, commands_enabled: bool) -> Result<User, Error> {
    let invalid = |why: String| Error::Setting { origin: "core.run_as".to_owned(), why };
    let own = users::effective_uid();
    let fail = |error| Error::system("look up a user", error);
    match run_as {
        None if own == 0 && commands_enabled => Err(invalid(
            "commands would run as root; set the user to run them as (root is possible)".to_owned(),
        )),
        None => Ok(users::user_by_uid(own).map_err(fail)?.unwrap_or_else(|| User::from_uid(own))),
        Some(name) => match users::user_by_name(name).map_err(fail)? {
            None => Err(invalid(format!("no such user \"{}\"", name.escape_debug()))),
            Some(user) if own != 0 && user.uid != own => {
                Err(invalid(format!("only root can run commands as {}", user.name)))
            }
            Some(user) => Ok(user),
        },
    }
}

fn rejection(command_id: &str, why: &str) -> CommandResult {
    CommandResult {
        command_id: command_id.to_owned(),
        exit_code: exit::NOT_RUN,
        stdout: String::new(),
        stderr: format!("hm-agent: rejected: {why}"),
        execution_time_ms: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys;
    use crate::util::state_io::tests::Dir;
    use std::os::fd::AsFd;

    fn request(number: usize) -> CommandRequest {
        CommandRequest {
            message_id: format!("request-{number}"),
            command_id: format!("c{number}"),
            text: Ok("true".to_owned()),
            timeout_seconds: None,
        }
    }

    /// Core is sent `command_started` only while the node is registered.
    #[test]
    fn keeps_the_last_started_commands_of_a_core_that_takes_none() {
        let dir = Dir::new("started");
        let event = Arc::new(EventFd::new().unwrap());
        let policy = CommandPolicy::Allow(vec![vec!["true".to_owned()]]);
        let user = user_to_run_as(Some("root"), true)
            .unwrap_or_else(|_| User::from_uid(users::effective_uid()));
        let queue = CommandQueue::open(policy, user, &dir.state, event);
        let shutdown = Shutdown::new().unwrap();
        std::thread::scope(|scope| {
            for number in 0..3 * MAX_STARTED {
                // The program is this test's own, so the command does nothing.
                queue.submit(request(number), format!("r{number}"), scope, &shutdown);
                while queue.unconfirmed() <= number as u64 {
                    sys::wait_readable([queue.outbox_ready.as_fd()], None);
                    queue.outbox_ready.reset();
                }
            }
        });
        let started: Vec<_> = std::iter::from_fn(|| queue.take_started()).collect();
        assert_eq!(started.len(), MAX_STARTED);
        let last = started.last().map(|started| started.command_id.clone());
        assert_eq!(last, Some(format!("c{}", 3 * MAX_STARTED - 1)));
    }
}
