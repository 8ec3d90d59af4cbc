//! gzip (RFC 1952), for answers that are worth it.
//!
//! The compressor is one for text that repeats itself, as series do: one try for a match at each place, and deflate's
//! fixed codes (RFC 1951 3.2.6). A general one of the same level takes several times as long and a quarter of a
//! megabyte, more than the stack of a connection's thread.

pub mod deflate;

/// ID, deflate, no flags, no time, fastest, system unknown.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255];

/// Appends the bytes, compressed.
pub fn compress(bytes: &[u8], mut out: Vec<u8>) -> Vec<u8> {
    out.extend(HEAD);
    let mut out = deflate::deflate(bytes, out);
    out.extend(crc32(bytes).to_le_bytes());
    out.extend((bytes.len() as u32).to_le_bytes());
    out
}

/// What is compressed in bytes whose head says no more than ours does.
pub fn deflated(bytes: &[u8]) -> &[u8] {
    let end = bytes.len().saturating_sub(8); // checksum and length
    bytes.get(HEAD.len()..end).unwrap_or_default()
}

/// Whether `Accept-Encoding` allows it.
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

/// Tables for eight bytes at a time: with one byte at a time the checksum would take as long as the text.
const TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut rest = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            // The polynomial of RFC 1952, its bits in reverse.
            rest = if rest & 1 == 1 { 0xedb8_8320 ^ (rest >> 1) } else { rest >> 1 };
            bit += 1;
        }
        tables[0][byte] = rest;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    let (chunks, rest) = bytes.as_chunks::<8>();
    for chunk in chunks {
        let mut word = u64::from_le_bytes(*chunk) ^ u64::from(sum);
        sum = 0;
        for table in TABLES.iter().rev() {
            sum ^= table[(word & 0xff) as usize];
            word >>= 8;
        }
    }
    for byte in rest {
        sum = TABLES[0][((sum ^ u32::from(*byte)) & 0xff) as usize] ^ (sum >> 8);
    }
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use miniz_oxide::inflate::decompress_to_vec;

    #[test]
    fn the_checksum_is_the_standards() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
        let text: Vec<u8> = (0..1000u32).map(|at| (at * 7 % 251) as u8).collect();
        let slow = |bytes: &[u8]| {
            !bytes.iter().fold(u32::MAX, |sum, byte| {
                TABLES[0][((sum ^ u32::from(*byte)) & 0xff) as usize] ^ (sum >> 8)
            })
        };
        for end in [0, 1, 7, 8, 9, 15, 16, 17, 1000] {
            assert_eq!(crc32(&text[..end]), slow(&text[..end]), "{end}");
        }
    }

    #[test]
    fn what_is_compressed_can_be_read() {
        let text = b"node_cpu_seconds_total{cpu=\"0\"} 1\n".repeat(100);
        let packed = compress(&text, Vec::new());
        assert!(packed.len() < text.len() / 10);
        assert_eq!(decompress_to_vec(deflated(&packed)).unwrap(), text);
        let tail = &packed[packed.len() - 8..];
        assert_eq!(tail, [crc32(&text).to_le_bytes(), (text.len() as u32).to_le_bytes()].concat());
    }

    #[test]
    fn the_page_that_is_carried_is_whole() {
        let page = crate::telemetry::dashboard::PAGE;
        let text = decompress_to_vec(deflated(page)).unwrap();
        assert_eq!(page[..9], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2]);
        let tail = &page[page.len() - 8..];
        assert_eq!(tail, [crc32(&text).to_le_bytes(), (text.len() as u32).to_le_bytes()].concat());
        assert!(deflated(&page[..17]).is_empty());
    }

    #[test]
    fn it_is_accepted_where_it_is_named_or_everything_is() {
        let accepted = |value: &str| is_accepted([value].into_iter());
        for yes in ["gzip", "deflate, gzip;q=0.5", "GZIP", "*", "br, *;q=0.1", "x-gzip"] {
            assert!(accepted(yes), "{yes}");
        }
        for no in ["", "identity", "gzip;q=0", "gzip; q=0.0, *", "*;q=0", "gzip;q=x", "br"] {
            assert!(!accepted(no), "{no}");
        }
    }
}
