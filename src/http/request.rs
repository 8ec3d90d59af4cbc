//! Heads of HTTP/1.x requests. The target is normalised here, so that no port sees its form.

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

/// The head of a request, and its body where the port keeps bodies.
#[derive(Debug)]
pub struct RequestHead<'a> {
    pub method: &'a str,
    /// Path of the target. It begins with `/`, except for `OPTIONS *` and CONNECT.
    pub path: &'a str,
    /// Query of the target, without `?`, still percent-encoded.
    pub query: &'a str,
    /// The 1 of HTTP/1.1.
    pub minor_version: u8,
    /// Host and port of a target in absolute form. They count instead of the `Host` header.
    authority: Option<&'a str>,
    headers: &'a [Header<'a>],
    /// Empty if the port skips bodies, and for a body in chunks.
    pub body: &'a [u8],
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
        let method = request.method.unwrap_or_default();
        let target = Target::parse(method, request.path.unwrap_or_default())
            .ok_or_else(|| HeadError::Malformed("invalid request target".to_owned()))?;
        let head = Self {
            method,
            path: target.path,
            query: target.query,
            authority: target.authority,
            minor_version: request.version.unwrap_or_default(),
            headers: request.headers,
            body: &[],
        };
        Ok(Some((head, length)))
    }

    /// The hosts, each with its port, that the request is for. More than one only before [`check_host`](Self::check_host).
    pub fn hosts(&self) -> impl Iterator<Item = &'a str> {
        let headers = self.authority.is_none().then(|| self.header_values("host"));
        self.authority.into_iter().chain(headers.into_iter().flatten())
    }

    /// Rejects a request without exactly one valid `Host` header (RFC 9112 section 3.2). HTTP/1.0 has no such header.
    pub fn check_host(&self) -> Result<(), HeadError> {
        let mut hosts = self.header_values("host");
        let problem = match (hosts.next(), hosts.next()) {
            (None, _) if self.minor_version == 0 => return Ok(()),
            // Empty if the target has no authority.
            (Some(""), None) => return Ok(()),
            (Some(host), None) if is_valid_authority(host) => return Ok(()),
            (None, _) => "Host header missing",
            (Some(_), None) => "Host header invalid",
            (Some(_), Some(_)) => "more than one Host header",
        };
        Err(HeadError::Malformed(problem.to_owned()))
    }

    /// All values of a header, in order. A value that is not UTF-8 becomes U+FFFD, which matches nothing.
    pub fn header_values(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .map(|header| trim_ows(std::str::from_utf8(header.value).unwrap_or("\u{fffd}")))
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.header_values(name).next()
    }

    /// Whether a comma-separated header (`Connection: keep-alive, Upgrade`) contains a token, in any case.
    pub fn header_has_token(&self, name: &str, token: &str) -> bool {
        self.header_values(name)
            .flat_map(|value| value.split(','))
            .any(|item| trim_ows(item).eq_ignore_ascii_case(token))
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

/// Removes the spaces and tabs around a value: optional white space, RFC 9110 section 5.6.3. Unicode's other white space
/// belongs to the value.
pub(crate) fn trim_ows(value: &str) -> &str {
    value.trim_matches([' ', '\t'])
}

/// The parts of a request target (RFC 9112 section 3.2).
struct Target<'a> {
    path: &'a str,
    query: &'a str,
    authority: Option<&'a str>,
}

impl<'a> Target<'a> {
    fn parse(method: &str, target: &'a str) -> Option<Self> {
        if method == "CONNECT" {
            // Not served on any port; the target is only repeated in the response.
            return Some(Self { path: target, query: "", authority: None });
        }
        let (authority, origin_form) = match target.split_once("://") {
            Some((scheme, rest)) if !target.starts_with('/') => {
                let is_http =
                    ["http", "https"].iter().any(|name| scheme.eq_ignore_ascii_case(name));
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                let (authority, rest) = rest.split_at(end);
                let is_valid = is_http && is_valid_authority(authority);
                (is_valid.then_some(Some(authority))?, rest)
            }
            _ => (None, target),
        };
        let (path, query) = origin_form.split_once('?').unwrap_or((origin_form, ""));
        let path = match (path, authority) {
            // A proxy sends `OPTIONS http://host` for a server that expects `OPTIONS *`.
            ("", Some(_)) if method == "OPTIONS" && !origin_form.starts_with('?') => "*",
            ("", Some(_)) => "/",
            ("*", None) if method == "OPTIONS" => "*",
            _ => path.starts_with('/').then_some(path)?,
        };
        Some(Self { path, query, authority })
    }
}

/// Whether `text` is `uri-host [":" port]` (RFC 9110 section 7.2) with a host that is not empty. User names are no part of it.
fn is_valid_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            let is_address = address.parse::<std::net::Ipv6Addr>().is_ok();
            return is_address && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port));
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let is_host_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte);
    !host.is_empty() && host.bytes().all(is_host_byte) && is_port(port)
}

fn is_port(text: &str) -> bool {
    text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit())
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
    fn absolute_target_equals_origin_form_on_its_host() {
        for (line, path, query, host) in [
            ("GET /usage?a=http://b", "/usage", "a=http://b", "h"),
            ("GET //usage", "//usage", "", "h"),
            ("GET http://a:80/usage?x=1", "/usage", "x=1", "a:80"),
            ("GET HTTPS://[::1]:80/usage", "/usage", "", "[::1]:80"),
            ("GET http://a", "/", "", "a"),
            ("GET http://a?x", "/", "x", "a"),
            ("GET http://a/?u=http://b/c", "/", "u=http://b/c", "a"),
            ("OPTIONS http://a", "*", "", "a"),
            ("OPTIONS *", "*", "", "h"),
            ("OPTIONS http://a?x", "/", "x", "a"),
        ] {
            with_head(&format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n"), |head| {
                let found = (head.path, head.query, head.hosts().collect::<Vec<_>>());
                assert_eq!(found, (path, query, vec![host]), "{line}");
            });
        }
    }

    #[test]
    fn rejects_invalid_targets() {
        for line in [
            "GET usage",
            "GET *",
            "GET a:80",
            "GET ftp://a/usage",
            "GET http:///usage",
            "GET http://",
            "GET http:/usage",
            "GET http://user@a/usage",
            "GET http://:80/usage",
            "GET http://a:b/usage",
            "GET http://[::1/usage",
            "GET http://[x]/usage",
            "GET ?x",
        ] {
            let text = format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n");
            let mut slots = RequestHead::header_slots();
            let parsed = RequestHead::parse(text.as_bytes(), &mut slots);
            assert!(matches!(parsed, Err(HeadError::Malformed(_))), "{line}");
        }
    }

    #[test]
    fn requires_one_valid_host_header() {
        for (version, headers, valid) in [
            ("1.1", "Host: a\r\n", true),
            ("1.1", "Host: a_b.example:80\r\n", true),
            ("1.1", "Host: [::1]:33931\r\n", true),
            ("1.1", "Host:\r\n", true),
            ("1.1", "", false),
            ("1.0", "", true),
            ("1.0", "Host: a\r\nHost: a\r\n", false),
            ("1.1", "Host: a\r\nHost: b\r\n", false),
            ("1.1", "Host: a b\r\n", false),
            ("1.1", "Host: a, b\r\n", false),
            ("1.1", "Host: u@a\r\n", false),
            ("1.1", "Host: a/b\r\n", false),
            ("1.1", "Host: a:b\r\n", false),
            ("1.1", "Host: [::1\r\n", false),
            ("1.1", "Host: \u{a0}a\r\n", false),
        ] {
            let text = format!("GET http://t/ HTTP/{version}\r\n{headers}\r\n");
            with_head(&text, |head| assert_eq!(head.check_host().is_ok(), valid, "{text:?}"));
        }
    }

    #[test]
    fn trims_only_spaces_and_tabs_from_values() {
        let text = "GET / HTTP/1.1\r\nA: \t b \t\r\nB: \u{a0}b\r\nConnection: a ,\tclose\r\nC: \u{2003}close\r\n\r\n";
        with_head(text, |head| {
            assert_eq!(head.header("a"), Some("b"));
            assert_eq!(head.header("b"), Some("\u{a0}b"));
            assert!(head.header_has_token("connection", "close"));
            assert!(!head.header_has_token("c", "close"));
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
