//! Checks of what a server sends: HTTP/1.1 responses and WebSocket frames.

/// Parses complete, consecutive responses. Bytes after a 101 are returned.
pub fn responses(mut bytes: &[u8], mut head_only: impl FnMut(usize) -> bool) -> (Vec<u16>, &[u8]) {
    let mut statuses = Vec::new();
    while !bytes.is_empty() {
        let mut slots = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut slots);
        let parsed = response.parse(bytes).expect("an HTTP response");
        let httparse::Status::Complete(length) = parsed else { panic!("truncated response") };
        let status = response.code.expect("a status");
        bytes = &bytes[length..];
        statuses.push(status);
        if status == 101 {
            break;
        }
        let value = |name: &str| {
            let mut found = response.headers.iter().filter(|header| header.name == name);
            let value = found.next().map(|header| str::from_utf8(header.value).expect("UTF-8"));
            assert!(found.next().is_none(), "duplicate {name}");
            value
        };
        let length: usize = value("Content-Length").expect("a length").parse().expect("a number");
        // A 426 has two: `Connection: Upgrade` and `Connection: close`.
        let mut connection = response.headers.iter().filter(|header| header.name == "Connection");
        let keep_alive = connection.all(|header| header.value == b"keep-alive");
        if !head_only(statuses.len() - 1) {
            assert!(bytes.len() >= length, "truncated body");
            bytes = &bytes[length..];
        }
        assert!(keep_alive || bytes.is_empty(), "bytes after the last response");
    }
    (statuses, bytes)
}

/// Checks a server's frames: complete, not masked, no reserved bits, text messages that are JSON, nothing after a close frame.
/// Returns the code of the close frame, if there is one.
pub fn frames(mut bytes: &[u8]) -> Option<Option<u16>> {
    while let Some((first, rest)) = bytes.split_first() {
        let (second, rest) = rest.split_first().expect("a complete frame");
        assert_eq!(second & 0x80, 0, "a server's frame is masked");
        let (length, rest) = match second {
            126 => (u64::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 => (u64::from_be_bytes(*rest.first_chunk().expect("a length")), &rest[8..]),
            short => (u64::from(*short), rest),
        };
        let (payload, rest) = rest.split_at(length as usize);
        bytes = rest;
        match first {
            0x81 => drop(serde_json::from_slice::<serde_json::Value>(payload).expect("JSON")),
            0x8a => assert!(length <= 125),
            0x88 => {
                assert!(length <= 125 && length != 1, "a close frame of {length} bytes");
                assert!(bytes.is_empty(), "bytes after the close frame");
                str::from_utf8(payload.get(2..).unwrap_or_default()).expect("a reason in UTF-8");
                return Some(payload.first_chunk().map(|code| u16::from_be_bytes(*code)));
            }
            other => panic!("unexpected first byte {other:#x}"),
        }
    }
    None
}
