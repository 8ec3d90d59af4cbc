//! Responses: one type for all ports, and the errors that become one.

use std::io::{self, Write};
use std::sync::Arc;

use crate::util::deadline_stream::DeadlineStream;
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

pub const OK: &str = "200 OK";

/// `Retry-After` of a 503, in seconds.
const RETRY_AFTER_SECONDS: u32 = 10;
/// A body up to this length is copied after its head, so that a short response is one segment and one system call.
const MAX_COPIED_BYTES: usize = 4 << 10;

/// A response with its body. Responses to several clients may share the body.
pub struct Response {
    /// Code and reason phrase, e.g. `404 Not Found`.
    pub status: &'static str,
    content_type: &'static str,
    /// Further header lines, each with its CR LF.
    headers: String,
    body: Arc<[u8]>,
}

impl Response {
    pub fn new(status: &'static str, content_type: &'static str, body: Arc<[u8]>) -> Self {
        Self { status, content_type, headers: String::new(), body }
    }

    pub fn text(status: &'static str, body: &str) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body.as_bytes().into())
    }

    /// Adds a header line, e.g. `Allow: GET, HEAD`.
    pub fn header(mut self, line: &str) -> Self {
        self.headers.push_str(line);
        self.headers.push_str("\r\n");
        self
    }

    /// Writes it to the client. A response to HEAD has no body, but its `Content-Length`.
    pub fn write_to(
        &self,
        stream: &mut impl Write,
        keep_alive: bool,
        head_only: bool,
    ) -> io::Result<()> {
        if head_only || self.body.len() > MAX_COPIED_BYTES {
            stream.write_all(self.head(keep_alive).as_bytes())?;
            return if head_only { Ok(()) } else { stream.write_all(&self.body) };
        }
        stream.write_all(&self.to_bytes(keep_alive))
    }

    /// Head and body in one buffer.
    pub fn to_bytes(&self, keep_alive: bool) -> Vec<u8> {
        [self.head(keep_alive).as_bytes(), &self.body].concat()
    }

    /// Sends it as the last message on the connection.
    pub fn send_and_close(&self, mut stream: DeadlineStream<'_>, head_only: bool) {
        stream.begin_close();
        if self.write_to(&mut stream, false, head_only).is_ok() {
            stream.linger();
        }
    }

    fn head(&self, keep_alive: bool) -> String {
        let Self { status, content_type, headers, body } = self;
        let length = body.len();
        let connection = if keep_alive { "keep-alive" } else { "close" };
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{headers}X-Content-Type-Options: nosniff\r\nConnection: {connection}\r\n\r\n"
        )
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
        Self::new("503 Service Unavailable", text)
            .header(&format!("Retry-After: {RETRY_AFTER_SECONDS}"))
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
        response.write_to(&mut bytes, true, head_only).expect("a Vec takes everything");
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn error_response_has_message_and_headers() {
        let error = ErrorResponse::new("404 Not Found", "nothing here").header("X-A: b");
        let bytes = error.to_response().to_bytes(false);
        let text = String::from_utf8(bytes).expect("UTF-8");
        assert!(text.starts_with("HTTP/1.1 404 Not Found\r\n"), "{text}");
        assert!(text.contains("Content-Length: 13\r\nX-A: b\r\n"), "{text}");
        assert!(text.ends_with("Connection: close\r\n\r\nnothing here\n"), "{text}");
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
