//! The chips of `/sys/class/hwmon` and their ids.
//!
//! Format: kernel `Documentation/hwmon/sysfs-interface.rst`. A chip has a file for each property of each sensor, such as
//! `temp1_input`, `temp1_crit_alarm`, `fan2_min` and `in0_label`.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::collector::sysfs::{MAX_DEVICES, class_directories, is_suspended};
use crate::util::text::sanitize_name;

/// Files of a chip's directory that are looked at; a processor of 128 cores has some 900.
const MAX_FILES: usize = 4096;

/// Kinds of sensors that have numbers.
const NUMBERED_KINDS: [&str; 11] =
    ["cpu", "curr", "energy", "fan", "freq", "humidity", "in", "intrusion", "power", "pwm", "temp"];
/// Attributes of the whole chip.
const OTHER_KINDS: [&str; 3] = ["beep_enable", "update_interval", "vrm"];

pub struct HwmonChip {
    /// Derived from its device, so it is stable across reboots: `nvme_nvme0`.
    pub id: Arc<str>,
    /// Name given by the driver: `nvme`.
    pub name: Option<Arc<str>>,
    /// Where its attributes are.
    pub directory: PathBuf,
    /// File names of its attributes.
    pub attributes: Vec<String>,
    /// Power state of the device. Reading a sensor would resume a suspended one.
    runtime_status: PathBuf,
}

/// Returns the chips by number, and how many are left out because there are too many.
pub fn list(
    sys: &Path,
    mut read_line: impl FnMut(&Path) -> Option<String>,
) -> (Vec<HwmonChip>, usize) {
    let paths = class_directories(sys, "hwmon", "hwmon");
    let truncated = paths.len().saturating_sub(MAX_DEVICES);
    let kept = paths.iter().take(MAX_DEVICES);
    let mut chips: Vec<HwmonChip> =
        kept.map(|path| HwmonChip::find(path, read_line(&path.join("name")))).collect();
    make_ids_unique(&mut chips);
    (chips, truncated)
}

impl HwmonChip {
    fn find(path: &Path, name: Option<String>) -> Self {
        let mut directory = path.to_owned();
        let mut attributes = list_attributes(path);
        if attributes.is_empty() {
            // Drivers for old interfaces of the kernel, such as acpi_power_meter, have them in the directory of the device.
            directory = path.join("device");
            attributes = list_attributes(&directory);
        }
        Self {
            id: chip_id(path, name.as_deref()).into(),
            name: name.map(Into::into),
            directory,
            attributes,
            runtime_status: path.join("device/power/runtime_status"),
        }
    }

    pub fn is_suspended(&self, read_line: impl FnOnce(&Path) -> Option<String>) -> bool {
        is_suspended(read_line(&self.runtime_status).as_deref())
    }
}

fn list_attributes(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().take(MAX_FILES);
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| Attribute::parse(name).is_some()).collect();
    names.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    names
}

/// The parts of an attribute's file name.
#[derive(Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// `temp`.
    pub kind: &'a str,
    /// `None` for an attribute of the whole chip, which node_exporter numbers 0.
    pub number: Option<&'a str>,
    /// `crit_alarm`; empty if the file is named after the sensor alone, such as `pwm1`.
    pub property: &'a str,
}

impl<'a> Attribute<'a> {
    /// `None` for other files of the directory.
    pub fn parse(file: &'a str) -> Option<Self> {
        if OTHER_KINDS.contains(&file) {
            return Some(Self { kind: file, number: None, property: "" });
        }
        let (kind, rest) = file.split_at(file.find(|letter: char| letter.is_ascii_digit())?);
        let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        let (number, property) = rest.split_at(end);
        let property = match property {
            "" => "",
            property => property.strip_prefix('_').filter(|property| !property.is_empty())?,
        };
        NUMBERED_KINDS.contains(&kind).then_some(Self { kind, number: Some(number), property })
    }

    /// `temp1`.
    pub fn sensor(&self) -> String {
        format!("{}{}", self.kind, self.number.unwrap_or("0"))
    }
}

/// A name that is stable across reboots, formed as node_exporter does: bus and name of the device, or else the name given by the
/// driver.
fn chip_id(path: &Path, name: Option<&str>) -> String {
    let device = std::fs::canonicalize(path.join("device")).ok();
    let part = |part: Option<&OsStr>| part.map(|part| sanitize_name(&part.to_string_lossy()));
    let from_device = device.as_deref().and_then(|device| {
        let bus = part(device.parent().and_then(Path::file_name)).unwrap_or_default();
        let device = part(device.file_name()).filter(|device| !device.is_empty())?;
        Some(if bus.is_empty() { device } else { format!("{bus}_{device}") })
    });
    from_device
        .or_else(|| name.map(sanitize_name).filter(|name| !name.is_empty()))
        .unwrap_or_else(|| sanitize_name(&path.file_name().unwrap_or_default().to_string_lossy()))
}

/// Several chips may belong to one device (a radio with two sensors), and Prometheus drops a scrape's duplicate series. The driver's
/// name is appended to each of them; if that is the same too, a number in the order of the chips.
fn make_ids_unique(chips: &mut [HwmonChip]) {
    let mut used: HashSet<Arc<str>> = HashSet::new();
    let mut counts: HashMap<Arc<str>, usize> = HashMap::new();
    for chip in chips.iter() {
        *counts.entry(chip.id.clone()).or_default() += 1;
    }
    for chip in chips {
        if counts.get(&chip.id).is_some_and(|count| *count > 1)
            && let Some(name) = chip.name.as_deref().map(sanitize_name)
            && !name.is_empty()
            && name != *chip.id
        {
            chip.id = format!("{}_{name}", chip.id).into();
        }
        let base = chip.id.clone();
        let mut number = 1;
        while !used.insert(chip.id.clone()) {
            number += 1;
            chip.id = format!("{base}_{number}").into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_names_of_attributes() {
        let parse =
            |file| Attribute::parse(file).map(|each| (each.sensor(), each.kind, each.property));
        let temp10 = ("temp10".to_owned(), "temp", "crit_alarm");
        assert_eq!(parse("temp10_crit_alarm"), Some(temp10));
        assert_eq!(parse("pwm1"), Some(("pwm1".to_owned(), "pwm", "")));
        assert_eq!(parse("cpu0_vid"), Some(("cpu0".to_owned(), "cpu", "vid")));
        let interval = ("update_interval0".to_owned(), "update_interval", "");
        assert_eq!(parse("update_interval"), Some(interval));
        for other in ["name", "power", "device", "temp", "temp1x", "temp1_", "hwmon3", "1_input"] {
            assert_eq!(Attribute::parse(other), None, "{other}");
        }
    }
}
