//! What only NVIDIA GPUs have, except links: throttling, errors of the memory, states. DCGM's names where it has them.

use crate::metrics::encoder::{Encoder, MetricType, labels};
use crate::metrics::gpu::{GpuFamily, to_f64};
use crate::model::gpu::{Gpu, Values};
use crate::model::nvidia::Violations;

pub(super) const FAMILIES: &[GpuFamily] = {
    use MetricType::{Counter, Gauge};
    &[
        ("DCGM_FI_DEV_POWER_USAGE_INSTANT", Gauge, "Power draw without averaging (in W).", |v| {
            v.instant_power_watts
        }),
        (
            "hm_agent_gpu_module_power_watts",
            Gauge,
            "Power draw of the module, which has a CPU too.",
            |v| v.module_power_watts,
        ),
        (
            "DCGM_FI_DEV_GPU_TEMP_LIMIT",
            Gauge,
            "Distance to the temperature at which the GPU slows down (in C).",
            |v| v.thermal_margin_celsius.map(f64::from),
        ),
        (
            "DCGM_FI_DEV_GET_GPU_RECOVERY_ACTION",
            Gauge,
            "What the driver recommends: 0 nothing, 1 GPU reset, 2 node reboot, 3 drain P2P, 4 drain and reset, 5 recover the IMEX domain.",
            |v| v.recovery_action.map(|action| action.code().into()),
        ),
        (
            "DCGM_FI_DEV_POWER_VIOLATION",
            Counter,
            "Throttling duration due to power constraints (in ns).",
            |v| violation(v, |each| each.power_nanoseconds),
        ),
        (
            "DCGM_FI_DEV_THERMAL_VIOLATION",
            Counter,
            "Throttling duration due to thermal constraints (in ns).",
            |v| violation(v, |each| each.thermal_nanoseconds),
        ),
        (
            "DCGM_FI_DEV_SYNC_BOOST_VIOLATION",
            Counter,
            "Throttling duration due to sync-boost constraints (in ns).",
            |v| violation(v, |each| each.sync_boost_nanoseconds),
        ),
        (
            "DCGM_FI_DEV_BOARD_LIMIT_VIOLATION",
            Counter,
            "Throttling duration due to board limit constraints (in ns).",
            |v| violation(v, |each| each.board_limit_nanoseconds),
        ),
        (
            "DCGM_FI_DEV_LOW_UTIL_VIOLATION",
            Counter,
            "Throttling duration due to low utilization constraints (in ns).",
            |v| violation(v, |each| each.low_utilization_nanoseconds),
        ),
        (
            "DCGM_FI_DEV_RELIABILITY_VIOLATION",
            Counter,
            "Throttling duration due to reliability constraints (in ns).",
            |v| violation(v, |each| each.reliability_nanoseconds),
        ),
        (
            "DCGM_FI_DEV_TOTAL_APP_CLOCKS_VIOLATION",
            Counter,
            "Time below the application clocks (in ns).",
            |v| violation(v, |each| each.application_clocks_nanoseconds),
        ),
        (
            "DCGM_FI_DEV_TOTAL_BASE_CLOCKS_VIOLATION",
            Counter,
            "Time below the base clocks (in ns).",
            |v| violation(v, |each| each.base_clocks_nanoseconds),
        ),
        (
            "DCGM_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP_NS",
            Counter,
            "Time for which clocks were reduced because of the power limit (in ns).",
            |v| violation(v, |each| each.power_nanoseconds),
        ),
        (
            "DCGM_FI_DEV_CLOCKS_EVENT_REASON_SYNC_BOOST_NS",
            Counter,
            "Time for which clocks were reduced because of sync boost (in ns).",
            |v| violation(v, |each| each.sync_boost_nanoseconds),
        ),
        (
            "DCGM_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN_NS",
            Counter,
            "Time for which clocks were reduced because of the temperature, by software (in ns).",
            |v| violation(v, |each| each.software_thermal_nanoseconds),
        ),
        (
            "DCGM_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN_NS",
            Counter,
            "Time for which clocks were reduced because of the temperature, by hardware (in ns).",
            |v| violation(v, |each| each.hardware_thermal_nanoseconds),
        ),
        (
            "DCGM_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN_NS",
            Counter,
            "Time for which clocks were reduced because of the external power brake (in ns).",
            |v| violation(v, |each| each.hardware_power_brake_nanoseconds),
        ),
        (
            "DCGM_FI_DEV_ECC_SBE_VOL_SRM",
            Counter,
            "Number of corrected SRAM errors since the driver was loaded.",
            |v| to_f64(v.sram_ecc.and_then(|ecc| ecc.volatile_corrected)),
        ),
        (
            "DCGM_FI_DEV_ECC_DBE_VOL_SRM",
            Counter,
            "Number of uncorrected SRAM errors since the driver was loaded.",
            |v| to_f64(v.sram_ecc.and_then(|ecc| ecc.volatile_uncorrected)),
        ),
        (
            "DCGM_FI_DEV_ECC_SBE_AGG_SRM",
            Counter,
            "Number of corrected SRAM errors over the lifetime of the GPU.",
            |v| to_f64(v.sram_ecc.and_then(|ecc| ecc.aggregate_corrected)),
        ),
        (
            "DCGM_FI_DEV_ECC_DBE_AGG_SRM",
            Counter,
            "Number of uncorrected SRAM errors over the lifetime of the GPU.",
            |v| to_f64(v.sram_ecc.and_then(|ecc| ecc.aggregate_uncorrected)),
        ),
        (
            "DCGM_FI_DEV_THRESHOLD_SRM",
            Gauge,
            "Whether the GPU has more SRAM errors than the limit above which it should be replaced.",
            |v| v.sram_ecc.and_then(|ecc| ecc.threshold_exceeded).map(flag),
        ),
        (
            "DCGM_FI_DEV_BANKS_REMAP_ROWS_AVAIL_MAX",
            Gauge,
            "Number of memory banks with maximum availability of spare rows.",
            |v| v.row_remap_banks.map(|banks| banks.max.into()),
        ),
        (
            "DCGM_FI_DEV_BANKS_REMAP_ROWS_AVAIL_HIGH",
            Gauge,
            "Number of memory banks with high availability of spare rows.",
            |v| v.row_remap_banks.map(|banks| banks.high.into()),
        ),
        (
            "DCGM_FI_DEV_BANKS_REMAP_ROWS_AVAIL_PARTIAL",
            Gauge,
            "Number of memory banks with partial availability of spare rows.",
            |v| v.row_remap_banks.map(|banks| banks.partial.into()),
        ),
        (
            "DCGM_FI_DEV_BANKS_REMAP_ROWS_AVAIL_LOW",
            Gauge,
            "Number of memory banks with low availability of spare rows.",
            |v| v.row_remap_banks.map(|banks| banks.low.into()),
        ),
        (
            "DCGM_FI_DEV_BANKS_REMAP_ROWS_AVAIL_NONE",
            Gauge,
            "Number of memory banks with no availability of spare rows.",
            |v| v.row_remap_banks.map(|banks| banks.none.into()),
        ),
        (
            "DCGM_FI_DEV_RETIRED_SBE",
            Counter,
            "Number of pages retired because of single-bit errors.",
            |v| to_f64(v.retired_pages.and_then(|pages| pages.single_bit)),
        ),
        (
            "DCGM_FI_DEV_RETIRED_DBE",
            Counter,
            "Number of pages retired because of double-bit errors.",
            |v| to_f64(v.retired_pages.and_then(|pages| pages.double_bit)),
        ),
        (
            "DCGM_FI_DEV_RETIRED_PENDING",
            Gauge,
            "Whether pages are pending retirement until the GPU is reset.",
            |v| v.retired_pages.and_then(|pages| pages.pending).map(flag),
        ),
        (
            "DCGM_FI_DEV_PERSISTENCE_MODE",
            Gauge,
            "Whether persistence mode is on. With nvidia-persistenced it can be off in containers.",
            |v| v.persistence_mode.map(flag),
        ),
        ("DCGM_FI_DEV_CC_MODE", Gauge, "Whether confidential computing is on.", |v| {
            v.confidential_compute.and_then(|state| state.enabled).map(flag)
        }),
        (
            "hm_agent_gpu_confidential_compute_ready",
            Gauge,
            "Whether the GPUs accept work in confidential computing.",
            |v| v.confidential_compute.and_then(|state| state.ready).map(flag),
        ),
        (
            "DCGM_FI_DEV_VGPU_LICENSE_STATUS",
            Gauge,
            "Whether the vGPU is licensed; 0 for GPUs that need no license.",
            |v| v.vgpu_licensed.map(flag),
        ),
    ]
};

fn violation(values: &Values, value: fn(Violations) -> Option<u64>) -> Option<f64> {
    to_f64(values.violations.and_then(value))
}

fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}

pub(super) fn encode(encoder: &mut Encoder, named: &[(String, &Gpu)]) {
    platform(encoder, named);
    slow_calls(encoder, named);
}

fn platform(encoder: &mut Encoder, named: &[(String, &Gpu)]) {
    encoder
        .gauge("hm_agent_gpu_platform_info", "Where in a rack the GPU is. The value is always 1.");
    for (of_gpu, gpu) in named {
        let Some(platform) = &gpu.values.platform else { continue };
        let number = |number: Option<u32>| number.map(|number| number.to_string());
        let (slot, tray) = (number(platform.slot), number(platform.tray));
        let (host, module) = (number(platform.host), number(platform.module));
        let peer_type = number(platform.peer_type);
        let position = labels(&[
            (
                "chassis_serial_number",
                platform.chassis_serial_number.as_deref().unwrap_or_default(),
            ),
            ("slot", slot.as_deref().unwrap_or_default()),
            ("tray", tray.as_deref().unwrap_or_default()),
            ("host", host.as_deref().unwrap_or_default()),
            ("peer_type", peer_type.as_deref().unwrap_or_default()),
            ("module", module.as_deref().unwrap_or_default()),
        ]);
        encoder.sample(&format!("{of_gpu},{position}"), 1u64);
    }
}

fn slow_calls(encoder: &mut Encoder, named: &[(String, &Gpu)]) {
    let slow = || {
        let each = named
            .iter()
            .filter_map(|(of_gpu, gpu)| Some((of_gpu, gpu.values.slow_calls.as_ref()?)));
        each.flat_map(|(of_gpu, calls)| calls.iter().map(move |call| (of_gpu, call)))
    };
    encoder.gauge(
        "hm_agent_gpu_slow_call_seconds",
        "How long the driver takes for calls that are made less often for this reason.",
    );
    for (of_gpu, call) in slow() {
        encoder.sample_with_label(of_gpu, ("calls", &call.calls), call.seconds);
    }
    encoder.gauge("hm_agent_gpu_slow_call_interval_seconds", "How often these calls are made.");
    for (of_gpu, call) in slow() {
        if let Some(interval) = call.interval_seconds {
            encoder.sample_with_label(of_gpu, ("calls", &call.calls), interval);
        }
    }
}
