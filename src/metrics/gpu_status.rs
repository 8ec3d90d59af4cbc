//! The agent's own GPU metrics, `hm_agent_gpu_*`: state of the NVIDIA driver, problems and XID errors.

use crate::metrics::Truncation;
use crate::metrics::encoder::{Encoder, labels};
use crate::model::RawSample;
use crate::model::gpu::{DriverState, Gpu, Problem};

/// Error codes of one GPU. NVIDIA's catalog has about 150; a GPU that reported this many different ones is broken.
const MAX_XIDS: usize = 32;

const DRIVER_STATES: [(DriverState, &str); 9] = [
    (DriverState::Starting, "starting"),
    (DriverState::Ok, "ok"),
    (DriverState::NoGpu, "no_gpu"),
    (DriverState::Suspended, "suspended"),
    (DriverState::NoDriver, "no_driver"),
    (DriverState::VersionMismatch, "version_mismatch"),
    (DriverState::Hung, "hung"),
    (DriverState::Crashed, "crashed"),
    (DriverState::Unavailable, "unavailable"),
];

pub(super) fn driver(encoder: &mut Encoder, sample: &RawSample) {
    let Some(nvidia) = &sample.gpus.nvidia else { return };
    encoder.gauge(
        "hm_agent_gpu_probe_state",
        "State of the NVIDIA driver: 1 for the current state, 0 for the others.",
    );
    for (state, name) in DRIVER_STATES {
        encoder.sample_with_label("", ("state", name), nvidia.state == state);
    }
    if let Some(version) = &nvidia.driver_version {
        let cuda = nvidia.cuda_version.as_deref().unwrap_or_default();
        let labels = labels(&[("driver_version", version), ("cuda_version", cuda)]);
        encoder
            .gauge(
                "hm_agent_gpu_driver_info",
                "Version of the NVIDIA driver. The value is always 1.",
            )
            .sample(&labels, 1u64);
    }
}

pub(super) fn problems(encoder: &mut Encoder, named: &[(String, &Gpu)]) {
    encoder.gauge(
        "hm_agent_gpu_problem",
        "Reason why a GPU has no values: 1 for the current problem, 0 for the others.",
    );
    for (labels, gpu) in named {
        for (problem, name) in [
            (Problem::Lost, "lost"),
            (Problem::Suspended, "suspended"),
            (Problem::Hung, "hung"),
            (Problem::Failed, "failed"),
        ] {
            encoder.sample_with_label(labels, ("problem", name), gpu.problem == Some(problem));
        }
    }
}

pub(super) fn xids(encoder: &mut Encoder, named: &[(String, &Gpu)], truncation: &mut Truncation) {
    let mut all = Vec::new();
    for (labels, gpu) in named {
        let xids = truncation.limit("xids", &gpu.xids, MAX_XIDS);
        all.extend(xids.iter().map(|xid| (labels, xid.code.to_string(), xid)));
    }
    encoder.counter(
        "hm_agent_gpu_xid_errors_total",
        "Number of errors that the driver reported since the agent started, by XID.",
    );
    for (labels, code, xid) in &all {
        encoder.sample_with_label(labels, ("xid", code), xid.count);
    }
    encoder.gauge(
        "hm_agent_gpu_xid_last_timestamp_seconds",
        "Unix time at which the last error with this XID was read.",
    );
    for (labels, code, xid) in &all {
        encoder.sample_with_label(labels, ("xid", code), xid.last_unix_seconds);
    }
}
