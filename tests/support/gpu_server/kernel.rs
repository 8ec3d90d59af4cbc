//! Clock, scheduler, interrupts and processes.

use std::sync::Arc;

use super::GpuServer;
use hm_agent::model::RawSample;
use hm_agent::model::node::Measurement;
use hm_agent::model::node::timex::{Pps, Timex};

pub fn write(server: &GpuServer) {
    server.write("proc/pressure/irq", "full avg10=0.10 avg60=0.20 avg300=0.30 total=8494123\n");
}

/// The clock is that of the machine on which the test runs.
pub fn remove_clock(sample: &mut RawSample) {
    sample.collectors.retain(|collector| collector.name != "timex");
    sample.measurements.retain(|measurement| !matches!(**measurement, Measurement::Timex(_)));
}

pub fn replace_clock(sample: &mut RawSample) {
    remove_clock(sample);
    let clock = Timex {
        is_synchronized: true,
        offset_nanoseconds: -1_500,
        frequency_scaled_ppm: -1_638_400,
        max_error_microseconds: 62_500,
        estimated_error_microseconds: 41,
        status: 0x2001,
        loop_time_constant: 7,
        tick_microseconds: 10_000,
        tai_offset_seconds: 37,
        pps: Pps {
            frequency_scaled_ppm: 65_536,
            stability_scaled_ppm: 131_072,
            jitter_nanoseconds: 2_250,
            shift: 4,
            jitter_exceeded: 11,
            calibrations: 12,
            calibration_errors: 13,
            stability_exceeded: 14,
        },
    };
    sample.measurements.push(Arc::new(Measurement::Timex(clock)));
}
