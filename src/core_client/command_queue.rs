//! Accepts commands from Core: checks the policy, bounds how many run at a time, and runs none twice.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::Scope;
use std::time::Duration;

use crate::config::CommandPolicy;
use crate::core_client::command;
use crate::core_client::command::CommandJob;
use crate::core_client::command_log::{Acceptance, CommandLog};
use crate::core_client::command_supervisor::exit;
use crate::core_client::messages::{CommandRequest, CommandResult};
use crate::net::reconnecting_client::MAX_LOGGED_CHARS;
use crate::sys::EventFd;
use crate::sys::users;
use crate::sys::users::User;
use crate::util::error::{Error, reason};
use crate::util::shell_words;
use crate::util::sync::{Shutdown, lock};
use crate::util::text::escape_for_log;
use crate::util::thread::spawn_scoped;

/// Timeout of commands that set none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longer timeouts are reduced to this.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
const MAX_RUNNING: usize = 4;
const MAX_WAITING: usize = 16;
/// A command's thread starts the supervisor and reads output into the heap.
const THREAD_STACK_BYTES: usize = 128 << 10;

/// The client's thread submits commands; each running command has a thread. Command threads report through the command log
/// and the queue of [`StartedCommand`]s, and wake the client's thread.
pub struct CommandQueue {
    policy: CommandPolicy,
    user: User,
    log: Mutex<CommandLog>,
    jobs: Mutex<Jobs>,
    /// Commands that have started, which Core does not know yet.
    started: Mutex<VecDeque<StartedCommand>>,
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
    /// Reads earlier commands from `state_dir`.
    pub fn open(
        policy: CommandPolicy,
        user: User,
        state_dir: &Path,
        outbox_ready: Arc<EventFd>,
    ) -> Self {
        let queue = Self {
            policy,
            user,
            log: Mutex::new(CommandLog::open(state_dir)),
            jobs: Mutex::default(),
            started: Mutex::default(),
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

    /// Accesses the command log. Waits while another thread writes the log to disk.
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
        let words = match &self.policy {
            CommandPolicy::Off => {
                return Err(reject("this node runs no commands; see core.commands"));
            }
            CommandPolicy::Any if text.contains('\0') => {
                return Err(reject("command contains a NUL byte"));
            }
            CommandPolicy::Any => vec!["/bin/sh".to_owned(), "-c".to_owned(), text],
            CommandPolicy::Allow(prefixes) => {
                let words = shell_words::split(&text).map_err(|why| reject(&why.to_string()))?;
                if !prefixes.iter().any(|prefix| words.starts_with(prefix)) {
                    return Err(reject("no prefix in core.allow matches"));
                }
                words
            }
        };
        let seconds = timeout_seconds.filter(|seconds| *seconds > 0);
        let timeout = seconds.map_or(DEFAULT_TIMEOUT, Duration::from_secs).min(MAX_TIMEOUT);
        Ok(CommandJob { command_id, request_id: message_id, words, timeout })
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
            lock(&self.started).push_back(StartedCommand {
                request_id: job.request_id.clone(),
                command_id: job.command_id.clone(),
            });
            self.outbox_ready.notify();
            let result = command::run(&job, &self.user, shutdown);
            log::info!(
                "core: command {} finished with exit code {} after {} ms",
                escape_for_log(&result.command_id, MAX_LOGGED_CHARS),
                result.exit_code,
                result.execution_time_ms
            );
            self.with_log(|log| log.finish(result));
            self.outbox_ready.notify();
            let mut jobs = lock(&self.jobs);
            next = if shutdown.is_triggered() { None } else { jobs.waiting.pop_front() };
            jobs.running -= usize::from(next.is_none());
        }
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
