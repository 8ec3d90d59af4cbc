//! Responses: one type for all ports, and the errors that become one.

use std::cell::Cell;
use std::io::{self, BufWriter, Write};
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::http::stream::ServerStream;
use crate::util::backoff::random_unit;
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

pub const OK: &str = "200 OK";
pub const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// `Retry-After` of a 503, in seconds. Random, so that clients that were refused together do not return together.
const RETRY_AFTER_SECONDS: RangeInclusive<f64> = 5.0..=15.0;
/// A body up to this length is copied after its head, so that a short response is one segment and one system call.
const MAX_COPIED_BYTES: usize = 4 << 10;
/// What a streamed body holds in memory. One of them may be under way on every connection.
const STREAM_BUFFER_BYTES: usize = 4 << 10;
/// A chunk of a body in parts.
const CHUNK_BYTES: usize = 16 << 10;

enum Body {
    /// Responses to several clients may share it.
    Shared(Arc<[u8]>),
    Streamed(StreamedBody),
    /// Of unknown length, in parts. Taken by the first writer.
    Parts(Cell<Option<Box<WritePart>>>),
}

type WriteBody = dyn Fn(&mut dyn Write) -> io::Result<()>;
/// Writes the next part of a body. Returns whether another one follows.
type WritePart = dyn FnMut(&mut dyn Write) -> io::Result<bool>;

struct StreamedBody {
    length: usize,
    write: Box<WriteBody>,
}

/// A response with its body.
pub struct Response {
    /// Code and reason phrase, e.g. `404 Not Found`.
    pub status: &'static str,
    content_type: &'static str,
    /// Further header lines, each with its CR LF.
    headers: String,
    body: Body,
}

impl Response {
    pub fn new(status: &'static str, content_type: &'static str, body: Arc<[u8]>) -> Self {
        Self { status, content_type, headers: String::new(), body: Body::Shared(body) }
    }

    /// A response whose body is rendered while it is written: `write` writes exactly `length` bytes.
    pub fn streamed(
        status: &'static str,
        content_type: &'static str,
        length: usize,
        write: impl Fn(&mut dyn Write) -> io::Result<()> + 'static,
    ) -> Self {
        let body = Body::Streamed(StreamedBody { length, write: Box::new(write) });
        Self { status, content_type, headers: String::new(), body }
    }

    /// A response whose body is rendered in parts of at most some megabytes, each of which the client has the usual time to read.
    pub fn parts(
        content_type: &'static str,
        write: impl FnMut(&mut dyn Write) -> io::Result<bool> + 'static,
    ) -> Self {
        let body = Body::Parts(Cell::new(Some(Box::new(write))));
        Self { status: OK, content_type, headers: String::new(), body }
    }

    pub fn text(status: &'static str, body: &str) -> Self {
        Self::new(status, PLAIN_TEXT, body.as_bytes().into())
    }

    /// Adds a header line, e.g. `Allow: GET, HEAD`.
    pub fn header(mut self, line: &str) -> Self {
        self.headers.push_str(line);
        self.headers.push_str("\r\n");
        self
    }

    /// Writes it to the client. A response to HEAD has no body, but its `Content-Length` if that is known. `begin_part` is called
    /// before each part of the body.
    pub fn write_to<W: Write>(
        &self,
        stream: &mut W,
        keep_alive: bool,
        head_only: bool,
        begin_part: impl Fn(&mut W),
    ) -> io::Result<()> {
        let mut head = self.head(keep_alive).into_bytes();
        match &self.body {
            _ if head_only => stream.write_all(&head),
            Body::Shared(body) if body.len() <= MAX_COPIED_BYTES => {
                head.extend_from_slice(body);
                stream.write_all(&head)
            }
            Body::Shared(body) => {
                stream.write_all(&head)?;
                stream.write_all(body)
            }
            Body::Streamed(body) => {
                let mut buffered = BufWriter::with_capacity(STREAM_BUFFER_BYTES, stream);
                buffered.write_all(&head)?;
                (body.write)(&mut buffered)?;
                buffered.flush()
            }
            Body::Parts(write) => {
                stream.write_all(&head)?;
                let Some(mut write) = write.take() else { return Ok(()) };
                let mut follows = true;
                while follows {
                    begin_part(stream);
                    let mut chunks = BufWriter::with_capacity(CHUNK_BYTES, ChunkWriter(stream));
                    follows = write(&mut chunks)?;
                    chunks.flush()?;
                }
                stream.write_all(b"0\r\n\r\n")
            }
        }
    }

    /// Sends it as the last message on the connection.
    pub fn send_and_close(&self, mut stream: ServerStream<'_>, head_only: bool) {
        stream.begin_close();
        if self.write_to(&mut stream, false, head_only, ServerStream::reset_write_deadline).is_ok()
        {
            stream.linger();
        }
    }

    fn head(&self, keep_alive: bool) -> String {
        let Self { status, content_type, headers, body } = self;
        let framing = match body {
            Body::Shared(body) => format!("Content-Length: {}", body.len()),
            Body::Streamed(body) => format!("Content-Length: {}", body.length),
            Body::Parts(_) => "Transfer-Encoding: chunked".to_owned(),
        };
        let connection = if keep_alive { "keep-alive" } else { "close" };
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{framing}\r\n{headers}X-Content-Type-Options: nosniff\r\nConnection: {connection}\r\n\r\n"
        )
    }
}

/// Writes chunks (RFC 9112, section 7.1).
struct ChunkWriter<'a, W>(&'a mut W);

impl<W: Write> Write for ChunkWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // An empty chunk would end the body.
        if !bytes.is_empty() {
            write!(self.0, "{:x}\r\n", bytes.len())?;
            self.0.write_all(bytes)?;
            self.0.write_all(b"\r\n")?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Why a request is not served: the status, a message for the user, and further headers.
#[derive(Debug)]
pub struct ErrorResponse {
    /// Code and reason phrase, e.g. `404 Not Found`.
    pub status: &'static str,
    /// Further header lines, each with its CR LF.
    pub headers: String,
    pub text: String,
}

impl ErrorResponse {
    pub fn new(status: &'static str, text: impl Into<String>) -> Self {
        Self { status, headers: String::new(), text: text.into() }
    }

    /// Adds a header line.
    pub fn header(mut self, line: &str) -> Self {
        self.headers.push_str(line);
        self.headers.push_str("\r\n");
        self
    }

    /// A limit is reached; the client may try again later.
    pub fn service_unavailable(text: impl Into<String>) -> Self {
        let (least, most) = RETRY_AFTER_SECONDS.into_inner();
        let seconds = least + random_unit() * (most - least);
        Self::new("503 Service Unavailable", text).header(&format!("Retry-After: {seconds:.0}"))
    }

    pub fn to_response(&self) -> Response {
        let mut response = Response::text(self.status, &format!("{}\n", self.text));
        response.headers.push_str(&self.headers);
        response
    }
}

/// Describes an unknown path for the response and the log. If the path was mistyped or encoded twice, the token may precede
/// the `?`, so a path that contains `token` is not repeated.
pub fn not_found_message(path: &str) -> String {
    match path.to_ascii_lowercase().contains("token") {
        true => "no such path".to_owned(),
        false => format!("no such path: {}", escape_for_log(path, EXCERPT_CHARS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(response: &Response, head_only: bool) -> String {
        let mut bytes = Vec::new();
        response.write_to(&mut bytes, true, head_only, |_| {}).expect("a Vec takes everything");
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn error_response_has_message_and_headers() {
        let error = ErrorResponse::new("404 Not Found", "nothing here").header("X-A: b");
        let text = written(&error.to_response(), false);
        assert!(text.starts_with("HTTP/1.1 404 Not Found\r\n"), "{text}");
        assert!(text.contains("Content-Length: 13\r\nX-A: b\r\n"), "{text}");
        assert!(text.ends_with("Connection: keep-alive\r\n\r\nnothing here\n"), "{text}");
    }

    /// Counts how much is written at once.
    struct LargestWrite(usize, usize);

    impl Write for LargestWrite {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            (self.0, self.1) = (self.0.max(bytes.len()), self.1 + bytes.len());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn streamed_body_equals_shared_one_and_is_never_whole_in_memory() {
        let lines = |out: &mut dyn Write| (0..10_000).try_for_each(|_| out.write_all(b"line\n"));
        let streamed = Response::streamed(OK, PLAIN_TEXT, 50_000, lines);
        let shared = Response::text(OK, &"line\n".repeat(10_000));
        for head_only in [false, true] {
            assert_eq!(written(&streamed, head_only), written(&shared, head_only));
        }
        let mut writes = LargestWrite(0, 0);
        streamed.write_to(&mut writes, true, false, |_| {}).expect("written");
        assert!(writes.0 <= STREAM_BUFFER_BYTES && writes.1 > 50_000, "{}", writes.0);
    }

    #[test]
    fn response_to_head_request_has_length_but_no_body() {
        for length in [10, MAX_COPIED_BYTES + 1] {
            let response = Response::text(OK, &"x".repeat(length));
            let head = written(&response, true);
            assert!(head.contains(&format!("Content-Length: {length}\r\n")), "{head}");
            assert!(head.ends_with("Connection: keep-alive\r\n\r\n"), "{head}");
            assert_eq!(written(&response, false), format!("{head}{}", "x".repeat(length)));
        }
    }

    #[test]
    fn not_found_message_does_not_repeat_a_token() {
        assert_eq!(not_found_message("/usge"), "no such path: /usge");
        assert_eq!(not_found_message("/usage%3FToken=secret"), "no such path");
    }
}
