//! Commands that Core asks for: which may run, how many at a time, and none twice.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use log::Level;

use crate::config::CommandPolicy;
use crate::core_client::command;
use crate::core_client::command::Job;
use crate::core_client::command_log::{Accepted, Ledger};
use crate::core_client::command_supervisor::exit;
use crate::core_client::messages::{CommandResult, Order};
use crate::limits;
use crate::net::reconnecting_client::quoted;
use crate::sys::Crew;
use crate::sys::users;
use crate::sys::users::User;
use crate::util::error::{Error, reason};
use crate::util::shell_words;
use crate::util::sync::{Shutdown, lock};
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

/// Commands, and what became of them.
pub struct Commands {
    policy: CommandPolicy,
    user: User,
    ledger: Mutex<Ledger>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    running: usize,
    waiting: VecDeque<Job>,
    /// Begun, which Core has not been told: ids of the message that asked, and of the command.
    begun: VecDeque<(String, String)>,
}

impl Commands {
    /// As the settings allow them, with what is left of earlier ones in `state_dir`.
    pub fn open(policy: CommandPolicy, user: User, state_dir: &Path) -> Self {
        let ledger = Mutex::new(Ledger::open(state_dir));
        Self { policy, user, ledger, queue: Mutex::default() }
    }

    /// Core asks for one, which gets its turn, or an answer that says why not. `say` writes a line about Core,
    /// `message_id` is for the result's message; `changed` is called when there is something to tell Core.
    pub fn order<'env>(
        &'env self,
        order: Order,
        say: impl Fn(Level, &str),
        message_id: String,
        crew: &Crew<'env>,
        stop: &'env Shutdown,
        changed: impl Fn() + Copy + Send + 'env,
    ) {
        let id = escape_for_log(&order.command_id, EXCERPT_CHARS);
        let (text, user) = (quoted(order.text.as_deref().unwrap_or("")), &self.user.name);
        // On its own line, so that the ledger is not held while `changed` looks into it.
        let accepted = lock(&self.ledger).accept(&order.command_id, message_id);
        match accepted {
            Accepted::New => {}
            Accepted::Pending | Accepted::Ended => {
                say(Level::Info, &format!("asks again for command {id}, which is not run twice"));
                return changed();
            }
        }
        let refusal = match self.job(order) {
            Ok(job) => match self.enqueue(job, crew, stop, changed) {
                None => {
                    say(Level::Info, &format!("orders command {id} as {user}: {text}"));
                    return;
                }
                Some(refusal) => refusal,
            },
            Err(refusal) => refusal,
        };
        say(Level::Warn, &format!("orders command {id}, refused: {}: {text}", refusal.stderr));
        lock(&self.ledger).end(refusal);
        changed();
    }

    /// What to run, or the answer that refuses it.
    fn job(&self, order: Order) -> Result<Job, CommandResult> {
        let Order { command_id, message_id, text, timeout_seconds } = order;
        let refuse = |why: &str| refusal(&command_id, why);
        let text = text.map_err(refuse)?;
        let words = match &self.policy {
            CommandPolicy::Off => {
                return Err(refuse("this node runs no commands; see core.commands"));
            }
            CommandPolicy::Any if text.contains('\0') => {
                return Err(refuse("it holds a byte 0"));
            }
            CommandPolicy::Any => {
                vec!["/bin/sh".to_owned(), "-c".to_owned(), text]
            }
            CommandPolicy::Allow(prefixes) => {
                let words = shell_words::split(&text).map_err(|why| refuse(&why.to_string()))?;
                if !prefixes.iter().any(|prefix| words.starts_with(prefix)) {
                    return Err(refuse("core.allow has nothing that it begins with"));
                }
                words
            }
        };
        let seconds = timeout_seconds.filter(|seconds| *seconds > 0);
        let timeout = seconds.map_or(limits::COMMAND_TIMEOUT, Duration::from_secs);
        let timeout = timeout.min(limits::COMMAND_LONGEST);
        Ok(Job { command_id, message_id, words, timeout })
    }

    /// Runs it now or later; what comes back refuses it.
    fn enqueue<'env>(
        &'env self,
        job: Job,
        crew: &Crew<'env>,
        stop: &'env Shutdown,
        changed: impl Fn() + Copy + Send + 'env,
    ) -> Option<CommandResult> {
        let mut queue = lock(&self.queue);
        if queue.running >= limits::COMMANDS_AT_ONCE {
            let waiting = queue.waiting.len();
            if waiting >= limits::COMMANDS_WAITING {
                let running = queue.running;
                let why = format!("{running} commands run and {waiting} wait already");
                lock(&self.ledger).allow_again(&job.command_id);
                return Some(refusal(&job.command_id, &why));
            }
            queue.waiting.push_back(job);
            return None;
        }
        let command_id = job.command_id.clone();
        let work = move || self.work(job, stop, changed);
        match crew.start(c"command", limits::COMMAND_STACK_BYTES, work) {
            Ok(()) => {
                queue.running += 1;
                None
            }
            Err(error) => {
                Some(refusal(&command_id, &format!("start a thread for it: {}", reason(&error))))
            }
        }
    }

    /// The life of a command's thread: that one, and those that wait.
    fn work(&self, first: Job, stop: &Shutdown, changed: impl Fn()) {
        let mut next = Some(first);
        while let Some(job) = next {
            let names = (job.message_id.clone(), job.command_id.clone());
            lock(&self.queue).begun.push_back(names);
            changed();
            let result = command::run(&job, &self.user, stop);
            log::info!(
                "core: command {} ended with exit code {} after {} ms",
                escape_for_log(&result.command_id, EXCERPT_CHARS),
                result.exit_code,
                result.execution_time_ms
            );
            lock(&self.ledger).end(result);
            changed();
            let mut queue = lock(&self.queue);
            next = if stop.is_triggered() { None } else { queue.waiting.pop_front() };
            queue.running -= usize::from(next.is_none());
        }
    }

    /// One that has begun, which Core has not been told yet: ids of the message that asked and of the command.
    pub fn take_begun(&self) -> Option<(String, String)> {
        lock(&self.queue).begun.pop_front()
    }

    /// Does something with what is known of commands.
    pub fn with_ledger<R>(&self, then: impl FnOnce(&mut Ledger) -> R) -> R {
        then(&mut lock(&self.ledger))
    }
}

fn refusal(command_id: &str, why: &str) -> CommandResult {
    CommandResult {
        command_id: command_id.to_owned(),
        exit_code: exit::NOT_RUN,
        stdout: String::new(),
        stderr: format!("hm-agent: refused: {why}"),
        execution_time_ms: 0,
    }
}

/// The user that commands run as. The error is a setting that is wrong.
pub fn user(run_as: Option<&str>, commands_are_on: bool) -> Result<User, Error> {
    let wrong = |why: String| Error::Setting { origin: "core.run_as".to_owned(), why };
    let own = users::effective_uid();
    let looked_up = |error| Error::system("look up a user", error);
    match run_as {
        None if own == 0 && commands_are_on => Err(wrong(
            "commands would run as root; name the user that they run as (root, if you mean it)"
                .to_owned(),
        )),
        None => {
            Ok(users::user_by_uid(own).map_err(looked_up)?.unwrap_or_else(|| User::from_uid(own)))
        }
        Some(name) => match users::user_by_name(name).map_err(looked_up)? {
            None => Err(wrong(format!("there is no user \"{}\"", name.escape_debug()))),
            Some(user) if own != 0 && user.uid != own => {
                Err(wrong(format!("only root can run commands as {}", user.name)))
            }
            Some(user) => Ok(user),
        },
    }
}
