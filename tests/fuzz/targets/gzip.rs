//! Compression round trip with a second decoder, and the two headers that decide about compression and format.
#![no_main]

use std::io::Read;

use flate2::read::GzDecoder;
use hm_agent::http::gzip;
use hm_agent::metrics::Format;
use hm_agent_fuzz::program::text;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    round_trip(data);
    // Long enough for distant matches.
    if let Some((times, rest)) = data.split_first() {
        round_trip(&rest.repeat(usize::from(*times).min(100_000 / rest.len().max(1))));
    }
    let line = text(data);
    gzip::is_accepted([line.as_str()].into_iter());
    Format::negotiate([line.as_str()].into_iter());
});

fn round_trip(bytes: &[u8]) {
    let compressed = gzip::compress(bytes).expect("a thread");
    let mut decompressed = Vec::new();
    GzDecoder::new(&*compressed).read_to_end(&mut decompressed).expect("gzip");
    assert_eq!(decompressed, bytes);
    assert!(compressed.len() <= bytes.len() + bytes.len() / 8 + 64);
}
