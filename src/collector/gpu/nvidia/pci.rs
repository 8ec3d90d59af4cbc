//! NVIDIA GPUs on the PCI bus, from sysfs. The kernel serves these files from memory without accessing the GPU, so
//! reading them neither blocks on a hung GPU nor resumes a suspended one.
//!
//! Source: the kernel's Documentation/ABI/testing/sysfs-bus-pci and sysfs-devices-power.

use std::path::{Path, PathBuf};

use crate::config::Roots;

const NVIDIA_VENDOR: &str = "0x10de";
/// Prefix of the class codes of display controllers: VGA 0x0300, 3D 0x0302, other 0x0380.
const DISPLAY_CLASS: &str = "0x03";
/// Parts of the names of drivers that reserve a device for a virtual machine.
const PASSTHROUGH_DRIVERS: [&str; 3] = ["vfio", "pci-stub", "pciback"];

/// An NVIDIA GPU on the PCI bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PciGpu {
    /// E.g. `0000:41:00.0`.
    pub(super) address: String,
    /// The bound driver.
    pub(super) driver: Option<String>,
    path: PathBuf,
}

impl PciGpu {
    #[cfg(test)]
    pub(super) fn for_tests(address: &str) -> Self {
        Self { address: address.to_owned(), driver: None, path: PathBuf::new() }
    }

    /// Whether the NVIDIA driver should list the GPU. A GPU without a driver is one that the driver failed to bind.
    pub(super) fn is_bound_to_nvidia_or_unbound(&self) -> bool {
        self.driver.as_deref().is_none_or(|driver| driver == "nvidia")
    }

    fn is_passed_through(&self) -> bool {
        let driver = self.driver.as_deref().unwrap_or_default();
        PASSTHROUGH_DRIVERS.iter().any(|name| driver.contains(name))
    }

    /// Whether the GPU is runtime-suspended.
    pub(super) fn is_suspended(&self) -> bool {
        read_line(&self.path.join("power/runtime_status")).is_some_and(|state| state == "suspended")
    }

    /// Whether the GPU is still on the bus.
    pub(super) fn is_present(&self) -> bool {
        self.path.exists()
    }
}

/// NVIDIA GPUs sorted by address, except those passed through to virtual machines.
pub(super) fn gpus(roots: &Roots) -> Vec<PciGpu> {
    let devices = std::fs::read_dir(roots.sys.join("bus/pci/devices"));
    let mut gpus: Vec<PciGpu> = devices
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| gpu(entry.path()))
        .filter(|gpu| !gpu.is_passed_through())
        .collect();
    gpus.sort_by(|a, b| a.address.cmp(&b.address));
    gpus
}

fn gpu(path: PathBuf) -> Option<PciGpu> {
    let has_prefix =
        |file, prefix| read_line(&path.join(file)).is_some_and(|text| text.starts_with(prefix));
    if !has_prefix("vendor", NVIDIA_VENDOR) || !has_prefix("class", DISPLAY_CLASS) {
        return None;
    }
    let driver = std::fs::read_link(path.join("driver")).ok();
    let driver = driver.and_then(|link| Some(link.file_name()?.to_str()?.to_owned()));
    Some(PciGpu { address: path.file_name()?.to_str()?.to_owned(), driver, path })
}

fn read_line(path: &Path) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

/// Addresses of the GPUs in `/proc/driver/nvidia/gpus`; `None` if there are none. In a container that has access to some
/// GPUs only, this directory lists those, while sysfs lists all.
pub(super) fn visible_to_driver(roots: &Roots) -> Option<Vec<String>> {
    let entries = std::fs::read_dir(roots.proc.join("driver/nvidia/gpus")).ok()?;
    let names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    (!names.is_empty()).then_some(names)
}

/// Number of device files `/dev/nvidiaN`.
pub(super) fn count_device_files() -> usize {
    let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let is_gpu = |name: &str| {
        let number = name.strip_prefix("nvidia").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    entries.filter(|entry| entry.file_name().to_str().is_some_and(is_gpu)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A PCI bus in a temporary directory.
    struct FakeBus(PathBuf);

    impl FakeBus {
        fn new(name: &str) -> Self {
            let name = format!("hm-agent-pci-{name}-{}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn add(&self, address: &str, vendor: &str, class: &str, driver: Option<&str>) {
            let device = self.0.join("sys/bus/pci/devices").join(address);
            std::fs::create_dir_all(device.join("power")).unwrap();
            std::fs::write(device.join("vendor"), format!("{vendor}\n")).unwrap();
            std::fs::write(device.join("class"), format!("{class}\n")).unwrap();
            std::fs::write(device.join("power/runtime_status"), "active\n").unwrap();
            if let Some(driver) = driver {
                symlink(format!("../../../bus/pci/drivers/{driver}"), device.join("driver"))
                    .unwrap();
            }
        }

        fn roots(&self) -> Roots {
            Roots { proc: self.0.join("proc"), sys: self.0.join("sys"), root: self.0.clone() }
        }
    }

    impl Drop for FakeBus {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn finds_nvidia_gpus_that_are_not_passed_through() {
        let bus = FakeBus::new("gpus");
        bus.add("0000:c1:00.0", "0x10de", "0x030200", Some("nvidia"));
        bus.add("0000:41:00.0", "0x10de", "0x030000", None);
        bus.add("0000:41:00.1", "0x10de", "0x040300", Some("snd_hda_intel"));
        bus.add("0000:81:00.0", "0x10de", "0x030200", Some("vfio-pci"));
        bus.add("0000:82:00.0", "0x10de", "0x030000", Some("nouveau"));
        bus.add("0000:03:00.0", "0x1002", "0x030000", Some("amdgpu"));
        let found = gpus(&bus.roots());
        let addresses: Vec<_> = found.iter().map(|gpu| gpu.address.as_str()).collect();
        assert_eq!(addresses, ["0000:41:00.0", "0000:82:00.0", "0000:c1:00.0"]);
        let drivers: Vec<_> = found.iter().map(PciGpu::is_bound_to_nvidia_or_unbound).collect();
        assert_eq!(drivers, [true, false, true]);
        assert!(found.iter().all(|gpu| gpu.is_present() && !gpu.is_suspended()));
        let status = bus.0.join("sys/bus/pci/devices/0000:c1:00.0/power/runtime_status");
        std::fs::write(status, "suspended\n").unwrap();
        assert!(found[2].is_suspended());
    }

    #[test]
    fn finds_nothing_without_pci_bus() {
        let bus = FakeBus::new("none");
        assert_eq!(gpus(&bus.roots()), []);
        assert_eq!(visible_to_driver(&bus.roots()), None);
    }
}
