//! AMD GPUs, from sysfs. This module finds them; [`card`] reads the values of one. No library of AMD is used.
//!
//! Not listed: GPUs passed through to virtual machines (they have another driver), partitions of an Instinct (devices
//! without a PCI address; the whole GPU is listed), and GPUs without a driver.
//!
//! Runs in the thread of the probe supervisor, which blocks while the driver hangs.

mod card;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::collector::file_reader::FileReader;
use crate::collector::gpu::RESCAN_INTERVAL;
use crate::collector::gpu::amd::card::Card;
use crate::config::Roots;
use crate::model::gpu::Gpu;

/// On a machine without AMD GPUs it costs one directory scan per [`RESCAN_INTERVAL`].
pub(super) struct AmdCollector {
    drm: PathBuf,
    /// Lists of model names.
    name_lists: [PathBuf; 2],
    files: FileReader,
    cards: Vec<Card>,
    next_scan: Option<Instant>,
}

impl AmdCollector {
    pub(super) fn new(roots: &Roots) -> Self {
        // From the distribution's libdrm and from AMD's packages.
        let name_lists = ["usr/share/libdrm/amdgpu.ids", "opt/amdgpu/share/libdrm/amdgpu.ids"];
        Self {
            drm: roots.sys.join("class/drm"),
            name_lists: name_lists.map(|file| roots.root.join(file)),
            files: FileReader::default(),
            cards: Vec::new(),
            next_scan: None,
        }
    }

    /// All GPUs sorted by PCI address, with indices from `first_index`.
    pub(super) fn read(&mut self, first_index: u32) -> Vec<Gpu> {
        self.read_at(Instant::now(), first_index)
    }

    fn read_at(&mut self, now: Instant, first_index: u32) -> Vec<Gpu> {
        let is_due = self.next_scan.is_none_or(|at| now >= at);
        if is_due || !self.cards.iter().all(Card::is_present) {
            self.next_scan = Some(now + RESCAN_INTERVAL);
            self.scan();
        }
        let indexed = (first_index..).zip(&mut self.cards);
        indexed.map(|(index, card)| card.read(index, &mut self.files)).collect()
    }

    /// Finds added and removed GPUs and logs them.
    fn scan(&mut self) {
        let Ok(mut devices) = devices(&self.drm) else {
            // E.g. out of file descriptors. The known GPUs can still be read.
            self.cards.retain(Card::is_present);
            return;
        };
        devices.sort();
        devices.dedup();
        let mut previous = std::mem::take(&mut self.cards);
        for device in devices.iter().filter(|device| card::has_amd_driver(device)) {
            let at = previous.iter().position(|card| card.device() == device);
            let card = match at.map(|at| previous.swap_remove(at)) {
                Some(card) if card.is_present() => Some(card),
                Some(card) => Card::new(device, Some(card), &self.name_lists, &mut self.files),
                None => {
                    let card = Card::new(device, None, &self.name_lists, &mut self.files);
                    card.inspect(|card| log::info!("GPU {card} found"))
                }
            };
            self.cards.extend(card);
        }
        for card in &previous {
            log::warn!("GPU {card} removed, or its driver unloaded");
        }
        self.cards.sort_by(|a, b| a.pci_address().cmp(b.pci_address()));
    }
}

/// PCI devices of all DRM cards (`card0`), without connectors (`card0-DP-1`) and render nodes (`renderD128`), which belong
/// to the same device.
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
