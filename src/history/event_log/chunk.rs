//! A run of older events, compressed: ten thousand take some 300 KB instead of megabytes.

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

use crate::model::event::Event;

#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) last_id: u64,
    /// The latest time of its events.
    pub(super) latest: u64,
    pub(super) count: usize,
    /// Lines of JSON.
    compressed: Box<[u8]>,
}

impl Chunk {
    pub(super) fn new<'a>(events: impl Iterator<Item = &'a Event>) -> io::Result<Self> {
        let (mut last_id, mut latest, mut count) = (0, 0, 0);
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        for event in events {
            (last_id, latest) = (event.id, event.last_unix_seconds.max(latest));
            count += 1;
            serde_json::to_writer(&mut encoder, event)?;
            encoder.write_all(b"\n")?;
        }
        let compressed = encoder.finish()?.into_boxed_slice();
        Ok(Self { last_id, latest, count, compressed })
    }

    pub(super) fn events(&self) -> Vec<Event> {
        let mut text = String::new();
        // It was compressed by this process.
        let _ = ZlibDecoder::new(&*self.compressed).read_to_string(&mut text);
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub(super) fn size(&self) -> usize {
        self.compressed.len()
    }
}
