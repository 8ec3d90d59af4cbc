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
/// With more, the one that was idle longest ends.
const MAX_SESSIONS: usize = 1000;
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
pub fn cookie<'a>(head: &RequestHead<'a>) -> Option<&'a str> {
    let cookies = head.header_values("cookie").flat_map(|value| value.split(';'));
    cookies
        .filter_map(|cookie| cookie.trim().split_once('='))
        .find_map(|(name, id)| (name == COOKIE).then_some(id))
}

/// `Set-Cookie` for a new session; without an id, for one that has ended. `is_secure` is whether the browser uses HTTPS.
pub fn set_cookie(id: Option<&str>, is_secure: bool) -> String {
    let (id, age) = id.map_or(("", 0), |id| (id, MAX_IDLE.as_secs()));
    let secure = if is_secure { "; Secure" } else { "" };
    format!("Set-Cookie: {COOKIE}={id}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}")
}

impl Sessions {
    /// Starts a session and returns its id. Fails if the system has no random numbers.
    pub fn start(&self, token: &str) -> io::Result<String> {
        let (id, now) = (random::token()?, Instant::now());
        let mut sessions = lock(&self.by_id);
        sessions.retain(|_, session| now.duration_since(session.last_used) < MAX_IDLE);
        if sessions.len() >= MAX_SESSIONS
            && let Some(oldest) = sessions.iter().min_by_key(|(_, it)| it.last_used)
        {
            let oldest = *oldest.0;
            sessions.remove(&oldest);
        }
        let session = Session { token: Secret::new(token.to_owned()), last_used: now };
        sessions.insert(sha256(id.as_bytes()), session);
        Ok(id)
    }

    /// The token with which the session was started.
    pub fn token(&self, id: &str) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_ends_with_logout_and_the_oldest_gives_room() {
        let sessions = Sessions::default();
        let first = sessions.start("t1").unwrap();
        let second = sessions.start("t2").unwrap();
        assert_eq!(sessions.token(&first).as_deref(), Some("t1"));
        assert_eq!(sessions.token("other"), None);
        sessions.end(&second);
        assert_eq!(sessions.token(&second), None);
        for _ in 0..MAX_SESSIONS {
            sessions.start("t").unwrap();
        }
        assert_eq!(sessions.token(&first), None);
    }

    #[test]
    fn finds_its_cookie_among_others() {
        let text = b"GET / HTTP/1.1\r\nHost: h\r\nCookie: a=b; hm_hub_session=x=y ;c\r\n\r\n";
        let mut slots = RequestHead::header_slots();
        let (head, _) = RequestHead::parse(text, &mut slots).unwrap().unwrap();
        assert_eq!(cookie(&head), Some("x=y"));
        let plain = set_cookie(Some("id"), false);
        assert!(
            plain.contains("hm_hub_session=id; ") && plain.contains("HttpOnly; SameSite=Strict")
        );
        assert!(!plain.contains("Secure") && set_cookie(None, true).ends_with("; Secure"));
    }
}
