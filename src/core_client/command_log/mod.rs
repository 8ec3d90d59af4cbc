//! Which commands were accepted, their results, and whether Core has confirmed them: in memory and in a journal, so that no
//! command runs twice and no result is lost when the agent restarts.

mod lines;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use log::Level;

use crate::core_client::command_log::lines::{accepted_line, finished_line, replay};
use crate::core_client::messages::CommandResult;
use crate::net::reconnecting_client::MAX_LOGGED_CHARS;
use crate::util::journal::{Batch, Journal};
use crate::util::logger::RateLimitedLog;
use crate::util::state_io::StateIo;
use crate::util::supervisor::exit;
use crate::util::text::escape_for_log;

/// Remembered, so that none runs twice.
const MAX_COMMANDS: usize = 1000;
/// Replies to one command that Core requests again and again without confirming any.
const MAX_PENDING_REPLIES: usize = 16;
/// Room for four results of maximum size, each byte escaped as six, and twenty typical ones.
const MAX_UNCONFIRMED_BYTES: usize = 12 << 20;
/// Confirmed results: a repeated request is rare, and comes soon.
const MAX_CONFIRMED_BYTES: usize = 1 << 20;
/// A result is dropped after this many rejections.
const MAX_REJECTIONS: u32 = 3;
/// Approximate length of a command's lines without its id and result.
const RECORD_BYTES: usize = 100;

pub struct CommandLog {
    /// Oldest first.
    commands: VecDeque<CommandRecord>,
    journal: Arc<Journal>,
    log: RateLimitedLog,
    /// Bytes in the journal that a rewrite would remove.
    stale_bytes: usize,
}

struct CommandRecord {
    command_id: Box<str>,
    state: CommandState,
    /// One for each request that has no confirmed result.
    replies: Vec<PendingReply>,
    /// Id of the first reply, which identifies the command in the journal.
    key: Box<str>,
    /// It was rejected for a reason that may go away, so a repeated request may run.
    retry_allowed: bool,
    /// The result is not sent yet, because it is being written.
    held: bool,
}

/// Something that is being written to the journal.
pub struct PendingWrite {
    journal: Arc<Journal>,
    batch: Batch,
}

impl PendingWrite {
    /// Waits until it is written. The error is the reason why it is not.
    pub fn wait(self, timeout: Duration) -> Result<(), String> {
        self.journal.wait(self.batch, timeout)
    }
}

enum CommandState {
    /// Waiting or running.
    Pending,
    /// Result and the length of its journal line in bytes.
    Finished(Box<CommandResult>, usize),
    /// Finished; the result was removed to make room.
    ResultEvicted,
}

struct PendingReply {
    message_id: Box<str>,
    rejected_count: u32,
}

/// What to do about a requested command.
#[derive(Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// Run it.
    New,
    /// It is waiting or running; its result will be sent once more.
    Pending,
    /// It has finished; its result is sent once more.
    Finished,
}

impl CommandLog {
    /// Reads the journal. Commands that were accepted and have not finished were interrupted.
    pub fn open(state: &StateIo) -> Self {
        let mut commands = VecDeque::new();
        let journal = Journal::read(state, "core-commands", "results of commands", |kind, text| {
            replay(&mut commands, kind, text).is_some()
        });
        let (journal, log) = (Arc::new(journal), RateLimitedLog::new());
        let mut log = Self { commands, journal, log, stale_bytes: 0 };
        for record in &mut log.commands {
            if matches!(record.state, CommandState::Pending) {
                let why =
                    "interrupted: the agent ended before the command did; it was not run again";
                let result = failure(&record.command_id, exit::INTERRUPTED, why);
                let id = escape_for_log(&*record.command_id, MAX_LOGGED_CHARS);
                log.log.write(Level::Warn, || format!("core: command {id} was interrupted"));
                let length = finished_line(&record.key, &result).len();
                record.state = CommandState::Finished(Box::new(result), length);
            }
        }
        log.evict();
        log.rewrite();
        log
    }

    /// Accepts a request. Its result will be sent in the message `message_id`. [`CommandLog::record`] before a new command runs.
    pub fn accept(&mut self, command_id: &str, message_id: String) -> Acceptance {
        let line = accepted_line(&message_id, command_id);
        let reply = PendingReply { message_id: message_id.as_str().into(), rejected_count: 0 };
        if let Some(record) = find(&mut self.commands, command_id) {
            if std::mem::take(&mut record.retry_allowed) {
                if record.replies.len() >= MAX_PENDING_REPLIES {
                    let oldest = record.replies.remove(0);
                    self.journal.append('c', &oldest.message_id);
                }
                self.journal.append('n', &line);
                self.stale_bytes += record.result_bytes() + line.len() + RECORD_BYTES;
                (record.state, record.key) = (CommandState::Pending, message_id.into());
                record.replies.push(reply);
                return Acceptance::New;
            }
            if record.replies.len() < MAX_PENDING_REPLIES {
                record.replies.push(reply);
                self.journal.append('a', &line);
                self.stale_bytes += line.len();
            }
            return match record.state {
                CommandState::Pending => Acceptance::Pending,
                CommandState::Finished(..) | CommandState::ResultEvicted => Acceptance::Finished,
            };
        }
        self.journal.append('a', &line);
        self.commands.push_back(CommandRecord {
            command_id: command_id.into(),
            state: CommandState::Pending,
            replies: vec![reply],
            key: message_id.into(),
            retry_allowed: false,
            held: false,
        });
        self.evict();
        Acceptance::New
    }

    /// Writes the accepted commands to disk, and waits for none of it.
    pub fn record(&mut self) -> PendingWrite {
        if self.journal.is_incomplete() {
            self.rewrite();
        }
        self.pending_write(true)
    }

    /// The command is rejected for a reason that may go away: the next request for it is a new one.
    pub fn allow_retry(&mut self, command_id: &str) {
        if let Some(record) = find(&mut self.commands, command_id) {
            record.retry_allowed = true;
        }
    }

    /// Records the result of a command, which is sent after [`CommandLog::release`].
    pub fn finish_and_hold(&mut self, result: CommandResult) -> PendingWrite {
        if let Some(record) = find(&mut self.commands, &result.command_id) {
            record.held = true;
        }
        self.finish(result);
        self.pending_write(false)
    }

    pub fn release(&mut self, command_id: &str) {
        if let Some(record) = find(&mut self.commands, command_id) {
            record.held = false;
        }
    }

    fn pending_write(&self, sync: bool) -> PendingWrite {
        PendingWrite { journal: self.journal.clone(), batch: self.journal.batch(sync) }
    }

    /// Records the result of a command.
    pub fn finish(&mut self, result: CommandResult) {
        let Some(record) = find(&mut self.commands, &result.command_id) else { return };
        let line = finished_line(&record.key, &result);
        self.journal.append('e', &line);
        record.state = CommandState::Finished(Box::new(result), line.len());
        self.evict();
    }

    /// Ids of messages with results to send until Core confirms them, oldest command first.
    pub fn pending(&self) -> impl Iterator<Item = &str> {
        let finished = self.commands.iter().filter(|record| record.is_finished() && !record.held);
        finished.flat_map(|record| record.replies.iter().map(|reply| &*reply.message_id))
    }

    /// The result that the message `message_id` contains.
    pub fn result(&self, message_id: &str) -> Option<Cow<'_, CommandResult>> {
        let record = self.commands.iter().find(|record| record.has_reply(message_id))?;
        match &record.state {
            CommandState::Pending => None,
            CommandState::Finished(result, _) => Some(Cow::Borrowed(result)),
            CommandState::ResultEvicted => {
                let why = "command has run before, and its result is no longer kept";
                Some(Cow::Owned(failure(&record.command_id, exit::NOT_RUN, why)))
            }
        }
    }

    /// Core has stored the result in the message `message_id`. Returns the command's id, if that was pending.
    pub fn confirm(&mut self, message_id: &str) -> Option<String> {
        let record = self.commands.iter_mut().find(|record| record.has_reply(message_id))?;
        record.replies.retain(|reply| *reply.message_id != *message_id);
        self.journal.append('c', message_id);
        self.stale_bytes += message_id.len();
        let command_id = record.command_id.to_string();
        if record.replies.is_empty() {
            self.evict();
            if self.stale_bytes > MAX_UNCONFIRMED_BYTES {
                self.rewrite();
            }
        }
        Some(command_id)
    }

    /// Core cannot parse the result in the message `message_id`. Returns whether that happened too often and the result is
    /// dropped.
    pub fn reject(&mut self, message_id: &str) -> bool {
        let mut replies = self.commands.iter_mut().flat_map(|record| record.replies.iter_mut());
        let Some(reply) = replies.find(|reply| *reply.message_id == *message_id) else {
            return false;
        };
        reply.rejected_count += 1;
        reply.rejected_count >= MAX_REJECTIONS && self.confirm(message_id).is_some()
    }

    /// Enforces the limits, oldest first: on the results of confirmed commands, on those of others, and on commands.
    fn evict(&mut self) {
        self.evict_results(true, MAX_CONFIRMED_BYTES);
        self.evict_results(false, MAX_UNCONFIRMED_BYTES);
        while self.commands.len() > MAX_COMMANDS {
            let confirmed = |record: &CommandRecord| record.is_finished() && record.is_confirmed();
            let commands = &self.commands;
            let oldest_finished = || commands.iter().position(CommandRecord::is_finished);
            let Some(at) = commands.iter().position(confirmed).or_else(oldest_finished) else {
                break;
            };
            let removed = self.commands.remove(at);
            self.stale_bytes += removed.map_or(0, |record| {
                let id = accepted_line(&record.key, &record.command_id);
                record.result_bytes() + id.len() + RECORD_BYTES
            });
        }
        if self.stale_bytes > 2 * MAX_UNCONFIRMED_BYTES || self.journal.should_retry() {
            self.rewrite();
        }
    }

    fn evict_results(&mut self, confirmed: bool, max_bytes: usize) {
        let selected = |record: &CommandRecord| record.is_confirmed() == confirmed;
        let records = self.commands.iter().filter(|record| selected(record));
        let mut bytes: usize = records.map(CommandRecord::result_bytes).sum();
        for record in &mut self.commands {
            if bytes <= max_bytes {
                return;
            }
            if !selected(record) || record.result_bytes() == 0 {
                continue;
            }
            if !confirmed {
                let id = escape_for_log(&*record.command_id, MAX_LOGGED_CHARS);
                self.log.write(Level::Warn, || {
                    format!(
                        "core: dropped the result of command {id}: too many unconfirmed results"
                    )
                });
            }
            bytes -= record.result_bytes();
            self.stale_bytes += record.result_bytes();
            record.state = CommandState::ResultEvicted;
        }
    }

    fn rewrite(&mut self) {
        self.journal.rewrite(self.commands.iter().flat_map(CommandRecord::lines));
        self.stale_bytes = 0;
    }
}

impl CommandRecord {
    fn has_reply(&self, message_id: &str) -> bool {
        self.replies.iter().any(|reply| *reply.message_id == *message_id)
    }

    fn is_confirmed(&self) -> bool {
        self.replies.is_empty()
    }

    fn is_finished(&self) -> bool {
        !matches!(self.state, CommandState::Pending)
    }

    fn result_bytes(&self) -> usize {
        match &self.state {
            CommandState::Finished(_, length) => *length,
            CommandState::Pending | CommandState::ResultEvicted => 0,
        }
    }

    fn lines(&self) -> Vec<(char, Cow<'_, str>)> {
        let line = |kind, text: String| (kind, Cow::Owned(text));
        let mut lines = vec![line('a', accepted_line(&self.key, &self.command_id))];
        for reply in self.replies.iter().filter(|reply| reply.message_id != self.key) {
            lines.push(line('a', accepted_line(&reply.message_id, &self.command_id)));
        }
        match &self.state {
            CommandState::Pending => {}
            CommandState::Finished(result, _) => {
                lines.push(line('e', finished_line(&self.key, result)));
            }
            CommandState::ResultEvicted => lines.push(line('e', self.key.to_string())),
        }
        if !self.has_reply(&self.key) {
            lines.push(('c', Cow::Borrowed(&*self.key)));
        }
        lines
    }
}

fn find<'a>(
    commands: &'a mut VecDeque<CommandRecord>,
    command_id: &str,
) -> Option<&'a mut CommandRecord> {
    commands.iter_mut().find(|record| *record.command_id == *command_id)
}

fn failure(command_id: &str, exit_code: i32, stderr: &str) -> CommandResult {
    CommandResult {
        command_id: command_id.to_owned(),
        exit_code,
        stdout: String::new(),
        stderr: stderr.to_owned(),
        execution_time_ms: 0,
    }
}

#[cfg(test)]
mod tests;
