//! Which NVIDIA GPUs are present and which of them the probe should report.

use std::time::Instant;

use crate::collector::gpu::RESCAN_INTERVAL;
use crate::collector::gpu::nvidia::pci::{self, PciGpu};
use crate::config::Roots;

/// A GPU that the NVIDIA driver should list.
pub(super) struct PciEntry<'a> {
    pub(super) gpu: &'a PciGpu,
    /// Runtime-suspended, so the probe does not query it.
    pub(super) suspended: bool,
}

/// NVIDIA GPUs on the PCI bus as of the last scan.
#[derive(Default)]
pub(super) struct PciScan {
    /// All GPUs except those passed through to virtual machines.
    pub(super) gpus: Vec<PciGpu>,
    /// Those of `gpus` that the driver should list and that are visible here, and whether they are suspended.
    pub(super) managed: Vec<(PciGpu, bool)>,
    /// Result of [`pci::visible_to_driver`].
    visible_to_driver: Option<Vec<String>>,
    /// Result of [`pci::count_device_files`].
    device_files: usize,
    /// Time of the last full scan.
    pub(super) scanned_at: Option<Instant>,
    /// `managed` when the probe was started.
    pub(super) at_probe_start: Vec<(PciGpu, bool)>,
}

impl PciScan {
    /// Checks the known GPUs and, every [`RESCAN_INTERVAL`], scans for new ones.
    pub(super) fn update(&mut self, roots: &Roots, now: Instant) {
        if self.is_scan_due(now) {
            self.gpus = pci::gpus(roots);
            self.visible_to_driver = pci::visible_to_driver(roots);
            self.device_files = pci::count_device_files();
            self.scanned_at = Some(now);
        }
        self.gpus.retain(PciGpu::is_present);
        // A GPU that was removed and added again is a new one for the driver.
        self.at_probe_start.retain(|(gpu, _)| self.gpus.contains(gpu));
        let managed = self
            .gpus
            .iter()
            .filter(|gpu| gpu.is_bound_to_nvidia_or_unbound() && self.is_visible(gpu));
        self.managed = managed.map(|gpu| (gpu.clone(), gpu.is_suspended())).collect();
    }

    pub(super) fn is_scan_due(&self, now: Instant) -> bool {
        self.scanned_at.is_none_or(|at| now >= at + RESCAN_INTERVAL)
    }

    /// A GPU without a driver counts as visible: no other container or virtual machine uses it, so it must be reported as
    /// missing.
    fn is_visible(&self, gpu: &PciGpu) -> bool {
        let is_listed = |visible: &Vec<String>| visible.contains(&gpu.address);
        gpu.driver.is_none() || self.visible_to_driver.as_ref().is_none_or(is_listed)
    }

    /// Whether there are GPUs and all are suspended.
    pub(super) fn all_suspended(&self) -> bool {
        !self.managed.is_empty() && self.managed.iter().all(|(_, suspended)| *suspended)
    }

    /// Whether a GPU was added, suspended or resumed since the probe was started. The probe must be restarted then, because
    /// the driver's library lists GPUs once, at its initialization.
    pub(super) fn has_changed(&self) -> bool {
        self.managed.iter().any(|gpu| !self.at_probe_start.contains(gpu))
    }

    /// GPUs that the driver should list. In a container that has the device files of some GPUs only, the bus shows all of
    /// them; then those that are awake and have a driver are omitted, because it is unknown which ones are accessible.
    pub(super) fn expected(&self) -> Vec<PciEntry<'_>> {
        let with_driver = self.managed.iter().filter(|(gpu, _)| gpu.driver.is_some()).count();
        let all_accessible = self.device_files == 0 || self.device_files >= with_driver;
        self.managed
            .iter()
            .filter(|(gpu, suspended)| all_accessible || *suspended || gpu.driver.is_none())
            .map(|(gpu, suspended)| PciEntry { gpu, suspended: *suspended })
            .collect()
    }
}
