//! Valid and invalid RFC 6455 frames over a raw socket.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// The peer answers within this time.
const TIMEOUT: Duration = Duration::from_secs(10);
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub const FIN: u8 = 0x80;
pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// Received from the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// First byte and payload.
    Frame(u8, Vec<u8>),
    /// The peer closed the connection (FIN).
    End,
    /// The peer reset the connection, because it had unread data.
    Reset,
    /// Nothing within the timeout.
    Nothing,
}

/// A frame with the shortest form of its length.
pub fn frame(first: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let bit = if masked { 0x80 } else { 0 };
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(bit | short as u8),
        medium @ 126..=0xffff => {
            frame.push(bit | 126);
            frame.extend((medium as u16).to_be_bytes());
        }
        long => {
            frame.push(bit | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    put(&mut frame, payload, masked);
    frame
}

/// Appends mask and payload.
pub fn put(frame: &mut Vec<u8>, payload: &[u8], masked: bool) {
    if masked {
        frame.extend(MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    } else {
        frame.extend(payload);
    }
}

/// A connection after the upgrade.
pub struct Wire {
    socket: TcpStream,
    /// Whether the peer has to mask its frames.
    peer_masks: bool,
    unread: Vec<u8>,
}

impl Wire {
    /// `unread` was received together with the upgrade.
    pub fn new(socket: TcpStream, peer_masks: bool, unread: Vec<u8>) -> Self {
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        socket.set_write_timeout(Some(TIMEOUT)).unwrap();
        socket.set_nodelay(true).unwrap();
        Self { socket, peer_masks, unread }
    }

    /// Ignores errors: the peer may have closed already, and its answer is still to be read.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes);
    }

    /// Closes the sending side.
    pub fn finish(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
    }

    pub fn receive(&mut self) -> Received {
        loop {
            if let Some((frame, length)) = self.next_frame() {
                self.unread.drain(..length);
                return frame;
            }
            let mut part = [0; 16 << 10];
            match self.socket.read(&mut part) {
                Ok(0) => return Received::End,
                Ok(read) => self.unread.extend(&part[..read]),
                Err(error) if is_timeout(&error) => return Received::Nothing,
                Err(_) => return Received::Reset,
            }
        }
    }

    /// The next frame and its length, if it is complete.
    fn next_frame(&self) -> Option<(Received, usize)> {
        let (first, second) = (*self.unread.first()?, *self.unread.get(1)?);
        assert_eq!(second & 0x80 != 0, self.peer_masks, "masking by the peer");
        let (length, from) = match second & 0x7f {
            126 => (u16::from_be_bytes(*self.unread[2..].first_chunk()?).into(), 4),
            127 => (u64::from_be_bytes(*self.unread[2..].first_chunk()?) as usize, 10),
            short => (usize::from(short), 2),
        };
        let key = if self.peer_masks { *self.unread.get(from..)?.first_chunk()? } else { [0; 4] };
        let from = if self.peer_masks { from + 4 } else { from };
        let payload = self.unread.get(from..from + length)?;
        let payload = payload.iter().zip(key.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        Some((Received::Frame(first, payload.collect()), from + length))
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Reads an HTTP head. Returns it and the bytes after it.
pub fn head(socket: &mut TcpStream) -> (String, Vec<u8>) {
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return (String::from_utf8(bytes).unwrap(), rest);
        }
        let mut part = [0; 1024];
        let read = socket.read(&mut part).unwrap();
        assert!(read > 0, "end within the head: {:?}", String::from_utf8_lossy(&bytes));
        bytes.extend(&part[..read]);
    }
}
