//! The conversation with hm over one connection: online first, then one report at a time, each until it is
//! answered. One at a time keeps them in order, and is a bounded pace.

use std::time::Duration;

use crate::hm_client::messages::{Answer, Code};
use crate::limits;
use crate::net::reconnect::{DisconnectReason, Keepalive};

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Send "online" under this number.
    Online(u64),
    /// Send the oldest report under this number.
    Report(u64),
    /// Send a ping.
    Ping,
    /// Nothing before this.
    Wait(Duration),
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The node is online.
    Online,
    /// The hub holds this node on another connection, which must expire.
    AlreadyOnline(String),
    /// The oldest report is delivered.
    Delivered,
    /// The hub will never take the oldest report.
    Refused(String),
    /// The hub asks to try again later.
    Later(String),
    /// It is the answer to nothing that was asked.
    Stray,
}

/// The conversation.
#[derive(Debug)]
pub struct Conversation {
    state: State,
    /// The number of the next request.
    next_id: u64,
    keepalive: Keepalive,
    /// Nothing is sent before this.
    not_before: Duration,
    /// How long the next "later" is.
    patience: Duration,
    /// The hub said that the node is not online, and has taken no report since.
    disowned: bool,
    /// Since when the node is online.
    online_since: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Offline,
    /// Sent under this number, then.
    GoingOnline(u64, Duration),
    Online,
    /// A report is sent, and not answered yet.
    Reporting(u64, Duration),
}

impl Conversation {
    /// From the moment of connecting on.
    pub fn new(keepalive: Keepalive, now: Duration) -> Self {
        Self {
            state: State::Offline,
            next_id: 1,
            keepalive,
            not_before: now,
            patience: limits::LATER.0,
            disowned: false,
            online_since: None,
        }
    }

    /// What to do now, with or without reports to send; an error when the other end is gone.
    pub fn next(&mut self, has_report: bool, now: Duration) -> Result<Step, DisconnectReason> {
        if self.keepalive.due(now)? {
            return Ok(Step::Ping);
        }
        let may_send = now >= self.not_before;
        let deadline = match self.state {
            State::GoingOnline(_, since) | State::Reporting(_, since) => since + limits::ANSWER,
            State::Offline if may_send => {
                self.state = State::GoingOnline(self.next_id, now);
                return Ok(Step::Online(self.take_id()));
            }
            State::Online if has_report && may_send => {
                self.state = State::Reporting(self.next_id, now);
                return Ok(Step::Report(self.take_id()));
            }
            State::Online if !has_report => Duration::MAX,
            State::Offline | State::Online => self.not_before,
        };
        let asked = matches!(self.state, State::GoingOnline(..) | State::Reporting(..));
        if asked && now >= deadline {
            return Err(DisconnectReason::Unanswered(limits::ANSWER));
        }
        Ok(Step::Wait(deadline.min(self.keepalive.next())))
    }

    /// An answer came. `chance` spreads what all agents would do at the same time.
    pub fn answered(&mut self, answer: &Answer, chance: f64, now: Duration) -> Verdict {
        self.keepalive.sign_of_life(now);
        let code = Code::of(answer.code);
        // A request that the hub could not even read is answered without its number.
        let unread = answer.id == 0 && code == Code::Malformed;
        match self.state {
            State::GoingOnline(id, _) if answer.id == id || unread => {
                self.went_online(answer, code, chance, now)
            }
            State::Reporting(id, _) if answer.id == id || unread => {
                self.reported(answer, code, chance, now)
            }
            _ => Verdict::Stray,
        }
    }

    /// A pong came.
    pub fn pong(&mut self, now: Duration) {
        self.keepalive.pong(now);
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    fn went_online(&mut self, answer: &Answer, code: Code, chance: f64, now: Duration) -> Verdict {
        self.state = State::Offline;
        match code {
            Code::Done => {
                self.state = State::Online;
                self.online_since = Some(now);
                Verdict::Online
            }
            Code::AlreadyOnline => {
                self.wait(limits::ALREADY_ONLINE, chance, now);
                Verdict::AlreadyOnline(answer.message.clone())
            }
            Code::Malformed | Code::Later | Code::NotOnline => {
                self.wait_longer(chance, now);
                Verdict::Later(answer.message.clone())
            }
        }
    }

    fn reported(&mut self, answer: &Answer, code: Code, chance: f64, now: Duration) -> Verdict {
        self.state = State::Online;
        match code {
            Code::Done => {
                (self.patience, self.disowned) = (limits::LATER.0, false);
                self.not_before = now + limits::REPORT_PAUSE;
                Verdict::Delivered
            }
            Code::Malformed => {
                self.not_before = now + limits::REPORT_PAUSE;
                Verdict::Refused(answer.message.clone())
            }
            Code::Later => {
                self.wait_longer(chance, now);
                Verdict::Later(answer.message.clone())
            }
            Code::AlreadyOnline | Code::NotOnline => {
                self.state = State::Offline;
                self.online_since = None;
                match code {
                    Code::AlreadyOnline => self.wait(limits::ALREADY_ONLINE, chance, now),
                    // It takes the node in and disowns it again: at once would be for ever.
                    _ if self.disowned => self.wait_longer(chance, now),
                    _ => self.wait(limits::REPORT_PAUSE, chance, now),
                }
                self.disowned |= code == Code::NotOnline;
                Verdict::Later(answer.message.clone())
            }
        }
    }

    fn wait(&mut self, time: Duration, chance: f64, now: Duration) {
        self.not_before = now + time.mul_f64(0.5 + 0.5 * chance);
    }

    fn wait_longer(&mut self, chance: f64, now: Duration) {
        self.wait(self.patience, chance, now);
        self.patience = (self.patience * 2).min(limits::LATER.1);
    }
}

impl crate::net::reconnect::Conversation for Conversation {
    fn has_pongs(&self) -> bool {
        self.keepalive.answers()
    }

    fn is_stable(&self, now: Duration) -> bool {
        self.online_since.is_some_and(|since| now >= since + limits::STABLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::reconnect::Conversation as _;

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(100.0 + seconds)
    }

    fn conversation() -> Conversation {
        let every = Duration::from_secs(10);
        Conversation::new(Keepalive::new(every, Duration::from_secs(35), false, s(0.0)), s(0.0))
    }

    fn answer(id: u64, code: u32) -> Answer {
        Answer { id, code, message: format!("code {code}") }
    }

    fn online() -> Conversation {
        let mut conversation = conversation();
        assert_eq!(conversation.next(true, s(0.0)), Ok(Step::Online(1)));
        assert_eq!(conversation.answered(&answer(1, 0), 0.5, s(0.1)), Verdict::Online);
        conversation
    }

    #[test]
    fn online_first_then_one_report_at_a_time() {
        let mut link = conversation();
        assert_eq!(link.next(true, s(0.0)), Ok(Step::Online(1)));
        assert_eq!(link.next(true, s(0.0)), Ok(Step::Wait(s(10.0))), "not before it was accepted");
        assert_eq!(link.answered(&answer(7, 0), 0.5, s(0.1)), Verdict::Stray);
        assert_eq!(link.answered(&answer(1, 0), 0.5, s(0.1)), Verdict::Online);
        assert_eq!(link.next(false, s(0.2)), Ok(Step::Wait(s(10.0))));
        assert_eq!(link.next(true, s(0.2)), Ok(Step::Report(2)));
        assert_eq!(link.next(true, s(0.2)), Ok(Step::Wait(s(10.0))));
        assert_eq!(link.answered(&answer(2, 0), 0.5, s(0.3)), Verdict::Delivered);
        let pause = s(0.3) + limits::REPORT_PAUSE;
        assert_eq!(link.next(true, s(0.3)), Ok(Step::Wait(pause)), "a bounded pace");
        assert_eq!(link.next(true, pause), Ok(Step::Report(3)));
    }

    #[test]
    fn pings_go_out_from_the_moment_of_connecting() {
        let mut link = conversation();
        link.next(false, s(0.0)).unwrap();
        assert_eq!(link.next(false, s(10.0)), Ok(Step::Ping));
        assert_eq!(link.next(false, s(10.0)), Ok(Step::Wait(s(20.0))));
        assert_eq!(link.next(false, s(20.0)), Ok(Step::Ping), "before anything else");
        assert_eq!(link.next(false, s(20.0)), Err(DisconnectReason::Unanswered(limits::ANSWER)));
    }

    #[test]
    fn a_report_unanswered_for_20_s_ends_the_connection() {
        let mut link = online();
        assert_eq!(link.next(true, s(5.0)), Ok(Step::Report(2)));
        link.next(true, s(10.0)).unwrap();
        link.next(true, s(20.0)).unwrap();
        assert!(link.next(true, s(24.9)).is_ok());
        assert_eq!(
            link.next(true, s(25.0)),
            Err(DisconnectReason::Unanswered(Duration::from_secs(20)))
        );
        // A missing pong alone does not.
        let mut idle = online();
        for second in (0..600).map(f64::from) {
            assert!(idle.next(false, s(second)).is_ok());
        }
    }

    #[test]
    fn codes_do_what_they_mean() {
        for (code, verdict) in [
            (0, Verdict::Delivered),
            (1, Verdict::Refused("code 1".into())),
            (2, Verdict::Refused("code 2".into())),
            (3, Verdict::Refused("code 3".into())),
            (4, Verdict::Later("code 4".into())),
            (6, Verdict::Later("code 6".into())),
        ] {
            let mut link = online();
            assert_eq!(link.next(true, s(1.0)), Ok(Step::Report(2)));
            assert_eq!(link.answered(&answer(2, code), 0.0, s(1.0)), verdict);
            let next = link.next(true, s(9.0)).unwrap();
            assert_eq!(next, if code == 6 { Step::Online(3) } else { Step::Report(3) }, "{code}");
        }
    }

    #[test]
    fn what_the_hub_could_not_read_has_no_number() {
        let mut link = online();
        link.next(true, s(1.0)).unwrap();
        let unread = Answer { id: 0, code: 1, message: "parse request failed".into() };
        assert_eq!(
            link.answered(&unread, 0.0, s(1.0)),
            Verdict::Refused("parse request failed".into())
        );
    }

    #[test]
    fn an_old_connection_is_waited_for_and_later_is_ever_later() {
        let mut link = conversation();
        let mut now = s(0.0);
        let mut tries = 0;
        while now < s(60.0) {
            match link.next(false, now).unwrap() {
                Step::Online(id) => {
                    tries += 1;
                    let verdict = link.answered(&answer(id, 5), 1.0, now);
                    assert_eq!(verdict, Verdict::AlreadyOnline("code 5".into()));
                }
                Step::Wait(until) => now = until,
                _ => {}
            }
        }
        assert!((5..=15).contains(&tries), "{tries}");
        let mut link = online();
        let (mut now, mut sent) = (s(1.0), Vec::new());
        while sent.len() < 8 {
            match link.next(true, now).unwrap() {
                Step::Report(id) => {
                    sent.push(now);
                    link.answered(&answer(id, 4), 1.0, now);
                }
                Step::Wait(until) => now = until,
                _ => {}
            }
        }
        let waits: Vec<u64> = sent.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
        assert_eq!(waits, [3, 6, 12, 24, 48, 60, 60]);
    }

    #[test]
    fn a_hub_that_takes_a_node_in_and_disowns_it_is_asked_ever_later() {
        let mut link = online();
        let (mut now, mut onlines) = (s(1.0), Vec::new());
        while onlines.len() < 8 {
            match link.next(true, now).unwrap() {
                Step::Online(id) => {
                    onlines.push(now);
                    assert_eq!(link.answered(&answer(id, 0), 1.0, now), Verdict::Online);
                }
                Step::Report(id) => drop(link.answered(&answer(id, 6), 1.0, now)),
                Step::Wait(until) => now = until,
                Step::Ping => {}
            }
        }
        let waits: Vec<u64> =
            onlines.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
        assert_eq!(onlines[0], s(1.0) + limits::REPORT_PAUSE, "once at once");
        assert_eq!(waits, [3, 6, 12, 24, 48, 60, 60]);
    }

    #[test]
    fn a_link_is_stable_after_two_minutes_of_answers() {
        let mut link = online();
        assert!(!link.is_stable(s(60.0)));
        assert!(link.is_stable(s(121.0)));
        link.next(true, s(1.0)).unwrap();
        link.answered(&answer(2, 6), 0.0, s(122.0));
        assert!(!link.is_stable(s(123.0)), "it is not online any more");
    }
}
