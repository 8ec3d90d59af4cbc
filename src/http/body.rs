//! Where a request's body ends (RFC 9112 section 6). Bodies are skipped, or stored up to a limit on ports that read them.
//!
//! A body whose end is disputable is rejected: a proxy that finds another end would take a part of the body for a request.

use crate::http::request::RequestHead;
use crate::http::response::ErrorResponse;
use crate::util::text::parse_decimal;

/// A request body larger than this is rejected (413) instead of skipped.
const MAX_BODY_BYTES: u64 = 64 << 10;
/// Chunk extensions of one body. The signatures that some storage clients send have 85 bytes for each chunk.
const MAX_EXTENSION_BYTES: usize = 8 << 10;
/// Trailer section. Its lines are header lines, so the limit is that of a head.
const MAX_TRAILER_BYTES: usize = 8 << 10;
/// Digits of a chunk's size. The longest permitted size has five; some senders pad with zeros.
const MAX_SIZE_DIGITS: u32 = 16;

/// How the end of a body is found.
pub(super) enum Body {
    Length(usize),
    Chunked(ChunkedBody),
}

impl Body {
    /// The body that follows `head`.
    pub(super) fn after(head: &RequestHead<'_>) -> Result<Self, ErrorResponse> {
        let mut lengths = head.header_values("content-length");
        let (length, repeated) = (lengths.next(), lengths.next().is_some());
        let mut codings = head.header_values("transfer-encoding");
        let Some(coding) = codings.next() else {
            return match length {
                Some(_) if repeated => Err(malformed("more than one Content-Length header")),
                Some(length) => parse_content_length(length.as_bytes()).map(Self::Length),
                None => Ok(Self::Length(0)),
            };
        };
        if length.is_some() {
            return Err(malformed("both Content-Length and Transfer-Encoding"));
        }
        if head.minor_version == 0 {
            return Err(malformed("Transfer-Encoding in HTTP/1.0"));
        }
        match coding.eq_ignore_ascii_case("chunked") && codings.next().is_none() {
            true => Ok(Self::Chunked(ChunkedBody::default())),
            false => Err(malformed("the only Transfer-Encoding supported is chunked")),
        }
    }
}

fn parse_content_length(value: &[u8]) -> Result<usize, ErrorResponse> {
    match parse_decimal(value) {
        Some(length) if length <= MAX_BODY_BYTES => Ok(length as usize),
        Some(_) => Err(too_large()),
        None => Err(malformed("Content-Length is not a number")),
    }
}

fn malformed(text: &str) -> ErrorResponse {
    ErrorResponse::new("400 Bad Request", text)
}

fn too_large() -> ErrorResponse {
    ErrorResponse::new("413 Content Too Large", format!("body exceeds {MAX_BODY_BYTES} bytes"))
}

/// Finds the end of a body in chunks (RFC 9112 section 7.1) in bytes that arrive in parts. Lines must end with CR LF: a
/// parser that takes LF alone for the end of a chunk extension disagrees with one that does not.
#[derive(Default)]
pub(super) struct ChunkedBody {
    state: ChunkState,
    data_bytes: u64,
    extension_bytes: usize,
    trailer_bytes: usize,
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChunkState {
    Size {
        size: u64,
        digits: u32,
    },
    /// After the size; `named` means that the semicolon of an extension was found.
    Extension {
        size: u64,
        named: bool,
    },
    SizeLf {
        size: u64,
    },
    /// This many bytes of data are missing.
    Data(u64),
    DataCr,
    DataLf,
    TrailerStart,
    Trailer {
        has_colon: bool,
    },
    TrailerLf,
    EndLf,
    Complete,
}

impl Default for ChunkState {
    fn default() -> Self {
        Self::Size { size: 0, digits: 0 }
    }
}

impl ChunkedBody {
    pub(super) fn is_complete(&self) -> bool {
        self.state == ChunkState::Complete
    }

    /// Consumes bytes of the body and returns how many belong to it.
    pub(super) fn consume(&mut self, bytes: &[u8]) -> Result<usize, ErrorResponse> {
        let mut rest = bytes;
        while let (Some((&byte, after)), false) = (rest.split_first(), self.is_complete()) {
            if let ChunkState::Data(missing) = self.state {
                let taken = rest.len().min(missing as usize);
                rest = rest.get(taken..).unwrap_or_default();
                self.state = match missing - taken as u64 {
                    0 => ChunkState::DataCr,
                    missing => ChunkState::Data(missing),
                };
            } else {
                self.state = self.next_state(byte)?;
                rest = after;
            }
        }
        Ok(bytes.len() - rest.len())
    }

    fn next_state(&mut self, byte: u8) -> Result<ChunkState, ErrorResponse> {
        use ChunkState as S;
        let is_text = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        let next = match (self.state, byte) {
            (S::Size { size, digits: 1.. }, b'\r') => S::SizeLf { size },
            (S::Size { size, digits: 1.. }, b';' | b' ' | b'\t') => {
                S::Extension { size, named: byte == b';' }
            }
            (S::Size { size, digits }, _) => self.size_digit(size, digits, byte)?,
            (S::Extension { size, named: true }, b'\r') => S::SizeLf { size },
            (S::Extension { size, named }, _)
                if is_text && (named || matches!(byte, b';' | b' ' | b'\t')) =>
            {
                count(&mut self.extension_bytes, MAX_EXTENSION_BYTES, "chunk extensions")?;
                S::Extension { size, named: named || byte == b';' }
            }
            (S::SizeLf { size: 0 }, b'\n') => S::TrailerStart,
            (S::SizeLf { size }, b'\n') => {
                self.data_bytes += size;
                S::Data(size)
            }
            (S::DataCr, b'\r') => S::DataLf,
            (S::DataLf, b'\n') => S::default(),
            (S::TrailerStart, b'\r') => S::EndLf,
            (S::Trailer { has_colon: true }, b'\r') => S::TrailerLf,
            (S::TrailerStart, b':' | b' ' | b'\t') => return Err(malformed("invalid trailer")),
            (S::TrailerStart, _) if is_text => {
                count(&mut self.trailer_bytes, MAX_TRAILER_BYTES, "trailers")?;
                S::Trailer { has_colon: false }
            }
            (S::Trailer { has_colon }, _) if is_text => {
                count(&mut self.trailer_bytes, MAX_TRAILER_BYTES, "trailers")?;
                S::Trailer { has_colon: has_colon || byte == b':' }
            }
            (S::TrailerLf, b'\n') => S::TrailerStart,
            (S::EndLf, b'\n') => S::Complete,
            _ => return Err(malformed("invalid chunk or trailer")),
        };
        Ok(next)
    }

    /// Adds a digit to a chunk's size. The limit counts the data of all chunks.
    fn size_digit(&self, size: u64, digits: u32, byte: u8) -> Result<ChunkState, ErrorResponse> {
        let digit = char::from(byte).to_digit(16);
        let digit = digit.filter(|_| digits < MAX_SIZE_DIGITS);
        let digit = digit.ok_or_else(|| malformed("invalid chunk size"))?;
        // `size` was at most `MAX_BODY_BYTES`, so nothing overflows.
        let size = size * 16 + u64::from(digit);
        match self.data_bytes + size > MAX_BODY_BYTES {
            true => Err(too_large()),
            false => Ok(ChunkState::Size { size, digits: digits + 1 }),
        }
    }
}

fn count(bytes: &mut usize, max: usize, what: &str) -> Result<(), ErrorResponse> {
    *bytes += 1;
    match *bytes > max {
        true => Err(ErrorResponse::new(
            "431 Request Header Fields Too Large",
            format!("{what} exceed {max} bytes"),
        )),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(result: Result<impl Sized, ErrorResponse>) -> &'static str {
        result.map_or_else(|error| &error.status[..3], |_| "200")
    }

    fn body(version: &str, headers: &str) -> Result<Body, ErrorResponse> {
        let text = format!("POST / HTTP/{version}\r\n{headers}\r\n");
        let mut slots = RequestHead::header_slots();
        let parsed = RequestHead::parse(text.as_bytes(), &mut slots).expect("a valid head");
        Body::after(&parsed.expect("a complete head").0)
    }

    /// Feeds a body in parts of `step` bytes. Returns how many belong to it, if it is complete.
    fn skip(bytes: &[u8], step: usize) -> Result<Option<usize>, ErrorResponse> {
        let (mut body, mut consumed) = (ChunkedBody::default(), 0);
        for part in bytes.chunks(step) {
            consumed += body.consume(part)?;
        }
        Ok(body.is_complete().then_some(consumed))
    }

    #[test]
    fn content_length_is_digits_between_spaces_and_tabs() {
        for (value, expected) in [
            ("5", "200"),
            (" \t5\t ", "200"),
            ("0005", "200"),
            ("65536", "200"),
            ("65537", "413"),
            ("18446744073709551616", "400"),
            ("", "400"),
            ("+5", "400"),
            ("-5", "400"),
            ("5,5", "400"),
            ("5 5", "400"),
            ("0x5", "400"),
            ("5.0", "400"),
            ("\u{a0}5", "400"),
            ("5\u{2003}", "400"),
            ("\u{3000}5", "400"),
            ("\u{85}5", "400"),
            ("\u{665}", "400"),
        ] {
            let result = body("1.1", &format!("Content-Length:{value}\r\n"));
            assert_eq!(status(result), expected, "{value:?}");
        }
    }

    #[test]
    fn rejects_conflicting_and_unknown_framing() {
        for (version, headers, expected) in [
            ("1.1", "", "200"),
            ("1.1", "Transfer-Encoding: Chunked\t\r\n", "200"),
            ("1.0", "Transfer-Encoding: chunked\r\n", "400"),
            ("1.1", "Content-Length: 5\r\nContent-Length: 6\r\n", "400"),
            ("1.1", "Content-Length: 5\r\nContent-Length: 5\r\n", "400"),
            ("1.1", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "400"),
            ("1.1", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "400"),
            ("1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "400"),
            ("1.1", "Transfer-Encoding: gzip, chunked\r\n", "400"),
            ("1.1", "Transfer-Encoding: chunked, identity\r\n", "400"),
            ("1.1", "Transfer-Encoding: xchunked\r\n", "400"),
            ("1.1", "Transfer-Encoding: \u{b}chunked\r\n", "malformed head"),
            ("1.1", "Transfer-Encoding: \u{a0}chunked\r\n", "400"),
            ("1.1", "Transfer-Encoding:\r\n", "400"),
        ] {
            let text = format!("POST / HTTP/{version}\r\n{headers}\r\n");
            let mut slots = RequestHead::header_slots();
            let found = match RequestHead::parse(text.as_bytes(), &mut slots) {
                Ok(parsed) => status(Body::after(&parsed.expect("a complete head").0)),
                Err(_) => "malformed head",
            };
            assert_eq!(found, expected, "{version} {headers:?}");
        }
    }

    #[test]
    fn finds_end_of_chunks_extensions_and_trailers() {
        for text in [
            "0\r\n\r\n",
            "000\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "A\r\n0\r\n\r\nGET /\r\n1\r\nx\r\n0\r\n\r\n",
            "5;name\r\nhello\r\n0;last=\"a;b\"\r\n\r\n",
            "5 \t;name = value;other\r\nhello\r\n0\r\n\r\n",
            "1\r\nx\r\n0\r\nChecksum: 1\r\nEmpty:\r\n\r\n",
        ] {
            let sent = format!("{text}GET /next");
            for step in 1..=sent.len() {
                let end = skip(sent.as_bytes(), step).expect("a valid body");
                assert_eq!(end, Some(text.len()), "{text:?} in parts of {step}");
            }
            for end in 0..text.len() {
                let cut = skip(&text.as_bytes()[..end], 3).expect("no error");
                assert_eq!(cut, None, "{text:?} cut at {end}");
            }
        }
    }

    #[test]
    fn rejects_malformed_chunks() {
        for text in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            " 1\r\n",
            "1 \r\nx\r\n0\r\n\r\n",
            "1 2\r\n",
            "1\nx\r\n0\r\n\r\n",
            "1;a\nx\r\n0\r\n\r\n",
            "1;a\rb\r\n",
            "1;\0\r\n",
            "1\r\nxy\r\n",
            "1\r\nx\n0\r\n\r\n",
            "00000000000000001\r\n",
            "0\r\n\n",
            "0\r\nno colon\r\n\r\n",
            "0\r\n: nameless\r\n\r\n",
            "0\r\n folded: 1\r\n\r\n",
            "0\r\na: b\n\r\n",
            "1\u{a0}\r\nx\r\n0\r\n\r\n",
        ] {
            assert_eq!(status(skip(text.as_bytes(), 1)), "400", "{text:?}");
        }
    }

    #[test]
    fn limits_data_extensions_and_trailers() {
        let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
        let all = format!("{}0\r\n\r\n", chunk.repeat(16));
        assert_eq!(skip(all.as_bytes(), 1000).expect("a valid body"), Some(all.len()));
        assert_eq!(status(skip(format!("{}1\r\n", chunk.repeat(16)).as_bytes(), 1000)), "413");
        assert_eq!(status(skip(b"ffffffffffffffff\r\n", 1000)), "413");
        let extensions = format!("1;{}\r\nx\r\n", "e".repeat(1000)).repeat(9);
        assert_eq!(status(skip(extensions.as_bytes(), 1000)), "431");
        let trailers = format!("0\r\n{}", "a: b\r\n".repeat(3000));
        assert_eq!(status(skip(trailers.as_bytes(), 1000)), "431");
    }
}
