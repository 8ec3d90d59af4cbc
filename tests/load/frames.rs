//! RFC 6455 frames as a client sees them: what a server sends, piece by piece, and what it is sent.

/// Longer messages are a fault: none of the protocol comes near.
const MESSAGE_BYTES: u64 = 1 << 20;
const HEAD_BYTES: usize = 8 << 10;
/// The example of RFC 6455 1.3, whose answer is known without SHA-1.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// Not zero, so that the server really has to unmask.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Opcodes of what a client sends here.
pub const TEXT: u8 = 1;
pub const PONG: u8 = 10;

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// A whole message, out of one frame or several.
    Message(&'a [u8]),
    /// One by permessage-deflate (RFC 7692). What it says is not looked at.
    Compressed,
    Ping(&'a [u8]),
    Close,
}

/// Bytes become frames; where one read ends and the next begins does not matter.
#[derive(Default)]
pub struct Frames {
    bytes: Vec<u8>,
    taken: usize,
    /// The parts so far of a message that comes in several frames.
    message: Vec<u8>,
}

impl Frames {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// What was pushed and is not taken yet.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    /// Takes bytes that are no frames: the answer to the upgrade.
    pub fn skip(&mut self, count: usize) {
        self.taken += count;
    }

    /// The next thing said, if all of it is there.
    pub fn next(&mut self) -> Result<Option<Heard<'_>>, &'static str> {
        while let Some((first, length, header)) = head(self.rest())? {
            let from = self.taken + header;
            let Some(payload) = self.bytes.get(from..from + length) else { break };
            self.taken = from + length;
            let last = first & 0x80 != 0;
            match first & 0x7f {
                1 | 2 if last => return Ok(Some(Heard::Message(&self.bytes[from..self.taken]))),
                opcode @ 0..=2 => {
                    if opcode > 0 {
                        self.message.clear();
                    }
                    self.message.extend_from_slice(payload);
                    if self.message.len() as u64 > MESSAGE_BYTES {
                        return Err("a message over 1 MiB");
                    }
                    if last {
                        return Ok(Some(Heard::Message(&self.message)));
                    }
                }
                0x41 | 0x42 if last => return Ok(Some(Heard::Compressed)),
                8 => return Ok(Some(Heard::Close)),
                9 => return Ok(Some(Heard::Ping(&self.bytes[from..self.taken]))),
                10 => {}
                _ => return Err("an unknown frame"),
            }
        }
        Ok(None)
    }
}

/// First byte, length of the payload and length of the header, if the header is there.
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

/// The length of the answer to the upgrade, if all of it is there.
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

/// A masked frame; the payload is at most 125 bytes, as in everything a client says here.
pub fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len().min(125);
    let mut frame = vec![0x80 | opcode, 0x80 | length as u8];
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

    fn heard(frames: &mut Frames, into: &mut Vec<String>) {
        while let Some(heard) = frames.next().expect("frames") {
            into.push(match heard {
                Heard::Message(bytes) => format!("message of {}", bytes.len()),
                Heard::Compressed => "compressed".to_owned(),
                Heard::Ping(bytes) => format!("ping {}", String::from_utf8_lossy(bytes)),
                Heard::Close => "close".to_owned(),
            });
        }
    }

    #[test]
    fn where_reads_end_does_not_matter() {
        let wire: Vec<u8> = [
            frame(0x81, b""),
            frame(0x81, &[b'x'; 125]),
            frame(0x01, b"one "),
            frame(0x89, b"still there?"),
            frame(0x00, b"message "),
            frame(0x80, b"in parts"),
            frame(0x8a, b"unasked pong"),
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
            "message of 126",
            "message of 65536",
            "compressed",
            "close",
        ];
        for step in [1, 2, 3, 7, 127, 4096, wire.len()] {
            let (mut frames, mut said) = (Frames::default(), Vec::new());
            for piece in wire.chunks(step) {
                frames.push(piece);
                heard(&mut frames, &mut said);
            }
            assert_eq!(said, expected, "in pieces of {step}");
            assert!(frames.rest().is_empty());
        }
    }

    #[test]
    fn the_longest_message_passes_and_a_longer_one_is_a_fault() {
        let mut frames = Frames::default();
        frames.push(&frame(0x81, &vec![b'x'; 1 << 20]));
        assert!(matches!(frames.next(), Ok(Some(Heard::Message(bytes))) if bytes.len() == 1 << 20));
        frames.push(&frame(0x81, &vec![b'x'; (1 << 20) + 1])[..10]);
        assert_eq!(frames.next(), Err("a message over 1 MiB"));
    }

    #[test]
    fn an_upgrade_is_accepted_or_refused() {
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
    fn a_server_must_not_mask() {
        let mut frames = Frames::default();
        frames.push(&masked(TEXT, b"hello"));
        assert!(frames.next().is_err());
    }

    #[test]
    fn what_is_sent_is_masked() {
        let sent = masked(PONG, b"still there?");
        assert_eq!(sent[..6], [0x8a, 0x80 | 12, 0x37, 0xfa, 0x21, 0x3d]);
        let unmasked: Vec<u8> =
            sent[6..].iter().zip(MASK.iter().cycle()).map(|(b, m)| b ^ m).collect();
        assert_eq!(unmasked, b"still there?");
    }
}
