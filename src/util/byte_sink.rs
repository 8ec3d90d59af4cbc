//! Bytes that are written in many small pieces.

/// Grows in large steps and is written in place: musl's memcpy takes longer to begin than a short text takes, and
/// `Vec` calls it for each piece; half of a scrape's time went there.
pub struct Bytes {
    /// What is written, and room behind it.
    room: Vec<u8>,
    used: usize,
}

impl Bytes {
    /// Goes on behind what is there already.
    pub fn after(bytes: Vec<u8>) -> Self {
        let used = bytes.len();
        Self { room: bytes, used }
    }

    /// The next `N` bytes.
    fn push_array<const N: usize>(&mut self, bytes: &[u8; N]) {
        if self.room.len() - self.used < N {
            // What there is first; then twice as much.
            let spare = self.room.capacity() - self.used;
            let room = if spare >= N { self.room.capacity() } else { 2 * self.used + 64 + N };
            self.room.resize(room, 0);
        }
        // Of a size that is known: no call, but a move.
        self.room[self.used..self.used + N].copy_from_slice(bytes);
        self.used += N;
    }

    pub fn push(&mut self, byte: u8) {
        self.push_array(&[byte]);
    }

    pub fn push_word(&mut self, word: u32) {
        self.push_array(&word.to_le_bytes());
    }

    pub fn push_text(&mut self, text: &str) {
        let (words, rest) = text.as_bytes().as_chunks::<8>();
        for word in words {
            self.push_array(word);
        }
        for byte in rest {
            self.push(*byte);
        }
    }

    /// What was written.
    pub fn written(&self) -> &[u8] {
        &self.room[..self.used]
    }

    /// Takes back all but the first so many bytes.
    pub fn truncate(&mut self, length: usize) {
        self.used = self.used.min(length);
    }

    /// One that was written is another one.
    pub fn set(&mut self, at: usize, byte: u8) {
        self.room[at] = byte;
    }

    /// Without the room behind it.
    pub fn finish(mut self) -> Vec<u8> {
        self.room.truncate(self.used);
        self.room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_all_lengths_come_one_after_the_other() {
        let mut bytes = Bytes::after(b"head".to_vec());
        let mut expected = b"head".to_vec();
        for length in 0..300 {
            let text = "abcdefghijklmnopqrstuvwxyz".repeat(12);
            bytes.push_text(&text[..length]);
            expected.extend_from_slice(&text.as_bytes()[..length]);
            bytes.push_word(0x0403_0201);
            expected.extend([1, 2, 3, 4]);
        }
        assert_eq!(bytes.written(), expected);
        bytes.truncate(5);
        bytes.set(4, b'!');
        assert_eq!(bytes.finish(), b"head!");
    }
}
