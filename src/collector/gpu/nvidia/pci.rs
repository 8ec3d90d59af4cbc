//! NVIDIA's GPUs on the PCI bus, as sysfs shows them. Nothing here touches a GPU: these files come from what the
//! kernel remembers, so a GPU that hangs does not hang us and one that sleeps is not woken.
//!
//! Source: the kernel's Documentation/ABI/testing/sysfs-bus-pci and sysfs-devices-power.

use std::path::{Path, PathBuf};

use crate::config::Roots;

const NVIDIA: &str = "0x10de";
/// Class codes of display controllers: VGA 0x0300, 3D 0x0302, other 0x0380.
const DISPLAY: &str = "0x03";
/// Parts of the names of drivers that hold a GPU for somebody else: a virtual machine, most often.
const FOREIGN: [&str; 3] = ["vfio", "pci-stub", "pciback"];

/// A GPU on the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciGpu {
    /// E.g. `0000:41:00.0`.
    pub address: String,
    /// The driver that is bound to it.
    pub driver: Option<String>,
    path: PathBuf,
}

impl PciGpu {
    #[cfg(test)]
    pub(super) fn for_tests(address: &str) -> Self {
        Self { address: address.to_owned(), driver: None, path: PathBuf::new() }
    }

    /// Whether NVIDIA's driver should know it.
    pub fn is_the_drivers(&self) -> bool {
        self.driver.as_deref().is_none_or(|driver| driver == "nvidia")
    }

    fn is_given_away(&self) -> bool {
        let driver = self.driver.as_deref().unwrap_or_default();
        FOREIGN.iter().any(|foreign| driver.contains(foreign))
    }

    /// Whether it sleeps now.
    pub fn is_suspended(&self) -> bool {
        line(&self.path.join("power/runtime_status")).is_some_and(|state| state == "suspended")
    }

    /// Whether it is still on the bus.
    pub fn is_there(&self) -> bool {
        self.path.exists()
    }
}

/// NVIDIA's GPUs by address, but for those that were given away.
pub fn gpus(roots: &Roots) -> Vec<PciGpu> {
    let devices = std::fs::read_dir(roots.sys.join("bus/pci/devices"));
    let mut gpus: Vec<PciGpu> = devices
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| gpu(entry.path()))
        .filter(|gpu| !gpu.is_given_away())
        .collect();
    gpus.sort_by(|a, b| a.address.cmp(&b.address));
    gpus
}

fn gpu(path: PathBuf) -> Option<PciGpu> {
    let is = |file, wanted| line(&path.join(file)).is_some_and(|text| text.starts_with(wanted));
    if !is("vendor", NVIDIA) || !is("class", DISPLAY) {
        return None;
    }
    let driver = std::fs::read_link(path.join("driver")).ok();
    let driver = driver.and_then(|link| Some(link.file_name()?.to_str()?.to_owned()));
    Some(PciGpu { address: path.file_name()?.to_str()?.to_owned(), driver, path })
}

fn line(path: &Path) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

/// Addresses of the GPUs that NVIDIA's driver shows here; `None` where it shows none at all. In a container
/// that was given some of the machine's GPUs, the bus has all and this list has those.
pub fn shown_by_driver(roots: &Roots) -> Option<Vec<String>> {
    let entries = std::fs::read_dir(roots.proc.join("driver/nvidia/gpus")).ok()?;
    let names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    (!names.is_empty()).then_some(names)
}

/// How many GPUs' device files there are.
pub fn device_files() -> usize {
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

    struct Bus(PathBuf);

    impl Bus {
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

    impl Drop for Bus {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn only_nvidias_display_controllers_that_are_ours() {
        let bus = Bus::new("ours");
        bus.add("0000:c1:00.0", "0x10de", "0x030200", Some("nvidia"));
        bus.add("0000:41:00.0", "0x10de", "0x030000", None);
        bus.add("0000:41:00.1", "0x10de", "0x040300", Some("snd_hda_intel"));
        bus.add("0000:81:00.0", "0x10de", "0x030200", Some("vfio-pci"));
        bus.add("0000:82:00.0", "0x10de", "0x030000", Some("nouveau"));
        bus.add("0000:03:00.0", "0x1002", "0x030000", Some("amdgpu"));
        let found = gpus(&bus.roots());
        let addresses: Vec<_> = found.iter().map(|gpu| gpu.address.as_str()).collect();
        assert_eq!(addresses, ["0000:41:00.0", "0000:82:00.0", "0000:c1:00.0"]);
        let drivers: Vec<_> = found.iter().map(PciGpu::is_the_drivers).collect();
        assert_eq!(drivers, [true, false, true]);
        assert!(found.iter().all(|gpu| gpu.is_there() && !gpu.is_suspended()));
        let asleep = bus.0.join("sys/bus/pci/devices/0000:c1:00.0/power/runtime_status");
        std::fs::write(asleep, "suspended\n").unwrap();
        assert!(found[2].is_suspended());
    }

    #[test]
    fn a_machine_without_a_bus_has_none() {
        let bus = Bus::new("none");
        assert_eq!(gpus(&bus.roots()), []);
        assert_eq!(shown_by_driver(&bus.roots()), None);
    }
}
