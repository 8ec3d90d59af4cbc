//! deflate (RFC 1951) with its fixed codes, in one block.

use crate::util::byte_sink::Bytes;

/// Matches are looked for where the last four bytes of this kind were; so many kinds are told apart. They take 8 KiB
/// of the connection's stack.
const KINDS: usize = 1 << 11;
/// A match is no further away.
const WINDOW: usize = 32 << 10;
const SHORTEST: usize = 4;
const LONGEST: usize = 258;

/// From which length on a length code is used, and how many further bits say which one exactly (3.2.5).
const LENGTHS: [(u16, u8); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];

/// A code and how many bits it has; the first bit is the lowest.
type Code = (u32, u32);

/// What stands for each byte.
const LITERALS: [Code; 256] = {
    let mut codes = [(0, 0); 256];
    let mut byte = 0;
    while byte < 256 {
        codes[byte] = match byte {
            0..=143 => (reversed(0x30 + byte as u32, 8), 8),
            _ => (reversed(0x190 + byte as u32 - 144, 9), 9),
        };
        byte += 1;
    }
    codes
};

/// What stands for each length of a match, its further bits included.
const MATCHES: [Code; LONGEST + 1] = {
    let mut codes = [(0, 0); LONGEST + 1];
    let mut length = 3;
    while length <= LONGEST {
        let mut symbol = LENGTHS.len() - 1;
        while LENGTHS[symbol].0 as usize > length {
            symbol -= 1;
        }
        let (base, extra) = LENGTHS[symbol];
        let symbol = symbol as u32 + 257;
        let (code, bits) = match symbol {
            257..=279 => (reversed(symbol - 256, 7), 7),
            _ => (reversed(0xc0 + symbol - 280, 8), 8),
        };
        let further = (length - base as usize) as u32;
        codes[length] = (code | further << bits, bits + extra as u32);
        length += 1;
    }
    codes
};

/// Codes are sent from their highest bit on, everything else from its lowest (3.1.1).
const fn reversed(code: u32, bits: u32) -> u32 {
    code.reverse_bits() >> (32 - bits)
}

/// The distance's symbol with its further bits: two symbols for each power of two.
fn distance(distance: usize) -> Code {
    let below = distance as u32 - 1;
    if below < 4 {
        return (reversed(below, 5), 5);
    }
    let extra = below.ilog2() - 1;
    let symbol = 2 * extra + (below >> extra);
    let further = below & ((1 << extra) - 1);
    (reversed(symbol, 5) | further << 5, 5 + extra)
}

/// Bits on their way into bytes.
struct Bits {
    out: Bytes,
    held: u64,
    count: u32,
}

impl Bits {
    fn push(&mut self, (code, bits): Code) {
        self.held |= u64::from(code) << self.count;
        self.count += bits;
        if self.count >= 32 {
            self.out.push_word(self.held as u32);
            self.held >>= 32;
            self.count -= 32;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        for byte in self.held.to_le_bytes().iter().take(self.count.div_ceil(8) as usize) {
            self.out.push(*byte);
        }
        self.out.finish()
    }
}

/// Appends the bytes, compressed. They are fewer than 4 GiB.
pub(super) fn deflate(bytes: &[u8], out: Vec<u8>) -> Vec<u8> {
    let mut bits = Bits { out: Bytes::after(out), held: 0, count: 0 };
    // The last block, with fixed codes.
    bits.push((0b011, 3));
    let mut last_seen = [0u32; KINDS];
    let mut at = 0;
    while let Some(four) = four(bytes, at) {
        let kind = four.wrapping_mul(0x9e37_79b1) as usize >> (32 - KINDS.ilog2());
        // From 1, so that 0 is nowhere.
        let before = std::mem::replace(&mut last_seen[kind], at as u32 + 1) as usize;
        let found = before.checked_sub(1).filter(|before| at - before <= WINDOW);
        let length = found.map_or(0, |before| common(&bytes[before..], &bytes[at..]));
        if let Some(before) = found
            && length >= SHORTEST
        {
            bits.push(MATCHES[length]);
            bits.push(distance(at - before));
            at += length;
        } else {
            bits.push(LITERALS[usize::from(bytes[at])]);
            at += 1;
        }
    }
    for byte in &bytes[at..] {
        bits.push(LITERALS[usize::from(*byte)]);
    }
    // The end of the block is seven zeros.
    bits.push((0, 7));
    bits.finish()
}

fn four(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|four| u32::from_le_bytes(*four))
}

/// How many bytes are the same; the second is the shorter one.
fn common(before: &[u8], now: &[u8]) -> usize {
    let mut length = 0;
    let most = now.len().min(LONGEST);
    let (before, now) = (&before[..most], &now[..most]);
    for (one, other) in before.chunks_exact(8).zip(now.chunks_exact(8)) {
        let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
        let differing = word(one) ^ word(other);
        if differing != 0 {
            return length + differing.trailing_zeros() as usize / 8;
        }
        length += 8;
    }
    length + before[length..].iter().zip(&now[length..]).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use miniz_oxide::inflate::decompress_to_vec;

    fn there_and_back(bytes: &[u8]) -> usize {
        let out = deflate(bytes, Vec::new());
        assert_eq!(decompress_to_vec(&out).unwrap(), bytes);
        out.len()
    }

    #[test]
    fn every_length_and_distance_comes_back() {
        for length in 0..600 {
            let mut text = vec![b'a'; length];
            there_and_back(&text);
            text.extend((0..=255).rev());
            text.extend(vec![b'a'; length]);
            there_and_back(&text);
        }
        let mut chance = 1u32;
        let mut noise = |length: usize| -> Vec<u8> {
            let mut next = || {
                chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (chance >> 24) as u8
            };
            (0..length).map(|_| next()).collect()
        };
        for far in (1..=16).flat_map(|power| [(1 << power) - 1, 1 << power, (1 << power) + 1]) {
            let word = noise(20);
            let text = [&word[..], &noise(far), &word].concat();
            there_and_back(&text);
        }
        there_and_back(&noise(100_000));
    }

    #[test]
    fn text_that_repeats_itself_becomes_short() {
        let line = |at: u32| {
            format!("node_cpu_seconds_total{{cpu=\"{at}\",mode=\"idle\"}} {}\n", at * 7919)
        };
        let text: String = (0..1000).map(line).collect();
        let length = there_and_back(text.as_bytes());
        assert!(length * 4 < text.len(), "{length} of {}", text.len());
    }
}
