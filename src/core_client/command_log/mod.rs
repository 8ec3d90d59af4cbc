//! Which commands of Core were accepted, what came of them, and whether Core knows: in memory and in a journal, so that
//! none is run twice and no result is lost, whatever happens to the agent.
//!
//! Lines of the journal: `a` accepted, with the id of the result's message and the command's; `n` the same, and it is a
//! new one although there was one of that name, for which there was no room; `e` ended, with that id of the
//! message and the result; `c` confirmed, with that id.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::path::Path;

use crate::core_client::command_supervisor::exit;
use crate::core_client::messages::CommandResult;
use crate::limits;
use crate::util::journal::Journal;

/// What is known of commands.
pub struct Ledger {
    /// Oldest first.
    commands: VecDeque<Known>,
    journal: Journal,
    /// Bytes of the journal that mean nothing any more.
    stale_bytes: usize,
}

struct Known {
    command_id: Box<str>,
    outcome: Outcome,
    /// One for each time it was asked for and has no answer yet.
    due: Vec<Due>,
    /// Of the first of them, which names the command in the journal.
    key: Box<str>,
    /// It was refused for want of room, so that asking once more makes sense.
    again: bool,
}

enum Outcome {
    /// It waits or runs.
    Pending,
    /// With the length of its line in the journal, bytes.
    Ended(Box<CommandResult>, usize),
    /// It has ended; there was no room to keep how.
    Forgotten,
}

struct Due {
    message_id: Box<str>,
    unreadable: u32,
}

/// What to do about a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Run it.
    New,
    /// It waits or runs already, and its end will be told once more.
    Pending,
    /// It has ended, which is told once more.
    Ended,
}

impl Ledger {
    /// Goes on with what `state_dir` holds. Commands that were accepted and have not ended were interrupted.
    pub fn open(state_dir: &Path) -> Self {
        let mut commands = VecDeque::new();
        let journal =
            Journal::read(state_dir, "core-commands", "results of commands", |kind, text| {
                replay(&mut commands, kind, text).is_some()
            });
        let mut ledger = Self { commands, journal, stale_bytes: 0 };
        for known in &mut ledger.commands {
            if matches!(known.outcome, Outcome::Pending) {
                let why =
                    "interrupted: the agent ended before the command did; it was not run again";
                let result = result(&known.command_id, exit::INTERRUPTED, why);
                log::warn!("core: command {:?} was interrupted", known.command_id);
                let length = ended(&known.key, &result).len();
                known.outcome = Outcome::Ended(Box::new(result), length);
            }
        }
        ledger.make_room();
        ledger.rewrite();
        ledger
    }

    /// Core asks for a command. Its result will go under `message_id`. On the disk before this returns, if it is new.
    pub fn accept(&mut self, command_id: &str, message_id: String) -> Accepted {
        let line = accepted(&message_id, command_id);
        let due = Due { message_id: message_id.as_str().into(), unreadable: 0 };
        if let Some(known) = self.commands.iter_mut().find(|known| *known.command_id == *command_id)
        {
            if std::mem::take(&mut known.again) {
                self.journal.append('n', &line);
                self.journal.sync();
                (known.outcome, known.key) = (Outcome::Pending, message_id.into());
                known.due.push(due);
                return Accepted::New;
            }
            // Who asks on and on and confirms nothing gets so many answers.
            if known.due.len() < limits::ANSWERS_DUE {
                known.due.push(due);
                self.journal.append('a', &line);
                self.stale_bytes += line.len();
            }
            return match known.outcome {
                Outcome::Pending => Accepted::Pending,
                Outcome::Ended(..) | Outcome::Forgotten => Accepted::Ended,
            };
        }
        self.journal.append('a', &line);
        self.journal.sync();
        self.commands.push_back(Known {
            command_id: command_id.into(),
            outcome: Outcome::Pending,
            due: vec![due],
            key: message_id.into(),
            again: false,
        });
        self.make_room();
        Accepted::New
    }

    /// There was no room for it; the next time that it is asked for, it is a new one.
    pub fn allow_again(&mut self, command_id: &str) {
        let same = |known: &&mut Known| *known.command_id == *command_id;
        if let Some(known) = self.commands.iter_mut().find(same) {
            known.again = true;
        }
    }

    /// It has ended so.
    pub fn end(&mut self, result: CommandResult) {
        let same = |known: &&mut Known| *known.command_id == *result.command_id;
        let Some(known) = self.commands.iter_mut().find(same) else { return };
        let line = ended(&known.key, &result);
        self.journal.append('e', &line);
        known.outcome = Outcome::Ended(Box::new(result), line.len());
        self.make_room();
    }

    /// Ids of the messages that Core must still get, oldest command first.
    pub fn waiting(&self) -> impl Iterator<Item = &str> {
        let ended = self.commands.iter().filter(|known| !matches!(known.outcome, Outcome::Pending));
        ended.flat_map(|known| known.due.iter().map(|due| &*due.message_id))
    }

    /// The result that goes under that id.
    pub fn result(&self, message_id: &str) -> Option<Cow<'_, CommandResult>> {
        let known = self.commands.iter().find(|known| known.is_due(message_id))?;
        match &known.outcome {
            Outcome::Pending => None,
            Outcome::Ended(result, _) => Some(Cow::Borrowed(result)),
            Outcome::Forgotten => {
                let why = "it has run already, and its result is not kept any more";
                Some(Cow::Owned(result(&known.command_id, exit::NOT_RUN, why)))
            }
        }
    }

    /// Core has it. What comes back is which command it was, if it was waited for.
    pub fn confirm(&mut self, message_id: &str) -> Option<String> {
        let known = self.commands.iter_mut().find(|known| known.is_due(message_id))?;
        known.due.retain(|due| *due.message_id != *message_id);
        self.journal.append('c', message_id);
        self.stale_bytes += message_id.len();
        let command_id = known.command_id.to_string();
        if known.due.is_empty() {
            self.make_room();
            if self.stale_bytes > limits::RESULTS_BYTES {
                self.rewrite();
            }
        }
        Some(command_id)
    }

    /// Core could not read it. Whether that was once too often, and it is given up.
    pub fn unreadable(&mut self, message_id: &str) -> bool {
        let mut due = self.commands.iter_mut().flat_map(|known| known.due.iter_mut());
        let Some(due) = due.find(|due| *due.message_id == *message_id) else { return false };
        due.unreadable += 1;
        due.unreadable >= limits::UNREADABLE && self.confirm(message_id).is_some()
    }

    /// Keeps within bounds: the oldest results that Core has, and the oldest others, are forgotten; and so are commands
    /// that were answered, the oldest first.
    fn make_room(&mut self) {
        for (answered, most) in [(true, limits::ANSWERED_BYTES), (false, limits::RESULTS_BYTES)] {
            let is_meant = |known: &Known| known.due.is_empty() == answered;
            let meant = self.commands.iter().filter(|known| is_meant(known));
            let mut bytes: usize = meant.map(Known::bytes).sum();
            for known in &mut self.commands {
                if bytes <= most {
                    break;
                }
                if !is_meant(known) || known.bytes() == 0 {
                    continue;
                }
                if !answered {
                    log::warn!(
                        "core: the result of command {:?} is dropped: too many are not confirmed",
                        known.command_id
                    );
                }
                bytes -= known.bytes();
                self.stale_bytes += known.bytes();
                known.outcome = Outcome::Forgotten;
            }
        }
        while self.commands.len() > limits::COMMANDS_REMEMBERED {
            let has_ended = |known: &Known| !matches!(known.outcome, Outcome::Pending);
            let answered = |known: &Known| has_ended(known) && known.due.is_empty();
            let commands = &self.commands;
            let oldest = || commands.iter().position(has_ended);
            let Some(at) = commands.iter().position(answered).or_else(oldest) else { break };
            self.stale_bytes += self.commands.remove(at).map_or(0, |known| known.bytes() + 100);
        }
        if self.stale_bytes > 2 * limits::RESULTS_BYTES || self.journal.wants_another_try() {
            self.rewrite();
        }
    }

    fn rewrite(&mut self) {
        self.journal.rewrite(self.commands.iter().flat_map(Known::lines));
        self.stale_bytes = 0;
    }
}

impl Known {
    fn is_due(&self, message_id: &str) -> bool {
        self.due.iter().any(|due| *due.message_id == *message_id)
    }

    fn bytes(&self) -> usize {
        match &self.outcome {
            Outcome::Ended(_, length) => *length,
            Outcome::Pending | Outcome::Forgotten => 0,
        }
    }

    fn lines(&self) -> Vec<(char, Cow<'_, str>)> {
        let line = |kind, text: String| (kind, Cow::Owned(text));
        let mut lines = vec![line('a', accepted(&self.key, &self.command_id))];
        for due in self.due.iter().filter(|due| due.message_id != self.key) {
            lines.push(line('a', accepted(&due.message_id, &self.command_id)));
        }
        match &self.outcome {
            Outcome::Pending => {}
            Outcome::Ended(result, _) => lines.push(line('e', ended(&self.key, result))),
            Outcome::Forgotten => lines.push(line('e', self.key.to_string())),
        }
        if !self.is_due(&self.key) {
            lines.push(('c', Cow::Borrowed(&*self.key)));
        }
        lines
    }
}

fn result(command_id: &str, exit_code: i32, stderr: &str) -> CommandResult {
    CommandResult {
        command_id: command_id.to_owned(),
        exit_code,
        stdout: String::new(),
        stderr: stderr.to_owned(),
        execution_time_ms: 0,
    }
}

/// Ids of messages are our own and have no spaces; those of commands may hold anything.
fn accepted(message_id: &str, command_id: &str) -> String {
    format!("{message_id} {}", serde_json::to_string(command_id).unwrap_or_default())
}

fn ended(key: &str, result: &CommandResult) -> String {
    format!("{key} {}", serde_json::to_string(result).unwrap_or_default())
}

/// Does again what a line says. `None`: it makes no sense.
fn replay(commands: &mut VecDeque<Known>, kind: char, text: &str) -> Option<()> {
    let (message_id, rest) = text.split_once(' ').unwrap_or((text, ""));
    let by_key = |known: &&mut Known| *known.key == *message_id;
    match kind {
        'a' => {
            let command_id: String = serde_json::from_str(rest).ok()?;
            let due = Due { message_id: message_id.into(), unreadable: 0 };
            let same = |known: &&mut Known| *known.command_id == *command_id;
            match commands.iter_mut().find(same) {
                Some(known) => known.due.push(due),
                None => commands.push_back(Known {
                    command_id: command_id.into(),
                    outcome: Outcome::Pending,
                    due: vec![due],
                    key: message_id.into(),
                    again: false,
                }),
            }
        }
        'n' => {
            let command_id: String = serde_json::from_str(rest).ok()?;
            let same = |known: &&mut Known| *known.command_id == *command_id;
            let known = commands.iter_mut().find(same)?;
            (known.outcome, known.key) = (Outcome::Pending, message_id.into());
            known.due.push(Due { message_id: message_id.into(), unreadable: 0 });
        }
        'e' => {
            commands.iter_mut().find(by_key)?.outcome = match rest {
                "" => Outcome::Forgotten,
                rest => Outcome::Ended(serde_json::from_str(rest).ok()?, text.len()),
            };
        }
        'c' => {
            let known = commands.iter_mut().find(|known| known.is_due(message_id))?;
            known.due.retain(|due| *due.message_id != *message_id);
        }
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests;
