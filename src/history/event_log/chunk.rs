//! A run of older events, compressed: ten thousand take some 300 KB instead of megabytes.

use crate::http::gzip;
use crate::model::event::Event;

#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) last_id: u64,
    /// The latest time of its events.
    pub(super) latest: u64,
    pub(super) count: usize,
    /// Lines of JSON.
    lines: Lines,
}

#[derive(Debug)]
enum Lines {
    Compressed(Box<[u8]>),
    /// Memory was too short for the thread that compresses.
    Plain(Box<[u8]>),
}

impl Chunk {
    pub(super) fn new<'a>(events: impl Iterator<Item = &'a Event>) -> Self {
        let (mut last_id, mut latest, mut count) = (0, 0, 0);
        let mut plain = Vec::new();
        for event in events {
            (last_id, latest) = (event.id, event.last_unix_seconds.max(latest));
            count += 1;
            // Serialization cannot fail: the type has neither maps nor custom implementations.
            plain.extend(serde_json::to_vec(event).unwrap_or_default());
            plain.push(b'\n');
        }
        let lines = match gzip::compress_large(&plain) {
            Ok(compressed) => Lines::Compressed(compressed.into()),
            Err(_) => Lines::Plain(plain.into()),
        };
        Self { last_id, latest, count, lines }
    }

    /// Empty if memory is too short for the thread that decompresses.
    pub(super) fn events(&self) -> Vec<Event> {
        let decompressed;
        let lines = match &self.lines {
            Lines::Plain(lines) => lines,
            Lines::Compressed(bytes) => {
                decompressed = gzip::decompress(bytes).unwrap_or_default().into_boxed_slice();
                &decompressed
            }
        };
        let lines = lines.split(|&byte| byte == b'\n');
        lines.filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }

    pub(super) fn size(&self) -> usize {
        match &self.lines {
            Lines::Compressed(bytes) | Lines::Plain(bytes) => bytes.len(),
        }
    }
}
