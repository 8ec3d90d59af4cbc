//! Messages as Core writes them, and the HTTP request before them.

use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The token that Core requires. It must be percent-encoded in the URL.
pub const TOKEN: &str = "t0ken & that=needs ?encoding%41";

/// A unique id in the form of a version 4 UUID.
pub fn fresh_id() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("{:08x}-c04e-4000-8000-{number:012x}", std::process::id())
}

pub fn message(kind: &str, id: &str, data: &Value) -> Value {
    json!({"type": kind, "id": id, "timestamp": "2025-01-21T10:00:00Z", "data": data})
}

pub fn error(code: &str) -> Value {
    let data = json!({"error_code": code, "message": "测试", "details": "for a\n\u{1b}[31mtest"});
    message("error", &fresh_id(), &data)
}

/// The request's target, without consuming the request; an error after two seconds.
pub fn peek_request(socket: &TcpStream) -> io::Result<String> {
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let deadline = Instant::now() + Duration::from_secs(2);
    let mut head = [0; 4096];
    while Instant::now() < deadline {
        let read = socket.peek(&mut head)?;
        let text = String::from_utf8_lossy(&head[..read]);
        if text.contains("\r\n\r\n") {
            return Ok(text.split(' ').nth(1).unwrap_or_default().to_owned());
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// A decoded value of the query.
pub fn query(target: &str, name: &str) -> Option<String> {
    let (_, query) = target.split_once('?')?;
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let digits = |a: u8, b: u8| u8::from_str_radix(str::from_utf8(&[a, b]).unwrap(), 16);
        bytes.push(match byte {
            b'%' => digits(rest.next()?, rest.next()?).ok()?,
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}
