//! The cases of framing, pings, reserved bits, fragmentation, closing and limits.

use crate::conformance::judge::{Exchange, Expect};
use crate::conformance::peer::Peer;
use crate::conformance::utf8;
use crate::conformance::wire::{self, BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, TEXT};

pub struct Case {
    pub id: String,
    pub what: String,
    /// `None` if the case does not apply to the peer.
    pub exchange: Box<dyn Fn(Peer) -> Option<Exchange> + Sync>,
}

const PROTOCOL: &[u16] = &[1002];
const TOO_LONG: &[u16] = &[1009];

pub fn case(
    id: &str,
    what: &str,
    exchange: impl Fn(Peer) -> Option<Exchange> + Sync + 'static,
) -> Case {
    Case { id: id.to_owned(), what: what.to_owned(), exchange: Box::new(exchange) }
}

pub fn open(sent: Vec<Vec<u8>>, pongs: &[&[u8]], texts: &[&str]) -> Option<Exchange> {
    let pongs = pongs.iter().map(|pong| pong.to_vec()).collect();
    let texts = texts.iter().map(ToString::to_string).collect();
    Some(Exchange { sent, expect: Expect::Open { pongs, texts } })
}

pub fn fails(sent: Vec<Vec<u8>>, codes: &'static [u16]) -> Option<Exchange> {
    Some(Exchange { sent, expect: Expect::Fails(codes) })
}

fn closes(sent: Vec<Vec<u8>>, code: Option<u16>) -> Option<Exchange> {
    Some(Exchange { sent, expect: Expect::Closes(code) })
}

/// Splits the frames into pieces of `size` bytes, each sent by one write.
fn chopped(frames: &[Vec<u8>], size: usize) -> Vec<Vec<u8>> {
    frames.concat().chunks(size).map(<[u8]>::to_vec).collect()
}

/// A message in frames with these payloads.
pub fn fragments<'a>(
    peer: Peer,
    opcode: u8,
    parts: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<Vec<u8>> {
    let mut frames: Vec<Vec<u8>> = Vec::new();
    let parts: Vec<&[u8]> = parts.into_iter().collect();
    for (at, part) in parts.iter().enumerate() {
        let fin = if at + 1 == parts.len() { FIN } else { 0 };
        frames.push(peer.frame(fin | if at == 0 { opcode } else { CONTINUATION }, part));
    }
    frames
}

pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    framing(&mut cases);
    pings(&mut cases);
    reserved(&mut cases);
    fragmentation(&mut cases);
    utf8::cases(&mut cases);
    closing(&mut cases);
    limits(&mut cases);
    cases
}

fn framing(cases: &mut Vec<Case>) {
    for (number, length) in [0, 125, 126, 127, 128, 65_535, 65_536].into_iter().enumerate() {
        let (id, what) = (format!("1.1.{}", number + 1), format!("text of {length} bytes"));
        cases.push(case(&id, &what, move |peer| text_of(peer, length, usize::MAX)));
    }
    cases.push(case("1.1.8", "text of 65536 bytes, in pieces of 997", |peer| {
        text_of(peer, 65_536, 997)
    }));
    for (number, length) in [0, 125, 126, 127, 128, 65_535, 65_536].into_iter().enumerate() {
        let (id, what) = (format!("1.2.{}", number + 1), format!("binary of {length} bytes"));
        cases.push(case(&id, &what, move |peer| {
            let sent = vec![peer.frame(FIN | BINARY, &vec![0xfe; length])];
            match peer.is_server() {
                true if length > peer.max_message() => fails(sent, TOO_LONG),
                true => fails(sent, &[1003]),
                false => open(sent, &[], &[]),
            }
        }));
    }
    cases.push(case("1.3.1", "an unmasked frame of a client, a masked one of a server", |peer| {
        fails(vec![wire::frame(FIN | TEXT, &peer.text("a"), !peer.masked())], PROTOCOL)
    }));
    cases.push(case("1.3.2", "the same with a ping", |peer| {
        fails(vec![wire::frame(FIN | PING, b"a", !peer.masked())], PROTOCOL)
    }));
    // RFC 6455 5.2 requires senders to write the length in the shortest form, and does not say what a receiver does otherwise.
    // tungstenite accepts it.
    cases.push(case("1.4.1", "a length of 16 bits where 7 suffice", |peer| {
        let text = peer.text("");
        let text = if text.is_empty() { b"a".to_vec() } else { text };
        let bit = if peer.masked() { 0x80 } else { 0 };
        let mut frame = vec![FIN | TEXT, bit | 126];
        frame.extend((text.len() as u16).to_be_bytes());
        wire::put(&mut frame, &text, peer.masked());
        open(vec![frame], &[], &["a"][..usize::from(peer.is_server())])
    }));
}

/// A text of `length` bytes, or the shortest that the peer's protocol allows, in pieces of `size` bytes.
fn text_of(peer: Peer, length: usize, size: usize) -> Option<Exchange> {
    if !peer.is_server() && length == 0 {
        return None; // no message of these protocols
    }
    let text = if peer.is_server() { vec![b'*'; length] } else { peer.text_of(length) };
    let sent = vec![peer.frame(FIN | TEXT, &text)];
    let sent = if size < usize::MAX { chopped(&sent, size) } else { sent };
    match text.len() > peer.max_message() {
        true => fails(sent, TOO_LONG),
        false => open(sent, &[], &[&"*".repeat(length)]),
    }
}

fn pings(cases: &mut Vec<Case>) {
    let mut one = |id: &str, what: &str, payload: &'static [u8]| {
        cases.push(case(id, what, move |peer| {
            open(vec![peer.frame(FIN | PING, payload)], &[payload], &[])
        }));
    };
    one("2.1", "ping without a payload", b"");
    one("2.2", "ping with a text", b"Hello, world!");
    one("2.3", "ping with bytes that are not UTF-8", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff");
    one("2.4", "ping of 125 bytes", &[0xfe; 125]);
    cases.push(case("2.5", "ping of 126 bytes", |peer| {
        fails(vec![peer.frame(FIN | PING, &[0xfe; 126])], PROTOCOL)
    }));
    cases.push(case("2.6", "ping of 125 bytes, byte by byte", |peer| {
        open(chopped(&[peer.frame(FIN | PING, &[0xfe; 125])], 1), &[&[0xfe; 125]], &[])
    }));
    for (id, payload) in [("2.7", &b""[..]), ("2.8", b"unsolicited")] {
        let what = format!("unsolicited pong of {} bytes", payload.len());
        cases.push(case(id, &what, move |peer| {
            open(vec![peer.frame(FIN | PONG, payload)], &[], &[])
        }));
    }
    cases.push(case("2.9", "unsolicited pong, then a ping", |peer| {
        let sent = vec![peer.frame(FIN | PONG, b"unsolicited"), peer.frame(FIN | PING, b"ping")];
        open(sent, &[b"ping"], &[])
    }));
    for (id, what, size) in
        [("2.10", "ten pings", usize::MAX), ("2.11", "ten pings, byte by byte", 1)]
    {
        cases.push(case(id, what, move |peer| {
            const PAYLOADS: [&[u8]; 10] =
                [b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8", b"9"];
            let sent: Vec<_> = PAYLOADS.map(|payload| peer.frame(FIN | PING, payload)).into();
            open(if size == 1 { chopped(&sent, 1) } else { sent }, &PAYLOADS, &[])
        }));
    }
}

fn reserved(cases: &mut Vec<Case>) {
    for (number, (bits, opcode, what)) in [
        (0x10, TEXT, "text"),
        (0x20, TEXT, "text"),
        (0x30, TEXT, "text, byte by byte"),
        (0x40, TEXT, "text"),
        (0x50, BINARY, "binary"),
        (0x60, PING, "ping"),
        (0x70, CLOSE, "close"),
    ]
    .into_iter()
    .enumerate()
    {
        let (id, what) = (format!("3.{}", number + 1), format!("reserved bits {bits:#x}: {what}"));
        cases.push(case(&id, &what, move |peer| {
            let payload: &[u8] = if opcode == CLOSE { b"\x03\xe8" } else { b"a" };
            let text = peer.frame(FIN | TEXT, &peer.text("a"));
            let sent = vec![text, peer.frame(FIN | bits | opcode, payload)];
            fails(if number == 2 { chopped(&sent, 1) } else { sent }, PROTOCOL)
        }));
    }
    for (section, first) in [(1, 3), (2, 11)] {
        for number in 0..5 {
            let opcode = first + number;
            let (id, what) = (format!("4.{section}.{}", number + 1), format!("opcode {opcode}"));
            cases.push(case(&id, &what, move |peer| {
                let text = peer.frame(FIN | TEXT, &peer.text("a"));
                let payload: &[u8] = if number % 2 == 0 { b"" } else { b"reserved" };
                let sent = vec![text, peer.frame(FIN | opcode, payload)];
                fails(if number == 4 { chopped(&sent, 1) } else { sent }, PROTOCOL)
            }));
        }
    }
}

fn fragmentation(cases: &mut Vec<Case>) {
    const MESSAGE: &str = "fragment1fragment2";
    for (id, what, opcode) in [("5.1", "ping in two", PING), ("5.2", "pong in two", PONG)] {
        cases.push(case(id, what, move |peer| {
            fails(fragments(peer, opcode, [&b"one"[..], b"two"]), PROTOCOL)
        }));
    }
    for (id, what, size) in [
        ("5.3", "text in two frames", usize::MAX),
        ("5.4", "text in two frames, in pieces of 3", 3),
        ("5.5", "text in two frames, byte by byte", 1),
    ] {
        cases.push(case(id, what, move |peer| {
            let text = peer.text(MESSAGE);
            let sent = fragments(peer, TEXT, text.chunks(text.len().div_ceil(2)));
            open(if size < 9 { chopped(&sent, size) } else { sent }, &[], &[MESSAGE])
        }));
    }
    for (id, what, size) in [
        ("5.6", "text in two frames, a ping between", usize::MAX),
        ("5.7", "the same, in pieces of 3", 3),
        ("5.8", "the same, byte by byte", 1),
    ] {
        cases.push(case(id, what, move |peer| {
            let text = peer.text(MESSAGE);
            let mut sent = fragments(peer, TEXT, text.chunks(text.len().div_ceil(2)));
            sent.insert(1, peer.frame(FIN | PING, b"ping"));
            open(if size < 9 { chopped(&sent, size) } else { sent }, &[b"ping"], &[MESSAGE])
        }));
    }
    for (number, (fin, size)) in
        [(FIN, 99), (FIN, 3), (FIN, 1), (0, 99), (0, 3), (0, 1)].into_iter().enumerate()
    {
        let last = if fin == FIN { "last" } else { "non-final" };
        let what = format!("a {last} continuation of no message, then text, in pieces of {size}");
        cases.push(case(&format!("5.{}", number + 9), &what, move |peer| {
            let sent = [peer.frame(fin, b"part"), peer.frame(FIN | TEXT, &peer.text("a"))];
            fails(chopped(&sent, size), PROTOCOL)
        }));
    }
    cases.push(case(
        "5.15",
        "text in two frames, a continuation of no message, text in two frames",
        |peer| {
            let text = peer.text(MESSAGE);
            let text = fragments(peer, TEXT, text.chunks(text.len().div_ceil(2)));
            fails([text.clone(), vec![peer.frame(FIN, b"part")], text].concat(), PROTOCOL)
        },
    ));
    for (id, fin) in [("5.16", 0), ("5.17", FIN)] {
        let what = format!("a continuation of no message ({fin:#x}), text in two frames, twice");
        cases.push(case(id, &what, move |peer| {
            let text = peer.text(MESSAGE);
            let mut sent = vec![peer.frame(fin, b"part")];
            sent.extend(fragments(peer, TEXT, text.chunks(text.len().div_ceil(2))));
            fails([sent.clone(), sent].concat(), PROTOCOL)
        }));
    }
    cases.push(case("5.18", "a text starts within another", |peer| {
        let sent = vec![peer.frame(TEXT, b"fragment1"), peer.frame(FIN | TEXT, b"fragment2")];
        fails(sent, PROTOCOL)
    }));
    for (id, what, size) in [
        ("5.19", "text in five frames with two pings between", usize::MAX),
        ("5.20", "the same, byte by byte", 1),
    ] {
        cases.push(case(id, what, move |peer| {
            let text = peer.text("fragment1fragment2fragment3fragment4fragment5");
            let mut sent = fragments(peer, TEXT, text.chunks(text.len().div_ceil(5)));
            sent.insert(4, peer.frame(FIN | PING, b"ping2"));
            sent.insert(2, peer.frame(FIN | PING, b"ping1"));
            let words = "fragment1fragment2fragment3fragment4fragment5";
            open(if size == 1 { chopped(&sent, 1) } else { sent }, &[b"ping1", b"ping2"], &[words])
        }));
    }
}

fn close_frame(peer: Peer, code: u16, reason: &[u8]) -> Vec<u8> {
    peer.frame(FIN | CLOSE, &[&code.to_be_bytes()[..], reason].concat())
}

fn closing(cases: &mut Vec<Case>) {
    let mut then = |id: &str, what: &str, more: fn(Peer) -> Vec<Vec<u8>>| {
        cases.push(case(id, what, move |peer| {
            let mut sent = vec![close_frame(peer, 1000, b"")];
            sent.extend(more(peer));
            closes(sent, Some(1000))
        }));
    };
    then("7.1.1", "close", |_| vec![]);
    then("7.1.2", "close, and once more", |peer| vec![close_frame(peer, 1000, b"")]);
    then("7.1.3", "close, then a ping", |peer| vec![peer.frame(FIN | PING, b"ping")]);
    then("7.1.4", "close, then a text", |peer| vec![peer.frame(FIN | TEXT, &peer.text("a"))]);
    then("7.1.5", "close, then 64 KiB of pings", |peer| {
        vec![peer.frame(FIN | PING, &[b'x'; 125]).repeat(500)]
    });
    cases.push(case("7.1.6", "first half of a text, close, second half", |peer| {
        let text = peer.text("fragments");
        let mut sent = fragments(peer, TEXT, text.chunks(text.len().div_ceil(2)));
        sent.insert(1, close_frame(peer, 1000, b""));
        closes(sent, Some(1000))
    }));
    cases.push(case("7.3.1", "close without a code", |peer| {
        closes(vec![peer.frame(FIN | CLOSE, b"")], None)
    }));
    cases.push(case("7.3.2", "close with half a code", |peer| {
        fails(vec![peer.frame(FIN | CLOSE, b"a")], PROTOCOL)
    }));
    for (id, reason) in [("7.3.3", &b""[..]), ("7.3.4", b"Hello World!"), ("7.3.5", &[b'*'; 123])] {
        let what = format!("close with a code and a reason of {} bytes", reason.len());
        cases.push(case(id, &what, move |peer| {
            closes(vec![close_frame(peer, 1000, reason)], Some(1000))
        }));
    }
    cases.push(case("7.3.6", "close with a reason of 124 bytes", |peer| {
        fails(vec![close_frame(peer, 1000, &[b'*'; 124])], PROTOCOL)
    }));
    cases.push(case("7.5.1", "close with a reason that is not UTF-8", |peer| {
        fails(vec![close_frame(peer, 1000, b"\xce\xba\xed\xa0\x80edited")], &[1007])
    }));
    let known =
        [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999];
    for (number, code) in known.into_iter().enumerate() {
        let (id, what) = (format!("7.7.{}", number + 1), format!("close with {code}"));
        cases.push(case(&id, &what, move |peer| {
            closes(vec![close_frame(peer, code, b"")], Some(code))
        }));
    }
    // The RFC defines no codes from 5000 on.
    // 1014 (bad gateway) was assigned by IANA after the RFC, which reserves it. tungstenite follows the RFC.
    let wrong = [1014, 0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535];
    for (number, code) in wrong.into_iter().enumerate() {
        let (id, what) = (format!("7.9.{}", number + 1), format!("close with {code}"));
        cases.push(case(&id, &what, move |peer| {
            fails(vec![close_frame(peer, code, b"")], PROTOCOL)
        }));
    }
}

fn limits(cases: &mut Vec<Case>) {
    let text = |peer: Peer, more: usize| {
        if peer.is_server() {
            vec![b'*'; peer.max_message() + more]
        } else {
            peer.text_of(peer.max_message() + more)
        }
    };
    let words = |peer: Peer| "*".repeat(peer.max_message());
    cases.push(case("9.1.1", "the longest text", move |peer| {
        open(vec![peer.frame(FIN | TEXT, &text(peer, 0))], &[], &[&words(peer)])
    }));
    cases.push(case("9.1.2", "a text of one byte more", move |peer| {
        fails(vec![peer.frame(FIN | TEXT, &text(peer, 1))], TOO_LONG)
    }));
    cases.push(case("9.3.1", "the longest text, in frames of 64 bytes", move |peer| {
        let text = text(peer, 0);
        let sent = fragments(peer, TEXT, text.chunks(64)).concat();
        open(vec![sent], &[], &[&words(peer)])
    }));
    cases.push(case("9.3.2", "a text of one byte more, in frames of 64 bytes", move |peer| {
        let text = text(peer, 1);
        fails(vec![fragments(peer, TEXT, text.chunks(64)).concat()], TOO_LONG)
    }));
    cases.push(case("9.3.3", "frames of a text without end", move |peer| {
        let first = peer.frame(TEXT, b"*");
        let more = peer.frame(CONTINUATION, &[b'*'; 1000]).repeat(peer.max_message() / 1000 + 2);
        fails(vec![first, more], TOO_LONG)
    }));
    cases.push(case("9.5.1", "the longest text, in pieces of 64 bytes", move |peer| {
        if !peer.is_server() {
            return None; // slow, and 9.3.1 has as many frames
        }
        let sent = chopped(&[peer.frame(FIN | TEXT, &text(peer, 0))], 64);
        open(sent, &[], &[&words(peer)])
    }));
    for (id, length) in [("9.6.1", 1_u64 << 32), ("9.6.2", 1 << 63), ("9.6.3", u64::MAX)] {
        let what = format!("the head of a frame of {length} bytes");
        cases.push(case(id, &what, move |peer| {
            let bit = if peer.masked() { 0x80 } else { 0 };
            let head = [&[FIN | BINARY, bit | 127][..], &length.to_be_bytes(), b"mask"].concat();
            fails(vec![head], TOO_LONG)
        }));
    }
    cases.push(case("9.7.1", "a thousand pings", |peer| {
        let sent = vec![peer.frame(FIN | PING, b"p").repeat(1000)];
        open(sent, &[&b"p"[..]; 1000], &[])
    }));
    cases.push(case("9.7.2", "a text in a hundred thousand empty frames", |peer| {
        let (before, behind) = peer.around();
        let mut sent = peer.frame(TEXT, &before);
        sent.extend(peer.frame(CONTINUATION, b"").repeat(100_000));
        sent.extend(peer.frame(FIN | CONTINUATION, &[b"a", &behind[..]].concat()));
        open(vec![sent], &[], &["a"])
    }));
    cases.push(case(
        "10.1.1",
        "a text of half the longest, in frames of 1300 bytes",
        move |peer| {
            let length = peer.max_message() / 2;
            let text = if peer.is_server() { vec![b'*'; length] } else { peer.text_of(length) };
            open(fragments(peer, TEXT, text.chunks(1300)), &[], &[&"*".repeat(length)])
        },
    ));
}
