//! GPUs under dcgm-exporter's names, labels and units: MiB, W, mJ, MHz. AMD's are told under the same names, so that
//! one dashboard shows all.
//!
//! The host's label is `Hostname`, as in the published dashboard 12239, in alert rules, and in every dcgm-exporter up
//! to May 2026, from when on it is `hostname`; both would be two labels that say the same.

use crate::limits;
use crate::metrics::LeftOut;
use crate::metrics::encoder::{Kind, Text, labels};
use crate::model::RawSample;
use crate::model::gpu::{
    CLOCK_EVENT_REASONS, DriverState, Gpu, MigInstance, NvLink, Problem, Values, Vendor,
};

pub(super) fn write(text: &mut Text, reading: &RawSample, left_out: &mut LeftOut) {
    let gpus = left_out.cap("gpus", &reading.gpus.each, limits::METRICS_GPUS);
    let hostname = reading.hostname.as_deref().unwrap_or_default();
    let named: Vec<(String, &Gpu)> =
        gpus.iter().map(|gpu| (identity(gpu, hostname), gpu)).collect();
    for (name, kind, help, pick) in FAMILIES {
        text.family(name, kind, help);
        for (labels, gpu) in &named {
            text.sample_if(labels, pick(&gpu.values));
        }
    }
    memory(text, &named);
    last_xid(text, &named);
    driver(text, reading);
    problems(text, &named);
    xids(text, &named, left_out);
}

/// The labels by which dcgm-exporter tells GPUs apart.
fn identity(gpu: &Gpu, hostname: &str) -> String {
    let device = match gpu.vendor {
        Vendor::Nvidia => format!("nvidia{}", gpu.index),
        Vendor::Amd => format!("amd{}", gpu.index),
    };
    labels(&[
        ("gpu", &gpu.index.to_string()),
        ("UUID", gpu.uuid.as_deref().unwrap_or_default()),
        ("pci_bus_id", &bus_id(gpu.pci_address.as_deref().unwrap_or_default())),
        ("device", &device),
        ("modelName", &gpu.name),
        ("Hostname", hostname),
    ])
}

/// The kernel's `0000:41:00.0` is NVIDIA's `00000000:41:00.0`, with capital letters.
fn bus_id(address: &str) -> String {
    let upper = address.to_ascii_uppercase();
    match upper.split_once(':') {
        Some((domain, rest)) => format!("{domain:0>8}:{rest}"),
        None => upper,
    }
}

type Family = (&'static str, Kind, &'static str, fn(&Values) -> Option<f64>);

fn whole(value: Option<u64>) -> Option<f64> {
    value.map(|value| value as f64)
}

fn link(values: &Values, pick: fn(NvLink) -> Option<u64>) -> Option<f64> {
    whole(values.nvlink.and_then(pick))
}

const FAMILIES: [Family; 32] = {
    use Kind::{Counter, Gauge};
    [
        ("DCGM_FI_DEV_SM_CLOCK", Gauge, "Clock of the processors, in MHz.", |v| {
            v.sm_clock_mhz.map(f64::from)
        }),
        ("DCGM_FI_DEV_MEM_CLOCK", Gauge, "Clock of the memory, in MHz.", |v| {
            v.memory_clock_mhz.map(f64::from)
        }),
        ("DCGM_FI_DEV_GPU_TEMP", Gauge, "Temperature, in degrees Celsius.", |v| {
            v.temperature_celsius.map(f64::from)
        }),
        ("DCGM_FI_DEV_MEMORY_TEMP", Gauge, "Temperature of the memory, in degrees Celsius.", |v| {
            v.memory_temperature_celsius.map(f64::from)
        }),
        ("DCGM_FI_DEV_POWER_USAGE", Gauge, "Power, in W.", |v| v.power_watts),
        ("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", Gauge, "The power that it may use, in W.", |v| {
            v.power_limit_watts
        }),
        (
            "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
            Counter,
            "Energy since the driver was loaded, in mJ.",
            |v| v.energy_joules.map(|joules| (joules * 1000.0).round()),
        ),
        ("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", Counter, "Packets on PCIe sent again.", |v| {
            whole(v.pcie_replays)
        }),
        ("DCGM_FI_DEV_PCIE_LINK_GEN", Gauge, "Generation of PCIe in use.", |v| {
            v.pcie_generation.map(f64::from)
        }),
        ("DCGM_FI_DEV_PCIE_LINK_WIDTH", Gauge, "Lanes of PCIe in use.", |v| {
            v.pcie_width.map(f64::from)
        }),
        ("DCGM_FI_DEV_GPU_UTIL", Gauge, "Time in which a kernel ran, in percent.", |v| {
            v.utilization_percent.map(f64::from)
        }),
        (
            "DCGM_FI_DEV_MEM_COPY_UTIL",
            Gauge,
            "Time in which its memory was read or written, in percent.",
            |v| v.memory_utilization_percent.map(f64::from),
        ),
        ("DCGM_FI_DEV_ENC_UTIL", Gauge, "Use of the encoders, in percent.", |v| {
            v.encoder_utilization_percent.map(f64::from)
        }),
        ("DCGM_FI_DEV_DEC_UTIL", Gauge, "Use of the decoders, in percent.", |v| {
            v.decoder_utilization_percent.map(f64::from)
        }),
        ("DCGM_FI_DEV_FAN_SPEED", Gauge, "Speed of the fastest fan, in percent.", |v| {
            v.fan_percent.map(f64::from)
        }),
        ("DCGM_FI_DEV_PSTATE", Gauge, "Performance state; 0 is the fastest.", |v| {
            v.performance_state.map(f64::from)
        }),
        (
            "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS",
            Gauge,
            "Why the clocks are not higher, as bits: 1 idle, 4 software power cap, 8 hardware slowdown, 32 software thermal, 64 hardware thermal, 128 power brake.",
            |v| v.clock_event_reasons.as_deref().map(reason_bits),
        ),
        (
            "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL",
            Counter,
            "Corrected errors since the driver was loaded.",
            |v| whole(v.ecc.and_then(|ecc| ecc.volatile_corrected)),
        ),
        (
            "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",
            Counter,
            "Uncorrected errors since the driver was loaded.",
            |v| whole(v.ecc.and_then(|ecc| ecc.volatile_uncorrected)),
        ),
        ("DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", Counter, "Corrected errors ever.", |v| {
            whole(v.ecc.and_then(|ecc| ecc.aggregate_corrected))
        }),
        ("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", Counter, "Uncorrected errors ever.", |v| {
            whole(v.ecc.and_then(|ecc| ecc.aggregate_uncorrected))
        }),
        (
            "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
            Counter,
            "Rows replaced after uncorrected errors.",
            |v| v.remapped_rows.map(|rows| rows.uncorrectable.into()),
        ),
        (
            "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS",
            Counter,
            "Rows replaced after corrected errors.",
            |v| v.remapped_rows.map(|rows| rows.correctable.into()),
        ),
        ("DCGM_FI_DEV_ROW_REMAP_FAILURE", Gauge, "1: there was no spare row left.", |v| {
            v.remapped_rows.map(|rows| f64::from(u8::from(rows.failed)))
        }),
        ("DCGM_FI_DEV_ROW_REMAP_PENDING", Gauge, "1: a row waits for a reset.", |v| {
            v.remapped_rows.map(|rows| f64::from(u8::from(rows.pending)))
        }),
        ("DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", Counter, "Errors on NVLink.", |v| {
            link(v, |link| link.crc_flit_errors)
        }),
        ("DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL", Counter, "Errors on NVLink.", |v| {
            link(v, |link| link.crc_data_errors)
        }),
        ("DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", Counter, "Errors on NVLink.", |v| {
            link(v, |link| link.replay_errors)
        }),
        ("DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", Counter, "Errors on NVLink.", |v| {
            link(v, |link| link.recovery_errors)
        }),
        ("DCGM_FI_DEV_MIG_MODE", Gauge, "1: the GPU is in MIG mode.", |v| {
            v.mig_enabled.map(|on| f64::from(u8::from(on)))
        }),
        ("hm_agent_gpu_nvlinks_up", Gauge, "NVLinks that are up.", |v| {
            v.nvlink.and_then(|link| link.links_up).map(f64::from)
        }),
        ("hm_agent_gpu_nvlinks_down", Gauge, "NVLinks that are down.", |v| {
            v.nvlink.and_then(|link| link.links_down).map(f64::from)
        }),
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
        "Memory, in MiB.",
        |v| v.memory_total_bytes,
        |mig| mig.memory_total_bytes,
    ),
    (
        "DCGM_FI_DEV_FB_FREE",
        "Memory not in use, in MiB.",
        |v| v.memory_free_bytes,
        |mig| mig.memory_total_bytes?.checked_sub(mig.memory_used_bytes?),
    ),
    (
        "DCGM_FI_DEV_FB_USED",
        "Memory in use, in MiB.",
        |v| v.memory_used_bytes,
        |mig| mig.memory_used_bytes,
    ),
    (
        "DCGM_FI_DEV_FB_RESERVED",
        "Memory that the driver keeps, in MiB.",
        |v| v.memory_reserved_bytes,
        |_| None,
    ),
];

/// Of a GPU that is divided, each part's instead of the whole: a sum over all series is then what is there.
fn memory(text: &mut Text, named: &[(String, &Gpu)]) {
    let instances: Vec<Vec<(String, &MigInstance)>> =
        named.iter().map(|(labels, gpu)| instances(labels, gpu)).collect();
    for (name, help, of_gpu, of_instance) in FRAMEBUFFER {
        text.gauge(name, help);
        for ((labels, gpu), instances) in named.iter().zip(&instances) {
            if instances.is_empty() {
                text.sample_if(labels, of_gpu(&gpu.values).map(|bytes| bytes >> 20));
            }
            for (labels, instance) in instances {
                text.sample_if(labels, of_instance(instance).map(|bytes| bytes >> 20));
            }
        }
    }
}

/// The GPU instances of a GPU. Compute instances of the same one share its memory, and are told once.
fn instances<'a>(of_gpu: &str, gpu: &'a Gpu) -> Vec<(String, &'a MigInstance)> {
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

/// `NVIDIA H100 80GB HBM3 MIG 1c.3g.40gb` is a part of a 3g.40gb.
fn profile(name: &str) -> Option<&str> {
    let (_, profile) = name.rsplit_once("MIG ")?;
    match profile.split_once("c.") {
        Some((count, rest)) if count.bytes().all(|byte| byte.is_ascii_digit()) => Some(rest),
        _ => Some(profile),
    }
}

fn last_xid(text: &mut Text, named: &[(String, &Gpu)]) {
    text.gauge(
        "DCGM_FI_DEV_XID_ERRORS",
        "Code of the last error that the driver reported; 0: none.",
    );
    for (labels, gpu) in named.iter().filter(|(_, gpu)| gpu.vendor == Vendor::Nvidia) {
        let last = gpu.xids.iter().max_by_key(|xid| xid.last_unix_seconds);
        text.sample(labels, last.map_or(0, |xid| xid.code));
    }
}

const STATES: [(DriverState, &str); 9] = [
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

fn driver(text: &mut Text, reading: &RawSample) {
    let Some(nvidia) = &reading.gpus.nvidia else { return };
    text.gauge(
        "hm_agent_gpu_probe_state",
        "How it stands with NVIDIA's driver: 1 for the state it is in.",
    );
    for (state, name) in STATES {
        text.sample_with("", ("state", name), nvidia.state == state);
    }
    if let Some(version) = &nvidia.driver_version {
        let cuda = nvidia.cuda_version.as_deref().unwrap_or_default();
        let labels = labels(&[("driver_version", version), ("cuda_version", cuda)]);
        text.gauge("hm_agent_gpu_driver_info", "NVIDIA's driver; always 1.").sample(&labels, 1u64);
    }
}

fn problems(text: &mut Text, named: &[(String, &Gpu)]) {
    text.gauge("hm_agent_gpu_problem", "Why a GPU has no values: 1 for what is wrong with it.");
    for (labels, gpu) in named {
        for (problem, name) in [
            (Problem::Lost, "lost"),
            (Problem::Suspended, "suspended"),
            (Problem::Hung, "hung"),
            (Problem::Failed, "failed"),
        ] {
            text.sample_with(labels, ("problem", name), gpu.problem == Some(problem));
        }
    }
}

fn xids(text: &mut Text, named: &[(String, &Gpu)], left_out: &mut LeftOut) {
    let mut all = Vec::new();
    for (labels, gpu) in named {
        let xids = left_out.cap("xids", &gpu.xids, limits::METRICS_XIDS);
        all.extend(xids.iter().map(|xid| (labels, xid.code.to_string(), xid)));
    }
    text.counter(
        "hm_agent_gpu_xid_errors_total",
        "Errors that the driver reported since the agent started, by code.",
    );
    for (labels, code, xid) in &all {
        text.sample_with(labels, ("xid", code), xid.count);
    }
    text.gauge(
        "hm_agent_gpu_xid_last_timestamp_seconds",
        "When the last of them was noticed, in seconds since 1970.",
    );
    for (labels, code, xid) in &all {
        text.sample_with(labels, ("xid", code), xid.last_unix_seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_nvidias() {
        assert_eq!(bus_id("0000:c1:00.0"), "00000000:C1:00.0");
        assert_eq!(bus_id("10000:c1:00.0"), "00010000:C1:00.0");
        assert_eq!(bus_id(""), "");
    }

    #[test]
    fn profiles_are_those_of_the_gpu_instance() {
        assert_eq!(profile("NVIDIA H100 80GB HBM3 MIG 1g.10gb"), Some("1g.10gb"));
        assert_eq!(profile("NVIDIA A100 MIG 1c.3g.20gb+me"), Some("3g.20gb+me"));
        assert_eq!(profile("NVIDIA A100"), None);
    }

    #[test]
    fn reasons_are_bits() {
        let reasons = |names: &[&str]| {
            reason_bits(&names.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(reasons(&[]), 0.0);
        assert_eq!(reasons(&["sw_power_cap", "hw_thermal_slowdown", "unheard_of"]), 68.0);
    }
}
