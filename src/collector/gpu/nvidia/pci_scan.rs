//! Which of NVIDIA's GPUs are there, and which of them are ours to ask for.

use std::time::Instant;

use crate::collector::gpu::nvidia::inventory::PciEntry;
use crate::collector::gpu::nvidia::pci;
use crate::collector::gpu::nvidia::pci::PciGpu;
use crate::config::Roots;
use crate::limits;

/// NVIDIA's GPUs on the bus, as they were seen last.
#[derive(Default)]
pub struct Bus {
    /// All of them, but for those that were given away.
    pub gpus: Vec<PciGpu>,
    /// Those of them that the driver should know and we may see, with whether they sleep.
    pub ours: Vec<(PciGpu, bool)>,
    /// See [`pci::shown_by_driver`].
    shown: Option<Vec<String>>,
    /// See [`pci::device_files`].
    device_files: usize,
    /// When all of the bus was looked at.
    pub searched: Option<Instant>,
    /// What `ours` was when the probe was started.
    pub at_start: Vec<(PciGpu, bool)>,
}

impl Bus {
    /// Looks at what is there and, once a minute, for what is new.
    pub fn look(&mut self, roots: &Roots, now: Instant) {
        if self.searched.is_none_or(|at| now >= at + limits::GPU_SEARCH) {
            self.gpus = pci::gpus(roots);
            self.shown = pci::shown_by_driver(roots);
            self.device_files = pci::device_files();
            self.searched = Some(now);
        }
        self.gpus.retain(PciGpu::is_there);
        // One that comes back is another one for the driver.
        self.at_start.retain(|(gpu, _)| self.gpus.contains(gpu));
        let ours = self.gpus.iter().filter(|gpu| gpu.is_the_drivers() && self.is_shown(gpu));
        self.ours = ours.map(|gpu| (gpu.clone(), gpu.is_suspended())).collect();
    }

    /// Whether the driver shows it to us. One without any driver is nobody else's: it is for us to miss.
    fn is_shown(&self, gpu: &PciGpu) -> bool {
        let shown = self.shown.as_ref().is_none_or(|shown| shown.contains(&gpu.address));
        gpu.driver.is_none() || shown
    }

    /// Whether there are some and all of them sleep.
    pub fn all_asleep(&self) -> bool {
        !self.ours.is_empty() && self.ours.iter().all(|(_, asleep)| *asleep)
    }

    /// Whether the probe that runs was started for other GPUs than there are: some have come, fallen
    /// asleep or woken up. It cannot learn that: the driver's library lists GPUs once.
    pub fn has_changed(&self) -> bool {
        self.ours.iter().any(|gpu| !self.at_start.contains(gpu))
    }

    /// Those that the driver should list, if that can be told: in a container that was given the device files
    /// of some of them, the bus shows all.
    pub fn expected(&self) -> Vec<PciEntry<'_>> {
        let with_driver = self.ours.iter().filter(|(gpu, _)| gpu.driver.is_some()).count();
        let files = self.device_files;
        let all = files == 0 || files >= with_driver;
        self.ours
            .iter()
            .filter(|(gpu, suspended)| all || *suspended || gpu.driver.is_none())
            .map(|(gpu, suspended)| PciEntry { gpu, suspended: *suspended })
            .collect()
    }
}
