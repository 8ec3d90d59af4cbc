//! NVIDIA GPUs on `/metrics` under DCGM's names and units: the real agent and probe with a scripted driver.

use std::time::Duration;

use crate::support::fake_nvml::{Driver, FULL_GPU, Watched};
use crate::support::wait_until;

/// Percentages, and MiB/s from 20 on.
const METRICS: &str = "1:50, 2:40.5, 3:30, 4:4, 5:55, 6:6, 7:7, 9:9, 10:10, 11:11, 12:12, 13:13, 20:2, 21:3, 30:31, 31:32, \
     40:41, 50:51, 60:60, 61:61";

/// Series of `FULL_GPU` with the metrics above.
const EXPECTED: &[(&str, f64)] = &[
    ("DCGM_FI_DEV_POWER_USAGE", 287.5),
    ("DCGM_FI_DEV_POWER_USAGE_INSTANT", 301.25),
    ("hm_agent_gpu_module_power_watts", 512.5),
    ("DCGM_FI_DEV_GPU_TEMP_LIMIT", -3.0),
    ("DCGM_FI_DEV_GET_GPU_RECOVERY_ACTION", 4.0),
    ("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", 68.0),
    ("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", 68.0),
    ("DCGM_FI_DEV_POWER_VIOLATION", 5_000_000_001.0),
    ("DCGM_FI_DEV_THERMAL_VIOLATION", 2.0),
    ("DCGM_FI_DEV_SYNC_BOOST_VIOLATION", 3.0),
    ("DCGM_FI_DEV_BOARD_LIMIT_VIOLATION", 4.0),
    ("DCGM_FI_DEV_LOW_UTIL_VIOLATION", 5.0),
    ("DCGM_FI_DEV_RELIABILITY_VIOLATION", 6.0),
    ("DCGM_FI_DEV_TOTAL_APP_CLOCKS_VIOLATION", 7.0),
    ("DCGM_FI_DEV_TOTAL_BASE_CLOCKS_VIOLATION", 8.0),
    ("DCGM_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP_NS", 5_000_000_001.0),
    ("DCGM_FI_DEV_CLOCKS_EVENT_REASON_SYNC_BOOST_NS", 3.0),
    ("DCGM_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN_NS", 9.0),
    ("DCGM_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN_NS", 10.0),
    ("DCGM_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN_NS", 11.0),
    ("DCGM_FI_DEV_RETIRED_SBE", 21.0),
    ("DCGM_FI_DEV_RETIRED_DBE", 22.0),
    ("DCGM_FI_DEV_RETIRED_PENDING", 1.0),
    ("DCGM_FI_DEV_BANKS_REMAP_ROWS_AVAIL_MAX", 630.0),
    ("DCGM_FI_DEV_BANKS_REMAP_ROWS_AVAIL_HIGH", 5.0),
    ("DCGM_FI_DEV_BANKS_REMAP_ROWS_AVAIL_PARTIAL", 3.0),
    ("DCGM_FI_DEV_BANKS_REMAP_ROWS_AVAIL_LOW", 2.0),
    ("DCGM_FI_DEV_BANKS_REMAP_ROWS_AVAIL_NONE", 1.0),
    ("DCGM_FI_DEV_ECC_SBE_VOL_SRM", 31.0),
    ("DCGM_FI_DEV_ECC_DBE_VOL_SRM", 33.0),
    ("DCGM_FI_DEV_ECC_SBE_AGG_SRM", 41.0),
    ("DCGM_FI_DEV_ECC_DBE_AGG_SRM", 43.0),
    ("DCGM_FI_DEV_THRESHOLD_SRM", 1.0),
    ("DCGM_FI_DEV_PCIE_COUNT_CORRECTABLE_ERRORS", 40.0),
    ("DCGM_FI_DEV_NVLINK_COUNT_TX_PACKETS", 12000.0),
    ("DCGM_FI_DEV_NVLINK_COUNT_TX_BYTES", 12012.0),
    ("DCGM_FI_DEV_NVLINK_COUNT_RX_PACKETS", 12024.0),
    ("DCGM_FI_DEV_NVLINK_COUNT_RX_BYTES", 12036.0),
    ("DCGM_FI_DEV_NVLINK_COUNT_RX_MALFORMED_PACKET_ERRORS", 12060.0),
    ("DCGM_FI_DEV_NVLINK_COUNT_RX_BUFFER_OVERRUN_ERRORS", 12072.0),
    ("DCGM_FI_DEV_NVLINK_COUNT_RX_ERRORS", 12084.0),
    ("DCGM_FI_DEV_NVLINK_COUNT_RX_REMOTE_ERRORS", 12096.0),
    ("DCGM_FI_DEV_NVLINK_COUNT_RX_GENERAL_ERRORS", 12108.0),
    ("DCGM_FI_DEV_NVLINK_COUNT_LOCAL_LINK_INTEGRITY_ERRORS", 12120.0),
    ("DCGM_FI_DEV_NVLINK_COUNT_TX_DISCARDS", 12132.0),
    ("DCGM_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_SUCCESSFUL_EVENTS", 12144.0),
    ("DCGM_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_FAILED_EVENTS", 12156.0),
    ("DCGM_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_EVENTS", 12168.0),
    ("DCGM_FI_DEV_NVLINK_COUNT_EFFECTIVE_ERRORS", 12216.0),
    ("DCGM_FI_DEV_NVLINK_COUNT_RX_SYMBOL_ERRORS", 12240.0),
    ("DCGM_FI_DEV_NVLINK_COUNT_EFFECTIVE_BER_FLOAT", 7e-12),
    ("DCGM_FI_DEV_NVLINK_COUNT_SYMBOL_BER_FLOAT", 7e-12),
    ("DCGM_FI_DEV_FABRIC_MANAGER_STATUS", 3.0),
    ("DCGM_FI_DEV_FABRIC_MANAGER_ERROR_CODE", 0.0),
    ("DCGM_FI_DEV_FABRIC_CLIQUE_ID", 7.0),
    ("DCGM_FI_DEV_FABRIC_HEALTH_MASK", 9369.0),
    ("DCGM_FI_DEV_FABRIC_HEALTH_SUMMARY", 2.0),
    ("DCGM_FI_DEV_C2C_LINK_COUNT", 2.0),
    ("hm_agent_gpu_c2c_links_active", 2.0),
    ("DCGM_FI_DEV_C2C_MAX_BANDWIDTH", 44712.0),
    ("DCGM_FI_DEV_C2C_LINK_ERROR_INTR", 34.0),
    ("DCGM_FI_DEV_C2C_LINK_ERROR_REPLAY", 36.0),
    ("DCGM_FI_DEV_C2C_LINK_ERROR_REPLAY_B2B", 38.0),
    ("DCGM_FI_DEV_PERSISTENCE_MODE", 0.0),
    ("DCGM_FI_DEV_VGPU_LICENSE_STATUS", 1.0),
    ("DCGM_FI_PROF_GR_ENGINE_ACTIVE", 0.5),
    ("DCGM_FI_PROF_SM_ACTIVE", 0.405),
    ("DCGM_FI_PROF_SM_OCCUPANCY", 0.3),
    ("DCGM_FI_PROF_PIPE_INT_ACTIVE", 0.04),
    ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", 0.55),
    ("DCGM_FI_PROF_PIPE_TENSOR_DFMA_ACTIVE", 0.06),
    ("DCGM_FI_PROF_PIPE_TENSOR_HMMA_ACTIVE", 0.07),
    ("DCGM_FI_PROF_PIPE_TENSOR_IMMA_ACTIVE", 0.09),
    ("DCGM_FI_PROF_DRAM_ACTIVE", 0.1),
    ("DCGM_FI_PROF_PIPE_FP64_ACTIVE", 0.11),
    ("DCGM_FI_PROF_PIPE_FP32_ACTIVE", 0.12),
    ("DCGM_FI_PROF_PIPE_FP16_ACTIVE", 0.13),
    ("DCGM_FI_PROF_PCIE_TX_BYTES", 2_097_152.0),
    ("DCGM_FI_PROF_PCIE_RX_BYTES", 3_145_728.0),
    ("DCGM_FI_PROF_NVLINK_RX_BYTES", 62_914_560.0),
    ("DCGM_FI_PROF_NVLINK_TX_BYTES", 63_963_136.0),
    ("DCGM_FI_PROF_NVDEC0_ACTIVE", 0.31),
    ("DCGM_FI_PROF_NVDEC1_ACTIVE", 0.32),
    ("DCGM_FI_PROF_NVJPG0_ACTIVE", 0.41),
    ("DCGM_FI_PROF_NVOFA0_ACTIVE", 0.51),
];

/// Of the driver: it has them for all GPUs or for none.
const OF_DRIVER: &[(&str, f64)] =
    &[("DCGM_FI_DEV_CC_MODE", 1.0), ("hm_agent_gpu_confidential_compute_ready", 0.0)];

/// What a GPU without these values does not support.
const NOTHING: &str = "power_mw power_instant_mw thermal_margin recovery_action reasons throttle_power_ns throttle_thermal_ns \
     throttle_sync_ns throttle_board_ns throttle_low_util_ns throttle_reliability_ns throttle_app_clocks_ns \
     throttle_base_clocks_ns throttle_sw_thermal_ns throttle_hw_thermal_ns throttle_hw_brake_ns banks_max sram_corrected \
     pcie_errors fabric_state persistence license gpm c2c_links nvlinks";

fn metrics(watched: &Watched) -> String {
    watched.agent.http("/metrics", "Connection: close\r\n").1
}

/// Value of the only series of the GPU that has these labels too.
fn value(text: &str, family: &str, gpu: usize, labels: &[&str]) -> Option<f64> {
    let start = format!("{family}{{gpu=\"{gpu}\",");
    let mut lines = text
        .lines()
        .filter(|line| line.starts_with(&start) && labels.iter().all(|label| line.contains(label)));
    let line = lines.next()?;
    assert_eq!(lines.next(), None, "two series of {family}");
    Some(line.rsplit(' ').next().unwrap().parse().unwrap())
}

#[test]
fn exposes_all_values_with_units_of_dcgm_and_nothing_unsupported() {
    let none: String = NOTHING.split(' ').map(|key| format!("gpu.1.{key} = none\n")).collect();
    let driver = Driver::new(&format!(
        "{FULL_GPU}\ngpus = 2\ngpu.0.gpm_metrics = {METRICS}\n{none}unsupported.1 = nvmlDeviceGetTotalEccErrors\n"
    ));
    let watched = driver.start(&[]);
    let text = wait_until("profiling metrics", || {
        Some(metrics(&watched)).filter(|text| text.contains("DCGM_FI_PROF_GR_ENGINE_ACTIVE{"))
    });
    for (family, expected) in EXPECTED {
        let found = value(&text, family, 0, &[]);
        let is_equal = found.is_some_and(|found| (found - expected).abs() <= 1e-9 * expected.abs());
        assert!(is_equal, "{family}: {found:?} instead of {expected}");
        assert_eq!(value(&text, family, 1, &[]), None, "{family} is not supported");
    }
    for (family, expected) in OF_DRIVER {
        assert_eq!(value(&text, family, 0, &[]), Some(*expected), "{family}");
    }
    let pcie = |kind: &str| value(&text, "hm_agent_gpu_pcie_errors_total", 0, &[kind]);
    assert_eq!((pcie("type=\"correctable\""), pcie("type=\"lcrc\"")), (Some(40.0), Some(49.0)));
    let cluster = "cluster_uuid=\"a0a1a2a3-a4a5-a6a7-a8a9-aaabacadaeaf\",clique_id=\"7\"";
    assert_eq!(value(&text, "hm_agent_gpu_fabric_info", 0, &[cluster]), Some(1.0));
    let place = "chassis_serial_number=\"1821325191344\",slot=\"3\",tray=\"12\",host=\"1\",peer_type=\"2\",module=\"5\"";
    assert_eq!(value(&text, "hm_agent_gpu_platform_info", 0, &[place]), Some(1.0));
    for family in ["pcie_errors_total", "fabric_info", "platform_info", "slow_call_seconds"] {
        let line = format!("hm_agent_gpu_{family}{{gpu=\"1\"");
        assert!(!text.contains(&line), "{family} is not supported");
    }
    watched.stop();
}

#[test]
fn nvlink_bandwidth_is_rate_of_both_directions() {
    let driver = Driver::new("gpus = 2\ngpu.0.nvlink_kib_per_s = 1000000\ngpu.1.nvlinks = none");
    let watched = driver.start(&[]);
    let family = "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL";
    let found = wait_until("a rate", || value(&metrics(&watched), family, 0, &[]));
    // 1 000 000 KiB/s sent and half of it received; DCGM divides KiB/s by 1000.
    assert!((1350.0..1650.0).contains(&found), "{found}");
    assert_eq!(value(&metrics(&watched), family, 1, &[]), None);
    watched.stop();
}

/// Driver 580.82 gave the IDs of these fields to others, which the fake returns as 7.
#[test]
fn reads_clock_event_durations_in_both_field_numberings() {
    for version in ["580.65.06", "580.82.07"] {
        let driver = Driver::new(&format!(
            "driver = {version}\ngpu.0.throttle_sw_thermal_ns = 91\ngpu.0.throttle_hw_brake_ns = 93"
        ));
        let sample = driver.sample(&[]);
        let violations = &sample["usage_update"]["gpus"][0]["violations"];
        assert_eq!(violations["software_thermal_nanoseconds"], 91, "{version}");
        assert_eq!(violations["hardware_thermal_nanoseconds"], 0, "{version}");
        assert_eq!(violations["hardware_power_brake_nanoseconds"], 93, "{version}");
    }
}

#[test]
fn reports_every_state_of_the_fabric() {
    let driver = Driver::new(
        "gpus = 5
         gpu.1.fabric_state = 1
         gpu.2.fabric_state = 2
         gpu.3.fabric_state = 3
         gpu.3.fabric_status = 999
         gpu.4.fabric_state = 3
         gpu.4.fabric_version = 2
         gpu.4.fabric_mask = 2
         gpu.4.fabric_summary = 1",
    );
    let watched = driver.start(&[]);
    let text = metrics(&watched);
    let status = |gpu| value(&text, "DCGM_FI_DEV_FABRIC_MANAGER_STATUS", gpu, &[]);
    let expected = [Some(0.0), Some(1.0), Some(2.0), Some(4.0), Some(3.0)];
    assert_eq!([0, 1, 2, 3, 4].map(status), expected);
    let error = |gpu| value(&text, "DCGM_FI_DEV_FABRIC_MANAGER_ERROR_CODE", gpu, &[]);
    assert_eq!([0, 1, 2, 3, 4].map(error), [None, None, None, Some(999.0), Some(0.0)]);
    // Version 2 of the call has no summary.
    assert_eq!(value(&text, "DCGM_FI_DEV_FABRIC_HEALTH_SUMMARY", 4, &[]), None);
    assert_eq!(value(&text, "DCGM_FI_DEV_FABRIC_HEALTH_MASK", 4, &[]), Some(2.0));
    watched.stop();
}

#[test]
fn counts_xids_and_clock_events_of_the_last_five_minutes() {
    let driver = Driver::new(
        "gpus = 3\nxid = 1:1:79, 2:1:79, 3:1:999\ngpu.1.reasons = 68\ngpu.2.reasons = none",
    );
    let mut watched = driver.start(&[]);
    watched.until("all errors", |update| {
        (update["gpus"][1]["xids"].as_array()?.len() == 2).then_some(())
    });
    let text = metrics(&watched);
    let window = "window_size_in_ms=\"300000\"";
    let xids = |gpu, label: &str| value(&text, "DCGM_EXP_XID_ERRORS_COUNT", gpu, &[window, label]);
    assert_eq!(xids(1, "xid=\"79\""), Some(2.0));
    assert_eq!(xids(1, "xid=\"999\""), Some(1.0));
    assert_eq!(xids(0, ""), Some(0.0), "a GPU without errors has a series");
    let family = "DCGM_EXP_CLOCK_EVENTS_COUNT";
    let events = |gpu, label: &str| value(&text, family, gpu, &[window, label]);
    assert!(events(1, "clock_event=\"power_cap\"").unwrap() >= 1.0);
    assert!(events(1, "clock_event=\"hw_thermal\"").unwrap() >= 1.0);
    assert_eq!((events(0, ""), events(2, "")), (Some(0.0), None));
    let last = |label: &str| value(&text, "DCGM_FI_DEV_XID_ERRORS", 1, &[label]);
    assert!(last("err_msg=\"").is_some(), "{text}");
    let none = "err_code=\"0\",err_msg=\"No Error\"";
    assert_eq!(value(&text, "DCGM_FI_DEV_XID_ERRORS", 0, &[none]), Some(0.0));
    watched.stop();
}

#[test]
fn labels_have_driver_version_and_configured_name_of_host() {
    let driver = Driver::new("");
    let version = "DCGM_FI_DRIVER_VERSION=\"550.54.14\"";
    for (setting, present, absent) in [
        ("gpu.hostname_label=Hostname", ",Hostname=\"", ",hostname=\""),
        ("gpu.hostname_label=hostname", ",hostname=\"", ",Hostname=\""),
    ] {
        let watched = driver.start(&[setting]);
        let text = metrics(&watched);
        let found = value(&text, "DCGM_FI_DEV_GPU_TEMP", 0, &[version, present]);
        assert_eq!(found, Some(40.0), "{setting}: {text}");
        assert!(!text.contains(absent), "{setting}: {text}");
        watched.stop();
    }
}

/// CPU time of all threads of the process.
fn cpu_time(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let nanoseconds = |task: std::io::Result<std::fs::DirEntry>| {
        let schedstat = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
        schedstat.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    Duration::from_nanos(tasks.map(nanoseconds).sum())
}

/// The time includes that of the fake library.
#[test]
fn probe_takes_little_cpu_time_for_eight_gpus_with_all_values() {
    let mut script = "gpus = 8\ncc = 1\ncc_ready = 1\n".to_owned();
    for gpu in 0..8 {
        let of_gpu = FULL_GPU.lines().filter(|line| line.starts_with("gpu.0"));
        let own = of_gpu.filter(|line| !line.contains(".pci ") && !line.contains(".uuid "));
        let own: String = own.map(|line| format!("{line}\n")).collect();
        script += &own.replace("gpu.0.", &format!("gpu.{gpu}."));
        script += &format!("gpu.{gpu}.gpm_metrics = {METRICS}\ngpu.{gpu}.nvlinks = 18\n");
    }
    let driver = Driver::new("");
    // Without a log of the calls.
    driver.scratch.write("script", &script);
    let mut watched = driver.start(&[]);
    watched.until("profiling metrics", |update| {
        update["gpus"][7]["profiling"].is_object().then_some(())
    });
    let probe = watched.probe();
    let before = cpu_time(probe);
    let samples = 5;
    for _ in 0..samples {
        watched.complete_update();
    }
    let cost = (cpu_time(probe) - before) / samples;
    println!("{cost:?} per sample");
    assert!(cost < Duration::from_millis(5), "{cost:?}");
    watched.stop();
}
