//! Request heads and refusals of HTTP/1.x. No bodies are read, and a refusal ends its connection.

use std::io::{self, Write};

use httparse::Header;

use crate::limits;
use crate::util::deadline_stream::DeadlineStream;
use crate::util::text::{EXCERPT_CHARS, escape_for_log};
use percent_encoding::percent_decode_str;

/// Why a head could not be read.
#[derive(Debug)]
pub enum HeadError {
    /// Nothing came that could be answered: the client ended, or the agent does.
    Gone(io::Error),
    /// It did not arrive in time (408).
    Slow,
    /// It is longer than we read (431).
    Large,
    /// It is not HTTP/1.x (400); says why.
    Malformed(String),
}

/// A request without its body.
#[derive(Debug)]
pub struct Head<'a> {
    /// GET and so on.
    pub method: &'a str,
    /// What stands before `?`.
    pub path: &'a str,
    /// What stands behind `?`, undecoded.
    pub query: &'a str,
    /// The 1 of HTTP/1.1.
    pub minor_version: u8,
    headers: &'a [Header<'a>],
}

impl<'a> Head<'a> {
    /// Room for the header lines of a head.
    pub fn lines() -> [Header<'a>; limits::HEAD_LINES] {
        [httparse::EMPTY_HEADER; limits::HEAD_LINES]
    }

    /// Parses a head; `None`: it is not complete. With it comes its length in bytes.
    pub fn parse(
        bytes: &'a [u8],
        lines: &'a mut [Header<'a>],
    ) -> Result<Option<(Self, usize)>, HeadError> {
        let mut request = httparse::Request::new(lines);
        let length = match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::Large),
            Err(error) => return Err(HeadError::Malformed(error.to_string())),
        };
        let target = request.path.unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let head = Self {
            method: request.method.unwrap_or_default(),
            path,
            query,
            minor_version: request.version.unwrap_or_default(),
            headers: request.headers,
        };
        Ok(Some((head, length)))
    }

    /// Every value of a header, in order; one that is not UTF-8 becomes a text that matches nothing.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .map(|header| std::str::from_utf8(header.value).unwrap_or("\u{fffd}").trim())
    }

    /// The first value of a header.
    pub fn one(&self, name: &str) -> Option<&'a str> {
        self.all(name).next()
    }

    /// Whether a header that is a list (`Connection: keep-alive, Upgrade`) holds a word.
    pub fn lists(&self, name: &str, word: &str) -> bool {
        self.all(name)
            .flat_map(|value| value.split(','))
            .any(|item| item.trim().eq_ignore_ascii_case(word))
    }

    /// The value of `name=` in the query, percent-decoded. A `+` is a `+`: tokens in base64 have them.
    pub fn query_value(&self, name: &str) -> Option<Vec<u8>> {
        self.query
            .split('&')
            .filter_map(|item| item.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| percent_decode_str(value).collect())
    }
}

/// A path that is not there, for the answer and the log. In one that was mistyped, or encoded once too often, the token may
/// stand before the query.
pub fn missing(path: &str) -> String {
    match path.to_ascii_lowercase().contains("token") {
        true => "there is no such path here".to_owned(),
        false => format!("there is no {} here", escape_for_log(path, EXCERPT_CHARS)),
    }
}

/// An answer that is not the wanted one: a status, what to do about it, and headers that say more.
pub struct ErrorResponse {
    /// Number and words, e.g. `404 Not Found`.
    pub status: &'static str,
    /// Further header lines, each ended by CR LF.
    pub headers: String,
    /// For the person who reads it.
    pub text: String,
}

impl ErrorResponse {
    /// A refusal without further headers.
    pub fn new(status: &'static str, text: impl Into<String>) -> Self {
        Self { status, headers: String::new(), text: text.into() }
    }

    /// With a further header.
    pub fn header(mut self, line: &str) -> Self {
        self.headers.push_str(line);
        self.headers.push_str("\r\n");
        self
    }

    /// Too many connections; come back later.
    pub fn busy(text: impl Into<String>) -> Self {
        Self::new("503 Service Unavailable", text)
            .header(&format!("Retry-After: {}", limits::RETRY_AFTER_SECONDS))
    }

    /// The refusal that a bad head deserves; `None`: there is nobody to answer.
    pub fn of(error: &HeadError) -> Option<Self> {
        let seconds = limits::HEAD.as_secs();
        match error {
            HeadError::Gone(_) => None,
            HeadError::Slow => {
                let text = format!("the request did not arrive within {seconds} s");
                Some(Self::new("408 Request Timeout", text))
            }
            HeadError::Large => {
                let (bytes, lines) = (limits::HEAD_BYTES, limits::HEAD_LINES);
                let text = format!("the request's head has over {bytes} bytes or {lines} lines");
                Some(Self::new("431 Request Header Fields Too Large", text))
            }
            HeadError::Malformed(why) => {
                Some(Self::new("400 Bad Request", format!("this is not HTTP/1.1: {why}")))
            }
        }
    }

    /// The answer as it goes over the wire; `HEAD` gets no body.
    pub fn to_bytes(&self, method: &str) -> Vec<u8> {
        let Self { status, headers, text } = self;
        let mut answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n{headers}Connection: close\r\n\r\n",
            text.len() + 1
        );
        if method != "HEAD" {
            answer.push_str(text);
            answer.push('\n');
        }
        answer.into_bytes()
    }

    /// Sends it as the connection's last words.
    pub fn send(&self, mut stream: DeadlineStream<'_>, method: &str) {
        stream.last_words();
        if stream.write_all(&self.to_bytes(method)).is_ok() {
            stream.linger();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head<R>(text: &str, then: impl FnOnce(&Head<'_>) -> R) -> R {
        let mut lines = Head::lines();
        then(&Head::parse(text.as_bytes(), &mut lines).expect("a head").expect("a whole head").0)
    }

    #[test]
    fn a_heads_parts() {
        let text = "GET /usage?a=1&token=s%33cret%2b+%&b HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nx-a: 1\r\nX-A: 2\r\n\r\n";
        head(text, |head| {
            assert_eq!((head.method, head.path, head.minor_version), ("GET", "/usage", 1));
            assert_eq!(head.query_value("token").as_deref(), Some(&b"s3cret++%"[..]));
            assert_eq!(head.query_value("b"), None);
            assert!(head.lists("connection", "upgrade") && !head.lists("connection", "close"));
            assert_eq!(head.all("X-a").collect::<Vec<_>>(), ["1", "2"]);
        });
    }

    #[test]
    fn every_cut_is_incomplete_and_garbage_is_malformed() {
        let text = b"GET /usage HTTP/1.1\r\nHost: a\r\n\r\n";
        for end in 0..text.len() {
            assert!(Head::parse(&text[..end], &mut Head::lines()).expect("no error").is_none());
        }
        for bad in
            [&b"\x16\x03\x01\x02\x00"[..], b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\na b: c\r\n\r\n"]
        {
            let mut lines = Head::lines();
            let parsed = Head::parse(bad, &mut lines);
            assert!(matches!(parsed, Err(HeadError::Malformed(_))), "{}", bad.escape_ascii());
        }
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65));
        let mut lines = Head::lines();
        let parsed = Head::parse(many.as_bytes(), &mut lines);
        assert!(matches!(parsed, Err(HeadError::Large)));
    }

    #[test]
    fn a_head_request_is_answered_without_a_body() {
        let refusal = ErrorResponse::new("404 Not Found", "nothing here").header("X-A: b");
        let get = String::from_utf8(refusal.to_bytes("GET")).expect("text");
        assert!(get.ends_with("X-A: b\r\nConnection: close\r\n\r\nnothing here\n"), "{get}");
        assert!(get.contains("Content-Length: 13\r\n"));
        assert!(refusal.to_bytes("HEAD").ends_with(b"\r\n\r\n"));
    }
}
