//! From an HTTP request to a WebSocket (RFC 6455 section 4), on the same socket.

use std::io::{self, Write};

use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};

use crate::http::message::{ErrorResponse, Head};
use crate::limits;
use crate::util::deadline_stream::DeadlineStream;

/// Whether a browser's page may open a WebSocket here. Programs send no `Origin` and are not asked.
pub fn origin_allowed(head: &Head<'_>, allowed: &[String]) -> bool {
    let any = allowed.iter().any(|each| each == "*");
    head.all("origin").all(|origin| any || allowed.iter().any(|a| a.eq_ignore_ascii_case(origin)))
}

/// The key with which the answer to an upgrade is made, if the request is one.
pub fn upgrade_key<'a>(head: &Head<'a>) -> Result<&'a str, ErrorResponse> {
    if !head.lists("upgrade", "websocket") {
        let text = "this is a WebSocket: connect to it with ws://";
        return Err(upgrade_required(text));
    }
    if head.method != "GET" || head.minor_version != 1 || !head.lists("connection", "upgrade") {
        let text = "a WebSocket begins with GET, HTTP/1.1 and \"Connection: Upgrade\"; in nginx: proxy_http_version 1.1";
        return Err(ErrorResponse::new("400 Bad Request", text));
    }
    if head.one("sec-websocket-version") != Some("13") {
        return Err(upgrade_required("only version 13 of the WebSocket protocol is spoken here"));
    }
    let key = head.one("sec-websocket-key").unwrap_or_default();
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

/// Answers an upgrade. `early`: what the client sent behind its request; `most_bytes`: the longest message it may send.
pub fn accept<'a>(
    mut stream: DeadlineStream<'a>,
    key: &str,
    early: Vec<u8>,
    most_bytes: usize,
) -> io::Result<WebSocket<DeadlineStream<'a>>> {
    stream.begin_message();
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    stream.write_all(answer.as_bytes())?;
    let config = WebSocketConfig::default()
        .read_buffer_size(limits::WEBSOCKET_READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(most_bytes))
        .max_frame_size(Some(most_bytes));
    Ok(WebSocket::from_partially_read(stream, early, Role::Server, Some(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "GET /usage HTTP/1.1\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    fn status(text: &str) -> &'static str {
        let mut lines = Head::lines();
        let head = Head::parse(text.as_bytes(), &mut lines).expect("a head").expect("whole").0;
        upgrade_key(&head).map_or_else(|refusal| &refusal.status[..3], |_| "101")
    }

    #[test]
    fn an_upgrade_needs_all_its_parts() {
        assert_eq!(status(GOOD), "101");
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
            assert_eq!(status(&GOOD.replace(from, to)), expected, "{from} -> {to}");
        }
    }

    #[test]
    fn origins_are_whole_and_programs_have_none() {
        let allowed = |origin: &str, list: &[&str]| {
            let text = format!("GET / HTTP/1.1\r\n{origin}\r\n");
            let mut lines = Head::lines();
            let head = Head::parse(text.as_bytes(), &mut lines).expect("a head").expect("whole").0;
            origin_allowed(&head, &list.iter().map(ToString::to_string).collect::<Vec<_>>())
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
