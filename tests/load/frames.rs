//! RFC 6455 frames of a client: incremental parsing of what a server sends, and masked frames to send.

/// Longer messages are an error. The protocol's messages are far shorter.
const MESSAGE_BYTES: u64 = 1 << 20;
const HEAD_BYTES: usize = 8 << 10;
/// The example of RFC 6455 1.3, so that no SHA-1 is needed to check the answer.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// Not zero, so that a server that does not unmask fails.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub const TEXT: u8 = 1;
pub const PONG: u8 = 10;

/// Received from a server.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A whole message, out of one frame or several.
    Message(&'a [u8]),
    /// A message compressed with permessage-deflate (RFC 7692). It is not decompressed.
    Compressed,
    Ping(&'a [u8]),
    Pong,
    Close,
}

/// Parses bytes that arrive in pieces of any size.
#[derive(Default)]
pub struct Frames {
    bytes: Vec<u8>,
    consumed: usize,
    /// The fragments received so far of the current message.
    message: Vec<u8>,
}

impl Frames {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.consumed);
        self.consumed = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes that were pushed and not consumed.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.consumed..]
    }

    /// Consumes bytes that are no frames: the response to the upgrade.
    pub fn skip(&mut self, count: usize) {
        self.consumed += count;
    }

    /// The next message or control frame, if it is complete.
    pub fn next(&mut self) -> Result<Option<Incoming<'_>>, &'static str> {
        while let Some((first, length, header)) = head(self.rest())? {
            let from = self.consumed + header;
            let Some(payload) = self.bytes.get(from..from + length) else { break };
            self.consumed = from + length;
            let last = first & 0x80 != 0;
            match first & 0x7f {
                1 | 2 if last => {
                    return Ok(Some(Incoming::Message(&self.bytes[from..self.consumed])));
                }
                opcode @ 0..=2 => {
                    if opcode > 0 {
                        self.message.clear();
                    }
                    self.message.extend_from_slice(payload);
                    if self.message.len() as u64 > MESSAGE_BYTES {
                        return Err("a message over 1 MiB");
                    }
                    if last {
                        return Ok(Some(Incoming::Message(&self.message)));
                    }
                }
                0x41 | 0x42 if last => return Ok(Some(Incoming::Compressed)),
                8 => return Ok(Some(Incoming::Close)),
                9 => return Ok(Some(Incoming::Ping(&self.bytes[from..self.consumed]))),
                10 => return Ok(Some(Incoming::Pong)),
                _ => return Err("an unknown frame"),
            }
        }
        Ok(None)
    }
}

/// First byte, length of the payload and length of the header, if the header is complete.
fn head(bytes: &[u8]) -> Result<Option<(u8, usize, usize)>, &'static str> {
    let [first, second, more @ ..] = bytes else { return Ok(None) };
    let (length, header) = match (second, more) {
        (0..=125, _) => (u64::from(*second), 2),
        (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 4),
        (127, [a, b, c, d, e, f, g, h, ..]) => {
            (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 10)
        }
        (126 | 127, _) => return Ok(None),
        _ => return Err("a masked frame from a server"),
    };
    if length > MESSAGE_BYTES {
        return Err("a message over 1 MiB");
    }
    Ok(Some((*first, length as usize, header)))
}

/// Length of the response to the upgrade, if it is complete.
pub fn upgrade(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if bytes.len() > HEAD_BYTES { Err("a head without an end") } else { Ok(None) };
    };
    let head = &bytes[..end];
    if !head.starts_with(b"HTTP/1.1 101 ") || !contains(head, ACCEPT) {
        return Err("the upgrade was refused");
    }
    Ok(Some(end + 4))
}

pub fn contains(text: &[u8], what: &[u8]) -> bool {
    text.windows(what.len()).any(|window| window == what)
}

/// A masked frame. The payload is cut at 65,535 bytes; no client here sends more.
pub fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len().min(0xffff);
    let mut frame = vec![0x80 | opcode];
    match length {
        0..=125 => frame.push(0x80 | length as u8),
        _ => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload[..length].iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            short @ 0..=125 => frame.push(short as u8),
            medium @ 126..=0xffff => {
                frame.push(126);
                frame.extend((medium as u16).to_be_bytes());
            }
            long => {
                frame.push(127);
                frame.extend((long as u64).to_be_bytes());
            }
        }
        frame.extend(payload);
        frame
    }

    fn parse(frames: &mut Frames, into: &mut Vec<String>) {
        while let Some(incoming) = frames.next().expect("frames") {
            into.push(match incoming {
                Incoming::Message(bytes) => format!("message of {}", bytes.len()),
                Incoming::Compressed => "compressed".to_owned(),
                Incoming::Ping(bytes) => format!("ping {}", String::from_utf8_lossy(bytes)),
                Incoming::Pong => "pong".to_owned(),
                Incoming::Close => "close".to_owned(),
            });
        }
    }

    #[test]
    fn parses_pieces_of_any_size() {
        let wire: Vec<u8> = [
            frame(0x81, b""),
            frame(0x81, &[b'x'; 125]),
            frame(0x01, b"one "),
            frame(0x89, b"still there?"),
            frame(0x00, b"message "),
            frame(0x80, b"in parts"),
            frame(0x8a, b"unsolicited pong"),
            frame(0x82, &[0; 126]),
            frame(0x81, &[b'x'; 65_536]),
            frame(0xc1, &[0; 200]),
            frame(0x88, &[3, 232]),
        ]
        .concat();
        let expected = [
            "message of 0",
            "message of 125",
            "ping still there?",
            "message of 20",
            "pong",
            "message of 126",
            "message of 65536",
            "compressed",
            "close",
        ];
        for step in [1, 2, 3, 7, 127, 4096, wire.len()] {
            let (mut frames, mut parsed) = (Frames::default(), Vec::new());
            for piece in wire.chunks(step) {
                frames.push(piece);
                parse(&mut frames, &mut parsed);
            }
            assert_eq!(parsed, expected, "in pieces of {step}");
            assert!(frames.rest().is_empty());
        }
    }

    #[test]
    fn rejects_message_over_1_mib() {
        let mut frames = Frames::default();
        frames.push(&frame(0x81, &vec![b'x'; 1 << 20]));
        assert!(
            matches!(frames.next(), Ok(Some(Incoming::Message(bytes))) if bytes.len() == 1 << 20)
        );
        frames.push(&frame(0x81, &vec![b'x'; (1 << 20) + 1])[..10]);
        assert_eq!(frames.next(), Err("a message over 1 MiB"));
    }

    #[test]
    fn accepts_only_complete_and_correct_upgrade() {
        let accepted = "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        assert_eq!(upgrade(accepted.as_bytes()), Ok(Some(accepted.len())));
        for cut in 0..accepted.len() {
            assert_eq!(upgrade(&accepted.as_bytes()[..cut]), Ok(None));
        }
        assert!(upgrade(accepted.replace("101", "503").as_bytes()).is_err());
        assert!(upgrade(accepted.replace("s3pP", "XXXX").as_bytes()).is_err());
        assert!(upgrade(&[b'x'; HEAD_BYTES + 1]).is_err());
    }

    #[test]
    fn rejects_masked_frame_of_server() {
        let mut frames = Frames::default();
        frames.push(&masked(TEXT, b"hello"));
        assert!(frames.next().is_err());
    }

    #[test]
    fn masks_sent_frames() {
        let sent = masked(PONG, b"still there?");
        assert_eq!(sent[..6], [0x8a, 0x80 | 12, 0x37, 0xfa, 0x21, 0x3d]);
        let unmasked: Vec<u8> =
            sent[6..].iter().zip(MASK.iter().cycle()).map(|(b, m)| b ^ m).collect();
        assert_eq!(unmasked, b"still there?");
        assert_eq!(masked(TEXT, &[b'x'; 126])[..4], [0x81, 0x80 | 126, 0, 126]);
        assert_eq!(masked(TEXT, &[b'x'; 126]).len(), 8 + 126);
    }
}
