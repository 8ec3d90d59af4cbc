//! Heads of HTTP/1.x requests. Bodies are never parsed.

use httparse::Header;
use percent_encoding::percent_decode_str;

/// Header lines in one head. Browsers behind two proxies send about thirty.
pub(crate) const MAX_HEADERS: usize = 64;

/// Why no request head could be read.
#[derive(Debug)]
pub enum HeadError {
    /// It did not arrive in time (408).
    Timeout,
    /// It exceeds the limit of bytes or header lines (431).
    TooLarge,
    /// It is not HTTP/1.x (400), with the reason.
    Malformed(String),
}

/// A request without its body.
#[derive(Debug)]
pub struct RequestHead<'a> {
    pub method: &'a str,
    /// The target up to `?`.
    pub path: &'a str,
    /// The target after `?`, still percent-encoded.
    pub query: &'a str,
    /// The 1 of HTTP/1.1.
    pub minor_version: u8,
    headers: &'a [Header<'a>],
}

impl<'a> RequestHead<'a> {
    /// Storage for the header lines that [`parse`](Self::parse) finds.
    pub fn header_slots() -> [Header<'a>; MAX_HEADERS] {
        [httparse::EMPTY_HEADER; MAX_HEADERS]
    }

    /// Parses a head and returns it with its length in bytes, or `None` while it is incomplete.
    pub fn parse(
        bytes: &'a [u8],
        slots: &'a mut [Header<'a>],
    ) -> Result<Option<(Self, usize)>, HeadError> {
        let mut request = httparse::Request::new(slots);
        let length = match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
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

    /// All values of a header, in order. A value that is not UTF-8 becomes U+FFFD, which matches nothing.
    pub fn header_values(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .map(|header| std::str::from_utf8(header.value).unwrap_or("\u{fffd}").trim())
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.header_values(name).next()
    }

    /// Whether a comma-separated header (`Connection: keep-alive, Upgrade`) contains a token, in any case.
    pub fn header_has_token(&self, name: &str, token: &str) -> bool {
        self.header_values(name)
            .flat_map(|value| value.split(','))
            .any(|item| item.trim().eq_ignore_ascii_case(token))
    }

    /// The percent-decoded value of `name=` in the query. `+` stays `+`, because tokens in base64 contain it.
    pub fn query_value(&self, name: &str) -> Option<Vec<u8>> {
        self.query
            .split('&')
            .filter_map(|item| item.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| percent_decode_str(value).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_head<R>(text: &str, then: impl FnOnce(&RequestHead<'_>) -> R) -> R {
        let mut slots = RequestHead::header_slots();
        let parsed = RequestHead::parse(text.as_bytes(), &mut slots).expect("a valid head");
        then(&parsed.expect("a complete head").0)
    }

    #[test]
    fn parses_target_and_headers() {
        let text = "GET /usage?a=1&token=s%33cret%2b+%&b HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nx-a: 1\r\nX-A: 2\r\n\r\n";
        with_head(text, |head| {
            assert_eq!((head.method, head.path, head.minor_version), ("GET", "/usage", 1));
            assert_eq!(head.query_value("token").as_deref(), Some(&b"s3cret++%"[..]));
            assert_eq!(head.query_value("b"), None);
            assert!(head.header_has_token("connection", "upgrade"));
            assert!(!head.header_has_token("connection", "close"));
            assert_eq!(head.header_values("X-a").collect::<Vec<_>>(), ["1", "2"]);
        });
    }

    #[test]
    fn truncated_head_is_incomplete() {
        let text = b"GET /usage HTTP/1.1\r\nHost: a\r\n\r\n";
        for end in 0..text.len() {
            let mut slots = RequestHead::header_slots();
            assert!(RequestHead::parse(&text[..end], &mut slots).expect("no error").is_none());
        }
    }

    #[test]
    fn rejects_garbage_and_too_many_headers() {
        for bad in
            [&b"\x16\x03\x01\x02\x00"[..], b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\na b: c\r\n\r\n"]
        {
            let mut slots = RequestHead::header_slots();
            let parsed = RequestHead::parse(bad, &mut slots);
            assert!(matches!(parsed, Err(HeadError::Malformed(_))), "{}", bad.escape_ascii());
        }
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS + 1));
        let mut slots = RequestHead::header_slots();
        let parsed = RequestHead::parse(many.as_bytes(), &mut slots);
        assert!(matches!(parsed, Err(HeadError::TooLarge)));
    }
}
