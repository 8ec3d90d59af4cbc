//! gzip (RFC 1952) for response bodies that are long enough.
//!
//! flate2 builds its compressor and decompressor (64 KiB and 43 KiB) on the stack before it moves them to the heap. They run in
//! a short-lived thread, so that thousands of connection threads can have a small stack.

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use crate::http::request::trim_ows;
use crate::util::thread::run_with_stack;

/// Bodies from this length on are compressed for clients that accept it, as Prometheus does. Shorter ones fit into three
/// packets as they are.
pub const MIN_COMPRESSED_BYTES: usize = 4 << 10;

/// Several copies of the compressor, as a build without optimization makes them.
const STACK_BYTES: usize = 512 << 10;

/// Fails only if no thread can be started.
pub fn compress(bytes: &[u8]) -> io::Result<Vec<u8>> {
    compress_at(Compression::fast(), bytes)
}

/// For bodies of megabytes: slower, and a third smaller. Fails only if no thread can be started.
pub fn compress_large(bytes: &[u8]) -> io::Result<Vec<u8>> {
    compress_at(Compression::default(), bytes)
}

fn compress_at(level: Compression, bytes: &[u8]) -> io::Result<Vec<u8>> {
    on_large_stack(|| {
        let mut encoder = GzEncoder::new(Vec::new(), level);
        encoder.write_all(bytes)?;
        encoder.finish()
    })
}

pub fn decompress(bytes: &[u8]) -> io::Result<Vec<u8>> {
    on_large_stack(|| {
        let mut decompressed = Vec::new();
        GzDecoder::new(bytes).read_to_end(&mut decompressed)?;
        Ok(decompressed)
    })
}

fn on_large_stack(run: impl FnOnce() -> io::Result<Vec<u8>> + Send) -> io::Result<Vec<u8>> {
    run_with_stack("gzip", STACK_BYTES, run)?
}

/// Whether `Accept-Encoding` allows gzip.
pub fn is_accepted<'a>(values: impl Iterator<Item = &'a str>) -> bool {
    let (mut named, mut any) = (None, false);
    for item in values.flat_map(|value| value.split(',')) {
        let mut parts = item.split(';').map(trim_ows);
        let coding = parts.next().unwrap_or_default();
        let quality = parts.find_map(|part| part.strip_prefix("q="));
        let wanted = quality.is_none_or(|quality| quality.parse().is_ok_and(|q: f32| q > 0.0));
        match coding.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => named = Some(wanted),
            "*" => any = wanted,
            _ => {}
        }
    }
    named.unwrap_or(any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compresses_and_decompresses_with_a_small_stack() {
        let text = b"node_cpu_seconds_total{cpu=\"0\"} 1\n".repeat(100);
        let input = text.clone();
        let thread = std::thread::Builder::new().stack_size(32 << 10);
        let there_and_back = move || {
            let compressed = compress(&input).unwrap();
            let decompressed = decompress(&compressed).unwrap();
            (compressed, decompressed)
        };
        let (compressed, decompressed) = thread.spawn(there_and_back).unwrap().join().unwrap();
        assert!(compressed.len() < text.len() / 10);
        assert_eq!(decompressed, text);
    }

    #[test]
    fn accepts_gzip_when_named_or_by_wildcard() {
        let accepted = |value: &str| is_accepted([value].into_iter());
        for yes in ["gzip", "deflate, gzip;q=0.5", "GZIP", "*", "br, *;q=0.1", "x-gzip"] {
            assert!(accepted(yes), "{yes}");
        }
        for no in ["", "identity", "gzip;q=0", "gzip; q=0.0, *", "*;q=0", "gzip;q=x", "br"] {
            assert!(!accepted(no), "{no}");
        }
    }
}
