//! From an HTTP request to a WebSocket (RFC 6455 section 4) on the same socket, and how a WebSocket session ends.

use std::fmt;
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use log::Level;
use tungstenite::error::ProtocolError;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tungstenite::{Error, WebSocket};

use crate::http::frame;
use crate::http::request::RequestHead;
use crate::http::response::ErrorResponse;
use crate::http::stream::ServerStream;
use crate::util::deadline_stream::WRITE_TIMEOUT;
use crate::util::error::reason;

/// tungstenite's read buffer, one per session. Client messages are short; longer ones are read in parts.
pub const READ_BUFFER_BYTES: usize = 256;

/// A session that has sent nothing for this long sends a ping. Proxies close a silent connection after 60 s (nginx, load
/// balancers) or 100 s (Cloudflare).
const PING_AFTER: Duration = Duration::from_secs(25);

/// Whether a page of this origin may open a WebSocket. Programs send no `Origin` and are always allowed.
pub(crate) fn origin_allowed(head: &RequestHead<'_>, allowed: &[String]) -> bool {
    let any = allowed.iter().any(|each| each == "*");
    let matches = |origin: &str| allowed.iter().any(|each| each.eq_ignore_ascii_case(origin));
    head.header_values("origin").all(|origin| any || matches(origin))
}

/// The `Sec-WebSocket-Key` of a valid upgrade request.
pub fn upgrade_key<'a>(head: &RequestHead<'a>) -> Result<&'a str, ErrorResponse> {
    if !head.header_has_token("upgrade", "websocket") {
        return Err(upgrade_required("this is a WebSocket endpoint: connect with ws://"));
    }
    let is_upgrade = head.header_has_token("connection", "upgrade");
    if head.method != "GET" || head.minor_version != 1 || !is_upgrade {
        let text = "a WebSocket handshake needs GET, HTTP/1.1 and \"Connection: Upgrade\"; in nginx: proxy_http_version 1.1";
        return Err(ErrorResponse::new("400 Bad Request", text));
    }
    if head.header("sec-websocket-version") != Some("13") {
        return Err(upgrade_required("only WebSocket version 13 is supported"));
    }
    let key = head.header("sec-websocket-key").unwrap_or_default();
    let decoded = data_encoding::BASE64.decode(key.as_bytes());
    if decoded.is_ok_and(|decoded| decoded.len() == 16) {
        Ok(key)
    } else {
        Err(ErrorResponse::new("400 Bad Request", "Sec-WebSocket-Key is not 16 bytes in base64"))
    }
}

fn upgrade_required(text: &str) -> ErrorResponse {
    ErrorResponse::new("426 Upgrade Required", text)
        .header("Upgrade: websocket")
        .header("Connection: Upgrade")
        .header("Sec-WebSocket-Version: 13")
}

/// Sends `101 Switching Protocols`. `buffered` are the bytes that followed the request; `max_message_bytes` is the longest
/// message that the client may send.
pub fn accept<'a>(
    mut stream: ServerStream<'a>,
    key: &str,
    buffered: Vec<u8>,
    max_message_bytes: usize,
) -> io::Result<WebSocket<ServerStream<'a>>> {
    send_switching_protocols(&mut stream, key)?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(max_message_bytes))
        .max_frame_size(Some(max_message_bytes));
    Ok(WebSocket::from_partially_read(stream, buffered, Role::Server, Some(config)))
}

/// Sends `101 Switching Protocols`.
pub(super) fn send_switching_protocols(stream: &mut ServerStream<'_>, key: &str) -> io::Result<()> {
    // Not a `Response`: a 101 has neither a body nor a Content-Length.
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    stream.write_message(head.as_bytes())
}

/// Sends a ping if nothing was sent for [`PING_AFTER`]. Returns how long the session may wait until the next call.
pub fn ping_when_silent(socket: &mut WebSocket<ServerStream<'_>>) -> io::Result<Duration> {
    // Bypasses tungstenite, which has no partial frame to write: each of its writes completes or ends the session.
    let stream = socket.get_mut();
    let silence = Instant::now().saturating_duration_since(stream.last_sent());
    match PING_AFTER.checked_sub(silence).filter(|left| !left.is_zero()) {
        Some(left) => Ok(left),
        None => stream.write_message(&frame::PING).map(|()| PING_AFTER),
    }
}

/// Why a WebSocket session ended.
#[derive(Debug)]
pub enum SessionEnd {
    ClosedByClient,
    /// The client is sent this code and reason.
    ClosedByServer(CloseCode, &'static str),
    Io(io::Error),
}

impl SessionEnd {
    pub fn shutting_down() -> Self {
        Self::ClosedByServer(CloseCode::Away, "agent is shutting down")
    }

    /// What an error of tungstenite means; `too_long` is the close reason for a message over the limit.
    pub fn from_error(error: Error, too_long: &'static str) -> Self {
        match error {
            Error::Io(error) => Self::Io(error),
            Error::ConnectionClosed | Error::AlreadyClosed => Self::ClosedByClient,
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::ClosedByClient,
            Error::Capacity(_) => Self::ClosedByServer(CloseCode::Size, too_long),
            Error::Utf8(_) => Self::ClosedByServer(CloseCode::Invalid, "text is not UTF-8"),
            _ => Self::ClosedByServer(CloseCode::Protocol, "WebSocket protocol error"),
        }
    }

    /// Level of the log line.
    pub fn level(&self) -> Level {
        match self {
            Self::ClosedByClient | Self::ClosedByServer(CloseCode::Away, _) => Level::Debug,
            Self::ClosedByServer(..) | Self::Io(_) => Level::Info,
        }
    }
}

impl From<io::Error> for SessionEnd {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for SessionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClosedByClient => f.write_str("disconnected"),
            Self::ClosedByServer(code, why) => write!(f, "closed ({}): {why}", u16::from(*code)),
            // Our own deadline has no errno. TCP_USER_TIMEOUT, for data that the peer does not acknowledge, has one.
            Self::Io(error)
                if error.kind() == ErrorKind::TimedOut && error.raw_os_error().is_none() =>
            {
                write!(f, "disconnected: write timeout ({} s)", WRITE_TIMEOUT.as_secs())
            }
            Self::Io(error) => write!(f, "disconnected: {}", reason(error)),
        }
    }
}

/// Sends the close frame that `end` calls for and lingers, so that a reset does not discard it.
pub fn finish(socket: &mut WebSocket<ServerStream<'_>>, end: &SessionEnd) {
    match end {
        SessionEnd::ClosedByServer(code, reason) => {
            socket.get_mut().begin_close();
            let frame = CloseFrame { code: *code, reason: (*reason).into() };
            if socket.close(Some(frame)).is_ok() {
                socket.get_mut().linger();
            }
        }
        // tungstenite has answered the client's close frame. Bytes after that frame must not cause a reset, which would
        // discard the answer.
        SessionEnd::ClosedByClient => socket.get_mut().linger(),
        SessionEnd::Io(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "GET /usage HTTP/1.1\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    fn with_head<R>(text: &str, then: impl FnOnce(&RequestHead<'_>) -> R) -> R {
        let mut slots = RequestHead::header_slots();
        let parsed = RequestHead::parse(text.as_bytes(), &mut slots).expect("a valid head");
        then(&parsed.expect("a complete head").0)
    }

    fn status(text: &str) -> &'static str {
        with_head(text, |head| upgrade_key(head).map_or_else(|error| &error.status[..3], |_| "101"))
    }

    #[test]
    fn upgrade_requires_every_handshake_header() {
        assert_eq!(status(VALID), "101");
        for (from, to, expected) in [
            ("Upgrade: WebSocket\r\n", "", "426"),
            ("Upgrade: WebSocket", "Upgrade: h2c", "426"),
            ("Version: 13", "Version: 8", "426"),
            ("Sec-WebSocket-Version: 13\r\n", "", "426"),
            ("GET", "POST", "400"),
            ("HTTP/1.1", "HTTP/1.0", "400"),
            (", Upgrade", "", "400"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ==", "400"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "!", "400"),
        ] {
            assert_eq!(status(&VALID.replace(from, to)), expected, "{from} -> {to}");
        }
    }

    #[test]
    fn allows_listed_origins_and_clients_without_origin() {
        let allowed = |origin: &str, list: &[&str]| {
            let list: Vec<String> = list.iter().map(ToString::to_string).collect();
            let text = format!("GET / HTTP/1.1\r\n{origin}\r\n");
            with_head(&text, |head| origin_allowed(head, &list))
        };
        let list = ["https://dash.example"];
        assert!(allowed("", &list) && allowed("", &[]));
        assert!(allowed("Origin: https://Dash.example\r\n", &list));
        assert!(allowed("Origin: http://anywhere\r\n", &["*"]));
        for bad in ["http://dash.example", "https://dash.example.evil", "null", ""] {
            assert!(!allowed(&format!("Origin: {bad}\r\n"), &list), "{bad}");
        }
    }
}
