//! gzip (RFC 1952) for response bodies that are long enough.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

/// Bodies from this length on are compressed for clients that accept it, as Prometheus does. Shorter ones fit into three
/// packets as they are.
pub const MIN_COMPRESSED_BYTES: usize = 4 << 10;

pub fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let written = encoder.write_all(bytes);
    written.and_then(|()| encoder.finish()).expect("writing to a Vec does not fail")
}

/// Whether `Accept-Encoding` allows gzip.
pub fn is_accepted<'a>(values: impl Iterator<Item = &'a str>) -> bool {
    let (mut named, mut any) = (None, false);
    for item in values.flat_map(|value| value.split(',')) {
        let mut parts = item.split(';').map(str::trim);
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
    use crate::http::listener::CONNECTION_STACK_BYTES;
    use flate2::read::GzDecoder;
    use std::io::Read;

    #[test]
    fn compresses_on_the_stack_of_a_connection_thread() {
        let text = b"node_cpu_seconds_total{cpu=\"0\"} 1\n".repeat(100);
        let input = text.clone();
        let thread = std::thread::Builder::new().stack_size(CONNECTION_STACK_BYTES);
        let compressed = thread.spawn(move || compress(&input)).unwrap().join().unwrap();
        assert!(compressed.len() < text.len() / 10);
        let mut decompressed = Vec::new();
        GzDecoder::new(&*compressed).read_to_end(&mut decompressed).unwrap();
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
