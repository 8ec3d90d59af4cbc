//! Temperatures and network interfaces from sysfs.
//!
//! Runs on [`super::blocking_worker`]: firmware may answer slowly, and a network driver may hold a lock that its attributes need.
//! Devices are listed once a minute, because listing them costs more than reading them, and when the state of an interface
//! changes.

pub mod hwmon;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::collector::disabled::DisabledCollectors;
use crate::collector::file_reader::FileReader;
use crate::collector::sysfs::hwmon::HwmonChip;
use crate::model::Temperature;
use crate::model::devices::{Chip, Devices, Interface, InterfaceAttributes, Sensor};
use crate::procfs::{interface_flags, interface_speed, temperature};
use crate::util::text::parse_decimal;

/// Zones, chips and interfaces rarely change.
const LIST_INTERVAL: Duration = Duration::from_secs(60);

/// At most this many zones, chips and interfaces are read; a container host has an interface per container.
const MAX_DEVICES: usize = 256;

/// Temperature sensors of one chip. The largest processors have one for each of 128 cores.
const MAX_SENSORS: usize = 160;

/// Names of node_exporter's collectors of the same values.
pub const COLLECTORS: [&str; 3] = ["hwmon", "netclass", "thermal_zone"];

/// Reads what is below `/sys/class`.
pub struct SysfsCollector {
    sys: PathBuf,
    /// Some of [`COLLECTORS`], and others.
    disabled: DisabledCollectors,
    files: FileReader,
    listed_at: Option<Instant>,
    zones: Vec<(PathBuf, Temperature)>,
    chips: Vec<ListedChip>,
    interfaces: Vec<ListedInterface>,
    /// Number of devices beyond [`MAX_DEVICES`].
    truncated: usize,
}

struct ListedChip {
    listed: HwmonChip,
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
    pub fn new(sys: &Path, disabled: &DisabledCollectors) -> Self {
        Self {
            sys: sys.to_owned(),
            disabled: disabled.clone(),
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
            // A zone that is switched off refuses to be read or returns an implausible temperature.
            Some(Temperature { celsius: read_celsius(files, path)?, ..zone.clone() })
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
        let [chips, interfaces, zones] = COLLECTORS.map(|name| !self.disabled.contains(name));
        self.zones = if zones { self.list_zones() } else { Vec::new() };
        self.chips = if chips { self.list_chips() } else { Vec::new() };
        self.interfaces = if interfaces { self.list_interfaces() } else { Vec::new() };
    }

    /// The first [`MAX_DEVICES`] items. The others are counted.
    fn limit<T>(&mut self, items: impl Iterator<Item = T>) -> Vec<T> {
        let mut items: Vec<T> = items.collect();
        self.truncated += items.len().saturating_sub(MAX_DEVICES);
        items.truncate(MAX_DEVICES);
        items
    }

    fn list_zones(&mut self) -> Vec<(PathBuf, Temperature)> {
        let paths = class_directories(&self.sys, "thermal", "thermal_zone");
        let mut files = FileReader::default();
        let zone = |path: PathBuf| {
            let number = path.file_name()?.as_encoded_bytes().strip_prefix(b"thermal_zone")?;
            let zone = u32::try_from(parse_decimal(number)?).ok()?;
            let sensor = files.read_line(&path.join("type"))?;
            Some((path.join("temp"), Temperature { zone, sensor, celsius: 0.0 }))
        };
        self.limit(paths.into_iter().filter_map(zone))
    }

    fn list_chips(&mut self) -> Vec<ListedChip> {
        let mut files = FileReader::default();
        let (chips, truncated) = hwmon::list(&self.sys, |path| files.read_line(path));
        self.truncated += truncated;
        chips.into_iter().filter_map(|chip| ListedChip::find(&mut files, chip)).collect()
    }

    fn list_interfaces(&mut self) -> Vec<ListedInterface> {
        let paths = class_directories(&self.sys, "net", "");
        // `bonding_masters` is a file. Attributes of interfaces beyond the limit are not read.
        let paths = self.limit(paths.into_iter().filter(|path| path.is_dir()));
        paths.into_iter().filter_map(ListedInterface::find).collect()
    }
}

/// The directories of a class, sorted by number or name. If there are too many interfaces, the most important ones come first.
fn class_directories(sys: &Path, class: &str, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(sys.join("class").join(class));
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
    let count = paths.len();
    let paths = paths.into_iter().map(|(_, path)| path).collect();
    match class {
        "net" if count > MAX_DEVICES => sort_interfaces(paths),
        _ => paths,
    }
}

impl ListedInterface {
    fn find(path: PathBuf) -> Option<Self> {
        let mut files = FileReader::default();
        let (operstate, carrier) = (path.join("operstate"), path.join("carrier"));
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

/// Sorts interfaces so that those of containers are last, whatever their names: hardware is first, then what is made of other
/// interfaces (bridges, bonds, VLANs) or has no peer, then interfaces whose peer is in another namespace. Within each kind, those
/// with a rare beginning of the name come first: container runtimes give all of theirs the same.
fn sort_interfaces(paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let name_start = |path: &Path| -> Vec<u8> {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        name.iter().copied().take_while(u8::is_ascii_alphabetic).take(3).collect()
    };
    let mut counts: HashMap<Vec<u8>, usize> = HashMap::new();
    for path in &paths {
        *counts.entry(name_start(path)).or_default() += 1;
    }
    let mut ranked: Vec<_> = paths
        .into_iter()
        .map(|path| (interface_rank(&path), counts.get(&name_start(&path)).copied(), path))
        .collect();
    ranked.sort();
    ranked.into_iter().map(|(_, _, path)| path).collect()
}

fn interface_rank(path: &Path) -> u8 {
    if path.join("device").exists() {
        return 0;
    }
    let mut files = FileReader::default();
    let (own, peer) =
        (files.read_line(&path.join("ifindex")), files.read_line(&path.join("iflink")));
    // A VLAN has a different iflink too, but its lower device is in the same namespace, and linked.
    let has_lower = || {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| entry.file_name().as_encoded_bytes().starts_with(b"lower_"))
    };
    let has_foreign_peer = own.is_some() && peer.is_some() && own != peer && !has_lower();
    if has_foreign_peer { 2 } else { 1 }
}

fn interface_attributes(files: &mut FileReader, path: &Path) -> InterfaceAttributes {
    let is_admin_up = files.parse(&path.join("flags"), interface_flags::parse_is_up).ok();
    let mut text = |name: &str| files.read_line(&path.join(name)).unwrap_or_default();
    let number = |text: String| parse_decimal(text.as_bytes());
    InterfaceAttributes {
        address: text("address"),
        broadcast: text("broadcast"),
        duplex: text("duplex"),
        alias: text("ifalias"),
        is_admin_up,
        mtu_bytes: number(text("mtu")),
        speed_bytes: interface_speed::parse_bytes(text("speed").as_bytes()).ok(),
        transmit_queue_length: number(text("tx_queue_len")),
        protocol_type: number(text("type")),
    }
}

impl ListedChip {
    /// `None` if the chip has no temperature sensors.
    fn find(files: &mut FileReader, listed: HwmonChip) -> Option<Self> {
        let number = |name: &String| {
            let sensor = name.strip_suffix("_input")?;
            Some((parse_decimal(sensor.strip_prefix("temp")?.as_bytes())?, sensor.to_owned()))
        };
        let mut names: Vec<(u64, String)> = listed.attributes.iter().filter_map(number).collect();
        names.sort();
        names.truncate(MAX_SENSORS);
        if names.is_empty() {
            return None;
        }
        let suspended = listed.is_suspended(|path| files.read_line(path));
        let path = &listed.directory;
        let inputs = names.iter().map(|(_, name)| path.join(format!("{name}_input"))).collect();
        let sensors = names.iter().map(|(_, name)| sensor(files, path, name, suspended)).collect();
        let chip = Chip { id: listed.id.clone(), name: listed.name.clone(), sensors };
        Some(Self { listed, chip, inputs })
    }

    /// `None` if the device is suspended.
    fn read(&self, files: &mut FileReader) -> Option<Chip> {
        if self.listed.is_suspended(|path| files.read_line(path)) {
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

/// Whether a device whose `power/runtime_status` is `status` must not be woken.
pub fn is_suspended(status: Option<&str>) -> bool {
    status.is_some_and(|status| status.starts_with("suspend"))
}

fn read_celsius(files: &mut FileReader, path: &Path) -> Option<f64> {
    let millicelsius = files.parse(path, temperature::parse_millicelsius).ok()?;
    Some(millicelsius as f64 / 1000.0)
}

#[cfg(test)]
mod tests;
