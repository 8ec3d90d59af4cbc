//! Events of GPUs as dcgm-exporter counts them: the last XID, and XIDs and clock events within a window of five minutes.

use crate::metrics::encoder::{Encoder, labels};
use crate::metrics::xid_names;
use crate::model::gpu::{CLOCK_EVENT_REASONS, Gpu, Vendor};

/// Of the default window of dcgm-exporter, in milliseconds.
const WINDOW: (&str, &str) = ("window_size_in_ms", "300000");

/// dcgm-exporter's names for [`CLOCK_EVENT_REASONS`].
const CLOCK_EVENTS: [&str; 9] = [
    "gpu_idle",
    "clocks_setting",
    "power_cap",
    "hw_slowdown",
    "sync_boost",
    "sw_thermal",
    "hw_thermal",
    "hw_power_brake",
    "display_clocks",
];

pub(super) fn encode(encoder: &mut Encoder, named: &[(String, &Gpu)]) {
    last_xid(encoder, named);
    xids_in_window(encoder, named);
    clock_events_in_window(encoder, named);
}

fn last_xid(encoder: &mut Encoder, named: &[(String, &Gpu)]) {
    encoder.gauge(
        "DCGM_FI_DEV_XID_ERRORS",
        "XID of the last error that the driver reported; 0 if there was none.",
    );
    for (of_gpu, gpu) in named.iter().filter(|(_, gpu)| gpu.vendor == Vendor::Nvidia) {
        let last = gpu.xids.iter().max_by_key(|xid| xid.last_unix_seconds);
        let code = last.map_or(0, |xid| xid.code);
        let error = labels(&[("err_code", &code.to_string()), ("err_msg", xid_names::name(code))]);
        encoder.sample(&format!("{of_gpu},{error}"), code);
    }
}

/// Like dcgm-exporter, a GPU without errors has a series without the label `xid`.
fn xids_in_window(encoder: &mut Encoder, named: &[(String, &Gpu)]) {
    encoder.gauge(
        "DCGM_EXP_XID_ERRORS_COUNT",
        "Number of errors that the driver reported within the window, by XID.",
    );
    for (of_gpu, gpu) in named {
        let Some(recent) = &gpu.last_5_minutes else { continue };
        let of_window = format!("{of_gpu},{}", labels(&[WINDOW]));
        for xid in &recent.xids {
            encoder.sample_with_label(&of_window, ("xid", &xid.code.to_string()), xid.count);
        }
        if recent.xids.is_empty() {
            encoder.sample(&of_window, 0u64);
        }
    }
}

fn clock_events_in_window(encoder: &mut Encoder, named: &[(String, &Gpu)]) {
    encoder.gauge(
        "DCGM_EXP_CLOCK_EVENTS_COUNT",
        "Number of samples within the window in which clocks were reduced, by reason.",
    );
    for (of_gpu, gpu) in named {
        let recent = gpu.last_5_minutes.as_ref();
        let Some(events) = recent.and_then(|recent| recent.clock_events.as_ref()) else { continue };
        let of_window = format!("{of_gpu},{}", labels(&[WINDOW]));
        for event in events {
            let at = CLOCK_EVENT_REASONS.iter().position(|name| *name == event.reason);
            if let Some(name) = at.and_then(|at| CLOCK_EVENTS.get(at)) {
                encoder.sample_with_label(&of_window, ("clock_event", name), event.samples);
            }
        }
        if events.is_empty() {
            encoder.sample(&of_window, 0u64);
        }
    }
}
