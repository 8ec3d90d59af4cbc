//! Bodies of HTTP responses.

use serde_json::Value;

/// The body of a response.
pub fn json_body(response: &str) -> Value {
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    match head.contains("\r\nTransfer-Encoding: chunked") {
        true => serde_json::from_str(&join_chunks(body)).unwrap(),
        false => serde_json::from_str(body).unwrap(),
    }
}

/// The body that was sent in chunks. There must be nothing after the last one.
pub fn join_chunks(mut chunks: &str) -> String {
    let mut body = String::new();
    loop {
        let (length, rest) = chunks.split_once("\r\n").unwrap();
        let (chunk, rest) = rest.split_at(usize::from_str_radix(length, 16).unwrap());
        chunks = rest.strip_prefix("\r\n").unwrap();
        if chunk.is_empty() {
            assert_eq!(chunks, "");
            return body;
        }
        body.push_str(chunk);
    }
}
