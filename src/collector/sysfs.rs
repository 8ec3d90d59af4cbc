//! Temperatures and network interfaces, from sysfs. Which there are is looked up once a minute: listing them costs
//! more than reading them. Interfaces are looked at when the kernel says that one has changed: a machine with hundreds of
//! containers has hundreds of them.
//!
//! Runs in a thread aside (see [`super::aside`]): firmware may answer slowly, and a network driver may hold a
//! lock that its files want.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::collector::cached_file::Files;
use crate::limits;
use crate::model::Temperature;
use crate::model::devices::{Chip, Devices, Interface, InterfaceAttributes, Sensor};
use crate::procfs::decimal;
use crate::sys::net::{LinkMonitor, interface_index};

/// Reads what is below `/sys/class`.
pub struct SysfsCollector {
    sys: PathBuf,
    /// Without it, interfaces are looked at each time.
    news: Option<LinkMonitor>,
    /// Whether news are of those that are listed: this `/sys` may have been mounted in another network namespace.
    are_ours: bool,
    files: Files,
    listed: Option<Instant>,
    zones: Vec<(PathBuf, Temperature)>,
    chips: Vec<ListedChip>,
    interfaces: Vec<ListedInterface>,
    left_out: usize,
}

struct ListedChip {
    /// Where it says whether its device sleeps. Reading a sensor would wake it.
    runtime_status: PathBuf,
    chip: Chip,
    inputs: Vec<PathBuf>,
}

struct ListedInterface {
    operstate: PathBuf,
    carrier: PathBuf,
    interface: Interface,
}

impl SysfsCollector {
    /// Of the machine whose `/sys` is at `sys`.
    pub fn new(sys: &Path) -> Self {
        Self {
            sys: sys.to_owned(),
            // Elsewhere there may be other interfaces than those of which the kernel tells us.
            news: (sys == Path::new("/sys")).then(|| LinkMonitor::new().ok()).flatten(),
            files: Files::default(),
            are_ours: false,
            listed: None,
            zones: Vec::new(),
            chips: Vec::new(),
            interfaces: Vec::new(),
            left_out: 0,
        }
    }

    /// What they say now.
    pub fn read(&mut self) -> Devices {
        let old = |at: Instant| at.elapsed() >= limits::DEVICE_SEARCH;
        let may_have_changed =
            !self.are_ours || self.news.as_ref().is_none_or(LinkMonitor::has_changed);
        if self.listed.is_none_or(old) || may_have_changed && self.has_changed() {
            self.list();
            if self.news.is_none() || !self.are_ours {
                // So that their files are open: they can be read without descriptors then.
                self.has_changed();
            }
        }
        let files = &mut self.files;
        let zone = |(path, zone): &(PathBuf, Temperature)| {
            // A zone that is switched off refuses to be read; that is its normal state.
            let celsius = degrees(files, path)?;
            // Firmware without a reading says absolute zero, or less.
            (celsius > -273.0).then(|| Temperature { celsius, ..zone.clone() })
        };
        let temperatures = self.zones.iter().filter_map(zone).collect();
        let chips = self.chips.iter().filter_map(|chip| chip.read(files)).collect();
        let interfaces = self.interfaces.iter().map(|listed| listed.interface.clone()).collect();
        Devices { temperatures, chips, interfaces, truncated: self.left_out }
    }

    /// Looks how the interfaces are. Whether one is not as it was.
    fn has_changed(&mut self) -> bool {
        let mut changed = false;
        for ListedInterface { operstate, carrier, interface } in &mut self.interfaces {
            let state = self.files.peek(operstate).unwrap_or_default();
            if *state != *interface.state {
                interface.state = state.into();
                changed = true;
            }
            // One that is switched off does not say; it is asked again when its state has changed.
            if interface.carrier.is_some() {
                interface.carrier = self.files.peek(carrier).map(|text| text == "1");
            }
        }
        changed
    }

    fn list(&mut self) {
        // With it go the files that were kept open of what is not there any more. What is read here is read by
        // others, which keep nothing open: descriptors are for clients.
        self.files = Files::default();
        self.left_out = 0;
        self.listed = Some(Instant::now());
        self.zones = self.list_zones();
        self.chips = self.list_chips();
        self.interfaces = self.list_interfaces();
    }

    /// Directories of a class, by name, not too many.
    fn class(&mut self, class: &str, prefix: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.sys.join("class").join(class));
        let mut paths: Vec<(Option<u64>, PathBuf)> = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name();
                let rest = name.as_encoded_bytes().strip_prefix(prefix.as_bytes())?;
                Some((decimal(rest), entry.path()))
            })
            .collect();
        paths.sort();
        self.left_out += paths.len().saturating_sub(limits::DEVICES);
        paths.truncate(limits::DEVICES);
        paths.into_iter().map(|(_, path)| path).collect()
    }

    fn list_zones(&mut self) -> Vec<(PathBuf, Temperature)> {
        let paths = self.class("thermal", "thermal_zone");
        let mut once = Files::default();
        let zone = |path: PathBuf| {
            let number = path.file_name()?.as_encoded_bytes().strip_prefix(b"thermal_zone")?;
            let zone = u32::try_from(decimal(number)?).ok()?;
            let sensor = once.line(&path.join("type"))?;
            Some((path.join("temp"), Temperature { zone, sensor, celsius: 0.0 }))
        };
        paths.into_iter().filter_map(zone).collect()
    }

    fn list_chips(&mut self) -> Vec<ListedChip> {
        let paths = self.class("hwmon", "hwmon");
        let chip = |path: &PathBuf| ListedChip::find(&mut Files::default(), path);
        paths.iter().filter_map(chip).collect()
    }

    fn list_interfaces(&mut self) -> Vec<ListedInterface> {
        let paths = self.class("net", "");
        self.are_ours = true;
        let interface = |path: PathBuf| {
            let mut once = Files::default();
            // `bonding_masters` is a file.
            let (operstate, carrier) = (path.join("operstate"), path.join("carrier"));
            let state = once.line(&operstate)?.into();
            let device: Arc<str> = path.file_name()?.to_string_lossy().into();
            let index = once.peek(&path.join("ifindex")).and_then(|text| decimal(text.as_bytes()));
            self.are_ours &= index.is_some() && index == interface_index(&device).map(u64::from);
            let fixed = Arc::new(fixed(&mut once, &path));
            let has_carrier = once.peek(&carrier).map(|text| text == "1");
            let interface = Interface { device, state, carrier: has_carrier, attributes: fixed };
            Some(ListedInterface { operstate, carrier, interface })
        };
        paths.into_iter().filter_map(interface).collect()
    }
}

fn fixed(files: &mut Files, path: &Path) -> InterfaceAttributes {
    let mut text = |name: &str| files.line(&path.join(name)).unwrap_or_default();
    let number = |text: String| decimal(text.as_bytes());
    InterfaceAttributes {
        address: text("address"),
        broadcast: text("broadcast"),
        duplex: text("duplex"),
        alias: text("ifalias"),
        mtu_bytes: number(text("mtu")),
        // In megabits; -1 where the device does not know.
        speed_bytes: number(text("speed")).map(|megabits| megabits.saturating_mul(125_000)),
        transmit_queue_length: number(text("tx_queue_len")),
        protocol_type: number(text("type")),
    }
}

impl ListedChip {
    /// A chip with temperatures, if it has any.
    fn find(files: &mut Files, path: &Path) -> Option<Self> {
        let name = files.line(&path.join("name"));
        let mut sensors: Vec<(u64, String)> = std::fs::read_dir(path)
            .ok()?
            .flatten()
            .filter_map(|entry| {
                let file = entry.file_name().into_string().ok()?;
                let sensor = file.strip_suffix("_input")?;
                let number = decimal(sensor.strip_prefix("temp")?.as_bytes())?;
                Some((number, sensor.to_owned()))
            })
            .collect();
        sensors.sort();
        sensors.truncate(limits::SENSORS);
        let chip = identity(path, name.as_deref());
        let runtime_status = path.join("device/power/runtime_status");
        let asleep = is_asleep(files, &runtime_status);
        let mut of = |sensor: &str| {
            let mut limit = |of: &str| match asleep {
                true => None,
                false => degrees(files, &path.join(format!("{sensor}_{of}"))),
            };
            let (max_celsius, critical_celsius) = (limit("max"), limit("crit"));
            let label = files.line(&path.join(format!("{sensor}_label"))).map(Into::into);
            Sensor { sensor: sensor.into(), label, celsius: None, max_celsius, critical_celsius }
        };
        let inputs = sensors.iter().map(|(_, name)| path.join(format!("{name}_input"))).collect();
        let sensors: Vec<Sensor> = sensors.iter().map(|(_, name)| of(name)).collect();
        let name = name.map(Into::into);
        (!sensors.is_empty()).then(|| Self {
            runtime_status,
            chip: Chip { chip: chip.into(), name, sensors },
            inputs,
        })
    }

    /// `None`: its device sleeps.
    fn read(&self, files: &mut Files) -> Option<Chip> {
        if is_asleep(files, &self.runtime_status) {
            return None;
        }
        let mut chip = self.chip.clone();
        for (sensor, input) in chip.sensors.iter_mut().zip(&self.inputs) {
            sensor.celsius = degrees(files, input);
        }
        Some(chip)
    }
}

fn is_asleep(files: &mut Files, runtime_status: &Path) -> bool {
    files.peek(runtime_status).is_some_and(|status| status.starts_with("suspend"))
}

/// The kernel prints thousandths of a degree.
fn degrees(files: &mut Files, path: &Path) -> Option<f64> {
    let millidegrees: i32 = files.peek(path)?.parse().ok()?;
    Some(f64::from(millidegrees) / 1000.0)
}

/// A name that stays the same from start to start, as node_exporter makes it: the bus and the name of its device,
/// or what its driver calls it.
fn identity(path: &Path, name: Option<&str>) -> String {
    let device = std::fs::canonicalize(path.join("device")).ok();
    let part = |part: Option<&OsStr>| part.map(|part| plain(&part.to_string_lossy()));
    let of_device = device.as_deref().and_then(|device| {
        let bus = part(device.parent().and_then(Path::file_name)).unwrap_or_default();
        let device = part(device.file_name()).filter(|device| !device.is_empty())?;
        Some(if bus.is_empty() { device } else { format!("{bus}_{device}") })
    });
    of_device
        .or_else(|| name.map(plain).filter(|name| !name.is_empty()))
        .unwrap_or_else(|| plain(&path.file_name().unwrap_or_default().to_string_lossy()))
}

/// Small letters, digits and colons; everything else is an underscore, except at the ends.
fn plain(text: &str) -> String {
    let letter = |letter: char| match letter.to_ascii_lowercase() {
        letter @ ('a'..='z' | '0'..='9' | ':' | '_') => letter,
        _ => '_',
    };
    text.chars().map(letter).collect::<String>().trim_matches('_').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, write};
    use std::os::unix::fs::symlink;

    /// A `/sys` of files; removed at the end.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let name = format!("hm-agent-sensors-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let _ = std::fs::remove_dir_all(&path);
            create_dir_all(&path).unwrap();
            Self(path)
        }

        fn put(&self, file: &str, text: &str) {
            let path = self.0.join(file);
            create_dir_all(path.parent().unwrap()).unwrap();
            write(path, text).unwrap();
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_chip_is_named_after_its_device_and_not_woken() {
        let tree = Tree::new("chips");
        let nvme = "devices/pci0000:00/0000:01:00.0/nvme/nvme0";
        tree.put(&format!("{nvme}/power/runtime_status"), "active\n");
        tree.put("class/hwmon/hwmon2/name", "nvme\n");
        tree.put("class/hwmon/hwmon2/temp1_input", "49850\n");
        tree.put("class/hwmon/hwmon2/temp1_label", "Composite\n");
        tree.put("class/hwmon/hwmon2/temp1_max", "81850\n");
        tree.put("class/hwmon/hwmon2/temp1_crit", "84850\n");
        tree.put("class/hwmon/hwmon2/temp10_input", "nonsense\n");
        symlink(tree.0.join(nvme), tree.0.join("class/hwmon/hwmon2/device")).unwrap();
        tree.put("class/hwmon/hwmon10/name", "cpu_thermal\n");
        tree.put("class/hwmon/hwmon10/temp1_input", "-1500\n");
        tree.put("class/hwmon/hwmon0/name", "a battery\n");
        tree.put("class/hwmon/hwmon0/in0_input", "12\n");
        let mut sensors = SysfsCollector::new(&tree.0);
        let chips = sensors.read().chips;
        let names: Vec<&str> = chips.iter().map(|chip| &*chip.chip).collect();
        assert_eq!(names, ["nvme_nvme0", "cpu_thermal"]);
        let first = &chips[0].sensors[0];
        assert_eq!((first.celsius, first.label.as_deref()), (Some(49.85), Some("Composite")));
        assert_eq!((first.max_celsius, first.critical_celsius), (Some(81.85), Some(84.85)));
        assert_eq!((&*chips[0].sensors[1].sensor, chips[0].sensors[1].celsius), ("temp10", None));
        assert_eq!(chips[1].sensors[0].celsius, Some(-1.5));
        tree.put(&format!("{nvme}/power/runtime_status"), "suspended\n");
        assert_eq!(sensors.read().chips.len(), 1, "it sleeps");
    }

    #[test]
    fn zones_and_interfaces_are_listed_once_and_read_each_time() {
        let tree = Tree::new("net");
        tree.put("class/thermal/thermal_zone2/type", "x86_pkg_temp\n");
        tree.put("class/thermal/thermal_zone2/temp", "45000\n");
        tree.put("class/thermal/thermal_zone10/type", "off\n");
        tree.put("class/thermal/cooling_device0/type", "fan\n");
        tree.put("class/net/eth0/operstate", "up\n");
        tree.put("class/net/eth0/carrier", "1\n");
        tree.put("class/net/eth0/speed", "1000\n");
        tree.put("class/net/eth0/mtu", "1500\n");
        tree.put("class/net/ifb0/operstate", "down\n");
        tree.put("class/net/ifb0/speed", "-1\n");
        tree.put("class/net/bonding_masters", "bond0\n");
        let mut sensors = SysfsCollector::new(&tree.0);
        let found = sensors.read();
        assert_eq!(found.temperatures.len(), 1);
        assert_eq!((found.temperatures[0].zone, found.temperatures[0].celsius), (2, 45.0));
        let [eth0, ifb0] = &found.interfaces[..] else { panic!("{found:?}") };
        assert_eq!((&*eth0.device, &*eth0.state, eth0.carrier), ("eth0", "up", Some(true)));
        assert_eq!(
            (eth0.attributes.speed_bytes, eth0.attributes.mtu_bytes),
            (Some(125_000_000), Some(1500))
        );
        assert_eq!((ifb0.carrier, ifb0.attributes.speed_bytes), (None, None));
        tree.put("class/thermal/thermal_zone2/temp", "46000\n");
        tree.put("class/net/eth1/operstate", "up\n");
        assert_eq!(sensors.read().temperatures[0].celsius, 46.0);
        assert_eq!(sensors.read().interfaces.len(), 2, "listed once a minute");
        tree.put("class/net/eth0/operstate", "down\n");
        assert_eq!(sensors.read().interfaces.len(), 3, "and when one has changed");
    }

    #[test]
    fn nothing_there_is_nothing_found() {
        assert_eq!(SysfsCollector::new(Path::new("/nonexistent")).read(), Devices::default());
    }
}
