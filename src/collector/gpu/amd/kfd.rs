//! Processes that use AMD GPUs for computing, from `/sys/class/kfd/kfd`, whose files every user may read.
//!
//! Format: kernel `drivers/gpu/drm/amd/amdkfd/kfd_process.c`: `proc/PID/vram_GPU` has the bytes of memory that the process
//! uses, where `GPU` is the driver's number of the GPU or of a partition of it. Files named `sdma_GPU` are not read, because
//! that stops the GPU's queues for a moment.

use std::path::{Path, PathBuf};

use crate::collector::file_reader::FileReader;
use crate::collector::gpu::hwmon::number;
use crate::model::gpu::{GpuProcess, ProcessKind};
use crate::procfs::kfd_node;

/// More processes have never been seen on a GPU; the directory is not read further.
const MAX_PROCESSES: usize = 1024;

pub(in crate::collector::gpu) struct Kfd {
    root: PathBuf,
    /// Does not keep files open, because processes come and go.
    files: FileReader,
    /// Number of the driver and PCI address without function, for each GPU or partition.
    gpus: Vec<(u64, String)>,
}

impl Kfd {
    pub(in crate::collector::gpu) fn new(sys: &Path) -> Self {
        let root = sys.join("class/kfd/kfd");
        Self { root, files: FileReader::closing(), gpus: Vec::new() }
    }

    /// Reads which GPUs there are.
    pub(in crate::collector::gpu) fn scan(&mut self) {
        let nodes = std::fs::read_dir(self.root.join("topology/nodes")).into_iter().flatten();
        let gpus = nodes.flatten().filter_map(|node| {
            let gpu = number(&mut self.files, &node.path().join("gpu_id")).filter(|id| *id != 0)?;
            let properties = node.path().join("properties");
            let slot = self.files.parse(&properties, kfd_node::parse_pci_slot).ok()??;
            Some((gpu, slot))
        });
        self.gpus = gpus.collect();
    }

    /// Processes that use the memory of the GPU at this PCI address, sorted by PID; `None` if the compute driver does not
    /// manage it.
    pub(in crate::collector::gpu) fn processes(
        &mut self,
        pci_address: &str,
        pids: &[u32],
    ) -> Option<Vec<GpuProcess>> {
        let (slot, _) = pci_address.rsplit_once('.')?;
        let gpus = self.gpus.iter().filter(|(_, at)| at == slot);
        let files: Vec<String> = gpus.map(|(gpu, _)| format!("vram_{gpu}")).collect();
        let mut process = |pid: &u32| {
            let directory = self.root.join("proc").join(pid.to_string());
            let each = files
                .iter()
                .filter_map(|file| number::<u64>(&mut self.files, &directory.join(file)));
            // Each process that uses one of the GPUs has files for all.
            let used = each.fold(0, u64::saturating_add);
            (used > 0).then(|| GpuProcess {
                pid: *pid,
                kind: ProcessKind::Compute,
                memory_used_bytes: Some(used),
                ..GpuProcess::default()
            })
        };
        (!files.is_empty()).then(|| pids.iter().filter_map(&mut process).collect())
    }

    /// PIDs of all processes that use the compute driver, sorted.
    pub(in crate::collector::gpu) fn pids(&self) -> Vec<u32> {
        if self.gpus.is_empty() {
            return Vec::new();
        }
        let entries = std::fs::read_dir(self.root.join("proc")).into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut pids: Vec<u32> = pids.take(MAX_PROCESSES).collect();
        pids.sort_unstable();
        pids
    }
}
