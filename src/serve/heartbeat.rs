//! The heartbeat port: short HTTP requests, many on one connection, none of which waits for anything.
//!
//! Runs in the connection's thread. Pages of any origin may beat and ask; maintenance is not theirs to declare.

use std::io::{self, ErrorKind, Write};
use std::time::{Duration, Instant};

use log::Level;

use super::http::{Head, HeadError, Refusal};
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

/// Why a conversation is over.
enum End {
    /// One side wanted it so.
    Over,
    /// The request deserves this answer, after which nothing more can be understood.
    Refused(Refusal),
    /// It broke.
    Broken(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
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
        let mut bytes = Vec::new();
        let end = loop {
            if let Err(end) = self.answer_one(&mut stream, &mut bytes, guest) {
                break end;
            }
        };
        match end {
            End::Over => {}
            End::Broken(error) => log::debug!("heartbeat: {} lost: {}", guest.peer, reason(&error)),
            End::Refused(refusal) => {
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

    /// Reads one request and answers it. What of `bytes` belongs to the next one stays.
    fn answer_one(
        &self,
        stream: &mut Stream<'_>,
        bytes: &mut Vec<u8>,
        guest: &Guest<'_>,
    ) -> Result<(), End> {
        let mut since = (!bytes.is_empty()).then(Instant::now);
        let (answer, keep, head_only, length) = loop {
            let mut lines = Head::lines();
            match Head::parse(bytes, &mut lines) {
                Ok(Some((head, length))) => {
                    let body = body_bytes(&head)?;
                    let answer = self.answer(&head, guest);
                    break (answer, keep_alive(&head), head.method == "HEAD", length + body);
                }
                Ok(None) => read_more(stream, bytes, &mut since)?,
                Err(error) => return Err(refused(&error)),
            }
        };
        skip(stream, bytes, length)?;
        stream.begin_message();
        stream.write_all(&answer.to_bytes(keep, head_only))?;
        if keep && !stream.stopping() { Ok(()) } else { Err(End::Over) }
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
                if from_browser(head) {
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

/// Browsers say where a request comes from: in `Origin`, and where that is left out (images, links), in
/// `Sec-Fetch-Site`.
fn from_browser(head: &Head<'_>) -> bool {
    head.one("origin").is_some() || head.one("sec-fetch-site").is_some()
}

/// How long the body is. One that does not say so cannot be skipped.
fn body_bytes(head: &Head<'_>) -> Result<usize, End> {
    let refuse = |status, text: &str| Err(End::Refused(Refusal::new(status, text)));
    if head.one("transfer-encoding").is_some() {
        return refuse("411 Length Required", "a body must come with Content-Length");
    }
    let mut lengths = head.all("content-length");
    let Some(length) = lengths.next() else { return Ok(0) };
    if lengths.any(|other| other != length) {
        return refuse("400 Bad Request", "there are several Content-Lengths");
    }
    match crate::parse::decimal(length.as_bytes()) {
        Some(length) if length > limits::BODY_BYTES => {
            let most = limits::BODY_BYTES;
            refuse("413 Content Too Large", &format!("a body of over {most} bytes is not read"))
        }
        Some(length) => Ok(length as usize),
        None => refuse("400 Bad Request", "Content-Length is not a number"),
    }
}

fn keep_alive(head: &Head<'_>) -> bool {
    match head.minor_version {
        0 => head.lists("connection", "keep-alive"),
        _ => !head.lists("connection", "close"),
    }
}

fn refused(error: &HeadError) -> End {
    Refusal::of(error).map_or(End::Over, End::Refused)
}

/// Reads what there is. `since` is when the request began: before, the client may be silent for long.
fn read_more(
    stream: &mut Stream<'_>,
    bytes: &mut Vec<u8>,
    since: &mut Option<Instant>,
) -> Result<(), End> {
    let filled = bytes.len();
    if filled >= limits::HEAD_BYTES {
        return Err(refused(&HeadError::Large));
    }
    let deadline = match since {
        Some(since) => *since + limits::HEAD,
        None => Instant::now() + limits::KEEP_ALIVE,
    };
    let mut part = [0; 1024];
    let room = part.len().min(limits::HEAD_BYTES - filled);
    match stream.read_by(&mut part[..room], deadline) {
        Ok(0) if filled == 0 => Err(End::Over),
        Ok(0) => Err(refused(&HeadError::Malformed("it ends in the middle".to_owned()))),
        Ok(read) => {
            bytes.extend_from_slice(&part[..read]);
            since.get_or_insert_with(Instant::now);
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::TimedOut && filled > 0 => {
            Err(refused(&HeadError::Slow))
        }
        Err(error) if error.kind() == ErrorKind::TimedOut => Err(End::Over),
        Err(error) => Err(error.into()),
    }
}

/// Forgets a request of `length` bytes, the unread rest of its body as well.
fn skip(stream: &mut Stream<'_>, bytes: &mut Vec<u8>, length: usize) -> Result<(), End> {
    let mut missing = length.saturating_sub(bytes.len());
    bytes.drain(..length.min(bytes.len()));
    let deadline = Instant::now() + limits::HEAD;
    let mut part = [0; 1024];
    while missing > 0 {
        let room = part.len().min(missing);
        match stream.read_by(&mut part[..room], deadline) {
            Ok(0) => return Err(End::Over),
            Ok(read) => missing -= read,
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                return Err(refused(&HeadError::Slow));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
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
