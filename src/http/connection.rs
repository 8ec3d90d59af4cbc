//! Requests on a connection that stays open: one after the other, each with its deadlines, bodies skipped.

use std::io::{self, ErrorKind, Write};
use std::time::Instant;

use crate::http::message::{ErrorResponse, Head, HeadError};
use crate::limits;
use crate::util::deadline_stream::DeadlineStream;

/// Why a conversation is over.
pub enum End {
    /// One side wanted it so.
    Over,
    /// The request deserves this answer, after which nothing more can be understood.
    Refused(ErrorResponse),
    /// It broke.
    Broken(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// What was read and belongs to no request yet.
#[derive(Default)]
pub struct RequestReader {
    bytes: Vec<u8>,
    /// When the request began. Before, the client may be silent for long.
    since: Option<Instant>,
}

impl RequestReader {
    /// On a connection whose first request is waited for from now on as if it had begun.
    pub fn begun() -> Self {
        Self { bytes: Vec::new(), since: Some(Instant::now()) }
    }

    /// Reads until a whole head is there, and lets `then` have it.
    #[inline(never)]
    pub fn next<R>(
        &mut self,
        stream: &mut DeadlineStream<'_>,
        then: impl FnOnce(&Head<'_>) -> R,
    ) -> Result<(Request, R), End> {
        loop {
            let mut lines = Head::lines();
            match Head::parse(&self.bytes, &mut lines) {
                Ok(Some((head, length))) => {
                    let body = body_bytes(&head)?;
                    let keep = keep_alive(&head);
                    let head_only = head.method == "HEAD";
                    let request = Request { keep, head_only, length, body };
                    return Ok((request, then(&head)));
                }
                Ok(None) => self.read_more(stream)?,
                Err(error) => return Err(refused(&error)),
            }
        }
    }

    /// Forgets a request that was answered, the unread rest of its body as well, and sends the answer. An error
    /// unless there may be another request.
    pub fn answer(
        &mut self,
        stream: &mut DeadlineStream<'_>,
        request: &Request,
        parts: [&[u8]; 2],
    ) -> Result<(), End> {
        self.skip(stream, request.length + request.body)?;
        stream.begin_message();
        for part in parts {
            stream.write_all(part)?;
        }
        if request.keep && !stream.stopping() { Ok(()) } else { Err(End::Over) }
    }

    /// What came behind a head of so many bytes.
    pub fn rest(&self, length: usize) -> Vec<u8> {
        self.bytes.get(length..).unwrap_or_default().to_vec()
    }

    #[inline(never)]
    fn read_more(&mut self, stream: &mut DeadlineStream<'_>) -> Result<(), End> {
        let filled = self.bytes.len();
        if filled >= limits::HEAD_BYTES {
            return Err(refused(&HeadError::Large));
        }
        let begun = self.since;
        let deadline = match begun {
            Some(since) => since + limits::HEAD,
            None => Instant::now() + limits::KEEP_ALIVE,
        };
        let mut part = [0; 1024];
        let room = part.len().min(limits::HEAD_BYTES - filled);
        match stream.read_by(&mut part[..room], deadline) {
            Ok(0) if filled == 0 => Err(End::Over),
            Ok(0) => Err(refused(&HeadError::Malformed("it ends in the middle".to_owned()))),
            Ok(read) => {
                self.bytes.extend_from_slice(&part[..read]);
                self.since.get_or_insert_with(Instant::now);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::TimedOut && begun.is_some() => {
                Err(refused(&HeadError::Slow))
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => Err(End::Over),
            Err(error) => Err(error.into()),
        }
    }

    #[inline(never)]
    fn skip(&mut self, stream: &mut DeadlineStream<'_>, length: usize) -> Result<(), End> {
        let mut missing = length.saturating_sub(self.bytes.len());
        self.bytes.drain(..length.min(self.bytes.len()));
        self.since = (!self.bytes.is_empty()).then(Instant::now);
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
}

/// A request, as far as its answer depends on it.
pub struct Request {
    /// There may be another one on this connection.
    pub keep: bool,
    /// The answer has no body.
    pub head_only: bool,
    /// Length of the head, in bytes.
    pub length: usize,
    body: usize,
}

/// How long the body is. One that does not say so cannot be skipped.
fn body_bytes(head: &Head<'_>) -> Result<usize, End> {
    let refuse = |status, text: &str| Err(End::Refused(ErrorResponse::new(status, text)));
    if head.one("transfer-encoding").is_some() {
        return refuse("411 Length Required", "a body must come with Content-Length");
    }
    let mut lengths = head.all("content-length");
    let Some(length) = lengths.next() else { return Ok(0) };
    if lengths.any(|other| other != length) {
        return refuse("400 Bad Request", "there are several Content-Lengths");
    }
    match crate::procfs::decimal(length.as_bytes()) {
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
    ErrorResponse::of(error).map_or(End::Over, End::Refused)
}
