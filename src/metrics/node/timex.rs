//! State of the clock: the collector timex.

use crate::metrics::encoder::{Encoder, Number};
use crate::model::node::timex::{Pps, Timex};

type Family<T> = (&'static str, &'static str, fn(&T) -> Number);

const GAUGES: [Family<Timex>; 9] = [
    (
        "node_timex_sync_status",
        "Whether the time daemon reports to the kernel that the clock is synchronized.",
        |clock| clock.is_synchronized.into(),
    ),
    (
        "node_timex_offset_seconds",
        "Difference to the reference clock that the kernel still corrects, in seconds. 0 with daemons that correct by frequency.",
        |clock| seconds(clock.offset_nanoseconds),
    ),
    (
        "node_timex_frequency_adjustment_ratio",
        "Speed of the clock relative to the hardware that drives it.",
        |clock| (1.0 + ratio(clock.frequency_scaled_ppm)).into(),
    ),
    (
        "node_timex_maxerror_seconds",
        "Maximum error in seconds. Grows until the time daemon sets it again.",
        |clock| Number::Decimal(clock.max_error_microseconds, 6),
    ),
    ("node_timex_estimated_error_seconds", "Estimated error in seconds.", |clock| {
        Number::Decimal(clock.estimated_error_microseconds, 6)
    }),
    ("node_timex_status", "Status bits (STA_*) of the clock.", |clock| clock.status.into()),
    (
        "node_timex_loop_time_constant",
        "Time constant of the phase-locked loop that corrects the clock.",
        |clock| clock.loop_time_constant.into(),
    ),
    ("node_timex_tick_seconds", "Length of a tick of the clock in seconds.", |clock| {
        Number::Decimal(clock.tick_microseconds, 6)
    }),
    (
        "node_timex_tai_offset_seconds",
        "Offset of International Atomic Time (TAI) in seconds. 0 if the time daemon does not set it.",
        |clock| f64::from(clock.tai_offset_seconds).into(),
    ),
];

const PPS_GAUGES: [Family<Pps>; 4] = [
    ("node_timex_pps_frequency_hertz", "Frequency of the pulse per second.", |pps| {
        ratio(pps.frequency_scaled_ppm).into()
    }),
    ("node_timex_pps_stability_hertz", "Stability of the pulse per second.", |pps| {
        ratio(pps.stability_scaled_ppm).into()
    }),
    ("node_timex_pps_jitter_seconds", "Jitter of the pulse per second, in seconds.", |pps| {
        seconds(pps.jitter_nanoseconds)
    }),
    (
        "node_timex_pps_shift_seconds",
        "Binary logarithm of the calibration interval of the pulse per second, as node_exporter exposes it.",
        |pps| pps.shift.into(),
    ),
];

const PPS_COUNTERS: [Family<Pps>; 4] = [
    (
        "node_timex_pps_jitter_total",
        "Number of pulses per second whose jitter exceeded the limit.",
        |pps| pps.jitter_exceeded.into(),
    ),
    (
        "node_timex_pps_calibration_total",
        "Number of calibration intervals of the pulse per second.",
        |pps| pps.calibrations.into(),
    ),
    (
        "node_timex_pps_error_total",
        "Number of calibration errors of the pulse per second.",
        |pps| pps.calibration_errors.into(),
    ),
    (
        "node_timex_pps_stability_exceeded_total",
        "Number of times the stability of the pulse per second exceeded the limit.",
        |pps| pps.stability_exceeded.into(),
    ),
];

fn seconds(nanoseconds: i64) -> Number {
    Number::Float(nanoseconds as f64 / 1e9)
}

fn ratio(scaled_ppm: i64) -> f64 {
    scaled_ppm as f64 / 65_536e6
}

pub(super) fn encode(encoder: &mut Encoder, clock: &Timex) {
    for (name, help, value) in GAUGES {
        encoder.gauge(name, help).sample("", value(clock));
    }
    for (name, help, value) in PPS_GAUGES {
        encoder.gauge(name, help).sample("", value(&clock.pps));
    }
    for (name, help, value) in PPS_COUNTERS {
        encoder.counter(name, help).sample("", value(&clock.pps));
    }
}
