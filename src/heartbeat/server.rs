//! The heartbeat port: short HTTP requests, many on one connection, none of which waits for anything.
//!
//! Runs in the connection's thread. Pages of any origin may beat and ask; maintenance is not theirs to declare.

use std::time::Duration;

use log::Level;

use crate::config::Current;
use crate::heartbeat::monitor::HeartbeatMonitor;
use crate::heartbeat::protocol;
use crate::heartbeat::protocol::{Request, Unit};
use crate::heartbeat::table::HeartbeatTable;
use crate::http::connection::{End, RequestReader};
use crate::http::csrf;
use crate::http::listener::ClientConnection;
use crate::http::message::Head;
use crate::limits;
use crate::util::deadline_stream::DeadlineStream;
use crate::util::error::reason;
use crate::util::logger::RateLimitedLog;

/// What every connection of this port shares.
pub struct Heartbeat<'a> {
    /// The table.
    pub watchdog: &'a HeartbeatMonitor,
    /// The settings in force.
    pub settings: &'a Current,
    /// Bounds what peers can write into the log.
    pub log: RateLimitedLog,
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
    pub fn serve(&self, mut stream: DeadlineStream<'_>, guest: &ClientConnection<'_>) {
        let mut unread = RequestReader::default();
        let end = loop {
            if let Err(end) = self.answer_one(&mut stream, &mut unread, guest) {
                break end;
            }
        };
        match end {
            End::Over => {}
            _ if guest.permit.was_evicted() => log::debug!("heartbeat: {} gave way", guest.peer),
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
        stream: &mut DeadlineStream<'_>,
        unread: &mut RequestReader,
        guest: &ClientConnection<'_>,
    ) -> Result<(), End> {
        let (request, answer) = unread.next(stream, |head| self.answer(head, guest))?;
        guest.permit.mark_active();
        guest.counters.answered(answer.status);
        let answer = answer.to_bytes(request.keep, request.head_only);
        unread.answer(stream, &request, [&answer, &[]])?;
        guest.permit.mark_idle();
        Ok(())
    }

    fn answer(&self, head: &Head<'_>, guest: &ClientConnection<'_>) -> Answer {
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
                .map(|granted| protocol::granted(granted, unit))
                .map_err(|_| full("applications")),
            Request::Done(id) => {
                self.watchdog.with(|watch, now| watch.done(&id, now));
                Ok(protocol::GOODBYE.to_owned())
            }
            Request::List => Ok(self.watchdog.with(|watch, now| protocol::list(&watch.ids(now)))),
            Request::Status(id) => {
                Ok(self.watchdog.with(|watch, now| status(watch, id.as_deref(), now, unit)))
            }
            Request::Maintenance(id, length) => {
                if csrf::is_from(head) {
                    let text = "pages may not declare maintenance".to_owned();
                    return Err(("403 Forbidden", text));
                }
                self.watchdog
                    .with(|watch, now| watch.maintain(id.as_deref(), length, now))
                    .map_err(|_| full("applications in maintenance"))?;
                let line = protocol::maintenance_line(id.as_deref(), length);
                self.log.write(Level::Info, || format!("heartbeat: {line}"));
                Ok(line)
            }
        }
    }
}

/// The line of an application, or of the host: that of its only application, if it has one.
fn status(watch: &mut HeartbeatTable, id: Option<&str>, now: Duration, unit: Unit) -> String {
    let id = match id {
        Some(id) => id.to_owned(),
        None => {
            let maintenance = watch.maintenance(None, now);
            match watch.ids(now).as_slice() {
                [only] => (*only).to_owned(),
                ids => return protocol::host_line(ids, maintenance),
            }
        }
    };
    match watch.status(&id, now) {
        Some(status) => protocol::status_line(&status, unit),
        None => protocol::unknown_line(&id, watch.maintenance(Some(&id), now)),
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
