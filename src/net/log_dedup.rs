//! What the log has said of a link since it was last all right: each trouble once, until there is another one or
//! it is over.

use std::mem::{Discriminant, discriminant};

use crate::net::reconnect::DisconnectReason;

/// What was said; `V` is what the server's messages can mean.
#[derive(Debug)]
pub struct Said<V> {
    outage: Option<DisconnectReason>,
    verdicts: Vec<Discriminant<V>>,
    /// Reports that were refused since then.
    pub refused: u64,
    /// Reports that were dropped for want of room since the agent started, as it was said last.
    pub dropped: u64,
}

impl<V> Default for Said<V> {
    fn default() -> Self {
        Self { outage: None, verdicts: Vec::new(), refused: 0, dropped: 0 }
    }
}

impl<V> Said<V> {
    /// Whether the log must name this outage.
    pub fn is_news(&mut self, outage: &DisconnectReason) -> bool {
        let known = self.outage.as_ref().is_some_and(|before| before.is_like(outage));
        if !known {
            self.outage = Some(outage.clone());
            // Being online again is worth a line then.
            self.verdicts.clear();
        }
        !known
    }

    /// Whether the log must name this verdict.
    pub fn is_new(&mut self, verdict: &V) -> bool {
        let kind = discriminant(verdict);
        let known = self.verdicts.contains(&kind);
        if !known {
            self.verdicts.push(kind);
        }
        !known
    }

    /// Reports are delivered, or the link has been good for long: what comes now is another trouble.
    pub fn over(&mut self) {
        *self = Self { dropped: self.dropped, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hm_client::session::Verdict;
    use std::time::Duration;

    #[test]
    fn each_trouble_once_until_there_is_another_one_or_it_is_over() {
        let mut said = Said::<Verdict>::default();
        let refused = |why: &str| DisconnectReason::Unreachable(why.to_owned());
        assert!(said.is_news(&refused("a")) && !said.is_news(&refused("b")));
        assert!(
            said.is_news(&DisconnectReason::Timeout("connecting")) && said.is_news(&refused("a"))
        );
        said.over();
        assert!(said.is_news(&refused("a")));
    }

    #[test]
    fn a_hub_that_is_online_and_answers_nothing_is_no_news_each_time() {
        let mut said = Said::<Verdict>::default();
        let silent = DisconnectReason::Unanswered(Duration::from_secs(20));
        let mut lines = Vec::new();
        for _ in 0..10 {
            lines.push((said.is_new(&Verdict::Online), said.is_news(&silent)));
        }
        // Online, silent, online again, and no more.
        assert_eq!(lines[..3], [(true, true), (true, false), (false, false)]);
        assert!(lines[2..].iter().all(|line| *line == (false, false)));
    }

    #[test]
    fn the_same_answer_is_the_same_in_other_words() {
        let mut said = Said::<Verdict>::default();
        let later = |why: &str| Verdict::Later(why.to_owned());
        assert!(said.is_new(&Verdict::Online) && said.is_new(&later("a")));
        assert!(!said.is_new(&Verdict::Online) && !said.is_new(&later("b")));
        (said.refused, said.dropped) = (3, 4);
        said.over();
        assert!(said.is_new(&later("a")));
        assert_eq!((said.refused, said.dropped), (0, 4));
    }
}
