//! AMD's GPUs, from sysfs: finds them and keeps what is cheap to keep. What one of them measures is read by
//! [`card`]. No library of AMD's is needed, and none is used.
//!
//! Not a GPU here: one that a virtual machine has (its driver is another), a partition of an Instinct (a
//! device of its own without a PCI address; the whole is there), and one without a driver.
//!
//! The thread that keeps the GPU probe runs this. A driver that hangs, hangs it.

pub mod card;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::collector::cached_file::Files;
use crate::collector::gpu::amd::card::Card;
use crate::config::Roots;
use crate::limits;
use crate::model::gpu::Gpu;

/// Reads AMD's GPUs. On a machine without any, all but one look in a minute cost nothing.
pub struct Amd {
    drm: PathBuf,
    names: [PathBuf; 2],
    files: Files,
    cards: Vec<Card>,
    next_search: Option<Instant>,
}

impl Amd {
    /// A reader of the machine mounted at `roots`. Searches with the first look.
    pub fn new(roots: &Roots) -> Self {
        // A distribution's libdrm, and the one that AMD's own packages bring.
        let names = ["usr/share/libdrm/amdgpu.ids", "opt/amdgpu/share/libdrm/amdgpu.ids"];
        Self {
            drm: roots.sys.join("class/drm"),
            names: names.map(|file| roots.root.join(file)),
            files: Files::default(),
            cards: Vec::new(),
            next_search: None,
        }
    }

    /// All GPUs by PCI address, numbered from `first_index`.
    pub fn read(&mut self, first_index: u32) -> Vec<Gpu> {
        self.read_at(Instant::now(), first_index)
    }

    fn read_at(&mut self, now: Instant, first_index: u32) -> Vec<Gpu> {
        let is_due = self.next_search.is_none_or(|at| now >= at);
        if is_due || !self.cards.iter().all(Card::is_there) {
            self.next_search = Some(now + limits::GPU_SEARCH);
            self.search();
        }
        let indexed = (first_index..).zip(&mut self.cards);
        indexed.map(|(index, card)| card.read(index, &mut self.files)).collect()
    }

    /// Looks for GPUs that came or went, and says so in the log.
    fn search(&mut self) {
        let Ok(mut devices) = devices(&self.drm) else {
            // Out of descriptors, say: those that are known can still be read.
            self.cards.retain(Card::is_there);
            return;
        };
        devices.sort();
        devices.dedup();
        let mut before = std::mem::take(&mut self.cards);
        for device in devices.iter().filter(|device| card::has_our_driver(device)) {
            let at = before.iter().position(|card| card.device() == device);
            let card = match at.map(|at| before.swap_remove(at)) {
                Some(card) if card.is_there() => Some(card),
                Some(card) => Card::new(device, Some(card), &self.names, &mut self.files),
                None => {
                    let card = Card::new(device, None, &self.names, &mut self.files);
                    card.inspect(|card| log::info!("GPU {card} found"))
                }
            };
            self.cards.extend(card);
        }
        for card in &before {
            log::warn!("GPU {card} is gone, or its driver is");
        }
        self.cards.sort_by(|a, b| a.pci_address().cmp(b.pci_address()));
    }
}

/// The PCI devices of all graphics cards: `card0`, but not its connectors (`card0-DP-1`), nor the second
/// way to it (`renderD128`).
fn devices(drm: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(drm) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut devices = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.as_encoded_bytes().strip_prefix(b"card");
        if number.is_some_and(|number| number.iter().all(u8::is_ascii_digit)) {
            devices.extend(entry.path().join("device").canonicalize());
        }
    }
    Ok(devices)
}

#[cfg(test)]
mod tests;
