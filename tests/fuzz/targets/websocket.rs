//! Sessions on `/usage`: raw bytes, or frames built from a program, so that masks and lengths are mostly valid. The output is
//! valid frames, and a session that the server closes has a close code of RFC 6455.
#![no_main]

use hm_agent::http::websocket::{READ_BUFFER_BYTES, SessionEnd, finish};
use hm_agent::telemetry::subscription::MAX_CLIENT_MESSAGE_BYTES;
use hm_agent_fuzz::program::Program;
use hm_agent_fuzz::{stage, wire};
use libfuzzer_sys::fuzz_target;
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let input = match kind {
        b'r' => rest.to_vec(),
        _ => frames(&mut Program(rest)),
    };
    if input.len() > 100_000 {
        return; // exceeds the buffer of a socket pair
    }
    let mut end = None;
    let output = stage::exchange(&input, |stream| {
        // As in src/http/websocket.rs.
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(MAX_CLIENT_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_CLIENT_MESSAGE_BYTES));
        let mut socket = WebSocket::from_raw_socket(stream, Role::Server, Some(config));
        let session_end = stage::get(false).usage().run(&mut socket);
        finish(&mut socket, &session_end);
        end = Some(session_end);
    });
    let closed = wire::frames(&output);
    match end.expect("an end") {
        SessionEnd::ClosedByClient => {}
        SessionEnd::ClosedByServer(code, _) => {
            assert!([1002, 1003, 1007, 1008, 1009].contains(&u16::from(code)), "{code}");
            // If the client has sent a close frame before, this is the answer to it.
            assert!(closed.is_some(), "closed with {code} without a close frame");
        }
        SessionEnd::Io(error) => panic!("I/O error in memory: {error}"),
    }
});

/// Builds a frame per step: first byte, length encoding, mask and payload.
fn frames(program: &mut Program<'_>) -> Vec<u8> {
    const TEXTS: [&[u8]; 4] =
        [b"subscribe:usage", b"subscribe:detail", b"unsubscribe:usage", "\u{1f980}".as_bytes()];
    let mut frames = Vec::new();
    while let (Some(first), Some(shape)) = (program.byte(), program.byte()) {
        frames.push(first);
        let payload = match shape >> 4 {
            short @ 0..8 => program.bytes(usize::from(short)).to_vec(),
            text @ 8..12 => TEXTS[usize::from(text - 8)].to_vec(),
            12 => program.bytes(125).to_vec(),
            13 => vec![shape; 4000 + usize::from(program.byte().unwrap_or(0))],
            14 => program.bytes(300).to_vec(),
            _ => vec![b'x'; usize::from(program.byte().unwrap_or(0))],
        };
        let masked = shape & 8 == 0;
        let bit = if masked { 0x80 } else { 0 };
        match (shape & 3, payload.len()) {
            (0 | 3, length @ 0..=125) => frames.push(bit | length as u8),
            (1, _) => {
                frames.push(bit | 127);
                frames.extend((payload.len() as u64).to_be_bytes());
            }
            _ => {
                frames.push(bit | 126);
                frames.extend((payload.len() as u16).to_be_bytes());
            }
        }
        let mask = if shape & 4 == 0 { [0x37, 0xfa, 0x21, 0x3d] } else { [0; 4] };
        if masked {
            frames.extend(mask);
            frames.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        } else {
            frames.extend(payload);
        }
    }
    frames
}
