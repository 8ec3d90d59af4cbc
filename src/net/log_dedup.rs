//! Remembers which problems were logged since the upstream last worked.

use std::mem::{Discriminant, discriminant};

use crate::net::disconnect::DisconnectReason;

/// Each kind of problem is logged once, until a different one occurs or the upstream works again. `E` is the event type
/// of the protocol's session.
#[derive(Debug)]
pub struct LogDedup<E> {
    disconnect: Option<DisconnectReason>,
    events: Vec<Discriminant<E>>,
}

impl<E> Default for LogDedup<E> {
    fn default() -> Self {
        Self { disconnect: None, events: Vec::new() }
    }
}

impl<E> LogDedup<E> {
    pub fn should_log_disconnect(&mut self, reason: &DisconnectReason) -> bool {
        let known = self.disconnect.as_ref().is_some_and(|logged| logged.same_kind(reason));
        if !known {
            self.disconnect = Some(reason.clone());
            // After a new kind of failure, being online again is worth a line.
            self.events.clear();
        }
        !known
    }

    pub fn should_log_event(&mut self, event: &E) -> bool {
        let kind = discriminant(event);
        let known = self.events.contains(&kind);
        if !known {
            self.events.push(kind);
        }
        !known
    }

    /// The upstream works: the next problem is a new one.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    type Event = Result<(), &'static str>;

    #[test]
    fn logs_a_disconnect_again_after_other_kind_or_reset() {
        let mut dedup = LogDedup::<Event>::default();
        let unreachable = |why: &str| DisconnectReason::Unreachable(why.to_owned());
        assert!(dedup.should_log_disconnect(&unreachable("a")));
        assert!(!dedup.should_log_disconnect(&unreachable("b")));
        assert!(dedup.should_log_disconnect(&DisconnectReason::Timeout("TCP connect")));
        assert!(dedup.should_log_disconnect(&unreachable("a")));
        dedup.reset();
        assert!(dedup.should_log_disconnect(&unreachable("a")));
    }

    #[test]
    fn logs_a_server_that_never_answers_only_twice() {
        let mut dedup = LogDedup::<Event>::default();
        let unanswered = DisconnectReason::Unanswered(Duration::from_secs(20));
        let mut logged = Vec::new();
        for _ in 0..10 {
            let event = dedup.should_log_event(&Ok(()));
            logged.push((event, dedup.should_log_disconnect(&unanswered)));
        }
        // Online, response timeout, online again, and nothing more.
        assert_eq!(logged[..3], [(true, true), (true, false), (false, false)]);
        assert!(logged[2..].iter().all(|line| *line == (false, false)));
    }

    #[test]
    fn compares_events_by_kind_not_by_text() {
        let mut dedup = LogDedup::<Event>::default();
        assert!(dedup.should_log_event(&Ok(())));
        assert!(dedup.should_log_event(&Err("a")));
        assert!(!dedup.should_log_event(&Ok(())));
        assert!(!dedup.should_log_event(&Err("b")));
        dedup.reset();
        assert!(dedup.should_log_event(&Err("a")));
    }
}
