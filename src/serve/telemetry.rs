//! The telemetry port: from an accepted connection to the service it asks for.

use log::Level;

use super::client_address;
use super::http::{self, Head, HeadError, Refusal};
use super::listener::{Guest, too_many_of};
use super::pages;
use super::usage;
use super::websocket;
use crate::config::{Secret, Usage};
use crate::error::reason;
use crate::logger::PeerLog;
use crate::parse::quote;
use crate::stream::Stream;

/// What every connection of this port shares.
pub struct Telemetry<'a> {
    /// What subscribers see.
    pub usage: usage::Source<'a>,
    /// Bounds what peers can write into the log.
    pub log: PeerLog,
}

impl Telemetry<'_> {
    /// Serves one connection to its end.
    pub fn serve(&self, mut stream: Stream<'_>, mut guest: Guest<'_>) {
        let peer = guest.peer;
        let bytes = match http::read_head(&mut stream) {
            Ok(bytes) => bytes,
            Err(error) => return self.refuse_head(stream, &guest, &error),
        };
        let mut lines = Head::lines();
        let Ok(Some((head, length))) = Head::parse(&bytes, &mut lines) else { return };
        let config = self.usage.settings.get();
        if head.path == "/" && ["GET", "HEAD"].contains(&head.method) {
            return pages::send(stream, head.method);
        }
        match admit(&head, &mut guest, &config.usage) {
            Ok(key) => {
                let early = bytes[length..].to_vec();
                let socket = websocket::accept(stream, key, early);
                // The head is done with; a subscriber stays for days.
                drop((bytes, config));
                match socket {
                    Ok(socket) => {
                        log::debug!("usage: {peer} connected");
                        let end = self.usage.converse(socket);
                        self.log.write(end.level(), || format!("usage: {peer} {end}"));
                    }
                    Err(error) => log::debug!("usage: {peer} left: {}", reason(&error)),
                }
            }
            Err(refusal) => self.refuse(stream, &guest, &refusal, head.method),
        }
    }

    fn refuse_head(&self, stream: Stream<'_>, guest: &Guest<'_>, error: &HeadError) {
        match Refusal::of(error) {
            Some(refusal) => self.refuse(stream, guest, &refusal, "GET"),
            None => log::debug!("usage: {} left before it asked for anything", guest.peer),
        }
    }

    fn refuse(&self, stream: Stream<'_>, guest: &Guest<'_>, refusal: &Refusal, method: &str) {
        let peer = guest.peer;
        self.log.write(Level::Info, || {
            format!("usage: {peer} refused: {}: {}", refusal.status, refusal.text)
        });
        refusal.send(stream, method);
    }
}

/// Checks a request; what comes back is the key of its upgrade.
fn admit<'a>(head: &Head<'a>, guest: &mut Guest<'_>, config: &Usage) -> Result<&'a str, Refusal> {
    let peer = guest.peer.ip();
    if config.trusted_proxies.contains(&peer) {
        let client = client_address::of(head, peer, &config.trusted_proxies);
        if !guest.permit.claim(client, config.max_connections_per_ip) {
            return Err(Refusal::busy(too_many_of(client, config.max_connections_per_ip)));
        }
    }
    if head.path != "/usage" {
        let text =
            format!("there is no {} here; telemetry is at /usage", quote(head.path.as_bytes()));
        return Err(Refusal::new("404 Not Found", text));
    }
    if let Some(token) = &config.token
        && !has_token(head, token)
    {
        let text = "a token is needed: \"Authorization: Bearer TOKEN\", or /usage?token=TOKEN";
        return Err(Refusal::new("401 Unauthorized", text).header("WWW-Authenticate: Bearer"));
    }
    if !websocket::origin_allowed(head, &config.allowed_origins) {
        let text = "pages of this origin may not connect; see usage.allowed_origins";
        return Err(Refusal::new("403 Forbidden", text));
    }
    websocket::upgrade_key(head)
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
