//! Which commands were sent over a Core connection.
//!
//! A registration returns the pending commands of its node: an earlier connection may have lost them. One that is submitted while the
//! registration waits for its commit may be among these, and is sent on its own as well.

use std::collections::VecDeque;

/// A registration returns up to 100. Of those that are sent on their own, only the last ones can be returned, too.
const MAX_REMEMBERED: usize = 256;

#[derive(Debug, Default)]
pub(super) struct SentCommands {
    /// Registrations that were received, and that were committed, or failed.
    received: u64,
    completed: u64,
    /// Ids, each with the number of registrations that had been received before.
    last: VecDeque<(String, u64)>,
}

impl SentCommands {
    /// The node registers.
    pub(super) fn on_registration(&mut self) {
        self.received += 1;
    }

    /// The oldest registration without a result has one.
    pub(super) fn on_registration_result(&mut self) {
        self.completed += 1;
    }

    /// Whether a new command is to be sent, which is noted then.
    pub(super) fn add_new(&mut self, command_id: &str) -> bool {
        self.add(command_id, 0)
    }

    /// The same of a command that the registration has returned whose result was the last.
    pub(super) fn add_pending(&mut self, command_id: &str) -> bool {
        self.add(command_id, self.completed)
    }

    /// Ids of commands that the node may not have received when its connection ends.
    pub(super) fn into_ids(self) -> Vec<String> {
        self.last.into_iter().map(|(id, _)| id).collect()
    }

    /// One that was sent before `registration` was received is sent again.
    fn add(&mut self, command_id: &str, registration: u64) -> bool {
        match self.last.iter_mut().find(|(known, _)| known == command_id) {
            Some((_, sent)) if *sent >= registration => return false,
            Some((_, sent)) => *sent = self.received,
            None => {
                if self.last.len() >= MAX_REMEMBERED {
                    self.last.pop_front();
                }
                self.last.push_back((command_id.to_owned(), self.received));
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_is_sent_once_for_each_registration() {
        let mut sent = SentCommands::default();
        sent.on_registration();
        assert!(sent.add_new("while it waits"));
        sent.on_registration_result();
        assert!(!sent.add_pending("while it waits"));
        assert!(sent.add_pending("before"));
        assert!(!sent.add_new("before"), "it was submitted in the same transaction");
        assert!(sent.add_new("after"));
        sent.on_registration();
        sent.on_registration_result();
        for id in ["before", "while it waits", "after"] {
            assert!(sent.add_pending(id), "{id}");
            assert!(!sent.add_pending(id), "{id}");
        }
    }

    #[test]
    fn number_of_remembered_commands_is_limited() {
        let mut sent = SentCommands::default();
        for number in 0..2 * MAX_REMEMBERED {
            assert!(sent.add_new(&number.to_string()));
        }
        assert_eq!(sent.last.len(), MAX_REMEMBERED);
    }
}
