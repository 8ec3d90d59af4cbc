//! GPUs that the kernel's graphics subsystem (DRM) lists and whose values are in sysfs: those of AMD and Intel.
//!
//! Not listed: GPUs passed through to virtual machines (they have another driver), partitions of an Instinct (devices
//! without a PCI address; the whole GPU is listed once), GPUs without a driver, and integrated GPUs of Intel.
//!
//! Runs in the thread of the probe supervisor, which blocks while the driver hangs.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::collector::file_reader::FileReader;
use crate::collector::gpu::RESCAN_INTERVAL;
use crate::collector::gpu::amd::card::AmdCard;
use crate::collector::gpu::amd::kfd::Kfd;
use crate::collector::gpu::intel::IntelCard;
use crate::config::Roots;
use crate::model::gpu::Gpu;

/// On a machine without such GPUs it costs one directory scan per [`RESCAN_INTERVAL`].
pub(super) struct DrmCollector {
    drm: PathBuf,
    names: NameLists,
    files: FileReader,
    cards: Vec<Card>,
    kfd: Kfd,
    next_scan: Option<Instant>,
}

/// Lists of model names, in the order in which they are searched.
pub(super) struct NameLists {
    /// From the distribution's libdrm and from AMD's packages.
    pub(super) amdgpu_ids: [PathBuf; 2],
    /// From the packages hwdata and pciutils.
    pub(super) pci_ids: [PathBuf; 2],
}

/// A card in `/sys/class/drm` and its PCI device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DrmDevice {
    /// Named after the PCI address.
    pub(super) device: PathBuf,
    pub(super) card: PathBuf,
}

/// The order of variants is that of the GPUs.
#[derive(Debug)]
enum Card {
    Amd(AmdCard),
    Intel(IntelCard),
}

impl DrmCollector {
    pub(super) fn new(roots: &Roots) -> Self {
        let below_root = |file| roots.root.join(file);
        let amdgpu_ids = ["usr/share/libdrm/amdgpu.ids", "opt/amdgpu/share/libdrm/amdgpu.ids"];
        let pci_ids = ["usr/share/hwdata/pci.ids", "usr/share/misc/pci.ids"];
        Self {
            drm: roots.sys.join("class/drm"),
            names: NameLists {
                amdgpu_ids: amdgpu_ids.map(below_root),
                pci_ids: pci_ids.map(below_root),
            },
            files: FileReader::default(),
            cards: Vec::new(),
            kfd: Kfd::new(&roots.sys),
            next_scan: None,
        }
    }

    /// All GPUs, AMD's first, sorted by PCI address, with indices from 0.
    pub(super) fn read(&mut self) -> Vec<Gpu> {
        self.read_at(Instant::now())
    }

    fn read_at(&mut self, now: Instant) -> Vec<Gpu> {
        let is_due = self.next_scan.is_none_or(|at| now >= at);
        if is_due || !self.cards.iter().all(Card::is_present) {
            self.next_scan = Some(now + RESCAN_INTERVAL);
            self.scan();
        }
        let pids = self.kfd.pids();
        let mut gpus = Vec::with_capacity(self.cards.len());
        for (index, card) in (0..).zip(&mut self.cards) {
            let mut gpu = match card {
                Card::Amd(card) => card.read(&mut self.files),
                Card::Intel(card) => card.read(now, &mut self.files),
            };
            if matches!(card, Card::Amd(_)) && gpu.problem.is_none() {
                gpu.values.processes = self.kfd.processes(card.pci_address(), &pids);
            }
            gpus.push(Gpu { index, ..gpu });
        }
        gpus
    }

    /// Finds added and removed GPUs and logs them.
    fn scan(&mut self) {
        let Ok(mut devices) = devices(&self.drm) else {
            // E.g. out of file descriptors. The known GPUs can still be read.
            self.cards.retain(Card::is_present);
            return;
        };
        devices.sort();
        devices.dedup_by(|one, other| one.device == other.device);
        let mut previous = std::mem::take(&mut self.cards);
        for device in &devices {
            let at = previous.iter().position(|card| card.device() == device.device);
            let old = at.map(|at| previous.swap_remove(at));
            let is_new = old.is_none();
            let card = match old {
                Some(card) if card.is_present() => Some(card),
                old => Card::new(device, old, &self.names, &mut self.files),
            };
            if let (Some(card), true) = (&card, is_new) {
                log::info!("GPU {card} found");
            }
            self.cards.extend(card);
        }
        for card in &previous {
            log::warn!("GPU {card} removed, or its driver unloaded");
        }
        let order = |card: &Card| (matches!(card, Card::Intel(_)), card.pci_address().to_owned());
        self.cards.sort_by_key(order);
        if self.cards.iter().any(|card| matches!(card, Card::Amd(_))) {
            self.kfd.scan();
        }
    }
}

impl Card {
    /// `None` if no collector knows the driver. `previous` is the same GPU before its driver was reloaded.
    fn new(
        at: &DrmDevice,
        previous: Option<Self>,
        names: &NameLists,
        files: &mut FileReader,
    ) -> Option<Self> {
        match previous {
            Some(Self::Amd(card)) => AmdCard::new(at, Some(card), names, files).map(Self::Amd),
            Some(Self::Intel(_)) => IntelCard::new(at, names, files).map(Self::Intel),
            None => AmdCard::new(at, None, names, files)
                .map(Self::Amd)
                .or_else(|| IntelCard::new(at, names, files).map(Self::Intel)),
        }
    }

    fn device(&self) -> &Path {
        match self {
            Self::Amd(card) => card.device(),
            Self::Intel(card) => card.device(),
        }
    }

    fn is_present(&self) -> bool {
        match self {
            Self::Amd(card) => card.is_present(),
            Self::Intel(card) => card.is_present(),
        }
    }

    fn pci_address(&self) -> &str {
        pci_address(self.device())
    }
}

impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Amd(card) => card.name(),
            Self::Intel(card) => card.name(),
        };
        write!(f, "{name} at {}", self.pci_address())
    }
}

/// E.g. `0000:03:00.0`.
pub(super) fn pci_address(device: &Path) -> &str {
    device.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// Whether the device is bound to one of these drivers.
pub(super) fn has_driver(device: &Path, names: &[&str]) -> bool {
    let driver = std::fs::read_link(device.join("driver"));
    driver.is_ok_and(|driver| names.iter().any(|name| driver.ends_with(name)))
}

/// Before Linux 6.15, reading most files of a suspended GPU resumes it.
pub(super) fn is_suspended(device: &Path, files: &mut FileReader) -> bool {
    let status = files.read_line(&device.join("power/runtime_status"));
    matches!(status.as_deref(), Some("suspended" | "suspending"))
}

/// PCI devices of all DRM cards (`card0`), without connectors (`card0-DP-1`) and render nodes (`renderD128`), which belong
/// to the same device.
fn devices(drm: &Path) -> io::Result<Vec<DrmDevice>> {
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
            let device = entry.path().join("device").canonicalize();
            devices.extend(device.map(|device| DrmDevice { device, card: entry.path() }));
        }
    }
    Ok(devices)
}

#[cfg(test)]
mod amd_firmware_tests;
#[cfg(test)]
mod amd_tests;
#[cfg(test)]
mod fake_sysfs;
#[cfg(test)]
mod intel_tests;
