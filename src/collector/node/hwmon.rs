//! Fans, voltages, power, limits and alarms of `/sys/class/hwmon`. Temperatures, and their upper and critical limits, are read with
//! every sample by [`crate::collector::sysfs`].

use std::collections::BTreeMap;

use crate::collector::host_files::HostFiles;
use crate::collector::sysfs::hwmon::{self, Attribute, HwmonChip};
use crate::model::node::Measurement;
use crate::model::node::hwmon::{ChipAttributes, Hwmon, SensorAttributes};
use crate::util::text::parse_signed;

/// Attributes of all chips. A server with 256 cores and 24 drives has some 2000.
const MAX_ATTRIBUTES: usize = 4096;

/// Temperatures that the collector of every sample reads.
const TEMPERATURES: [&str; 3] = ["input", "max", "crit"];

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let sys = host.sys("");
    let (chips, _) = hwmon::list(&sys, |path| host.line(path));
    let mut measured = Hwmon::default();
    let mut left = MAX_ATTRIBUTES;
    for mut chip in chips.into_iter() {
        if chip.is_suspended(|path| host.line(path)) {
            continue;
        }
        chip.attributes.retain(|file| is_read(file));
        measured.truncated += chip.attributes.len().saturating_sub(left);
        chip.attributes.truncate(left);
        left -= chip.attributes.len();
        measured.chips.push(read_chip(host, chip));
    }
    (!measured.chips.is_empty()).then_some(Measurement::Hwmon(measured))
}

/// The curves of fan controllers are settings, up to 200 in a chip on a slow bus.
fn is_read(file: &str) -> bool {
    Attribute::parse(file).is_some_and(|attribute| {
        let is_in_every_sample =
            attribute.kind == "temp" && TEMPERATURES.contains(&attribute.property);
        !is_in_every_sample && !attribute.property.starts_with("auto_point")
    })
}

fn read_chip(host: &mut HostFiles, chip: HwmonChip) -> ChipAttributes {
    let mut sensors: BTreeMap<(usize, String), SensorAttributes> = BTreeMap::new();
    for file in &chip.attributes {
        let Some(attribute) = Attribute::parse(file) else { continue };
        // A sensor that is not connected, or a chip that is busy, refuses to be read.
        let Some(text) = host.line(&chip.directory.join(file)) else { continue };
        let id = attribute.sensor();
        let sensor = sensors.entry((id.len(), id.clone())).or_insert_with(|| SensorAttributes {
            id,
            kind: attribute.kind.to_owned(),
            label: None,
            values: Vec::new(),
        });
        match attribute.property {
            "label" => sensor.label = Some(text),
            property => {
                let value = parse_signed(text.as_bytes());
                sensor.values.extend(value.map(|value| (property.to_owned(), value)));
            }
        }
    }
    ChipAttributes { id: chip.id, name: chip.name, sensors: sensors.into_values().collect() }
}
