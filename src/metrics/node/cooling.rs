//! Cooling devices: the collector thermal_zone, without the zones of [`crate::metrics::devices`].

use crate::metrics::Truncation;
use crate::metrics::encoder::{Encoder, Number, labels};
use crate::model::node::cooling::{Cooling, CoolingDevice};

type Family = (&'static str, &'static str, fn(&CoolingDevice) -> Option<i64>);

const STATES: [Family; 2] = [
    (
        "node_cooling_device_cur_state",
        "State of the cooling device; 0 if it does not cool.",
        |device| device.current_state,
    ),
    ("node_cooling_device_max_state", "Highest state of the cooling device.", |device| {
        device.max_state
    }),
];

pub(super) fn encode(encoder: &mut Encoder, cooling: &Cooling, truncation: &mut Truncation) {
    truncation.add("cooling_devices", cooling.truncated);
    for (name, help, state) in STATES {
        encoder.gauge(name, help);
        for device in &cooling.devices {
            let labels =
                labels(&[("name", &device.number.to_string()), ("type", &device.device_type)]);
            encoder.sample_if(&labels, state(device).map(|state| Number::scaled(state, 0)));
        }
    }
}
