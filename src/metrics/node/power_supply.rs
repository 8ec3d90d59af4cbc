//! Power supplies: the collector powersupplyclass.

use crate::metrics::Truncation;
use crate::metrics::encoder::{Encoder, Number, labels};
use crate::model::node::power_supply::{PowerSupplies, PowerSupply};

/// Attribute, series after `node_power_supply_`, and how many of the last digits are decimals: the kernel has millionths of volts,
/// amperes, watts, ampere-hours and watt-hours, and tenths of degrees.
const VALUES: [(&str, &str, usize); 49] = [
    ("authentic", "authentic", 0),
    ("calibrate", "calibrate", 0),
    ("capacity", "capacity", 0),
    ("capacity_alert_max", "capacity_alert_max", 0),
    ("capacity_alert_min", "capacity_alert_min", 0),
    ("charge_control_limit", "charge_control_limit", 6),
    ("charge_control_limit_max", "charge_control_limit_max", 6),
    ("charge_counter", "charge_counter", 6),
    ("charge_empty", "charge_empty", 6),
    ("charge_empty_design", "charge_empty_design", 6),
    ("charge_full", "charge_full", 6),
    ("charge_full_design", "charge_full_design", 6),
    ("charge_now", "charge_ampere", 6),
    ("charge_term_current", "charge_term_current", 6),
    ("constant_charge_current", "constant_charge_current", 6),
    ("constant_charge_current_max", "constant_charge_current_max", 6),
    ("constant_charge_voltage", "constant_charge_voltage", 6),
    ("constant_charge_voltage_max", "constant_charge_voltage_max", 6),
    ("current_boot", "current_boot", 6),
    ("current_max", "current_max", 6),
    ("current_now", "current_ampere", 6),
    ("cycle_count", "cyclecount", 0),
    ("energy_empty", "energy_empty", 6),
    ("energy_empty_design", "energy_empty_design", 6),
    ("energy_full", "energy_full", 6),
    ("energy_full_design", "energy_full_design", 6),
    ("energy_now", "energy_watthour", 6),
    ("input_current_limit", "input_current_limit", 6),
    ("online", "online", 0),
    ("power_now", "power_watt", 6),
    ("precharge_current", "precharge_current", 6),
    ("present", "present", 0),
    ("temp", "temp_celsius", 1),
    ("temp_alert_max", "temp_alert_max_celsius", 1),
    ("temp_alert_min", "temp_alert_min_celsius", 1),
    ("temp_ambient", "temp_ambient_celsius", 1),
    ("temp_ambient_max", "temp_ambient_max_celsius", 1),
    ("temp_ambient_min", "temp_ambient_min_celsius", 1),
    ("temp_max", "temp_max_celsius", 1),
    ("temp_min", "temp_min_celsius", 1),
    ("time_to_empty_now", "time_to_empty_seconds", 0),
    ("time_to_full_now", "time_to_full_seconds", 0),
    ("voltage_boot", "voltage_boot", 6),
    ("voltage_max", "voltage_max", 6),
    ("voltage_max_design", "voltage_max_design", 6),
    ("voltage_min", "voltage_min", 6),
    ("voltage_min_design", "voltage_min_design", 6),
    ("voltage_now", "voltage_volt", 6),
    ("voltage_ocv", "voltage_ocv", 6),
];

/// Attributes that are labels of `node_power_supply_info`.
const LABELS: [&str; 11] = [
    "capacity_level",
    "charge_type",
    "health",
    "manufacturer",
    "model_name",
    "scope",
    "serial_number",
    "status",
    "technology",
    "type",
    "usb_type",
];

pub(super) fn encode(encoder: &mut Encoder, supplies: &PowerSupplies, truncation: &mut Truncation) {
    truncation.add("power_supplies", supplies.truncated);
    encoder.gauge("node_power_supply_info", "Attributes of the supply. The value is always 1.");
    for supply in &supplies.supplies {
        encoder.sample(&info(supply), 1u64);
    }
    for (attribute, series, digits) in VALUES {
        let name = format!("node_power_supply_{series}");
        encoder.gauge(&name, "Attribute of the power supply or battery.");
        for supply in &supplies.supplies {
            let value = supply.values.iter().find(|(name, _)| name == attribute);
            let value = value.map(|(_, value)| Number::scaled(*value, digits));
            encoder.sample_if(&labels(&[("power_supply", &supply.name)]), value);
        }
    }
}

fn info(supply: &PowerSupply) -> String {
    let text = |label: &str| {
        let text = supply.texts.iter().find(|(name, _)| name == label);
        text.map(|(_, text)| &**text)
    };
    let mut pairs = vec![("power_supply", &*supply.name)];
    pairs.extend(LABELS.into_iter().filter_map(|label| Some((label, text(label)?))));
    labels(&pairs)
}
