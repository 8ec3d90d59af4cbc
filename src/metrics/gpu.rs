//! GPUs under dcgm-exporter's names, labels and units (MiB, W, mJ, MHz). AMD and Intel GPUs are exposed under the same
//! names, so that one dashboard shows all.
//!
//! The label with the host name is `Hostname`, as in dashboard 12239, in published alert rules and in dcgm-exporter up to
//! May 2026, or `hostname` as in later releases (`gpu.hostname_label`).

use crate::metrics::encoder::{Encoder, MetricType, labels};
use crate::metrics::{Exposition, Truncation};
use crate::metrics::{
    gpu_amd, gpu_events, gpu_health, gpu_links, gpu_nvidia, gpu_process, gpu_profiling, gpu_status,
};
use crate::model::gpu::{CLOCK_EVENT_REASONS, Gpu, MigInstance, NvLink, Values, Vendor};

/// Each GPU has about a hundred series.
const MAX_GPUS: usize = 64;

pub(super) fn encode(encoder: &mut Encoder, input: &Exposition<'_>, truncation: &mut Truncation) {
    let sample = input.sample;
    let gpus = truncation.limit("gpus", &sample.gpus.each, MAX_GPUS);
    let named: Vec<(String, &Gpu)> = gpus.iter().map(|gpu| (identity(gpu, input), gpu)).collect();
    let families = FAMILIES.iter().chain(gpu_nvidia::FAMILIES).chain(gpu_links::FAMILIES);
    for (name, metric_type, help, value) in families {
        encoder.family(name, *metric_type, *help);
        for (labels, gpu) in &named {
            encoder.sample_if(labels, value(&gpu.values));
        }
    }
    memory(encoder, &named);
    gpu_profiling::encode(encoder, &named);
    gpu_nvidia::encode(encoder, &named);
    gpu_links::encode(encoder, &named);
    gpu_events::encode(encoder, &named);
    gpu_health::encode(encoder, &named, input.health);
    gpu_amd::encode(encoder, &named);
    gpu_process::encode(encoder, &named, truncation);
    gpu_status::driver(encoder, sample);
    gpu_status::problems(encoder, &named);
    gpu_status::xids(encoder, &named, truncation);
}

/// dcgm-exporter's labels that identify a GPU.
fn identity(gpu: &Gpu, input: &Exposition<'_>) -> String {
    let hostname = input.sample.hostname.as_deref().unwrap_or_default();
    let device = match gpu.vendor {
        Vendor::Nvidia => format!("nvidia{}", gpu.index),
        Vendor::Amd => format!("amd{}", gpu.index),
        Vendor::Intel => format!("intel{}", gpu.index),
    };
    let identity = labels(&[
        ("gpu", &gpu.index.to_string()),
        ("UUID", gpu.uuid.as_deref().unwrap_or_default()),
        ("pci_bus_id", &bus_id(gpu.pci_address.as_deref().unwrap_or_default())),
        ("device", &device),
        ("modelName", &gpu.name),
        (input.gpu_hostname_label, hostname),
    ]);
    let driver = input.sample.gpus.nvidia.as_ref();
    match driver.and_then(|driver| driver.driver_version.as_deref()) {
        Some(version) if gpu.vendor == Vendor::Nvidia => {
            format!("{identity},{}", labels(&[("DCGM_FI_DRIVER_VERSION", version)]))
        }
        _ => identity,
    }
}

/// Converts the kernel's `0000:c1:00.0` to NVIDIA's `00000000:C1:00.0`.
fn bus_id(address: &str) -> String {
    let upper = address.to_ascii_uppercase();
    match upper.split_once(':') {
        Some((domain, rest)) => format!("{domain:0>8}:{rest}"),
        None => upper,
    }
}

pub(super) type GpuFamily = (&'static str, MetricType, &'static str, fn(&Values) -> Option<f64>);

pub(super) fn to_f64(value: Option<u64>) -> Option<f64> {
    value.map(|value| value as f64)
}

fn link(values: &Values, value: fn(NvLink) -> Option<u64>) -> Option<f64> {
    to_f64(values.nvlink.and_then(value))
}

const FAMILIES: &[GpuFamily] = {
    use MetricType::{Counter, Gauge};
    &[
        ("DCGM_FI_DEV_SM_CLOCK", Gauge, "SM clock frequency (in MHz).", |v| {
            v.sm_clock_mhz.map(f64::from)
        }),
        ("DCGM_FI_DEV_MEM_CLOCK", Gauge, "Memory clock frequency (in MHz).", |v| {
            v.memory_clock_mhz.map(f64::from)
        }),
        ("DCGM_FI_DEV_GPU_TEMP", Gauge, "GPU temperature (in C).", |v| {
            v.temperature_celsius.map(f64::from)
        }),
        ("DCGM_FI_DEV_MEMORY_TEMP", Gauge, "Memory temperature (in C).", |v| {
            v.memory_temperature_celsius.map(f64::from)
        }),
        ("DCGM_FI_DEV_POWER_USAGE", Gauge, "Power draw (in W).", |v| v.power_watts),
        ("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", Gauge, "Enforced power limit (in W).", |v| {
            v.power_limit_watts
        }),
        (
            "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
            Counter,
            "Energy consumed since the driver was loaded (in mJ).",
            |v| v.energy_joules.map(|joules| (joules * 1000.0).round()),
        ),
        ("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", Counter, "Number of PCIe replays.", |v| {
            to_f64(v.pcie_replays)
        }),
        ("DCGM_FI_DEV_PCIE_LINK_GEN", Gauge, "Current PCIe link generation.", |v| {
            v.pcie_generation.map(f64::from)
        }),
        ("DCGM_FI_DEV_PCIE_LINK_WIDTH", Gauge, "Current PCIe link width (in lanes).", |v| {
            v.pcie_width.map(f64::from)
        }),
        ("DCGM_FI_DEV_GPU_UTIL", Gauge, "GPU utilization (in %).", |v| {
            v.utilization_percent.map(f64::from)
        }),
        ("DCGM_FI_DEV_MEM_COPY_UTIL", Gauge, "Memory utilization (in %).", |v| {
            v.memory_utilization_percent.map(f64::from)
        }),
        ("DCGM_FI_DEV_ENC_UTIL", Gauge, "Encoder utilization (in %).", |v| {
            v.encoder_utilization_percent.map(f64::from)
        }),
        ("DCGM_FI_DEV_DEC_UTIL", Gauge, "Decoder utilization (in %).", |v| {
            v.decoder_utilization_percent.map(f64::from)
        }),
        ("DCGM_FI_DEV_FAN_SPEED", Gauge, "Speed of the fastest fan (in %).", |v| {
            v.fan_percent.map(f64::from)
        }),
        ("DCGM_FI_DEV_PSTATE", Gauge, "Performance state, 0 (highest) to 15 (lowest).", |v| {
            v.performance_state.map(f64::from)
        }),
        (
            "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS",
            Gauge,
            "Bit mask of reasons why clocks are limited: 1 idle, 4 software power cap, 8 hardware slowdown, 32 software thermal, 64 hardware thermal, 128 power brake.",
            |v| v.clock_event_reasons.as_deref().map(reason_bits),
        ),
        (
            "DCGM_FI_DEV_CLOCKS_EVENT_REASONS",
            Gauge,
            "The same bit mask under its newer name.",
            |v| v.clock_event_reasons.as_deref().map(reason_bits),
        ),
        (
            "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL",
            Counter,
            "Number of single-bit (corrected) ECC errors since the driver was loaded.",
            |v| to_f64(v.ecc.and_then(|ecc| ecc.volatile_corrected)),
        ),
        (
            "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",
            Counter,
            "Number of double-bit (uncorrected) ECC errors since the driver was loaded.",
            |v| to_f64(v.ecc.and_then(|ecc| ecc.volatile_uncorrected)),
        ),
        (
            "DCGM_FI_DEV_ECC_SBE_AGG_TOTAL",
            Counter,
            "Number of single-bit (corrected) ECC errors over the lifetime of the GPU.",
            |v| to_f64(v.ecc.and_then(|ecc| ecc.aggregate_corrected)),
        ),
        (
            "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL",
            Counter,
            "Number of double-bit (uncorrected) ECC errors over the lifetime of the GPU.",
            |v| to_f64(v.ecc.and_then(|ecc| ecc.aggregate_uncorrected)),
        ),
        (
            "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
            Counter,
            "Number of memory rows remapped because of uncorrected errors.",
            |v| v.remapped_rows.map(|rows| rows.uncorrectable.into()),
        ),
        (
            "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS",
            Counter,
            "Number of memory rows remapped because of corrected errors.",
            |v| v.remapped_rows.map(|rows| rows.correctable.into()),
        ),
        (
            "DCGM_FI_DEV_ROW_REMAP_FAILURE",
            Gauge,
            "Whether remapping of a memory row failed.",
            |v| v.remapped_rows.map(|rows| f64::from(u8::from(rows.failed))),
        ),
        (
            "DCGM_FI_DEV_ROW_REMAP_PENDING",
            Gauge,
            "Whether remapping of a memory row is pending until the GPU is reset.",
            |v| v.remapped_rows.map(|rows| f64::from(u8::from(rows.pending))),
        ),
        (
            "DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL",
            Counter,
            "Number of NVLink flow-control CRC errors.",
            |v| link(v, |link| link.crc_flit_errors),
        ),
        (
            "DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL",
            Counter,
            "Number of NVLink data CRC errors.",
            |v| link(v, |link| link.crc_data_errors),
        ),
        (
            "DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL",
            Counter,
            "Number of NVLink replays.",
            |v| link(v, |link| link.replay_errors),
        ),
        (
            "DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL",
            Counter,
            "Number of NVLink recovery errors.",
            |v| link(v, |link| link.recovery_errors),
        ),
        ("DCGM_FI_DEV_MIG_MODE", Gauge, "Whether MIG mode is enabled.", |v| {
            v.mig_enabled.map(|on| f64::from(u8::from(on)))
        }),
        ("hm_agent_gpu_nvlinks_up", Gauge, "Number of NVLinks that are up.", |v| {
            v.nvlink.and_then(|link| link.links_up).map(f64::from)
        }),
        (
            "hm_agent_gpu_nvlinks_down",
            Gauge,
            "Number of NVLinks that are not up, including unused ones.",
            |v| v.nvlink.and_then(|link| link.links_down).map(f64::from),
        ),
        (
            "hm_agent_gpu_nvlinks_lost",
            Gauge,
            "Number of NVLinks that were up since the agent started and are down.",
            |v| v.nvlink.map(|link| link.links_lost.unwrap_or_default().into()),
        ),
    ]
};

fn reason_bits(reasons: &[String]) -> f64 {
    let bits = (0u32..).zip(CLOCK_EVENT_REASONS);
    let set = bits.filter(|(_, name)| reasons.iter().any(|reason| reason == name));
    set.map(|(bit, _)| 1u32 << bit).sum::<u32>().into()
}

type Framebuffer =
    (&'static str, &'static str, fn(&Values) -> Option<u64>, fn(&MigInstance) -> Option<u64>);

const FRAMEBUFFER: [Framebuffer; 4] = [
    (
        "DCGM_FI_DEV_FB_TOTAL",
        "Framebuffer memory (in MiB).",
        |v| v.memory_total_bytes,
        |mig| mig.memory_total_bytes,
    ),
    (
        "DCGM_FI_DEV_FB_FREE",
        "Framebuffer memory free (in MiB).",
        |v| v.memory_free_bytes,
        |mig| mig.memory_total_bytes?.checked_sub(mig.memory_used_bytes?),
    ),
    (
        "DCGM_FI_DEV_FB_USED",
        "Framebuffer memory used (in MiB).",
        |v| v.memory_used_bytes,
        |mig| mig.memory_used_bytes,
    ),
    (
        "DCGM_FI_DEV_FB_RESERVED",
        "Framebuffer memory reserved by the driver (in MiB).",
        |v| v.memory_reserved_bytes,
        |_| None,
    ),
];

/// For a GPU in MIG mode, the memory of its instances is exposed instead of its own, so that the sum over all series is
/// the total.
fn memory(encoder: &mut Encoder, named: &[(String, &Gpu)]) {
    let instances: Vec<Vec<(String, &MigInstance)>> =
        named.iter().map(|(labels, gpu)| instances(labels, gpu)).collect();
    for (name, help, of_gpu, of_instance) in FRAMEBUFFER {
        encoder.gauge(name, help);
        for ((labels, gpu), instances) in named.iter().zip(&instances) {
            if instances.is_empty() {
                encoder.sample_if(labels, of_gpu(&gpu.values).map(|bytes| bytes >> 20));
            }
            for (labels, instance) in instances {
                encoder.sample_if(labels, of_instance(instance).map(|bytes| bytes >> 20));
            }
        }
    }
}

/// GPU instances with their labels. Compute instances of the same GPU instance share its memory and are exposed once.
pub(super) fn instances<'a>(of_gpu: &str, gpu: &'a Gpu) -> Vec<(String, &'a MigInstance)> {
    let mut found: Vec<(String, &MigInstance)> = Vec::new();
    for instance in gpu.values.mig_instances.iter().flatten() {
        let Some(id) = instance.gpu_instance else { continue };
        if found.iter().any(|(_, known)| known.gpu_instance == Some(id)) {
            continue;
        }
        let profile = instance.name.as_deref().and_then(profile).unwrap_or_default();
        let own = labels(&[("GPU_I_ID", &id.to_string()), ("GPU_I_PROFILE", profile)]);
        found.push((format!("{of_gpu},{own}"), instance));
    }
    found
}

/// Profile of the GPU instance: `NVIDIA H100 80GB HBM3 MIG 1c.3g.40gb` is a compute instance of a `3g.40gb`.
fn profile(name: &str) -> Option<&str> {
    let (_, profile) = name.rsplit_once("MIG ")?;
    match profile.split_once("c.") {
        Some((count, rest)) if count.bytes().all(|byte| byte.is_ascii_digit()) => Some(rest),
        _ => Some(profile),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_pci_bus_id_like_nvidia() {
        assert_eq!(bus_id("0000:c1:00.0"), "00000000:C1:00.0");
        assert_eq!(bus_id("10000:c1:00.0"), "00010000:C1:00.0");
        assert_eq!(bus_id(""), "");
    }

    #[test]
    fn extracts_gpu_instance_profile_from_name() {
        assert_eq!(profile("NVIDIA H100 80GB HBM3 MIG 1g.10gb"), Some("1g.10gb"));
        assert_eq!(profile("NVIDIA A100 MIG 1c.3g.20gb+me"), Some("3g.20gb+me"));
        assert_eq!(profile("NVIDIA A100"), None);
    }

    #[test]
    fn encodes_clock_reasons_as_bits() {
        assert_eq!(reason_bits(&[]), 0.0);
        let reasons = ["sw_power_cap", "hw_thermal_slowdown", "unknown_reason"].map(str::to_owned);
        assert_eq!(reason_bits(&reasons), 68.0);
    }
}
