//! Temperatures and network interfaces from sysfs.
//!
//! Runs on [`super::blocking_worker`]: firmware may answer slowly, and a network driver may hold a lock that its attributes need.
//! Devices are listed once a minute, because listing them costs more than reading them, and when the state of an interface
//! changes.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::collector::file_reader::FileReader;
use crate::model::Temperature;
use crate::model::devices::{Chip, Devices, Interface, InterfaceAttributes, Sensor};
use crate::util::text::parse_decimal;

/// Zones, chips and interfaces rarely change.
const LIST_INTERVAL: Duration = Duration::from_secs(60);

/// At most this many zones, chips and interfaces are read; a container host has an interface per container.
const MAX_DEVICES: usize = 256;

/// Temperature sensors of one chip. The largest processors have one for each of 128 cores.
const MAX_SENSORS: usize = 160;

/// Reads what is below `/sys/class`.
pub struct SysfsCollector {
    sys: PathBuf,
    files: FileReader,
    listed_at: Option<Instant>,
    zones: Vec<(PathBuf, Temperature)>,
    chips: Vec<ListedChip>,
    interfaces: Vec<ListedInterface>,
    /// Number of devices beyond [`MAX_DEVICES`].
    truncated: usize,
}

struct ListedChip {
    /// Power state of the device. Reading a sensor would resume a suspended one.
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
    /// `sys` is where the host's `/sys` is mounted.
    pub fn new(sys: &Path) -> Self {
        Self {
            sys: sys.to_owned(),
            files: FileReader::default(),
            listed_at: None,
            zones: Vec::new(),
            chips: Vec::new(),
            interfaces: Vec::new(),
            truncated: 0,
        }
    }

    pub fn collect(&mut self) -> Devices {
        let is_old = self.listed_at.is_none_or(|at| at.elapsed() >= LIST_INTERVAL);
        if is_old || self.refresh_interfaces() {
            self.list();
            // Opens the attributes, so that they can still be read when this process has run out of file descriptors.
            self.refresh_interfaces();
        }
        let files = &mut self.files;
        let zone = |(path, zone): &(PathBuf, Temperature)| {
            // A zone that is switched off refuses to be read, which is its normal state.
            let celsius = read_celsius(files, path)?;
            // Firmware without a reading returns absolute zero, or less.
            (celsius > -273.0).then(|| Temperature { celsius, ..zone.clone() })
        };
        let temperatures = self.zones.iter().filter_map(zone).collect();
        let chips = self.chips.iter().filter_map(|chip| chip.read(files)).collect();
        let interfaces = self.interfaces.iter().map(|listed| listed.interface.clone()).collect();
        Devices { temperatures, chips, interfaces, truncated: self.truncated }
    }

    /// Reads state and carrier of the listed interfaces. Returns whether a state has changed.
    fn refresh_interfaces(&mut self) -> bool {
        let mut changed = false;
        for ListedInterface { operstate, carrier, interface } in &mut self.interfaces {
            let state = self.files.read_line(operstate).unwrap_or_default();
            if *state != *interface.state {
                interface.state = state.into();
                changed = true;
            }
            // An interface that is down has no carrier attribute until its state changes.
            if interface.carrier.is_some() {
                interface.carrier = self.files.read_line(carrier).map(|text| text == "1");
            }
        }
        changed
    }

    fn list(&mut self) {
        // Closes the files of devices that were removed. Files that are read while listing are closed at once, because
        // descriptors are needed for clients.
        self.files = FileReader::default();
        self.truncated = 0;
        self.listed_at = Some(Instant::now());
        self.zones = self.list_zones();
        self.chips = self.list_chips();
        self.interfaces = self.list_interfaces();
    }

    /// The directories of a class, sorted by number or name, up to [`MAX_DEVICES`].
    fn class_directories(&mut self, class: &str, prefix: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.sys.join("class").join(class));
        let mut paths: Vec<(Option<u64>, PathBuf)> = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name();
                let number = name.as_encoded_bytes().strip_prefix(prefix.as_bytes())?;
                Some((parse_decimal(number), entry.path()))
            })
            .collect();
        paths.sort();
        self.truncated += paths.len().saturating_sub(MAX_DEVICES);
        paths.truncate(MAX_DEVICES);
        paths.into_iter().map(|(_, path)| path).collect()
    }

    fn list_zones(&mut self) -> Vec<(PathBuf, Temperature)> {
        let paths = self.class_directories("thermal", "thermal_zone");
        let mut files = FileReader::default();
        let zone = |path: PathBuf| {
            let number = path.file_name()?.as_encoded_bytes().strip_prefix(b"thermal_zone")?;
            let zone = u32::try_from(parse_decimal(number)?).ok()?;
            let sensor = files.read_line(&path.join("type"))?;
            Some((path.join("temp"), Temperature { zone, sensor, celsius: 0.0 }))
        };
        paths.into_iter().filter_map(zone).collect()
    }

    fn list_chips(&mut self) -> Vec<ListedChip> {
        let paths = self.class_directories("hwmon", "hwmon");
        let chip = |path: &PathBuf| ListedChip::find(&mut FileReader::default(), path);
        paths.iter().filter_map(chip).collect()
    }

    fn list_interfaces(&mut self) -> Vec<ListedInterface> {
        let paths = self.class_directories("net", "");
        paths.into_iter().filter_map(ListedInterface::find).collect()
    }
}

impl ListedInterface {
    fn find(path: PathBuf) -> Option<Self> {
        let mut files = FileReader::default();
        let (operstate, carrier) = (path.join("operstate"), path.join("carrier"));
        // `bonding_masters` is a file, not an interface.
        let state = files.read_line(&operstate)?.into();
        let interface = Interface {
            device: path.file_name()?.to_string_lossy().into(),
            state,
            carrier: files.read_line(&carrier).map(|text| text == "1"),
            attributes: Arc::new(interface_attributes(&mut files, &path)),
        };
        Some(Self { operstate, carrier, interface })
    }
}

fn interface_attributes(files: &mut FileReader, path: &Path) -> InterfaceAttributes {
    let mut text = |name: &str| files.read_line(&path.join(name)).unwrap_or_default();
    let number = |text: String| parse_decimal(text.as_bytes());
    InterfaceAttributes {
        address: text("address"),
        broadcast: text("broadcast"),
        duplex: text("duplex"),
        alias: text("ifalias"),
        mtu_bytes: number(text("mtu")),
        // In Mbit/s; -1 if the device does not know.
        speed_bytes: number(text("speed")).map(|megabits| megabits.saturating_mul(125_000)),
        transmit_queue_length: number(text("tx_queue_len")),
        protocol_type: number(text("type")),
    }
}

impl ListedChip {
    /// `None` if the chip has no temperature sensors.
    fn find(files: &mut FileReader, path: &Path) -> Option<Self> {
        let mut names: Vec<(u64, String)> = std::fs::read_dir(path)
            .ok()?
            .flatten()
            .filter_map(|entry| {
                let file = entry.file_name().into_string().ok()?;
                let sensor = file.strip_suffix("_input")?;
                let number = parse_decimal(sensor.strip_prefix("temp")?.as_bytes())?;
                Some((number, sensor.to_owned()))
            })
            .collect();
        names.sort();
        names.truncate(MAX_SENSORS);
        if names.is_empty() {
            return None;
        }
        let runtime_status = path.join("device/power/runtime_status");
        let suspended = is_suspended(files, &runtime_status);
        let inputs = names.iter().map(|(_, name)| path.join(format!("{name}_input"))).collect();
        let sensors = names.iter().map(|(_, name)| sensor(files, path, name, suspended)).collect();
        let name = files.read_line(&path.join("name"));
        let id = chip_id(path, name.as_deref()).into();
        let chip = Chip { id, name: name.map(Into::into), sensors };
        Some(Self { runtime_status, chip, inputs })
    }

    /// `None` if the device is suspended.
    fn read(&self, files: &mut FileReader) -> Option<Chip> {
        if is_suspended(files, &self.runtime_status) {
            return None;
        }
        let mut chip = self.chip.clone();
        for (sensor, input) in chip.sensors.iter_mut().zip(&self.inputs) {
            sensor.celsius = read_celsius(files, input);
        }
        Some(chip)
    }
}

/// A sensor without its temperature. Reading its limits would resume a suspended device.
fn sensor(files: &mut FileReader, chip: &Path, name: &str, suspended: bool) -> Sensor {
    let mut limit = |kind: &str| match suspended {
        true => None,
        false => read_celsius(files, &chip.join(format!("{name}_{kind}"))),
    };
    let (max_celsius, critical_celsius) = (limit("max"), limit("crit"));
    let label = files.read_line(&chip.join(format!("{name}_label"))).map(Into::into);
    Sensor { id: name.into(), label, celsius: None, max_celsius, critical_celsius }
}

fn is_suspended(files: &mut FileReader, runtime_status: &Path) -> bool {
    files.read_line(runtime_status).is_some_and(|status| status.starts_with("suspend"))
}

/// The kernel prints thousandths of a degree.
fn read_celsius(files: &mut FileReader, path: &Path) -> Option<f64> {
    let millidegrees: i32 = files.read_line(path)?.parse().ok()?;
    Some(f64::from(millidegrees) / 1000.0)
}

/// A name that is stable across reboots, formed as node_exporter does: bus and name of the device, or else the name given by the
/// driver.
fn chip_id(path: &Path, name: Option<&str>) -> String {
    let device = std::fs::canonicalize(path.join("device")).ok();
    let part = |part: Option<&OsStr>| part.map(|part| sanitize(&part.to_string_lossy()));
    let from_device = device.as_deref().and_then(|device| {
        let bus = part(device.parent().and_then(Path::file_name)).unwrap_or_default();
        let device = part(device.file_name()).filter(|device| !device.is_empty())?;
        Some(if bus.is_empty() { device } else { format!("{bus}_{device}") })
    });
    from_device
        .or_else(|| name.map(sanitize).filter(|name| !name.is_empty()))
        .unwrap_or_else(|| sanitize(&path.file_name().unwrap_or_default().to_string_lossy()))
}

/// Lower-case letters, digits, colons and underscores; all other characters become underscores, except at the ends.
fn sanitize(text: &str) -> String {
    let letter = |letter: char| match letter.to_ascii_lowercase() {
        letter @ ('a'..='z' | '0'..='9' | ':' | '_') => letter,
        _ => '_',
    };
    text.chars().map(letter).collect::<String>().trim_matches('_').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::create_dir_all;
    use std::os::unix::fs::symlink;

    /// A directory that stands for `/sys`, removed when dropped.
    struct SysTree(PathBuf);

    impl SysTree {
        fn new(name: &str) -> Self {
            let name = format!("hm-agent-sysfs-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let _ = std::fs::remove_dir_all(&path);
            create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, file: &str, text: &str) {
            let path = self.0.join(file);
            create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    impl Drop for SysTree {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn names_chip_after_device_and_skips_suspended_one() {
        let tree = SysTree::new("chips");
        let nvme = "devices/pci0000:00/0000:01:00.0/nvme/nvme0";
        tree.write(&format!("{nvme}/power/runtime_status"), "active\n");
        tree.write("class/hwmon/hwmon2/name", "nvme\n");
        tree.write("class/hwmon/hwmon2/temp1_input", "49850\n");
        tree.write("class/hwmon/hwmon2/temp1_label", "Composite\n");
        tree.write("class/hwmon/hwmon2/temp1_max", "81850\n");
        tree.write("class/hwmon/hwmon2/temp1_crit", "84850\n");
        tree.write("class/hwmon/hwmon2/temp10_input", "nonsense\n");
        symlink(tree.0.join(nvme), tree.0.join("class/hwmon/hwmon2/device")).unwrap();
        tree.write("class/hwmon/hwmon10/name", "cpu_thermal\n");
        tree.write("class/hwmon/hwmon10/temp1_input", "-1500\n");
        tree.write("class/hwmon/hwmon0/name", "a battery\n");
        tree.write("class/hwmon/hwmon0/in0_input", "12\n");
        let mut collector = SysfsCollector::new(&tree.0);
        let chips = collector.collect().chips;
        let names: Vec<&str> = chips.iter().map(|chip| &*chip.id).collect();
        assert_eq!(names, ["nvme_nvme0", "cpu_thermal"]);
        let first = &chips[0].sensors[0];
        assert_eq!((first.celsius, first.label.as_deref()), (Some(49.85), Some("Composite")));
        assert_eq!((first.max_celsius, first.critical_celsius), (Some(81.85), Some(84.85)));
        assert_eq!((&*chips[0].sensors[1].id, chips[0].sensors[1].celsius), ("temp10", None));
        assert_eq!(chips[1].sensors[0].celsius, Some(-1.5));
        tree.write(&format!("{nvme}/power/runtime_status"), "suspended\n");
        assert_eq!(collector.collect().chips.len(), 1, "suspended");
    }

    #[test]
    fn lists_devices_again_when_an_interface_changes() {
        let tree = SysTree::new("net");
        tree.write("class/thermal/thermal_zone2/type", "x86_pkg_temp\n");
        tree.write("class/thermal/thermal_zone2/temp", "45000\n");
        tree.write("class/thermal/thermal_zone10/type", "off\n");
        tree.write("class/thermal/cooling_device0/type", "fan\n");
        tree.write("class/net/eth0/operstate", "up\n");
        tree.write("class/net/eth0/carrier", "1\n");
        tree.write("class/net/eth0/speed", "1000\n");
        tree.write("class/net/eth0/mtu", "1500\n");
        tree.write("class/net/ifb0/operstate", "down\n");
        tree.write("class/net/ifb0/speed", "-1\n");
        tree.write("class/net/bonding_masters", "bond0\n");
        let mut collector = SysfsCollector::new(&tree.0);
        let found = collector.collect();
        assert_eq!(found.temperatures.len(), 1);
        assert_eq!((found.temperatures[0].zone, found.temperatures[0].celsius), (2, 45.0));
        let [eth0, ifb0] = &found.interfaces[..] else { panic!("{found:?}") };
        assert_eq!((&*eth0.device, &*eth0.state, eth0.carrier), ("eth0", "up", Some(true)));
        assert_eq!(
            (eth0.attributes.speed_bytes, eth0.attributes.mtu_bytes),
            (Some(125_000_000), Some(1500))
        );
        assert_eq!((ifb0.carrier, ifb0.attributes.speed_bytes), (None, None));
        tree.write("class/thermal/thermal_zone2/temp", "46000\n");
        tree.write("class/net/eth1/operstate", "up\n");
        assert_eq!(collector.collect().temperatures[0].celsius, 46.0);
        assert_eq!(collector.collect().interfaces.len(), 2, "listed a moment ago");
        tree.write("class/net/eth0/operstate", "down\n");
        assert_eq!(collector.collect().interfaces.len(), 3, "listed again after a change");
    }

    #[test]
    fn missing_sysfs_has_no_devices() {
        assert_eq!(SysfsCollector::new(Path::new("/nonexistent")).collect(), Devices::default());
    }
}
