//! The conversation on `/usage` in frames: as they are, or made of a program, so that masks and lengths are nearly always
//! right. What the server says is frames, and a conversation that it ends has a code that RFC 6455 knows.
#![no_main]

use hm_agent::limits;
use hm_agent::telemetry::subscription::End;
use hm_agent_fuzz::program::Program;
use hm_agent_fuzz::{stage, wire};
use libfuzzer_sys::fuzz_target;
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};

fuzz_target!(|data: &[u8]| {
    let Some((how, rest)) = data.split_first() else { return };
    let words = match how {
        b'r' => rest.to_vec(),
        _ => frames(&mut Program(rest)),
    };
    if words.len() > 100_000 {
        return;
    }
    let mut end = None;
    let answer = stage::heard(&words, |stream| {
        // As in serve/websocket.rs.
        let config = WebSocketConfig::default()
            .read_buffer_size(limits::WEBSOCKET_READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(limits::CLIENT_MESSAGE_BYTES))
            .max_frame_size(Some(limits::CLIENT_MESSAGE_BYTES));
        let socket = WebSocket::from_raw_socket(stream, Role::Server, Some(config));
        end = Some(stage::get(false).usage().converse(socket));
    });
    let closed = wire::frames(&answer);
    match end.expect("an end") {
        End::Left => {}
        End::Closed(code, _) => {
            assert!([1002, 1003, 1007, 1008, 1009].contains(&u16::from(code)), "{code}");
            // A client that has said goodbye and goes on has had its answer already.
            assert!(closed.is_some(), "closed with {code}, and not said so");
        }
        End::Broken(error) => panic!("in memory nothing breaks: {error}"),
    }
});

/// A frame for each step: its first byte, how its length is written, its mask, its payload.
fn frames(program: &mut Program<'_>) -> Vec<u8> {
    const TEXTS: [&[u8]; 4] =
        [b"subscribe:usage", b"subscribe:detail", b"unsubscribe:usage", "\u{1f980}".as_bytes()];
    let mut words = Vec::new();
    while let (Some(first), Some(shape)) = (program.byte(), program.byte()) {
        words.push(first);
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
            (0 | 3, length @ 0..=125) => words.push(bit | length as u8),
            (1, _) => {
                words.push(bit | 127);
                words.extend((payload.len() as u64).to_be_bytes());
            }
            _ => {
                words.push(bit | 126);
                words.extend((payload.len() as u16).to_be_bytes());
            }
        }
        let mask = if shape & 4 == 0 { [0x37, 0xfa, 0x21, 0x3d] } else { [0; 4] };
        if masked {
            words.extend(mask);
            words.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        } else {
            words.extend(payload);
        }
    }
    words
}
