//! Compression: what comes out is gzip (RFC 1952) of what went in, by another reader, and never much longer; and the two
//! headers that decide on it.
#![no_main]

use hm_agent::http::gzip;
use hm_agent::metrics::Format;
use hm_agent_fuzz::program::text;
use libfuzzer_sys::fuzz_target;
use miniz_oxide::inflate::decompress_to_vec;

fuzz_target!(|data: &[u8]| {
    round_trip(data);
    // Long enough for matches that lie far back.
    if let Some((times, rest)) = data.split_first() {
        round_trip(&rest.repeat(usize::from(*times).min(100_000 / rest.len().max(1))));
    }
    let line = text(data);
    gzip::is_accepted([line.as_str()].into_iter());
    Format::negotiate([line.as_str()].into_iter());
});

fn round_trip(bytes: &[u8]) {
    let packed = gzip::compress(bytes, b"before".to_vec());
    let packed = packed.strip_prefix(b"before").expect("what was there");
    assert_eq!(packed[..4], [0x1f, 0x8b, 8, 0]);
    let (body, tail) = packed[10..].split_at(packed.len() - 18);
    assert_eq!(decompress_to_vec(body).expect("deflate"), bytes);
    let sum = !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            if sum & 1 == 1 { 0xedb8_8320 ^ (sum >> 1) } else { sum >> 1 }
        })
    });
    assert_eq!(tail, [sum.to_le_bytes(), (bytes.len() as u32).to_le_bytes()].concat());
    assert!(packed.len() <= bytes.len() + bytes.len() / 8 + 64);
}
