//! The heartbeat port: short HTTP requests, many on one connection, none of which waits for anything.
//!
//! Runs in the connection's thread. Pages of any origin may beat and ask; maintenance is not theirs to declare.

use std::time::Duration;

use log::Level;

use super::browsers;
use super::exchange::{End, Unread};
use super::http::Head;
use super::listener::Guest;
use crate::config::Current;
use crate::error::reason;
use crate::limits;
use crate::logger::PeerLog;
use crate::proto::heartbeat::{self, Request, Unit};
use crate::stream::Stream;
use crate::watch::Watch;
use crate::watchdog::Watchdog;

/// What every connection of this port shares.
pub struct Heartbeat<'a> {
    /// The table.
    pub watchdog: &'a Watchdog,
    /// The settings in force.
    pub settings: &'a Current,
    /// Bounds what peers can write into the log.
    pub log: PeerLog,
}

/// What is answered to one request.
struct Answer {
    status: &'static str,
    headers: &'static str,
    body: String,
}

const OK: &str = "200 OK";
/// For a browser that asks beforehand whether a page may ask; from a public page to this machine, it asks
/// for more (Private Network Access).
const MAY: &str = "Access-Control-Allow-Methods: GET, POST, HEAD, OPTIONS\r\nAccess-Control-Allow-Headers: *\r\nAccess-Control-Allow-Private-Network: true\r\nAccess-Control-Max-Age: 86400\r\n";
const ALLOW: &str = "Allow: GET, POST, HEAD, OPTIONS\r\n";

impl Heartbeat<'_> {
    /// Serves one connection to its end.
    pub fn serve(&self, mut stream: Stream<'_>, guest: &Guest<'_>) {
        let mut unread = Unread::default();
        let end = loop {
            if let Err(end) = self.answer_one(&mut stream, &mut unread, guest) {
                break end;
            }
        };
        match end {
            End::Over => {}
            _ if guest.permit.gave_way() => log::debug!("heartbeat: {} gave way", guest.peer),
            End::Broken(error) => log::debug!("heartbeat: {} lost: {}", guest.peer, reason(&error)),
            End::Refused(refusal) => {
                guest.counters.answered(refusal.status);
                self.log.write(Level::Info, || {
                    format!(
                        "heartbeat: {} refused: {}: {}",
                        guest.peer, refusal.status, refusal.text
                    )
                });
                refusal.header("Access-Control-Allow-Origin: *").send(stream, "GET");
            }
        }
    }

    fn answer_one(
        &self,
        stream: &mut Stream<'_>,
        unread: &mut Unread,
        guest: &Guest<'_>,
    ) -> Result<(), End> {
        let (request, answer) = unread.next(stream, |head| self.answer(head, guest))?;
        guest.permit.works();
        guest.counters.answered(answer.status);
        let answer = answer.to_bytes(request.keep, request.head_only);
        unread.answer(stream, &request, [&answer, &[]])?;
        guest.permit.rests();
        Ok(())
    }

    fn answer(&self, head: &Head<'_>, guest: &Guest<'_>) -> Answer {
        match head.method {
            "GET" | "POST" | "HEAD" => {}
            "OPTIONS" => {
                return Answer { status: OK, headers: MAY, body: String::new() };
            }
            _ => {
                let body = "there are GET, POST, HEAD and OPTIONS here".to_owned();
                return Answer { status: "405 Method Not Allowed", headers: ALLOW, body };
            }
        }
        let unit = self.settings.get().heartbeat.unit;
        let answered = Request::parse(head.path, head.query, unit)
            .map_err(|text| ("400 Bad Request", text))
            .and_then(|request| self.obey(request, head, unit));
        match answered {
            Ok(body) => Answer { status: OK, headers: "", body },
            Err((status, body)) => {
                self.log.write(Level::Info, || {
                    format!("heartbeat: {} refused: {status}: {body}", guest.peer)
                });
                Answer { status, headers: "", body }
            }
        }
    }

    fn obey(
        &self,
        request: Request,
        head: &Head<'_>,
        unit: Unit,
    ) -> Result<String, (&'static str, String)> {
        let full = |what: &str| {
            let most = limits::HEARTBEAT_APPS;
            (
                "503 Service Unavailable",
                format!("there are {most} {what} already, the most that may be"),
            )
        };
        match request {
            Request::Beat(id, promised, unit) => self
                .watchdog
                .with(|watch, now| watch.beat(&id, promised, now))
                .map(|granted| heartbeat::granted(granted, unit))
                .map_err(|_| full("applications")),
            Request::Done(id) => {
                self.watchdog.with(|watch, now| watch.done(&id, now));
                Ok(heartbeat::GOODBYE.to_owned())
            }
            Request::List => Ok(self.watchdog.with(|watch, now| heartbeat::list(&watch.ids(now)))),
            Request::Status(id) => {
                Ok(self.watchdog.with(|watch, now| status(watch, id.as_deref(), now, unit)))
            }
            Request::Maintenance(id, length) => {
                if browsers::is_from(head) {
                    let text = "pages may not declare maintenance".to_owned();
                    return Err(("403 Forbidden", text));
                }
                self.watchdog
                    .with(|watch, now| watch.maintain(id.as_deref(), length, now))
                    .map_err(|_| full("applications in maintenance"))?;
                let line = heartbeat::maintenance_line(id.as_deref(), length);
                self.log.write(Level::Info, || format!("heartbeat: {line}"));
                Ok(line)
            }
        }
    }
}

/// The line of an application, or of the host: that of its only application, if it has one.
fn status(watch: &mut Watch, id: Option<&str>, now: Duration, unit: Unit) -> String {
    let id = match id {
        Some(id) => id.to_owned(),
        None => {
            let maintenance = watch.maintenance(None, now);
            match watch.ids(now).as_slice() {
                [only] => (*only).to_owned(),
                ids => return heartbeat::host_line(ids, maintenance),
            }
        }
    };
    match watch.status(&id, now) {
        Some(status) => heartbeat::status_line(&status, unit),
        None => heartbeat::unknown_line(&id, watch.maintenance(Some(&id), now)),
    }
}

impl Answer {
    fn to_bytes(&self, keep: bool, head_only: bool) -> Vec<u8> {
        let Self { status, headers, body } = self;
        let connection = if keep { "keep-alive" } else { "close" };
        let mut answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nAccess-Control-Allow-Origin: *\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n{headers}Connection: {connection}\r\n\r\n",
            body.len()
        );
        if !head_only {
            answer.push_str(body);
        }
        answer.into_bytes()
    }
}
