//! Lines of the journal: `a`, accepted: id of the result's message, command id. `n`, accepted again after a rejection that allows
//! a retry: the same. `e`, ended: id of the command's first message, result. `c`, confirmed: id of the result's message.

use std::collections::VecDeque;

use crate::core_client::command_log::{CommandRecord, CommandState, PendingReply, find};
use crate::core_client::messages::{CommandResult, MAX_ID_BYTES};

/// Message ids are generated here and contain no spaces; command ids may contain anything.
pub(super) fn accepted_line(message_id: &str, command_id: &str) -> String {
    format!("{message_id} {}", serde_json::to_string(command_id).unwrap_or_default())
}

pub(super) fn finished_line(key: &str, result: &CommandResult) -> String {
    format!("{key} {}", serde_json::to_string(result).unwrap_or_default())
}

/// Applies a journal line. `None`: it is invalid.
pub(super) fn replay(commands: &mut VecDeque<CommandRecord>, kind: char, text: &str) -> Option<()> {
    let (message_id, rest) = text.split_once(' ').unwrap_or((text, ""));
    let by_key = |record: &&mut CommandRecord| *record.key == *message_id;
    let reply = || PendingReply { message_id: message_id.into(), rejected_count: 0 };
    match kind {
        'a' => {
            let command_id: String = serde_json::from_str(rest).ok()?;
            if command_id.len() > MAX_ID_BYTES {
                return None;
            }
            match find(commands, &command_id) {
                Some(record) => record.replies.push(reply()),
                None => commands.push_back(CommandRecord {
                    command_id: command_id.into(),
                    state: CommandState::Pending,
                    replies: vec![reply()],
                    key: message_id.into(),
                    retry_allowed: false,
                    held: false,
                }),
            }
        }
        'n' => {
            let command_id: String = serde_json::from_str(rest).ok()?;
            let record = find(commands, &command_id)?;
            (record.state, record.key) = (CommandState::Pending, message_id.into());
            record.replies.push(reply());
        }
        'e' => {
            commands.iter_mut().find(by_key)?.state = match rest {
                "" => CommandState::ResultEvicted,
                rest => CommandState::Finished(serde_json::from_str(rest).ok()?, text.len()),
            };
        }
        'c' => {
            let record = commands.iter_mut().find(|record| record.has_reply(message_id))?;
            record.replies.retain(|reply| *reply.message_id != *message_id);
        }
        _ => return None,
    }
    Some(())
}
