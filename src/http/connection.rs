//! Requests on a persistent connection: one after the other, each with its deadlines. Bodies are skipped.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use crate::http::request::{HeadError, MAX_HEADERS, RequestHead};
use crate::http::response::{ErrorResponse, Response};
use crate::util::deadline_stream::DeadlineStream;

/// A request head larger than this is rejected (431).
const MAX_HEAD_BYTES: usize = 8 << 10;
/// A head, and a body that is skipped, must arrive within this (408).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A persistent connection without a request for this long is closed.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(60);
/// A request body larger than this is rejected (413) instead of skipped.
const MAX_BODY_BYTES: u64 = 64 << 10;

/// Why a connection ends.
pub enum ConnectionEnd {
    /// The client or the agent closed it.
    Closed,
    /// Sends this response and closes.
    Rejected(ErrorResponse),
    Io(io::Error),
}

impl From<io::Error> for ConnectionEnd {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<HeadError> for ConnectionEnd {
    fn from(error: HeadError) -> Self {
        Self::Rejected(match error {
            HeadError::Timeout => {
                let seconds = REQUEST_TIMEOUT.as_secs();
                let text = format!("request not complete within {seconds} s");
                ErrorResponse::new("408 Request Timeout", text)
            }
            HeadError::TooLarge => {
                let text = format!(
                    "request head exceeds {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} header lines"
                );
                ErrorResponse::new("431 Request Header Fields Too Large", text)
            }
            HeadError::Malformed(reason) => {
                ErrorResponse::new("400 Bad Request", format!("not HTTP/1.1: {reason}"))
            }
        })
    }
}

/// What the response to a request depends on.
pub struct Request {
    /// Another request may follow on this connection.
    pub keep_alive: bool,
    /// The response has no body.
    pub head_only: bool,
    /// Length of the head in bytes.
    pub length: usize,
    body_length: usize,
}

/// Reads the requests of one connection.
#[derive(Default)]
pub struct RequestReader {
    /// Received bytes that belong to no finished request.
    buffer: Vec<u8>,
    /// When the current request began. `None`: the connection is idle.
    started_at: Option<Instant>,
}

impl RequestReader {
    /// For a connection whose first request must arrive within [`REQUEST_TIMEOUT`]. With `default()` it may take as long as
    /// any later one, [`KEEP_ALIVE_TIMEOUT`].
    pub fn new_awaiting_first() -> Self {
        Self { buffer: Vec::new(), started_at: Some(Instant::now()) }
    }

    /// Reads the next request head and passes it to `handle`.
    pub fn next_request<R>(
        &mut self,
        stream: &mut DeadlineStream<'_>,
        handle: impl FnOnce(&RequestHead<'_>) -> R,
    ) -> Result<(Request, R), ConnectionEnd> {
        loop {
            let mut slots = RequestHead::header_slots();
            match RequestHead::parse(&self.buffer, &mut slots)? {
                Some((head, length)) => {
                    let request = Request {
                        keep_alive: keep_alive(&head),
                        head_only: head.method == "HEAD",
                        length,
                        body_length: body_length(&head).map_err(ConnectionEnd::Rejected)?,
                    };
                    return Ok((request, handle(&head)));
                }
                None => self.read_more(stream)?,
            }
        }
    }

    /// Discards the request with its body and sends the response. `Ok` means that another request may follow.
    pub fn respond(
        &mut self,
        stream: &mut DeadlineStream<'_>,
        request: &Request,
        response: &Response,
    ) -> Result<(), ConnectionEnd> {
        self.skip(stream, request.length + request.body_length)?;
        stream.reset_write_deadline();
        response.write_to(stream, request.keep_alive, request.head_only)?;
        match request.keep_alive && !stream.is_shutting_down() {
            true => Ok(()),
            false => Err(ConnectionEnd::Closed),
        }
    }

    /// The bytes received after a head of `length` bytes.
    pub fn buffered(&self, length: usize) -> Vec<u8> {
        self.buffer.get(length..).unwrap_or_default().to_vec()
    }

    fn read_more(&mut self, stream: &mut DeadlineStream<'_>) -> Result<(), ConnectionEnd> {
        let filled = self.buffer.len();
        if filled >= MAX_HEAD_BYTES {
            return Err(HeadError::TooLarge.into());
        }
        let deadline = match self.started_at {
            Some(started_at) => started_at + REQUEST_TIMEOUT,
            None => Instant::now() + KEEP_ALIVE_TIMEOUT,
        };
        let mut chunk = [0; 1024];
        let room = chunk.len().min(MAX_HEAD_BYTES - filled);
        match stream.read_by(&mut chunk[..room], deadline) {
            Ok(0) if filled == 0 => Err(ConnectionEnd::Closed),
            Ok(0) => Err(HeadError::Malformed("incomplete request".to_owned()).into()),
            Ok(read) => {
                self.buffer.extend_from_slice(&chunk[..read]);
                self.started_at.get_or_insert_with(Instant::now);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => match self.started_at {
                Some(_) => Err(HeadError::Timeout.into()),
                None => Err(ConnectionEnd::Closed),
            },
            Err(error) => Err(error.into()),
        }
    }

    fn skip(
        &mut self,
        stream: &mut DeadlineStream<'_>,
        length: usize,
    ) -> Result<(), ConnectionEnd> {
        let mut missing = length.saturating_sub(self.buffer.len());
        self.buffer.drain(..length.min(self.buffer.len()));
        self.started_at = (!self.buffer.is_empty()).then(Instant::now);
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let mut chunk = [0; 1024];
        while missing > 0 {
            let room = chunk.len().min(missing);
            match stream.read_by(&mut chunk[..room], deadline) {
                Ok(0) => return Err(ConnectionEnd::Closed),
                Ok(read) => missing -= read,
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    return Err(HeadError::Timeout.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Length of the request's body. Only a body with `Content-Length` can be skipped.
fn body_length(head: &RequestHead<'_>) -> Result<usize, ErrorResponse> {
    if head.header("transfer-encoding").is_some() {
        let text = "a body needs Content-Length";
        return Err(ErrorResponse::new("411 Length Required", text));
    }
    let mut lengths = head.header_values("content-length");
    let Some(length) = lengths.next() else { return Ok(0) };
    if lengths.any(|other| other != length) {
        return Err(ErrorResponse::new("400 Bad Request", "conflicting Content-Length headers"));
    }
    match crate::util::text::parse_decimal(length.as_bytes()) {
        Some(length) if length > MAX_BODY_BYTES => {
            let text = format!("body exceeds {MAX_BODY_BYTES} bytes");
            Err(ErrorResponse::new("413 Content Too Large", text))
        }
        Some(length) => Ok(length as usize),
        None => Err(ErrorResponse::new("400 Bad Request", "Content-Length is not a number")),
    }
}

fn keep_alive(head: &RequestHead<'_>) -> bool {
    match head.minor_version {
        0 => head.header_has_token("connection", "keep-alive"),
        _ => !head.header_has_token("connection", "close"),
    }
}
