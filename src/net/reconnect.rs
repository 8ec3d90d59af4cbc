//! A link to a server somewhere else that never gives up: when to try again, when to ping, when to take the
//! other end for dead. Pure state machines: `now` and chance are parameters.

use std::time::Duration;

/// Waits between two tries: `rand(0, min(cap, base·2ⁿ))`, so that a thousand agents whose server was
/// restarted do not come back all at once.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    tries: u32,
}

impl Backoff {
    /// The first wait is at most `base`, none is longer than `cap`.
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, tries: 0 }
    }

    /// The next wait; `chance` is from 0 to 1. It is never shorter than `floor`, which is itself spread by a
    /// fifth: servers tell all their clients the same.
    pub fn next(&mut self, chance: f64, floor: Duration) -> Duration {
        let doubled = self.base.saturating_mul(1u32.checked_shl(self.tries).unwrap_or(u32::MAX));
        self.tries = self.tries.saturating_add(1);
        let most = doubled.min(self.cap);
        let spread = floor.mul_f64(0.2 * chance);
        most.mul_f64(chance).max(floor.saturating_add(spread))
    }

    /// The other end has proved itself: the next wait is a first one.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

/// Why there is no link, or none any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DisconnectReason {
    /// The host's name has no address.
    Dns(String),
    /// Nobody listens, or a network says no.
    Unreachable(String),
    /// Connecting, TLS or the upgrade took too long.
    Timeout(&'static str),
    /// The certificate is not good, or the other end speaks no TLS.
    Tls(String),
    /// The proxy refuses.
    Proxy(String),
    /// The other end answers HTTP, and not with a WebSocket; with what it says about coming back.
    Http(u16, Option<Duration>, String),
    /// It closed the connection in good order.
    Closed(String),
    /// The connection broke.
    Lost(String),
    /// A message was not answered in time.
    Unanswered(Duration),
    /// Pings are not answered any more, and were before.
    NoPong(Duration),
    /// It does not speak the protocol.
    Protocol(String),
    /// It does not want this node.
    Refused(String),
}

impl DisconnectReason {
    /// How long to wait at least: what will not mend itself soon is not asked for all the time.
    pub fn floor(&self) -> Duration {
        match self {
            Self::Http(_, Some(retry_after), _) => (*retry_after).min(LONGEST_RETRY_AFTER),
            Self::Http(200..500, None, _) | Self::Tls(_) | Self::Protocol(_) | Self::Refused(_) => {
                Duration::from_secs(30)
            }
            Self::Http(..) | Self::Dns(_) | Self::Proxy(_) => Duration::from_secs(5),
            _ => Duration::ZERO,
        }
    }

    /// Which of the few kinds it is, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Dns(_) => "dns",
            Self::Unreachable(_) => "unreachable",
            Self::Timeout(_) => "timeout",
            Self::Tls(_) => "tls",
            Self::Proxy(_) => "proxy",
            Self::Http(..) => "http",
            Self::Closed(_) => "closed",
            Self::Lost(_) => "lost",
            Self::Unanswered(_) => "unanswered",
            Self::NoPong(_) => "no_pong",
            Self::Protocol(_) => "protocol",
            Self::Refused(_) => "refused",
        }
    }

    /// Whether two are the same trouble, which the log need not name again.
    pub fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Http(one, ..), Self::Http(two, ..)) => one == two,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

/// A server that says "tomorrow" is asked within the hour all the same: it may have meant somebody else.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

impl std::fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dns(why) => write!(f, "its name has no address: {why}"),
            Self::Unreachable(why) => write!(f, "cannot be reached: {why}"),
            Self::Timeout(what) => write!(f, "{what} took too long"),
            Self::Tls(why) => write!(f, "TLS: {why}"),
            Self::Proxy(why) => write!(f, "the proxy: {why}"),
            Self::Http(status, _, text) => write!(f, "answers {status}: {text}"),
            Self::Closed(why) => write!(f, "closed the connection{why}"),
            Self::Lost(why) => write!(f, "the connection broke: {why}"),
            Self::Unanswered(time) => write!(f, "no answer within {} s", time.as_secs()),
            Self::NoPong(time) => {
                write!(f, "no pong for {} s, and there were some", time.as_secs())
            }
            Self::Protocol(why) => write!(f, "does not speak the protocol: {why}"),
            Self::Refused(why) => write!(f, "refuses this node: {why}"),
        }
    }
}

/// Pings at a steady pace, and what their answers prove. A server that never answered one may not know how;
/// one that did and stops is gone.
#[derive(Debug)]
pub struct Keepalive {
    every: Duration,
    patience: Duration,
    next: Duration,
    answers: bool,
    heard: Duration,
}

impl Keepalive {
    /// From the moment of connecting on. `answers`: this server is known to send pongs.
    pub fn new(every: Duration, patience: Duration, answers: bool, now: Duration) -> Self {
        Self { every, patience, next: now + every, answers, heard: now }
    }

    /// When [`Keepalive::due`] has something to say next.
    pub fn next(&self) -> Duration {
        if self.answers { self.next.min(self.heard + self.patience) } else { self.next }
    }

    /// A ping to send now, or none; an error when the other end is gone.
    pub fn due(&mut self, now: Duration) -> Result<bool, DisconnectReason> {
        if self.answers && now >= self.heard + self.patience {
            return Err(DisconnectReason::NoPong(self.patience));
        }
        let due = now >= self.next;
        if due {
            // Pings that were slept through are not made up for.
            self.next = now + self.every;
        }
        Ok(due)
    }

    /// A pong came.
    pub fn pong(&mut self, now: Duration) {
        (self.answers, self.heard) = (true, now);
    }

    /// Any other sign of life came.
    pub fn sign_of_life(&mut self, now: Duration) {
        self.heard = self.heard.max(now);
    }

    /// Whether this server sends pongs.
    pub fn answers(&self) -> bool {
        self.answers
    }
}

/// One connection's talk, as whoever keeps the link must know it.
pub trait Conversation {
    /// Whether this server sends pongs.
    fn has_pongs(&self) -> bool;
    /// Whether what was asked has been answered for so long that the next outage is a new one.
    fn is_stable(&self, now: Duration) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn waits_double_up_to_the_cap_and_are_spread_over_all_of_it() {
        let mut backoff = Backoff::new(s(3.0), s(60.0));
        let longest: Vec<f64> =
            (0..8).map(|_| backoff.next(1.0, Duration::ZERO).as_secs_f64()).collect();
        assert_eq!(longest, [3.0, 6.0, 12.0, 24.0, 48.0, 60.0, 60.0, 60.0]);
        assert_eq!(backoff.next(0.0, Duration::ZERO), Duration::ZERO);
        assert_eq!(backoff.next(0.5, Duration::ZERO), s(30.0));
        backoff.reset();
        assert_eq!(backoff.next(1.0, Duration::ZERO), s(3.0));
        for _ in 0..100 {
            assert!(backoff.next(1.0, Duration::ZERO) <= s(60.0), "however often");
        }
    }

    #[test]
    fn a_floor_is_a_floor_and_spread_too() {
        let mut backoff = Backoff::new(s(3.0), s(60.0));
        assert_eq!(backoff.next(0.0, s(100.0)), s(100.0));
        assert_eq!(backoff.next(1.0, s(100.0)), s(120.0));
        let later = DisconnectReason::Http(503, Some(s(1e6)), String::new());
        assert_eq!(later.floor(), s(3600.0));
        assert_eq!(DisconnectReason::Lost(String::new()).floor(), Duration::ZERO);
        assert!(
            DisconnectReason::Tls(String::new()).floor()
                > DisconnectReason::Dns(String::new()).floor()
        );
    }

    #[test]
    fn a_server_that_never_answered_a_ping_is_not_asked_to() {
        let mut keepalive = Keepalive::new(s(10.0), s(35.0), false, s(0.0));
        let mut pings = 0;
        for second in 0..1000 {
            pings += u32::from(keepalive.due(s(f64::from(second))).unwrap());
        }
        assert_eq!(pings, 99);
    }

    #[test]
    fn one_that_did_and_stops_is_gone() {
        let mut keepalive = Keepalive::new(s(10.0), s(35.0), false, s(0.0));
        assert!(keepalive.due(s(10.0)).unwrap());
        keepalive.pong(s(10.1));
        assert!(keepalive.due(s(20.0)).unwrap());
        keepalive.sign_of_life(s(30.0));
        assert_eq!(keepalive.next(), s(30.0));
        assert!(keepalive.due(s(64.9)).is_ok());
        assert_eq!(keepalive.due(s(65.0)), Err(DisconnectReason::NoPong(s(35.0))));
        assert!(keepalive.answers());
        let mut again = Keepalive::new(s(10.0), s(35.0), true, s(100.0));
        assert_eq!(
            again.due(s(135.0)),
            Err(DisconnectReason::NoPong(s(35.0))),
            "it is known from before"
        );
    }

    #[test]
    fn who_was_asleep_sends_one_ping() {
        let mut keepalive = Keepalive::new(s(10.0), s(35.0), false, s(0.0));
        assert!(keepalive.due(s(3600.0)).unwrap());
        assert!(!keepalive.due(s(3600.0)).unwrap());
        assert_eq!(keepalive.next(), s(3610.0));
    }

    #[test]
    fn the_same_trouble_is_the_same_in_other_words() {
        let http = |status| DisconnectReason::Http(status, None, format!("{status}"));
        assert!(http(502).is_like(&http(502)) && !http(502).is_like(&http(401)));
        let lost = |why: &str| DisconnectReason::Lost(why.into());
        assert!(
            lost("a").is_like(&lost("b")) && !lost("a").is_like(&DisconnectReason::Timeout("a"))
        );
    }
}
