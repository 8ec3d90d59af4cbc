//! What a GPU or its driver does not offer is absent: one thing after the other, and nothing else with it.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};

use support::fake_nvml::{Driver, keys, values};

/// What a driver does not have, one thing for each GPU: the calls that it refuses, and what is absent then.
const REFUSALS: &[(&str, &[&str])] = &[
    ("nvmlDeviceGetUtilizationRates", &["memory_utilization_percent", "utilization_percent"]),
    ("nvmlDeviceGetEncoderUtilization", &["encoder_utilization_percent"]),
    ("nvmlDeviceGetDecoderUtilization", &["decoder_utilization_percent"]),
    ("nvmlDeviceGetTemperature", &["temperature_celsius"]),
    ("nvmlDeviceGetPowerUsage", &["power_watts"]),
    ("nvmlDeviceGetEnforcedPowerLimit", &[]), // there is another call
    ("nvmlDeviceGetEnforcedPowerLimit, nvmlDeviceGetPowerManagementLimit", &["power_limit_watts"]),
    ("nvmlDeviceGetTotalEnergyConsumption", &["energy_joules"]),
    ("nvmlDeviceGetClockInfo", &["memory_clock_mhz", "sm_clock_mhz"]),
    ("nvmlDeviceGetNumFans", &["fan_percent"]),
    ("nvmlDeviceGetFanSpeed_v2", &["fan_percent"]),
    ("nvmlDeviceGetPerformanceState", &["performance_state"]),
    ("nvmlDeviceGetCurrentClocksEventReasons", &[]), // there is another call
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
    ("nvmlDeviceGetComputeRunningProcesses_v2", &[]), // those that draw are left
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

/// The same for values of the script.
const NOTHINGS: &[(&str, &[&str])] = &[
    ("temp_mem = none", &["memory_temperature_celsius"]),
    ("temp_mem = 0", &["memory_temperature_celsius"]), // what a GPU without the sensor says, too
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
fn what_a_driver_does_not_offer_is_absent_and_nothing_else() {
    let refuse = |rule: fn(usize, &str) -> String| {
        let cases = REFUSALS.iter().enumerate();
        cases.map(move |(at, (calls, absent))| (rule(at, calls), *absent)).collect::<Vec<_>>()
    };
    let unsupported = refuse(|at, calls| format!("unsupported.{at} = {calls}"));
    let failing = refuse(|at, calls| {
        let codes: Vec<String> = calls.split(", ").map(|call| format!("{call}:999")).collect();
        format!("error.{at} = {}", codes.join(", "))
    });
    let nothings = NOTHINGS.iter().enumerate();
    let nothings = nothings.map(|(at, (line, absent))| (format!("gpu.{at}.{line}"), *absent));
    for cases in [unsupported, failing, nothings.collect()] {
        let full = cases.len(); // the last one lacks nothing
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
fn a_call_that_is_not_supported_has_the_value_of_the_older_one() {
    let driver = Driver::new(
        "gpu.0.nvlink_errors = 2
         gpu.0.reasons = 1
         gpu.0.memory_used = 1000
         gpu.0.memory_reserved = 24
         unsupported = nvmlDeviceGetFieldValues, nvmlDeviceGetMemoryInfo_v2, nvmlDeviceGetEnforcedPowerLimit,\
           nvmlDeviceGetCurrentClocksEventReasons",
    );
    let gpu = driver.sample(&[])["usage_update"]["gpus"][0].clone();
    assert_eq!(gpu["nvlink"]["crc_flit_errors"], 36, "one link after the other");
    assert_eq!(gpu["clock_event_reasons"], json!(["gpu_idle"]));
    assert_eq!(gpu["memory_used_bytes"], 1024, "what the driver keeps is in it");
    assert_eq!(gpu["power_limit_watts"], 700.0);
}
