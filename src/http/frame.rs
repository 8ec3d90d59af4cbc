//! RFC 6455 text frames that are rendered once and sent to many clients. A server does not mask its frames, so the bytes are
//! the same for every client. tungstenite handles everything else on these connections.

/// First byte of an unfragmented text message: FIN and opcode 1 (RFC 6455 5.2).
const FIN_TEXT: u8 = 0x81;

/// A ping without a payload.
pub const PING: [u8; 2] = [0x89, 0];

/// A text message with its frame header.
pub fn text(payload: &str) -> Box<[u8]> {
    let mut frame = Vec::with_capacity(payload.len() + 10);
    frame.push(FIN_TEXT);
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
    frame.extend(payload.as_bytes());
    frame.into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;
    use tungstenite::protocol::{Message, Role, WebSocket};

    #[test]
    fn tungstenite_reads_the_ping() {
        let mut peer = WebSocket::from_raw_socket(Cursor::new(PING.to_vec()), Role::Client, None);
        assert_eq!(peer.read().expect("a frame"), Message::Ping(Vec::new().into()));
    }

    #[test]
    fn tungstenite_reads_frames_of_every_length_encoding() {
        for length in [0, 1, 125, 126, 65_535, 65_536, 100_000] {
            let payload = "x".repeat(length);
            let wire = Cursor::new(text(&payload).into_vec());
            let mut peer = WebSocket::from_raw_socket(wire, Role::Client, None);
            assert_eq!(peer.read().expect("a frame"), Message::text(payload));
        }
    }
}
