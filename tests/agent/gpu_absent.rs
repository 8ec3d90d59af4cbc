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
    ("nvmlDeviceGetFieldValues", &["memory_temperature_celsius", "remapped_rows"]),
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
        }
        script.extend(cases.iter().map(|(line, _)| format!("{line}\n")));
        let sample = Driver::new(&script).sample(&[]);
        assert_no_null(&sample);
        let gpus = sample["usage_update"]["gpus"].as_array().unwrap();
        assert_eq!(gpus.len(), full + 1);
        let all = keys(&gpus[full]);
        assert_eq!(values(&gpus[full]).len(), 26, "{all:?}");
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
