//! Clock source and time zone: the collector time, without the time of [`crate::metrics::host`].

use crate::metrics::encoder::{Encoder, Number, labels};
use crate::model::node::time::{ClockSource, Time};

pub(super) fn encode(encoder: &mut Encoder, time: &Time) {
    encoder.gauge("node_time_clocksource_available_info", "Clock source that can be used.");
    for source in &time.clock_sources {
        for name in &source.available {
            encoder.sample(&clock_source_labels(source, name), 1u64);
        }
    }
    encoder.gauge("node_time_clocksource_current_info", "Clock source that is used.");
    for source in &time.clock_sources {
        if let Some(name) = &source.current {
            encoder.sample(&clock_source_labels(source, name), 1u64);
        }
    }
    encoder.gauge("node_time_zone_offset_seconds", "Seconds that local time is ahead of UTC.");
    if let Some((name, seconds)) = &time.zone {
        encoder.sample(&labels(&[("time_zone", name)]), Number::scaled(*seconds, 0));
    }
}

fn clock_source_labels(source: &ClockSource, name: &str) -> String {
    labels(&[("clocksource", name), ("device", &source.number.to_string())])
}
