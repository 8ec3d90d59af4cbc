//! Says it, hears what comes back, and compares.

use serde_json::Value;

use crate::peer::Peer;
use crate::wire::{CLOSE, FIN, Heard, PING, PONG, TEXT, Wire};

/// What is said to a peer, and what must come of it.
pub struct Talk {
    /// Each is written by itself.
    pub said: Vec<Vec<u8>>,
    pub expect: Expect,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// It goes on: pings are answered in order with these, and so many texts are answered by who answers texts.
    Open { pongs: Vec<Vec<u8>>, texts: Vec<String> },
    /// It is closed with one of these codes.
    Fails(&'static [u16]),
    /// Our close frame is answered with this code, or one without.
    Closes(Option<u16>),
}

/// Comes last, and shows that a connection goes on.
const LAST: &[u8] = b"still there?";

pub fn judge(wire: &mut Wire, peer: Peer, talk: &Talk) -> Result<String, String> {
    for bytes in &talk.said {
        wire.say(bytes);
    }
    match &talk.expect {
        Expect::Open { pongs, texts } => {
            wire.say(&peer.frame(FIN | PING, LAST));
            goes_on(wire, peer, pongs, texts)
        }
        Expect::Fails(codes) => {
            let code = ended(wire)?.ok_or("closed without a code")?;
            if codes.contains(&code) {
                Ok(code.to_string())
            } else {
                Err(format!("closed with {code}"))
            }
        }
        Expect::Closes(code) => {
            let answer = ended(wire)?;
            if answer != *code {
                return Err(format!("answered with {answer:?}"));
            }
            Ok(code.map_or("closed".to_owned(), |code| format!("closed with {code}")))
        }
    }
}

fn goes_on(
    wire: &mut Wire,
    peer: Peer,
    pongs: &[Vec<u8>],
    texts: &[String],
) -> Result<String, String> {
    let (mut ponged, mut answers) = (Vec::new(), Vec::new());
    let mut done = false;
    while !done || (peer.is_server() && answers.len() < texts.len()) {
        match wire.hear() {
            Heard::Frame(first, payload) if first == FIN | PONG => {
                done = payload == LAST;
                ponged.push(payload);
            }
            Heard::Frame(first, payload) if first == FIN | TEXT && peer.is_server() => {
                answers.push(serde_json::from_slice::<Value>(&payload).map_err(|e| e.to_string())?);
            }
            // Of a link: what it has to say, and its pings.
            Heard::Frame(first, _)
                if !peer.is_server() && [FIN | TEXT, FIN | PING].contains(&first) => {}
            other => return Err(format!("{} after {} pongs", shown(&other), ponged.len())),
        }
    }
    ponged.pop();
    if ponged != pongs {
        return Err(format!("other pongs: {ponged:?}"));
    }
    if peer == Peer::Usage {
        for (answer, text) in answers.iter().zip(texts) {
            let quoted = hm_agent::util::text::escape_for_log(text.trim_ascii(), 40);
            let message = answer["message"].as_str().unwrap_or_default();
            if !message.starts_with(&format!("\"{quoted}\"")) {
                return Err(format!("understood otherwise: {message}"));
            }
        }
    }
    Ok("open".to_owned())
}

/// Waits for the close frame and the end; the frame's code.
fn ended(wire: &mut Wire) -> Result<Option<u16>, String> {
    loop {
        match wire.hear() {
            Heard::Frame(first, payload) if first == FIN | CLOSE => {
                // Who is closed has nothing more to say; then it is the other end's turn.
                wire.finish();
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                std::str::from_utf8(payload.get(2..).unwrap_or_default())
                    .map_err(|_| "a reason that is no UTF-8")?;
                return match wire.hear() {
                    Heard::End => Ok(code),
                    other => Err(format!("{} after the close frame", shown(&other))),
                };
            }
            Heard::Frame(first, _) if [FIN | TEXT, FIN | PING, FIN | PONG].contains(&first) => {}
            other => return Err(format!("{} without a close frame", shown(&other))),
        }
    }
}

fn shown(heard: &Heard) -> String {
    match heard {
        Heard::Frame(first, payload) => {
            format!("a frame {first:#x} \"{}\"", hm_agent::util::text::escape_for_log(payload, 40))
        }
        Heard::End => "it ended".to_owned(),
        Heard::Reset => "a reset".to_owned(),
        Heard::Nothing => "nothing".to_owned(),
    }
}
