//! A value that the GPU or the driver does not provide is absent, and all others are present.

use serde_json::{Value, json};

use crate::support::fake_nvml::{Driver, keys, values};

/// One case for each GPU: calls that fail, and values that are absent then.
const FAILING_CALLS: &[(&str, &[&str])] = &[
    ("nvmlDeviceGetUtilizationRates", &["memory_utilization_percent", "utilization_percent"]),
    ("nvmlDeviceGetEncoderUtilization", &["encoder_utilization_percent"]),
    ("nvmlDeviceGetDecoderUtilization", &["decoder_utilization_percent"]),
    ("nvmlDeviceGetTemperature", &["temperature_celsius"]),
    ("nvmlDeviceGetPowerUsage", &["power_watts"]),
    ("nvmlDeviceGetEnforcedPowerLimit", &[]), // falls back to another call
    ("nvmlDeviceGetEnforcedPowerLimit, nvmlDeviceGetPowerManagementLimit", &["power_limit_watts"]),
    ("nvmlDeviceGetTotalEnergyConsumption", &["energy_joules"]),
    ("nvmlDeviceGetClockInfo", &["memory_clock_mhz", "sm_clock_mhz"]),
    ("nvmlDeviceGetNumFans", &["fan_percent"]),
    ("nvmlDeviceGetFanSpeed_v2", &["fan_percent"]),
    ("nvmlDeviceGetPerformanceState", &["performance_state"]),
    ("nvmlDeviceGetCurrentClocksEventReasons", &[]), // falls back to another call
    (
        "nvmlDeviceGetCurrentClocksEventReasons, nvmlDeviceGetCurrentClocksThrottleReasons",
        &["clock_event_reasons"],
    ),
    (
        "nvmlDeviceGetFieldValues",
        &[
            "instant_power_watts",
            "memory_temperature_celsius",
            "pcie_errors",
            "recovery_action",
            "remapped_rows",
            "violations",
        ],
    ),
    ("nvmlDeviceGetMarginTemperature", &["thermal_margin_celsius"]),
    ("nvmlDeviceGetGpuFabricInfoV", &["fabric"]),
    ("nvmlDeviceGetRowRemapperHistogram", &["row_remap_banks"]),
    ("nvmlDeviceGetSramEccErrorStatus", &["sram_ecc"]),
    ("nvmlDeviceGetPersistenceMode", &["persistence_mode"]),
    ("nvmlDeviceGetGridLicensableFeatures_v4", &["vgpu_licensed"]),
    ("nvmlDeviceGetPlatformInfo", &["platform"]),
    ("nvmlGpmQueryDeviceSupport", &[]), // one sample has no profiling metrics
    ("nvmlDeviceGetTotalEccErrors", &["ecc"]),
    ("nvmlDeviceGetCurrPcieLinkGeneration", &["pcie_generation"]),
    ("nvmlDeviceGetCurrPcieLinkWidth", &["pcie_width"]),
    ("nvmlDeviceGetPcieReplayCounter", &["pcie_replays"]),
    ("nvmlDeviceGetNvLinkState", &["nvlink"]),
    ("nvmlDeviceGetMigMode", &["mig_enabled"]),
    ("nvmlDeviceGetComputeRunningProcesses_v2", &[]), // graphics processes remain
    ("nvmlDeviceGetGraphicsRunningProcesses_v2", &[]),
    (
        "nvmlDeviceGetComputeRunningProcesses_v2, nvmlDeviceGetGraphicsRunningProcesses_v2",
        &["processes"],
    ),
    ("nvmlDeviceGetMemoryInfo_v2", &["memory_reserved_bytes"]),
    (
        "nvmlDeviceGetMemoryInfo_v2, nvmlDeviceGetMemoryInfo",
        &["memory_free_bytes", "memory_reserved_bytes", "memory_total_bytes", "memory_used_bytes"],
    ),
    ("nvmlDeviceGetUUID", &["uuid"]),
    ("nvmlDeviceGetPciInfo_v3", &["pci_address"]),
    ("nvmlDeviceGetSupportedEventTypes", &[]),
    ("nvmlDeviceRegisterEvents", &[]),
];

/// The same for values in the script.
const UNAVAILABLE_VALUES: &[(&str, &[&str])] = &[
    ("temp_mem = none", &["memory_temperature_celsius"]),
    ("temp_mem = 0", &["memory_temperature_celsius"]), // some GPUs without the sensor report 0
    ("remapped_pending = none", &["remapped_rows"]),
    ("nvlinks = none", &["nvlink"]),
    ("ecc = 0", &["ecc"]),
    ("fans = 0", &["fan_percent"]),
    ("pstate = 32", &["performance_state"]), // NVML_PSTATE_UNKNOWN
    ("mig = none", &["mig_enabled"]),
    ("thermal_margin = none", &["thermal_margin_celsius"]),
    ("recovery_action = none", &["recovery_action"]),
    ("pcie_errors = none", &["pcie_errors"]),
    ("power_instant_mw = none", &["instant_power_watts"]),
    ("fabric_state = none", &["fabric"]),
    ("banks_none = none", &["row_remap_banks"]),
    ("sram_threshold = none", &["sram_ecc"]),
    ("persistence = none", &["persistence_mode"]),
    ("license = none", &["vgpu_licensed"]),
    ("platform = ", &["platform"]),
    (
        "memory_reserved = none",
        &["memory_free_bytes", "memory_reserved_bytes", "memory_total_bytes", "memory_used_bytes"],
    ),
];

#[test]
fn omits_exactly_the_values_that_are_unavailable() {
    let per_gpu = |rule: fn(usize, &str) -> String| {
        let cases = FAILING_CALLS.iter().enumerate();
        cases.map(move |(at, (calls, absent))| (rule(at, calls), *absent)).collect::<Vec<_>>()
    };
    let unsupported = per_gpu(|at, calls| format!("unsupported.{at} = {calls}"));
    let failing = per_gpu(|at, calls| {
        let codes: Vec<String> = calls.split(", ").map(|call| format!("{call}:999")).collect();
        format!("error.{at} = {}", codes.join(", "))
    });
    let unavailable = UNAVAILABLE_VALUES.iter().enumerate();
    let unavailable = unavailable.map(|(at, (line, absent))| (format!("gpu.{at}.{line}"), *absent));
    for cases in [unsupported, failing, unavailable.collect()] {
        let full = cases.len(); // the last GPU has all values
        let mut script = format!("gpus = {}\n", full + 1);
        for at in 0..=full {
            script += &format!("gpu.{at}.fan = 50\ngpu.{at}.mig = 0\n");
            script += &format!("gpu.{at}.processes = 4199999:1\ngpu.{at}.graphics = 4199998:1\n");
            script += &format!("gpu.{at}.platform = 1821325191344:3:12:1:2:5\n");
        }
        script.extend(cases.iter().map(|(line, _)| format!("{line}\n")));
        let sample = Driver::new(&script).sample(&[]);
        assert_no_null(&sample);
        let gpus = sample["usage_update"]["gpus"].as_array().unwrap();
        assert_eq!(gpus.len(), full + 1);
        let all = keys(&gpus[full]);
        assert_eq!(values(&gpus[full]).len(), 37, "{all:?}");
        for (gpu, (line, absent)) in gpus.iter().zip(&cases) {
            let mut expected = all.clone();
            expected.retain(|key| !absent.contains(key));
            assert_eq!(keys(gpu), expected, "{line}");
        }
    }
}

fn assert_no_null(value: &Value) {
    match value {
        Value::Null => panic!("a null"),
        Value::Array(values) => values.iter().for_each(assert_no_null),
        Value::Object(values) => values.values().for_each(assert_no_null),
        _ => {}
    }
}

#[test]
fn reads_values_of_a_2018_driver_with_older_calls() {
    let driver = Driver::old(
        "gpu.0.memory_used = 1000
         gpu.0.memory_reserved = 24
         gpu.0.fan = 31
         gpu.0.reasons = 8
         gpu.0.processes = 4199991:100, 4199992:none
         gpu.0.graphics = 4199993:300, 4199991:100
         gpu.0.nvlinks = 4
         gpu.0.nvlink_errors = 2
         xid = 1:0:31, 2:0:31",
    );
    let mut watched = driver.start(&[]);
    let update = watched.complete_update();
    assert_eq!(
        update["nvidia"],
        json!({"state": "ok", "driver_version": "390.157", "cuda_version": "9.1"})
    );
    let gpu = &update["gpus"][0];
    assert_eq!(gpu["name"], "Tesla V100-SXM2-32GB");
    assert_eq!(gpu["memory_used_bytes"], 1024, "includes memory reserved by the driver");
    assert_eq!(gpu["memory_free_bytes"], (32480u64 << 20) - 1024);
    assert_eq!(gpu["fan_percent"], 31);
    assert_eq!(gpu["clock_event_reasons"], json!(["hw_slowdown"]));
    assert_eq!(gpu["nvlink"]["links_up"], 4);
    assert_eq!(gpu["nvlink"]["links_down"], 2);
    assert_eq!(gpu["nvlink"]["replay_errors"], 8);
    assert_eq!(
        gpu["processes"],
        json!([
            {"pid": 4199991, "kind": "compute_and_graphics", "memory_used_bytes": 100},
            {"pid": 4199992, "kind": "compute"},
            {"pid": 4199993, "kind": "graphics", "memory_used_bytes": 300},
        ])
    );
    for key in ["memory_reserved_bytes", "mig_enabled", "mig_instances", "remapped_rows"] {
        assert!(gpu[key].is_null(), "{key} in {gpu:#}");
    }
    assert_eq!((&gpu["xids"][0]["code"], &gpu["xids"][0]["count"]), (&json!(31), &json!(2)));
    watched.stop();
}

#[test]
fn falls_back_to_older_calls_if_unsupported() {
    let driver = Driver::new(
        "gpu.0.nvlink_errors = 2
         gpu.0.reasons = 1
         gpu.0.memory_used = 1000
         gpu.0.memory_reserved = 24
         unsupported = nvmlDeviceGetFieldValues, nvmlDeviceGetMemoryInfo_v2, nvmlDeviceGetEnforcedPowerLimit,\
           nvmlDeviceGetCurrentClocksEventReasons",
    );
    let gpu = driver.sample(&[])["usage_update"]["gpus"][0].clone();
    assert_eq!(gpu["nvlink"]["crc_flit_errors"], 36, "sum over the links");
    assert_eq!(gpu["clock_event_reasons"], json!(["gpu_idle"]));
    assert_eq!(gpu["memory_used_bytes"], 1024, "includes memory reserved by the driver");
    assert_eq!(gpu["power_limit_watts"], 700.0);
}
