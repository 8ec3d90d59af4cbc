//! Sessions of operators that have logged in on the page. The browser keeps a random id in a cookie that scripts cannot read; the hub
//! keeps the operator's token, which is checked anew with each request. A restart ends all sessions.

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::config::{Secret, sha256};
use crate::http::request::RequestHead;
use crate::util::random;
use crate::util::sync::lock;

/// A session without a request for this long ends.
const MAX_IDLE: Duration = Duration::from_secs(12 * 3600);
/// At a limit, the session that was idle longest is evicted.
const MAX_SESSIONS: usize = 1000;
const MAX_SESSIONS_PER_TOKEN: usize = 20;
const COOKIE: &str = "hm_hub_session";

struct Session {
    token: Secret,
    last_used: Instant,
}

#[derive(Default)]
pub struct Sessions {
    /// By the SHA-256 of the id: a lookup takes a time that reveals nothing about an id.
    by_id: Mutex<HashMap<[u8; 32], Session>>,
}

/// The id of the session that the browser has sent.
pub fn session_id<'a>(head: &RequestHead<'a>) -> Option<&'a str> {
    let cookies = head.header_values("cookie").flat_map(|value| value.split(';'));
    cookies
        .filter_map(|cookie| cookie.trim().split_once('='))
        .find_map(|(name, id)| (name == COOKIE).then_some(id))
}

/// `Set-Cookie` for a new session; without an id, for one that has ended. `is_secure` is whether the browser uses HTTPS.
pub fn set_cookie(id: Option<&str>, is_secure: bool) -> String {
    // Without an age, the browser forgets it when it is closed.
    let (id, age) = id.map_or(("", "; Max-Age=0"), |id| (id, ""));
    let secure = if is_secure { "; Secure" } else { "" };
    format!("Set-Cookie: {COOKIE}={id}; Path=/{age}; HttpOnly; SameSite=Strict{secure}")
}

impl Sessions {
    /// Starts a session and returns its id. Fails if the system has no random numbers.
    pub fn start(&self, token: &str) -> io::Result<String> {
        let (id, now) = (random::token()?, Instant::now());
        let mut sessions = lock(&self.by_id);
        sessions.retain(|_, session| now.duration_since(session.last_used) < MAX_IDLE);
        let of_operator = |session: &Session| session.token.matches(token.as_bytes());
        evict(&mut sessions, MAX_SESSIONS_PER_TOKEN, of_operator);
        evict(&mut sessions, MAX_SESSIONS, |_| true);
        let session = Session { token: Secret::new(token.to_owned()), last_used: now };
        sessions.insert(sha256(id.as_bytes()), session);
        Ok(id)
    }

    /// The token with which the session was started.
    pub fn use_session(&self, id: &str) -> Option<String> {
        let now = Instant::now();
        let mut sessions = lock(&self.by_id);
        let session = sessions.get_mut(&sha256(id.as_bytes()))?;
        if now.duration_since(session.last_used) >= MAX_IDLE {
            return None;
        }
        session.last_used = now;
        Some(session.token.expose().to_owned())
    }

    pub fn end(&self, id: &str) {
        lock(&self.by_id).remove(&sha256(id.as_bytes()));
    }
}

/// At the limit, evicts the session that was idle longest of those that `is_counted`.
fn evict(
    sessions: &mut HashMap<[u8; 32], Session>,
    max: usize,
    is_counted: impl Fn(&Session) -> bool,
) {
    let counted = || sessions.iter().filter(|(_, session)| is_counted(session));
    if counted().count() >= max
        && let Some(idlest) = counted().min_by_key(|(_, it)| it.last_used).map(|(id, _)| *id)
    {
        sessions.remove(&idlest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logout_ends_session_and_limit_evicts_the_idlest() {
        let sessions = Sessions::default();
        let first = sessions.start("t1").unwrap();
        let second = sessions.start("t2").unwrap();
        assert_eq!(sessions.use_session(&first).as_deref(), Some("t1"));
        assert_eq!(sessions.use_session("other"), None);
        sessions.end(&second);
        assert_eq!(sessions.use_session(&second), None);
        for _ in 0..MAX_SESSIONS_PER_TOKEN {
            sessions.start("t").unwrap();
        }
        assert!(sessions.use_session(&first).is_some(), "of another operator");
        for _ in 0..MAX_SESSIONS_PER_TOKEN {
            sessions.start("t1").unwrap();
        }
        assert_eq!(sessions.use_session(&first), None);
    }

    #[test]
    fn finds_its_cookie_among_others() {
        let text = b"GET / HTTP/1.1\r\nHost: h\r\nCookie: a=b; hm_hub_session=x=y ;c\r\n\r\n";
        let mut slots = RequestHead::header_slots();
        let (head, _) = RequestHead::parse(text, &mut slots).unwrap().unwrap();
        assert_eq!(session_id(&head), Some("x=y"));
        let plain = set_cookie(Some("id"), false);
        assert!(
            plain.contains("hm_hub_session=id; ") && plain.contains("HttpOnly; SameSite=Strict")
        );
        assert!(!plain.contains("Secure") && set_cookie(None, true).ends_with("; Secure"));
    }
}
