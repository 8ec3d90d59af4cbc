//! Values that only the driver of AMD GPUs has: pages that could not be retired, throttling, XGMI links, memory of APUs and
//! partitions.

use crate::metrics::encoder::{Encoder, MetricType, labels};
use crate::model::gpu::{Gpu, Values};
use gpu_probe::amd::{ThrottleCycles, XgmiLink};

type Family = (&'static str, MetricType, &'static str, fn(&Values) -> Option<u64>);

const FAMILIES: [Family; 7] = {
    use MetricType::{Counter, Gauge};
    [
        (
            "hm_agent_gpu_retired_pages_failed",
            Gauge,
            "Number of pages with errors that are still in use, because they could not be retired.",
            |v| v.retired_pages.and_then(|pages| pages.failed),
        ),
        (
            "hm_agent_gpu_throttle_observed_cycles_total",
            Counter,
            "Cycles of the firmware's control loop since the driver was loaded.",
            |v| v.throttle_cycles.and_then(|cycles| cycles.total),
        ),
        (
            "hm_agent_gpu_vram_total_bytes",
            Gauge,
            "Part of the machine's memory that the firmware sets aside for an APU.",
            |v| v.vram_total_bytes,
        ),
        ("hm_agent_gpu_vram_used_bytes", Gauge, "Used part of an APU's VRAM.", |v| {
            v.vram_used_bytes
        }),
        (
            "hm_agent_gpu_gtt_total_bytes",
            Gauge,
            "Part of the machine's memory that an APU may use in addition to its VRAM.",
            |v| v.gtt_total_bytes,
        ),
        ("hm_agent_gpu_gtt_used_bytes", Gauge, "Used part of an APU's GTT.", |v| v.gtt_used_bytes),
        ("hm_agent_gpu_partitions", Gauge, "Number of logical GPUs of an Instinct.", |v| {
            v.partitions.as_ref()?.count.map(u64::from)
        }),
    ]
};

type ThrottleCounter = (&'static str, fn(ThrottleCycles) -> Option<u64>);

const THROTTLE_COUNTERS: [ThrottleCounter; 5] = [
    ("power", |cycles| cycles.power),
    ("socket_thermal", |cycles| cycles.socket_thermal),
    ("memory_thermal", |cycles| cycles.memory_thermal),
    ("regulator_thermal", |cycles| cycles.regulator_thermal),
    ("prochot", |cycles| cycles.prochot),
];

type XgmiFamily = (&'static str, MetricType, &'static str, fn(XgmiLink) -> Option<u64>);

const XGMI_FAMILIES: [XgmiFamily; 3] = [
    ("hm_agent_gpu_xgmi_link_up", MetricType::Gauge, "Whether the XGMI link is up.", |link| {
        link.up.map(u64::from)
    }),
    (
        "hm_agent_gpu_xgmi_read_bytes_total",
        MetricType::Counter,
        "Bytes read over the XGMI link since the driver was loaded.",
        |link| link.read_bytes,
    ),
    (
        "hm_agent_gpu_xgmi_written_bytes_total",
        MetricType::Counter,
        "Bytes written over the XGMI link since the driver was loaded.",
        |link| link.written_bytes,
    ),
];

pub(super) fn encode(encoder: &mut Encoder, named: &[(String, &Gpu)]) {
    for (name, metric_type, help, value) in FAMILIES {
        encoder.family(name, metric_type, help);
        for (labels, gpu) in named {
            encoder.sample_if(labels, value(&gpu.values));
        }
    }
    throttle(encoder, named);
    xgmi(encoder, named);
    partitions(encoder, named);
}

fn throttle(encoder: &mut Encoder, named: &[(String, &Gpu)]) {
    encoder.counter(
        "hm_agent_gpu_throttle_cycles_total",
        "Cycles in which a limit reduced the clocks; of hm_agent_gpu_throttle_observed_cycles_total.",
    );
    for (labels, gpu) in named {
        let Some(cycles) = gpu.values.throttle_cycles else { continue };
        for (name, value) in THROTTLE_COUNTERS {
            if let Some(count) = value(cycles) {
                encoder.sample_with_label(labels, ("reason", name), count);
            }
        }
    }
}

fn xgmi(encoder: &mut Encoder, named: &[(String, &Gpu)]) {
    for (name, metric_type, help, value) in XGMI_FAMILIES {
        encoder.family(name, metric_type, help);
        for (labels, gpu) in named {
            let links = gpu.values.xgmi.iter().flat_map(|xgmi| &xgmi.links).flatten();
            for link in links {
                if let Some(value) = value(*link) {
                    encoder.sample_with_label(labels, ("link", &link.link.to_string()), value);
                }
            }
        }
    }
}

fn partitions(encoder: &mut Encoder, named: &[(String, &Gpu)]) {
    encoder.gauge(
        "hm_agent_gpu_partition_info",
        "How an Instinct is divided into logical GPUs. The value is always 1.",
    );
    for (of_gpu, gpu) in named {
        let Some(partitions) = &gpu.values.partitions else { continue };
        let mode = |mode: &Option<String>| mode.clone().unwrap_or_default();
        let modes = labels(&[
            ("compute_mode", &mode(&partitions.compute_mode)),
            ("memory_mode", &mode(&partitions.memory_mode)),
        ]);
        encoder.sample(&format!("{of_gpu},{modes}"), 1u64);
    }
}
