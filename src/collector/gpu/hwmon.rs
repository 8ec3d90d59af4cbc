//! Sensors of a GPU in `hwmon/hwmonN`, in the units of the kernel's `Documentation/hwmon/sysfs-interface.rst`. Implausible
//! values are absent.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::collector::file_reader::FileReader;

/// Plausible values.
pub(super) const CELSIUS: RangeInclusive<i32> = -40..=150;
pub(super) const WATTS: RangeInclusive<f64> = 0.001..=4000.0;
pub(super) const MEGAHERTZ: RangeInclusive<u64> = 0..=10_000;

/// The directory with the sensors of a device.
pub(super) fn find_directory(device: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(device.join("hwmon")).ok()?.flatten();
    let directories =
        entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"hwmon"));
    directories.map(|entry| entry.path()).min()
}

/// File of the sensor with the given label or, if no sensor has a label, with the given number.
pub(super) fn find_sensor(
    directory: &Path,
    kind: &str,
    label: &str,
    unlabeled: Option<u32>,
    files: &mut FileReader,
) -> Option<PathBuf> {
    let mut labels = (1..=8).filter_map(|number| {
        Some((number, files.read_line(&directory.join(format!("{kind}{number}_label")))?))
    });
    let number = match labels.next() {
        None => unlabeled,
        first => {
            first.into_iter().chain(labels).find(|(_, found)| found == label).map(|(at, _)| at)
        }
    };
    number.map(|number| directory.join(format!("{kind}{number}_input")))
}

/// A temperature in degrees; 0 is no temperature but a sensor that does not exist.
pub(super) fn celsius(files: &mut FileReader, file: &Path) -> Option<i32> {
    let millidegrees: i32 = number(files, file)?;
    let degrees = millidegrees.checked_add(500)?.div_euclid(1000);
    (millidegrees != 0 && CELSIUS.contains(&degrees)).then_some(degrees)
}

pub(super) fn watts(files: &mut FileReader, file: &Path) -> Option<f64> {
    let microwatts: u64 = number(files, file)?;
    Some(microwatts as f64 / 1e6).filter(|watts| WATTS.contains(watts))
}

pub(super) fn number<T: FromStr>(files: &mut FileReader, path: &Path) -> Option<T> {
    files.read_line(path)?.parse().ok()
}

/// A PCI ID such as `0x1002`.
pub(super) fn pci_id(files: &mut FileReader, path: &Path) -> Option<u16> {
    let text = files.read_line(path)?;
    u16::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}
