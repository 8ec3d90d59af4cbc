//! Sensors: the collector hwmon, without the temperatures of [`crate::metrics::devices`].
//!
//! node_exporter forms the names of series from the names of files. Where it divides an alarm by the unit of the sensor
//! (`node_hwmon_temp_crit_alarm_celsius` 0.001), the value here is 1, for which alerting rules ask.

use std::collections::BTreeMap;

use crate::metrics::Truncation;
use crate::metrics::encoder::{Encoder, MetricType, Number, labels};
use crate::model::node::hwmon::{ChipAttributes, Hwmon, SensorAttributes};
use crate::procfs::temperature;
use crate::util::text::sanitize_name;

/// The kind of sensor, and labels and value of each sample.
type Samples<'a> = (&'a str, Vec<(String, Number)>);

pub(super) fn encode(encoder: &mut Encoder, hwmon: &Hwmon, truncation: &mut Truncation) {
    truncation.add("hwmon", hwmon.truncated);
    chip_names(encoder, &hwmon.chips);
    sensor_labels(encoder, &hwmon.chips);
    let mut families: BTreeMap<String, Samples<'_>> = BTreeMap::new();
    for chip in &hwmon.chips {
        for sensor in &chip.sensors {
            for (property, value) in &sensor.values {
                let Some(family) = Family::new(sensor, property) else { continue };
                let Some(value) = family.number(*value) else { continue };
                let labels = labels(&[("chip", &chip.id), ("sensor", &family.sensor)]);
                let samples = families.entry(family.name).or_insert((&sensor.kind, Vec::new()));
                samples.1.push((labels, value));
            }
        }
    }
    for (name, (kind, samples)) in families {
        let metric_type = if kind == "energy" { MetricType::Counter } else { MetricType::Gauge };
        encoder.family(&name, metric_type, help(kind));
        for (labels, value) in samples {
            encoder.sample(&labels, value);
        }
    }
}

fn chip_names(encoder: &mut Encoder, chips: &[ChipAttributes]) {
    encoder.gauge("node_hwmon_chip_names", "Chip name given by its driver. The value is always 1.");
    for chip in chips {
        let name = chip.name.as_deref().map(sanitize_name).filter(|name| !name.is_empty());
        // Dashboards join with this series, also for a chip without a name.
        let name = name.map(|name| labels(&[("chip", &chip.id), ("chip_name", &name)]));
        encoder.sample(&name.unwrap_or_else(|| labels(&[("chip", &chip.id)])), 1u64);
    }
}

fn sensor_labels(encoder: &mut Encoder, chips: &[ChipAttributes]) {
    encoder.gauge("node_hwmon_sensor_label", "Label of the sensor. The value is always 1.");
    for chip in chips {
        for sensor in &chip.sensors {
            let Some(label) = &sensor.label else { continue };
            let label = labels(&[("chip", &chip.id), ("label", label), ("sensor", &sensor.id)]);
            encoder.sample(&label, 1u64);
        }
    }
}

/// How one property of a kind of sensor is exposed.
struct Family {
    name: String,
    /// Value of the label.
    sensor: String,
    /// How many of the last digits are decimals.
    digits: usize,
    is_temperature: bool,
}

impl Family {
    /// `None` if there is no series of the property.
    fn new(sensor: &SensorAttributes, property: &str) -> Option<Self> {
        let kind = &*sensor.kind;
        // A file named after the sensor alone takes the name without a property.
        let has_bare_file = sensor.values.iter().any(|(name, _)| name.is_empty());
        let part = match property {
            "" => String::new(),
            "input" if !has_bare_file => String::new(),
            property => format!("_{}", sanitize_name(property)),
        };
        let (unit, digits) = unit(kind, property);
        let name = match kind {
            "beep_enable" => "node_hwmon_beep_enabled".to_owned(),
            "update_interval" => "node_hwmon_update_interval_seconds".to_owned(),
            "vrm" => "node_hwmon_voltage_regulator_version".to_owned(),
            kind => format!("node_hwmon_{kind}{part}{unit}"),
        };
        let id = match (kind, property) {
            ("freq", "input") => sanitize_name(sensor.label.as_deref()?),
            _ => sensor.id.clone(),
        };
        let is_temperature = unit == "_celsius" && digits > 0;
        Some(Self { name, sensor: id, digits, is_temperature })
    }

    /// `None` for a temperature that the chip cannot mean.
    fn number(&self, value: i64) -> Option<Number> {
        let is_valid = !self.is_temperature || temperature::is_plausible(value);
        is_valid.then(|| Number::scaled(value, self.digits))
    }
}

/// The end of the name and how many of the last digits of the value are decimals.
fn unit(kind: &str, property: &str) -> (&'static str, usize) {
    let (unit, digits) = match (kind, property) {
        (_, "alarm" | "fault") => ("", 0),
        (_, "beep") => ("_enabled", 0),
        ("in" | "cpu", _) => ("_volts", 3),
        ("temp", "type") => ("", 0),
        ("temp", _) => ("_celsius", 3),
        ("curr", _) => ("_amps", 3),
        ("energy", _) => ("_joule_total", 6),
        ("power", "accuracy") => ("", 6),
        ("power", "average_interval" | "average_interval_min" | "average_interval_max") => {
            ("_seconds", 3)
        }
        ("power", _) => ("_watt", 6),
        ("humidity", _) => ("", 6),
        ("fan", "input" | "min" | "max" | "target") => ("_rpm", 0),
        ("freq", "input") => ("_freq_mhz", 6),
        ("update_interval", _) => ("", 3),
        _ => ("", 0),
    };
    let is_flag = ["_alarm", "_beep", "_fault"].iter().any(|end| property.ends_with(end));
    (unit, if is_flag { 0 } else { digits })
}

fn help(kind: &str) -> &'static str {
    match kind {
        "beep_enable" => "Whether the chip may beep.",
        "cpu" | "in" | "vrm" => "Voltage sensor: value, limit or state.",
        "curr" => "Current sensor: value, limit or state.",
        "energy" => "Energy used, in joules.",
        "fan" => "Fan: speed, limit or state.",
        "freq" => "Clock frequency in MHz.",
        "humidity" => "Humidity sensor: value, limit or state.",
        "intrusion" => "Chassis intrusion detection.",
        "power" => "Power sensor: value, limit or state.",
        "pwm" => "Fan control: duty cycle from 0 to 255, or setting.",
        "temp" => "Temperature sensor: limit or state.",
        "update_interval" => "Time between two measurements of the chip, in seconds.",
        _ => "Attribute of the sensor.",
    }
}
