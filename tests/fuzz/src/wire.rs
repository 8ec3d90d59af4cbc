//! Judges of what goes over the wire: answers of HTTP/1.1, and frames that a server sends.

/// The answers in `bytes`, whole and one after the other. A last one that switches protocols leaves its rest.
pub fn answers(mut bytes: &[u8], mut head_only: impl FnMut(usize) -> bool) -> (Vec<u16>, &[u8]) {
    let mut statuses = Vec::new();
    while !bytes.is_empty() {
        let mut lines = [httparse::EMPTY_HEADER; 64];
        let mut answer = httparse::Response::new(&mut lines);
        let parsed = answer.parse(bytes).expect("an answer of HTTP");
        let httparse::Status::Complete(length) = parsed else { panic!("an answer that is cut") };
        let status = answer.code.expect("a status");
        bytes = &bytes[length..];
        statuses.push(status);
        if status == 101 {
            break;
        }
        let value = |name: &str| {
            let mut found = answer.headers.iter().filter(|header| header.name == name);
            let value = found.next().map(|header| str::from_utf8(header.value).expect("text"));
            assert!(found.next().is_none(), "{name} comes twice");
            value
        };
        let length: usize = value("Content-Length").expect("a length").parse().expect("a number");
        // A refused upgrade has two: that one is possible, and that this is the end.
        let mut connection = answer.headers.iter().filter(|header| header.name == "Connection");
        let keeps = connection.all(|header| header.value == b"keep-alive");
        if !head_only(statuses.len() - 1) {
            assert!(bytes.len() >= length, "a body that is cut");
            bytes = &bytes[length..];
        }
        assert!(keeps || bytes.is_empty(), "words after the last ones");
    }
    (statuses, bytes)
}

/// Checks what a server says in frames: whole, not masked, nothing reserved, texts that are JSON, nothing after a close
/// frame. The code of that, if there is one.
pub fn frames(mut bytes: &[u8]) -> Option<Option<u16>> {
    while let Some((first, rest)) = bytes.split_first() {
        let (second, rest) = rest.split_first().expect("a whole frame");
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
                assert!(bytes.is_empty(), "words after the last ones");
                str::from_utf8(payload.get(2..).unwrap_or_default()).expect("a reason in UTF-8");
                return Some(payload.first_chunk().map(|code| u16::from_be_bytes(*code)));
            }
            other => panic!("a frame that begins with {other:#x}"),
        }
    }
    None
}
