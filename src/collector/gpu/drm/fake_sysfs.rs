use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::DrmCollector;
use crate::config::Roots;
use crate::model::gpu::Gpu;

pub(super) fn roots(tree: &Path) -> Roots {
    Roots { proc: tree.join("proc"), sys: tree.join("sys"), root: tree.join("root") }
}

/// A sysfs tree in a temporary directory.
pub(super) struct FakeSysfs(pub(super) PathBuf);

impl FakeSysfs {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let tree = format!("hm-agent-drm-{}-{number}", std::process::id());
        let tree = std::env::temp_dir().join(tree);
        fs::create_dir_all(tree.join("sys/class/drm")).unwrap();
        Self(tree)
    }

    pub(super) fn device(&self, address: &str) -> PathBuf {
        self.0.join("sys/devices/pci0000:00").join(address)
    }

    /// Adds a GPU bound to `driver`, with the given files; an AMD GPU unless they say otherwise.
    pub(super) fn add(&self, card: &str, address: &str, driver: &str, files: &[(&str, &str)]) {
        let (device, drm) = (self.device(address), self.0.join("sys/class/drm").join(card));
        self.write(address, &[("vendor", "0x1002"), ("device", "0x744c"), ("revision", "0xc8")]);
        self.write(address, files);
        fs::create_dir_all(&drm).unwrap();
        symlink(Path::new("../../../bus/pci/drivers").join(driver), device.join("driver")).unwrap();
        symlink(format!("../../../devices/pci0000:00/{address}"), drm.join("device")).unwrap();
    }

    pub(super) fn write(&self, address: &str, files: &[(&str, &str)]) {
        for (file, text) in files {
            let path = self.device(address).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
        }
    }

    /// Removes a GPU like hot-unplug.
    pub(super) fn remove(&self, card: &str, address: &str) {
        fs::remove_dir_all(self.0.join("sys/class/drm").join(card)).unwrap();
        fs::remove_dir_all(self.device(address)).unwrap();
    }

    /// Writes a file below the tree, such as `proc/7/stat`.
    pub(super) fn put(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(super) fn collector(&self) -> DrmCollector {
        DrmCollector::new(&roots(&self.0))
    }

    /// Reads a single GPU with the given files.
    pub(super) fn gpu(&self, files: &[(&str, &str)]) -> Gpu {
        self.add("card0", "0000:03:00.0", "amdgpu", files);
        let mut gpus = self.collector().read();
        assert_eq!(gpus.len(), 1);
        gpus.remove(0)
    }
}

impl Drop for FakeSysfs {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}
