//! Links of NVIDIA GPUs: PCIe, NVLink and its fabric, C2C. DCGM's names where it has them.

use crate::metrics::encoder::{Encoder, MetricType, labels};
use crate::metrics::gpu::{GpuFamily, to_f64};
use crate::model::gpu::Gpu;
use crate::model::nvidia::{Fabric, FabricState, PcieErrors};

pub(super) const FAMILIES: &[GpuFamily] = {
    use MetricType::{Counter, Gauge};
    &[
        (
            "DCGM_FI_DEV_PCIE_COUNT_CORRECTABLE_ERRORS",
            Counter,
            "Number of correctable PCIe errors.",
            |v| to_f64(v.pcie_errors.and_then(|errors| errors.correctable)),
        ),
        (
            "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL",
            Gauge,
            "Payload sent and received over all NVLinks (in MB/s as DCGM computes it: KiB/s ÷ 1000).",
            |v| v.nvlink?.bytes_per_second.map(|bytes| bytes as f64 / 1024.0 / 1000.0),
        ),
        (
            "DCGM_FI_DEV_NVLINK_COUNT_TX_PACKETS",
            Counter,
            "Number of packets sent over all NVLinks.",
            |v| to_f64(v.nvlink_counters.as_ref()?.transmitted_packets),
        ),
        (
            "DCGM_FI_DEV_NVLINK_COUNT_TX_BYTES",
            Counter,
            "Number of bytes sent over all NVLinks.",
            |v| to_f64(v.nvlink_counters.as_ref()?.transmitted_bytes),
        ),
        (
            "DCGM_FI_DEV_NVLINK_COUNT_RX_PACKETS",
            Counter,
            "Number of packets received over all NVLinks.",
            |v| to_f64(v.nvlink_counters.as_ref()?.received_packets),
        ),
        (
            "DCGM_FI_DEV_NVLINK_COUNT_RX_BYTES",
            Counter,
            "Number of bytes received over all NVLinks.",
            |v| to_f64(v.nvlink_counters.as_ref()?.received_bytes),
        ),
        (
            "DCGM_FI_DEV_NVLINK_COUNT_RX_MALFORMED_PACKET_ERRORS",
            Counter,
            "Number of malformed packets received over all NVLinks.",
            |v| to_f64(v.nvlink_counters.as_ref()?.malformed_packets),
        ),
        (
            "DCGM_FI_DEV_NVLINK_COUNT_RX_BUFFER_OVERRUN_ERRORS",
            Counter,
            "Number of packets discarded because of a buffer overrun over all NVLinks.",
            |v| to_f64(v.nvlink_counters.as_ref()?.buffer_overruns),
        ),
        (
            "DCGM_FI_DEV_NVLINK_COUNT_RX_ERRORS",
            Counter,
            "Number of packets received with errors over all NVLinks.",
            |v| to_f64(v.nvlink_counters.as_ref()?.receive_errors),
        ),
        (
            "DCGM_FI_DEV_NVLINK_COUNT_RX_REMOTE_ERRORS",
            Counter,
            "Number of packets that the other end marked as bad over all NVLinks.",
            |v| to_f64(v.nvlink_counters.as_ref()?.remote_errors),
        ),
        (
            "DCGM_FI_DEV_NVLINK_COUNT_RX_GENERAL_ERRORS",
            Counter,
            "Number of packets received with a header mismatch over all NVLinks.",
            |v| to_f64(v.nvlink_counters.as_ref()?.general_errors),
        ),
        (
            "DCGM_FI_DEV_NVLINK_COUNT_LOCAL_LINK_INTEGRITY_ERRORS",
            Counter,
            "Number of times that local errors exceeded their threshold over all NVLinks.",
            |v| to_f64(v.nvlink_counters.as_ref()?.integrity_errors),
        ),
        (
            "DCGM_FI_DEV_NVLINK_COUNT_TX_DISCARDS",
            Counter,
            "Number of packets discarded instead of sent over all NVLinks.",
            |v| to_f64(v.nvlink_counters.as_ref()?.transmit_discards),
        ),
        (
            "DCGM_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_SUCCESSFUL_EVENTS",
            Counter,
            "Number of successful link recoveries over all NVLinks.",
            |v| to_f64(v.nvlink_counters.as_ref()?.recoveries_successful),
        ),
        (
            "DCGM_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_FAILED_EVENTS",
            Counter,
            "Number of failed link recoveries over all NVLinks.",
            |v| to_f64(v.nvlink_counters.as_ref()?.recoveries_failed),
        ),
        (
            "DCGM_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_EVENTS",
            Counter,
            "Number of link recoveries over all NVLinks.",
            |v| to_f64(v.nvlink_counters.as_ref()?.recoveries),
        ),
        (
            "DCGM_FI_DEV_NVLINK_COUNT_RX_SYMBOL_ERRORS",
            Counter,
            "Number of errors in received symbols over all NVLinks.",
            |v| to_f64(v.nvlink_counters.as_ref()?.symbol_errors),
        ),
        (
            "DCGM_FI_DEV_NVLINK_COUNT_EFFECTIVE_ERRORS",
            Counter,
            "Number of errors that were not corrected over all NVLinks.",
            |v| to_f64(v.nvlink_counters.as_ref()?.effective_errors),
        ),
        (
            "DCGM_FI_DEV_NVLINK_COUNT_SYMBOL_BER_FLOAT",
            Gauge,
            "Symbol bit error ratio of the NVLinks.",
            |v| v.nvlink_counters.as_ref()?.symbol_bit_error_ratio,
        ),
        (
            "DCGM_FI_DEV_NVLINK_COUNT_EFFECTIVE_BER_FLOAT",
            Gauge,
            "Effective bit error ratio of the NVLinks.",
            |v| v.nvlink_counters.as_ref()?.effective_bit_error_ratio,
        ),
        (
            "DCGM_FI_DEV_FABRIC_MANAGER_STATUS",
            Gauge,
            "Registration at the NVLink fabric: 0 not supported, 1 not started, 2 in progress, 3 completed, 4 failed.",
            |v| v.fabric.as_ref().and_then(fabric_status),
        ),
        (
            "DCGM_FI_DEV_FABRIC_MANAGER_ERROR_CODE",
            Gauge,
            "NVML's error code of the completed registration at the NVLink fabric.",
            |v| v.fabric.as_ref().and_then(fabric_error),
        ),
        (
            "DCGM_FI_DEV_FABRIC_CLIQUE_ID",
            Gauge,
            "Clique of the NVLink fabric to which the GPU belongs.",
            |v| v.fabric.as_ref()?.clique_id.map(f64::from),
        ),
        (
            "DCGM_FI_DEV_FABRIC_HEALTH_MASK",
            Gauge,
            "Bit mask of the NVLink fabric's health, as in nvml.h.",
            |v| v.fabric.as_ref()?.health_mask.map(f64::from),
        ),
        (
            "DCGM_FI_DEV_FABRIC_HEALTH_SUMMARY",
            Gauge,
            "Health of the NVLink fabric: 1 healthy, 2 unhealthy, 3 limited capacity.",
            |v| v.fabric.as_ref()?.health.map(|health| health.code().into()),
        ),
        ("DCGM_FI_DEV_C2C_LINK_COUNT", Gauge, "Number of C2C links to the CPU.", |v| {
            v.c2c.and_then(|c2c| c2c.links).map(f64::from)
        }),
        ("hm_agent_gpu_c2c_links_active", Gauge, "Number of C2C links that are active.", |v| {
            v.c2c.and_then(|c2c| c2c.links_active).map(f64::from)
        }),
        ("DCGM_FI_DEV_C2C_MAX_BANDWIDTH", Gauge, "Speed of a C2C link (in MB/s).", |v| {
            v.c2c?.max_bytes_per_second.map(|bytes| bytes as f64 / 1e6)
        }),
        ("DCGM_FI_DEV_C2C_LINK_ERROR_INTR", Counter, "Number of CRC errors on C2C links.", |v| {
            to_f64(v.c2c.and_then(|c2c| c2c.interrupt_errors))
        }),
        ("DCGM_FI_DEV_C2C_LINK_ERROR_REPLAY", Counter, "Number of replays on C2C links.", |v| {
            to_f64(v.c2c.and_then(|c2c| c2c.replay_errors))
        }),
        (
            "DCGM_FI_DEV_C2C_LINK_ERROR_REPLAY_B2B",
            Counter,
            "Number of back-to-back replays on C2C links.",
            |v| to_f64(v.c2c.and_then(|c2c| c2c.back_to_back_replay_errors)),
        ),
    ]
};

/// As in DCGM, a registration that completed with an error is 4.
fn fabric_status(fabric: &Fabric) -> Option<f64> {
    match (fabric.state?, fabric.error_code) {
        (FabricState::Completed, Some(_)) => Some(4.0),
        (state, _) => Some(state.code().into()),
    }
}

fn fabric_error(fabric: &Fabric) -> Option<f64> {
    let is_completed = fabric.state == Some(FabricState::Completed);
    is_completed.then(|| fabric.error_code.unwrap_or(0).into())
}

type PcieCounter = (&'static str, fn(PcieErrors) -> Option<u64>);

const PCIE_COUNTERS: [PcieCounter; 12] = [
    ("correctable", |errors| errors.correctable),
    ("nak_received", |errors| errors.naks_received),
    ("receiver", |errors| errors.receiver),
    ("bad_tlp", |errors| errors.bad_tlp),
    ("nak_sent", |errors| errors.naks_sent),
    ("bad_dllp", |errors| errors.bad_dllp),
    ("non_fatal", |errors| errors.non_fatal),
    ("fatal", |errors| errors.fatal),
    ("unsupported_request", |errors| errors.unsupported_requests),
    ("lcrc", |errors| errors.lcrc),
    ("replay_rollover", |errors| errors.replay_rollovers),
    ("recovery", |errors| errors.recoveries),
];

pub(super) fn encode(encoder: &mut Encoder, named: &[(String, &Gpu)]) {
    encoder.counter(
        "hm_agent_gpu_pcie_errors_total",
        "Number of errors of the PCIe link since the driver was loaded, by type.",
    );
    for (of_gpu, gpu) in named {
        let Some(errors) = gpu.values.pcie_errors else { continue };
        for (name, value) in PCIE_COUNTERS {
            if let Some(count) = value(errors) {
                encoder.sample_with_label(of_gpu, ("type", name), count);
            }
        }
    }
    fabric(encoder, named);
}

fn fabric(encoder: &mut Encoder, named: &[(String, &Gpu)]) {
    encoder.gauge(
        "hm_agent_gpu_fabric_info",
        "Cluster and clique of the NVLink fabric to which the GPU belongs. The value is always 1.",
    );
    for (of_gpu, gpu) in named {
        let Some(fabric) = &gpu.values.fabric else { continue };
        let (Some(cluster), Some(clique)) = (&fabric.cluster_uuid, fabric.clique_id) else {
            continue;
        };
        let of_fabric = labels(&[("cluster_uuid", cluster), ("clique_id", &clique.to_string())]);
        encoder.sample(&format!("{of_gpu},{of_fabric}"), 1u64);
    }
}
