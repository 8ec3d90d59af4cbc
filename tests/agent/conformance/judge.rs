//! Sends the frames of a case and compares the answers with the expected result.

use serde_json::Value;

use crate::conformance::peer::Peer;
use crate::conformance::wire::{CLOSE, FIN, PING, PONG, Received, TEXT, Wire};

/// Frames for a peer and the expected result.
pub struct Exchange {
    /// Each is sent by one write.
    pub sent: Vec<Vec<u8>>,
    pub expect: Expect,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// The connection stays open. Pings are answered with these pongs in order; servers answer each text.
    Open { pongs: Vec<Vec<u8>>, texts: Vec<String> },
    /// The peer closes the connection with one of these codes.
    Fails(&'static [u16]),
    /// The peer answers our close frame with this code, or without one.
    Closes(Option<u16>),
}

/// Payload of the last ping, whose answer shows that the connection is open.
const LAST: &[u8] = b"still there?";

pub fn check_results(wire: &mut Wire, peer: Peer, exchange: &Exchange) -> Result<String, String> {
    for bytes in &exchange.sent {
        wire.send(bytes);
    }
    match &exchange.expect {
        Expect::Open { pongs, texts } => {
            wire.send(&peer.frame(FIN | PING, LAST));
            stays_open(wire, peer, pongs, texts)
        }
        Expect::Fails(codes) => {
            let code = wait_close(wire)?.ok_or("closed without a code")?;
            if codes.contains(&code) {
                Ok(code.to_string())
            } else {
                Err(format!("closed with {code}"))
            }
        }
        Expect::Closes(code) => {
            let answer = wait_close(wire)?;
            if answer != *code {
                return Err(format!("answered with {answer:?}"));
            }
            Ok(code.map_or("closed".to_owned(), |code| format!("closed with {code}")))
        }
    }
}

fn stays_open(
    wire: &mut Wire,
    peer: Peer,
    pongs: &[Vec<u8>],
    texts: &[String],
) -> Result<String, String> {
    let (mut ponged, mut answers) = (Vec::new(), Vec::new());
    let mut done = false;
    while !done || (peer.is_server() && answers.len() < texts.len()) {
        match wire.receive() {
            Received::Frame(first, payload) if first == FIN | PONG => {
                done = payload == LAST;
                ponged.push(payload);
            }
            Received::Frame(first, payload) if first == FIN | TEXT && peer.is_server() => {
                answers.push(serde_json::from_slice::<Value>(&payload).map_err(|e| e.to_string())?);
            }
            // Requests and pings of an upstream client.
            Received::Frame(first, _)
                if !peer.is_server() && [FIN | TEXT, FIN | PING].contains(&first) => {}
            other => return Err(format!("{} after {} pongs", describe(&other), ponged.len())),
        }
    }
    ponged.pop();
    if ponged != pongs {
        return Err(format!("unexpected pongs: {ponged:?}"));
    }
    if peer == Peer::Usage {
        for (answer, text) in answers.iter().zip(texts) {
            let quoted = hm_agent::util::text::escape_for_log(text.trim_ascii(), 40);
            let message = answer["message"].as_str().unwrap_or_default();
            if !message.starts_with(&format!("unknown request \"{quoted}\"")) {
                return Err(format!("unexpected answer: {message}"));
            }
        }
    }
    Ok("open".to_owned())
}

/// Waits for the close frame and the end of the connection. Returns the frame's code.
fn wait_close(wire: &mut Wire) -> Result<Option<u16>, String> {
    loop {
        match wire.receive() {
            Received::Frame(first, payload) if first == FIN | CLOSE => {
                // The peer waits for the end of our side before it closes.
                wire.finish();
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                std::str::from_utf8(payload.get(2..).unwrap_or_default())
                    .map_err(|_| "a reason that is not UTF-8")?;
                return match wire.receive() {
                    Received::End => Ok(code),
                    other => Err(format!("{} after the close frame", describe(&other))),
                };
            }
            Received::Frame(first, _) if [FIN | TEXT, FIN | PING, FIN | PONG].contains(&first) => {}
            other => return Err(format!("{} without a close frame", describe(&other))),
        }
    }
}

fn describe(received: &Received) -> String {
    match received {
        Received::Frame(first, payload) => {
            format!("a frame {first:#x} \"{}\"", hm_agent::util::text::escape_for_log(payload, 40))
        }
        Received::End => "end of the connection".to_owned(),
        Received::Reset => "a reset".to_owned(),
        Received::Nothing => "nothing".to_owned(),
    }
}
