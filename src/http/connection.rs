//! Requests on a persistent connection: one after the other, each with its deadlines. Bodies are skipped unless the port keeps
//! them.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use crate::http::body::{Body, ChunkedBody};
use crate::http::request::{HeadError, MAX_HEADERS, RequestHead};
use crate::http::response::{ErrorResponse, Response};
use crate::http::stream::ServerStream;

/// A request head larger than this is rejected (431).
const MAX_HEAD_BYTES: usize = 8 << 10;
/// A head, and a body that is skipped, must arrive within this (408).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A persistent connection without a request for this long is closed.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(60);

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
pub struct ReceivedRequest {
    /// Another request may follow on this connection.
    pub keep_alive: bool,
    /// The response has no body.
    pub head_only: bool,
    /// Length of the head in bytes.
    length: usize,
}

/// Reads the requests of one connection.
#[derive(Default)]
pub struct RequestReader {
    /// Received bytes that belong to no finished request.
    buffer: Vec<u8>,
    /// When the current request began. `None`: the connection is idle.
    started_at: Option<Instant>,
    keeps_bodies: bool,
    /// The body of the current request, if bodies are kept.
    body: Vec<u8>,
}

impl RequestReader {
    /// For a connection whose first request must arrive within [`REQUEST_TIMEOUT`]. With `default()` it may take as long as
    /// any later one, [`KEEP_ALIVE_TIMEOUT`].
    pub fn new_awaiting_first() -> Self {
        Self { started_at: Some(Instant::now()), ..Self::default() }
    }

    /// Passes bodies with a length to `handle` instead of skipping them.
    pub fn keep_bodies(mut self) -> Self {
        self.keeps_bodies = true;
        self
    }

    /// Reads the next request, skips its body and passes its head to `handle`: a request that does not arrive completely has
    /// no effect.
    pub fn next_request<R>(
        &mut self,
        stream: &mut ServerStream<'_>,
        handle: impl FnOnce(&RequestHead<'_>) -> R,
    ) -> Result<(ReceivedRequest, R), ConnectionEnd> {
        let mut body_is_skipped = false;
        loop {
            let mut slots = RequestHead::header_slots();
            let Some((mut head, length)) = RequestHead::parse(&self.buffer, &mut slots)? else {
                self.read_more(stream)?;
                continue;
            };
            if body_is_skipped {
                let (keep_alive, head_only) = (keep_alive(&head), head.method == "HEAD");
                let request = ReceivedRequest { keep_alive, head_only, length };
                head.body = &self.body;
                return Ok((request, handle(&head)));
            }
            head.check_host()?;
            let body = Body::after(&head).map_err(ConnectionEnd::Rejected)?;
            self.skip_body(stream, length, body)?;
            body_is_skipped = true;
        }
    }

    /// Discards the request and sends the response. `Ok` means that another request may follow.
    pub fn respond(
        &mut self,
        stream: &mut ServerStream<'_>,
        request: &ReceivedRequest,
        response: &Response,
    ) -> Result<(), ConnectionEnd> {
        self.buffer.drain(..request.length.min(self.buffer.len()));
        self.started_at = (!self.buffer.is_empty()).then(Instant::now);
        stream.reset_write_deadline();
        let (keep_alive, head_only) = (request.keep_alive, request.head_only);
        response.write_to(stream, keep_alive, head_only, ServerStream::reset_write_deadline)?;
        match request.keep_alive && !stream.is_shutting_down() {
            true => Ok(()),
            false => Err(ConnectionEnd::Closed),
        }
    }

    /// The bytes received after `request`.
    pub fn buffered_after(&self, request: &ReceivedRequest) -> Vec<u8> {
        self.buffer.get(request.length..).unwrap_or_default().to_vec()
    }

    fn read_more(&mut self, stream: &mut ServerStream<'_>) -> Result<(), ConnectionEnd> {
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

    /// Removes the body behind a head of `head_length` bytes from the buffer and the socket.
    fn skip_body(
        &mut self,
        stream: &mut ServerStream<'_>,
        head_length: usize,
        body: Body,
    ) -> Result<(), ConnectionEnd> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        match body {
            Body::Length(length) => {
                let received = length.min(self.buffer.len() - head_length);
                let received_part = self.buffer.drain(head_length..head_length + received);
                self.body.clear();
                match self.keeps_bodies {
                    true => self.body.extend(received_part),
                    false => drop(received_part),
                }
                let mut missing = length - received;
                let mut part = [0; 1024];
                while missing > 0 {
                    let room = part.len().min(missing);
                    let read = read_body(stream, &mut part[..room], deadline)?;
                    if self.keeps_bodies {
                        self.body.extend_from_slice(&part[..read]);
                    }
                    missing -= read;
                }
                Ok(())
            }
            Body::Chunked(body) => {
                self.body.clear();
                self.skip_chunks(stream, head_length, body, deadline)
            }
        }
    }

    fn skip_chunks(
        &mut self,
        stream: &mut ServerStream<'_>,
        head_length: usize,
        mut body: ChunkedBody,
        deadline: Instant,
    ) -> Result<(), ConnectionEnd> {
        let mut part = [0; 1024];
        loop {
            let received = self.buffer.get(head_length..).unwrap_or_default();
            let consumed = body.consume(received).map_err(ConnectionEnd::Rejected)?;
            self.buffer.drain(head_length..head_length + consumed);
            if body.is_complete() {
                return Ok(());
            }
            let read = read_body(stream, &mut part, deadline)?;
            self.buffer.extend_from_slice(&part[..read]);
        }
    }
}

/// Reads a part of a body, at least one byte.
fn read_body(
    stream: &mut ServerStream<'_>,
    part: &mut [u8],
    deadline: Instant,
) -> Result<usize, ConnectionEnd> {
    match stream.read_by(part, deadline) {
        Ok(0) => Err(ConnectionEnd::Closed),
        Ok(read) => Ok(read),
        Err(error) if error.kind() == ErrorKind::TimedOut => Err(HeadError::Timeout.into()),
        Err(error) => Err(error.into()),
    }
}

fn keep_alive(head: &RequestHead<'_>) -> bool {
    match head.minor_version {
        0 => head.header_has_token("connection", "keep-alive"),
        _ => !head.header_has_token("connection", "close"),
    }
}
