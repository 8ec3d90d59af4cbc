//! Section 6: valid and invalid UTF-8 (RFC 3629), in one frame and in one frame for each byte.

use crate::conformance::cases::{Case, case, fails, fragments, open};
use crate::conformance::wire::{FIN, TEXT};

const NOT_UTF8: &[u16] = &[1007];

/// Number, description, bytes.
type Sequence = (&'static str, &'static str, &'static [u8]);

const GOOD: &[Sequence] = &[
    ("6.2", "characters of two to four bytes", "Hello-µ@ßöäüàá-€-𐍈-UTF-8!!".as_bytes()),
    ("6.5", "Greek", "κόσμε".as_bytes()),
    ("6.7.1", "the first of one byte", b"\0"),
    ("6.7.2", "the first of two bytes", b"\xc2\x80"),
    ("6.7.3", "the first of three bytes", b"\xe0\xa0\x80"),
    ("6.7.4", "the first of four bytes", b"\xf0\x90\x80\x80"),
    ("6.9.1", "the last of one byte", b"\x7f"),
    ("6.9.2", "the last of two bytes", b"\xdf\xbf"),
    ("6.9.3", "the last of three bytes", b"\xef\xbf\xbf"),
    ("6.9.4", "the last of four bytes", b"\xf4\x8f\xbf\xbf"),
    ("6.11.1", "the last before the surrogates", b"\xed\x9f\xbf"),
    ("6.11.2", "the first after the surrogates", b"\xee\x80\x80"),
    ("6.11.3", "the replacement character", b"\xef\xbf\xbd"),
    ("6.22.1", "noncharacter U+FFFE", b"\xef\xbf\xbe"),
    ("6.22.2", "noncharacter U+1FFFE", b"\xf0\x9f\xbf\xbe"),
    ("6.22.3", "noncharacter U+10FFFF", b"\xf4\x8f\xbf\xbf"),
    ("6.23.1", "a byte order mark", b"\xef\xbb\xbf"),
];

const BAD: &[Sequence] = &[
    (
        "6.3",
        "a surrogate between letters",
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
    ),
    (
        "6.4",
        "a code point above U+10FFFF between letters",
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited",
    ),
    ("6.6", "a truncated character", b"\xce\xba\xe1\xbd"),
    ("6.8.1", "the first of five bytes", b"\xf8\x88\x80\x80\x80"),
    ("6.8.2", "the first of six bytes", b"\xfc\x84\x80\x80\x80\x80"),
    ("6.10.1", "the last of five bytes", b"\xfb\xbf\xbf\xbf\xbf"),
    ("6.10.2", "the last of six bytes", b"\xfd\xbf\xbf\xbf\xbf\xbf"),
    ("6.11.5", "the first above U+10FFFF", b"\xf4\x90\x80\x80"),
    ("6.12.1", "the first continuation byte", b"\x80"),
    ("6.12.2", "the last continuation byte", b"\xbf"),
    ("6.12.3", "seven continuation bytes", b"\x80\xbf\x80\xbf\x80\xbf\x80"),
    ("6.13.1", "first bytes of two, alone", b"\xc2 \xdf "),
    ("6.13.2", "first bytes of three, alone", b"\xe0 \xef "),
    ("6.13.3", "first bytes of four, alone", b"\xf0 \xf4 "),
    ("6.13.4", "first bytes of five and six, alone", b"\xf8 \xfd "),
    ("6.14.1", "two bytes without the last", b"\xdf"),
    ("6.14.2", "three bytes without the last", b"\xef\xbf"),
    ("6.14.3", "four bytes without the last", b"\xf4\x8f\xbf"),
    ("6.15.1", "all of these in a row", b"\xdf\xef\xbf\xf4\x8f\xbf"),
    ("6.16.1", "0xfe", b"\xfe"),
    ("6.16.2", "0xff", b"\xff"),
    ("6.16.3", "0xfe 0xfe 0xff 0xff", b"\xfe\xfe\xff\xff"),
    ("6.17.1", "a slash in two bytes", b"\xc0\xaf"),
    ("6.17.2", "a slash in three bytes", b"\xe0\x80\xaf"),
    ("6.17.3", "a slash in four bytes", b"\xf0\x80\x80\xaf"),
    ("6.18.1", "the longest overlong form, two bytes", b"\xc1\xbf"),
    ("6.18.2", "the longest overlong form, three bytes", b"\xe0\x9f\xbf"),
    ("6.18.3", "the longest overlong form, four bytes", b"\xf0\x8f\xbf\xbf"),
    ("6.19.1", "zero in two bytes", b"\xc0\x80"),
    ("6.19.2", "zero in three bytes", b"\xe0\x80\x80"),
    ("6.19.3", "zero in four bytes", b"\xf0\x80\x80\x80"),
    ("6.20.1", "the first high surrogate", b"\xed\xa0\x80"),
    ("6.20.2", "the last high surrogate", b"\xed\xaf\xbf"),
    ("6.20.3", "the first low surrogate", b"\xed\xb0\x80"),
    ("6.20.4", "the last low surrogate", b"\xed\xbf\xbf"),
    ("6.21.1", "a pair of surrogates", b"\xed\xa0\x80\xed\xb0\x80"),
    ("6.21.2", "the last pair of surrogates", b"\xed\xaf\xbf\xed\xbf\xbf"),
];

pub fn cases(cases: &mut Vec<Case>) {
    cases.push(case("6.1.1", "empty text", |peer| {
        let sent = vec![peer.frame(FIN | TEXT, b"")];
        if peer.is_server() { open(sent, &[], &[""]) } else { None }
    }));
    cases.push(case("6.1.2", "text in three empty frames", |peer| {
        let sent = fragments(peer, TEXT, [&b""[..]; 3]);
        if peer.is_server() { open(sent, &[], &[""]) } else { None }
    }));
    cases.push(case("6.1.3", "text in three frames, two of them empty", |peer| {
        let text = peer.text("middle");
        open(fragments(peer, TEXT, [b"", &text[..], b""]), &[], &["middle"])
    }));
    for (id, what, words) in GOOD {
        let words = std::str::from_utf8(words).unwrap();
        cases.push(case(&format!("{id}a"), what, move |peer| {
            open(vec![peer.frame(FIN | TEXT, &peer.text(words))], &[], &[words])
        }));
        cases.push(case(&format!("{id}b"), &format!("{what}; a frame a byte"), move |peer| {
            let text = peer.text(words);
            open(fragments(peer, TEXT, text.chunks(1)), &[], &[words])
        }));
    }
    for (id, what, bytes) in BAD {
        let whole = |peer: crate::conformance::peer::Peer| {
            let (before, behind) = peer.around();
            [&before[..], bytes, &behind].concat()
        };
        cases.push(case(&format!("{id}a"), what, move |peer| {
            fails(vec![peer.frame(FIN | TEXT, &whole(peer))], NOT_UTF8)
        }));
        cases.push(case(&format!("{id}b"), &format!("{what}; a frame a byte"), move |peer| {
            fails(fragments(peer, TEXT, whole(peer).chunks(1)), NOT_UTF8)
        }));
    }
    cases.push(case(
        "6.4.1",
        "invalid UTF-8 in a frame that is not the last fails at once",
        |peer| {
            let sent = peer.frame(TEXT, &[&peer.around().0[..], b"\xf4\x90\x80\x80"].concat());
            fails(vec![sent], NOT_UTF8)
        },
    ));
}
