//! Pings at a fixed interval, and detection of a peer that stops answering them.

use std::time::Duration;

use crate::net::disconnect::DisconnectReason;

/// A state machine; `now` is a parameter. A server that never sent a pong may not implement pongs, so a missing pong
/// counts only after the first one.
#[derive(Debug)]
pub struct Keepalive {
    interval: Duration,
    timeout: Duration,
    next_ping: Duration,
    peer_sends_pongs: bool,
    last_activity: Duration,
}

impl Keepalive {
    /// Starts when the connection is established. `peer_sends_pongs`: known from an earlier connection.
    pub fn new(
        interval: Duration,
        timeout: Duration,
        peer_sends_pongs: bool,
        now: Duration,
    ) -> Self {
        Self { interval, timeout, next_ping: now + interval, peer_sends_pongs, last_activity: now }
    }

    /// When [`Keepalive::poll`] must be called next.
    pub fn next_poll(&self) -> Duration {
        match self.peer_sends_pongs {
            true => self.next_ping.min(self.last_activity + self.timeout),
            false => self.next_ping,
        }
    }

    /// Whether to send a ping now; an error when the peer timed out.
    pub fn poll(&mut self, now: Duration) -> Result<bool, DisconnectReason> {
        if self.peer_sends_pongs && now >= self.last_activity + self.timeout {
            return Err(DisconnectReason::NoPong(self.timeout));
        }
        let due = now >= self.next_ping;
        if due {
            // Pings missed while the process was stopped are skipped, not sent in a burst.
            self.next_ping = now + self.interval;
        }
        Ok(due)
    }

    pub fn on_pong(&mut self, now: Duration) {
        (self.peer_sends_pongs, self.last_activity) = (true, now);
    }

    /// Any message proves that the peer is alive.
    pub fn on_activity(&mut self, now: Duration) {
        self.last_activity = self.last_activity.max(now);
    }

    pub fn peer_sends_pongs(&self) -> bool {
        self.peer_sends_pongs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn no_timeout_while_peer_never_sent_a_pong() {
        let mut keepalive = Keepalive::new(s(10.0), s(35.0), false, s(0.0));
        let mut pings = 0;
        for second in 0..1000 {
            pings += u32::from(keepalive.poll(s(f64::from(second))).unwrap());
        }
        assert_eq!(pings, 99);
    }

    #[test]
    fn times_out_when_pongs_stop() {
        let mut keepalive = Keepalive::new(s(10.0), s(35.0), false, s(0.0));
        assert!(keepalive.poll(s(10.0)).unwrap());
        keepalive.on_pong(s(10.1));
        assert!(keepalive.poll(s(20.0)).unwrap());
        keepalive.on_activity(s(30.0));
        assert_eq!(keepalive.next_poll(), s(30.0));
        assert!(keepalive.poll(s(64.9)).is_ok());
        assert_eq!(keepalive.poll(s(65.0)), Err(DisconnectReason::NoPong(s(35.0))));
        assert!(keepalive.peer_sends_pongs());
        let mut again = Keepalive::new(s(10.0), s(35.0), true, s(100.0));
        let timeout = Err(DisconnectReason::NoPong(s(35.0)));
        assert_eq!(again.poll(s(135.0)), timeout, "known from the earlier connection");
    }

    #[test]
    fn sends_one_ping_after_a_long_pause() {
        let mut keepalive = Keepalive::new(s(10.0), s(35.0), false, s(0.0));
        assert!(keepalive.poll(s(3600.0)).unwrap());
        assert!(!keepalive.poll(s(3600.0)).unwrap());
        assert_eq!(keepalive.next_poll(), s(3610.0));
    }
}
