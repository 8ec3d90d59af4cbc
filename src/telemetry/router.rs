//! The telemetry port: from an accepted connection to what it asks for.

use log::Level;

use crate::config::{Secret, Usage};
use crate::http::connection::{End, RequestReader};
use crate::http::csrf;
use crate::http::forwarded;
use crate::http::listener::{ClientConnection, too_many_of};
use crate::http::message::{ErrorResponse, Head, missing};
use crate::http::websocket;
use crate::limits;
use crate::telemetry::responses::{Answer, Document, Responses};
use crate::telemetry::subscription;
use crate::util::deadline_stream::DeadlineStream;
use crate::util::error::reason;
use crate::util::logger::RateLimitedLog;

/// What every connection of this port shares.
pub struct Telemetry<'a> {
    /// What subscribers see.
    pub usage: subscription::Source<'a>,
    /// What is answered to plain requests.
    pub documents: Responses<'a>,
    /// Bounds what peers can write into the log.
    pub log: RateLimitedLog,
}

/// What a request gets, unless it is refused.
enum Found<'a> {
    /// A WebSocket, with this key.
    Upgrade(String),
    /// This, and the connection may go on.
    Answer(Answer<'a>),
}

/// How a request left the connection.
enum Step {
    /// There may be another one.
    Again,
    /// It is a WebSocket with this key from now on; this came behind the request.
    Upgrade(String, Vec<u8>),
    /// It ends with this answer; `HEAD` gets no body.
    Refuse(ErrorResponse, &'static str),
}

impl Telemetry<'_> {
    /// Serves one connection to its end.
    pub fn serve(&self, mut stream: DeadlineStream<'_>, mut guest: ClientConnection<'_>) {
        let mut unread = RequestReader::begun();
        loop {
            match self.step(&mut stream, &mut unread, &mut guest) {
                Ok(Step::Again) => {}
                Ok(Step::Upgrade(key, early)) => {
                    // What was read of requests is done with; a subscriber stays for days.
                    drop(unread);
                    return self.converse(stream, &guest, &key, early);
                }
                Ok(Step::Refuse(refusal, method)) => {
                    return self.refuse(stream, &guest, &refusal, method);
                }
                Err(_) if guest.permit.was_evicted() => {
                    return log::debug!("usage: {} gave way", guest.peer);
                }
                Err(End::Refused(refusal)) => return self.refuse(stream, &guest, &refusal, "GET"),
                Err(End::Over) => return log::debug!("usage: {} left", guest.peer),
                Err(End::Broken(error)) => {
                    let reason = reason(&error);
                    return log::debug!("usage: {} lost: {reason}", guest.peer);
                }
            }
        }
    }

    // None of these is part of another: of the stack, what one of them needs is touched for as long as the thread lives.
    #[inline(never)]
    fn step(
        &self,
        stream: &mut DeadlineStream<'_>,
        unread: &mut RequestReader,
        guest: &mut ClientConnection<'_>,
    ) -> Result<Step, End> {
        let mut method = "GET";
        let (request, found) = unread.next(stream, |head| {
            method = if head.method == "HEAD" { "HEAD" } else { "GET" };
            self.find(head, guest)
        })?;
        guest.permit.mark_active();
        match found {
            Ok(Found::Answer(mut answer)) => {
                guest.counters.answered(answer.status());
                unread.answer(stream, &request, answer.parts(&request))?;
                guest.permit.mark_idle();
                Ok(Step::Again)
            }
            Ok(Found::Upgrade(key)) => Ok(Step::Upgrade(key, unread.rest(request.length))),
            Err(refusal) => Ok(Step::Refuse(refusal, method)),
        }
    }

    /// What a request gets.
    #[inline(never)]
    fn find(
        &self,
        head: &Head<'_>,
        guest: &mut ClientConnection<'_>,
    ) -> Result<Found<'_>, ErrorResponse> {
        let config = self.documents.settings.get();
        claim(head, guest, &config.usage)?;
        let document = Document::at(head.path);
        let Some(document) = document else {
            if head.path != "/usage" {
                return Err(not_found(head.path));
            }
            check_token(head, config.usage.token.as_ref())?;
            if !websocket::origin_allowed(head, &config.usage.allowed_origins) {
                let text = "pages of this origin may not connect; see usage.allowed_origins";
                return Err(ErrorResponse::new("403 Forbidden", text));
            }
            let key = websocket::upgrade_key(head)?.to_owned();
            self.documents.wait_until_complete();
            return Ok(Found::Upgrade(key));
        };
        if !["GET", "HEAD"].contains(&head.method) {
            let text = "there are GET and HEAD here";
            return Err(
                ErrorResponse::new("405 Method Not Allowed", text).header("Allow: GET, HEAD")
            );
        }
        if !document.is_open() {
            check_token(head, config.usage.token.as_ref())?;
            // Who has the token is not asked for anything else.
            if config.usage.token.is_none() {
                csrf::check(head, &config.usage.allowed_origins)?;
            }
            self.documents.wait_until_complete();
        }
        self.documents.answer(document, head).map(Found::Answer)
    }

    #[inline(never)]
    fn converse(
        &self,
        stream: DeadlineStream<'_>,
        guest: &ClientConnection<'_>,
        key: &str,
        early: Vec<u8>,
    ) {
        let peer = guest.peer;
        match websocket::accept(stream, key, early, limits::CLIENT_MESSAGE_BYTES) {
            Ok(socket) => {
                log::debug!("usage: {peer} connected");
                let end = self.usage.converse(socket);
                if let subscription::End::Closed(..) = end {
                    guest.counters.closed();
                }
                self.log.write(end.level(), || format!("usage: {peer} {end}"));
            }
            Err(error) => log::debug!("usage: {peer} left: {}", reason(&error)),
        }
    }

    #[inline(never)]
    fn refuse(
        &self,
        stream: DeadlineStream<'_>,
        guest: &ClientConnection<'_>,
        refusal: &ErrorResponse,
        method: &str,
    ) {
        let peer = guest.peer;
        guest.counters.answered(refusal.status);
        self.log.write(Level::Info, || {
            format!("usage: {peer} refused: {}: {}", refusal.status, refusal.text)
        });
        refusal.send(stream, method);
    }
}

/// A trusted proxy speaks for others: each request says for whom.
fn claim(
    head: &Head<'_>,
    guest: &mut ClientConnection<'_>,
    config: &Usage,
) -> Result<(), ErrorResponse> {
    let (peer, most) = (guest.peer.ip(), config.max_connections_per_ip);
    if config.trusted_proxies.contains(&peer) {
        let client = forwarded::of(head, peer, &config.trusted_proxies);
        if !guest.permit.assign_ip(client, most) {
            return Err(ErrorResponse::busy(too_many_of(client, most)));
        }
    }
    Ok(())
}

fn not_found(path: &str) -> ErrorResponse {
    let missing = missing(path);
    let text = format!("{missing}; telemetry is at /, /usage, /metrics and /snapshot");
    ErrorResponse::new("404 Not Found", text)
}

/// Refuses who does not know the token, if there is one.
pub fn check_token(head: &Head<'_>, token: Option<&Secret>) -> Result<(), ErrorResponse> {
    let Some(token) = token else { return Ok(()) };
    if has_token(head, token) {
        return Ok(());
    }
    let path = head.path;
    let text = format!("a token is needed: \"Authorization: Bearer TOKEN\", or {path}?token=TOKEN");
    Err(ErrorResponse::new("401 Unauthorized", text).header("WWW-Authenticate: Bearer"))
}

fn has_token(head: &Head<'_>, token: &Secret) -> bool {
    let bearer = head.one("authorization").and_then(|value| {
        let (scheme, credentials) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| credentials.trim())
    });
    let in_header = bearer.is_some_and(|bearer| token.matches(bearer.as_bytes()));
    let in_query = head.query_value("token").is_some_and(|candidate| token.matches(&candidate));
    in_header || in_query
}
