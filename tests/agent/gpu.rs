//! NVIDIA GPUs as a /usage client sees them: the real agent and probe with a scripted driver.
//!
//! Absent values are tested in `gpu_absent.rs`, hanging and failing drivers in `gpu_hangs.rs` and `gpu_faults.rs`, XIDs in
//! `gpu_errors.rs`, profiling metrics in `gpu_profiling.rs`, `/metrics` in `gpu_dcgm.rs`, the probe process in `gpu_probe.rs`, `gpu_held.rs` and `gpu_noexec.rs`.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::fake_nvml::{Driver, FULL_GPU, assert_no_values, keys, state, values};
use hm_agent::model::gpu::Values;
use hm_agent::procfs::container;

#[test]
fn reports_zero_one_and_eight_gpus() {
    for count in [0, 1, 8] {
        let driver = Driver::new(&format!("gpus = {count}"));
        let mut watched = driver.start(&[]);
        let update = watched.complete_update();
        assert_eq!(
            update["nvidia"],
            json!({"state": "ok", "driver_version": "550.54.14", "cuda_version": "12.4"})
        );
        let expected: Vec<Value> = (0..count)
            .map(|index| json!({"index": index, "name": "NVIDIA H100 80GB HBM3", "memory_mb": 81559}))
            .collect();
        assert_eq!(watched.info["gpu_count"], count);
        assert_eq!(watched.info["gpus"], json!(expected));
        let gpus = update["gpus"].as_array().unwrap();
        assert_eq!(gpus.len(), count);
        for (number, gpu) in gpus.iter().enumerate() {
            assert_eq!(gpu["index"], number);
            assert_eq!(gpu["temperature_celsius"], 40 + 3 * number);
            assert_eq!(gpu["pci_address"], format!("0000:1{number}:00.0"));
        }
        match count {
            0 => assert_no_values(&update),
            _ => assert_eq!(update["gpu_percent"], 20),
        }
        watched.stop();
    }
}

#[test]
fn first_client_gets_gpus_and_values_at_once() {
    let driver = Driver::new("gpus = 2");
    let watched = driver.start(&["interval=3600"]);
    assert_eq!(watched.info["gpu_count"], 2);
    let mut client = watched.agent.connect();
    client.send_text("subscribe:usage");
    client.json();
    assert_eq!(client.json()["gpus"][1]["memory_mb"], 81559);
    let update = client.json();
    assert_eq!((&update["gpu_percent"], &update["gpu_mem_used_mb"]), (&json!(20), &json!(1024)));
    assert_eq!(update["gpu_mem_total_mb"], 81559);
    assert!(
        update["gpus"].is_null() && update["nvidia"].is_null(),
        "only subscribe:detail has GPUs: {update:#}"
    );
    watched.stop();
}

#[test]
fn reports_every_value_of_a_gpu() {
    let own = std::process::id();
    let name = std::fs::read_to_string(format!("/proc/{own}/comm")).unwrap();
    let processes = format!("gpu.0.processes = {own}:1000001, 4199999:2000002, 4199998:none");
    let graphics = format!("gpu.0.graphics = 4199999:2000002, 4199997:7, {own}:1000001");
    let driver = Driver::new(&format!("{FULL_GPU}\n{processes}\n{graphics}"));
    let mut owned = json!({"pid": own, "name": name.trim(), "kind": "compute_and_graphics", "memory_used_bytes": 1000001});
    let container = container::parse(&std::fs::read("/proc/self/cgroup").unwrap());
    let own = [
        ("user", Some(effective_user())),
        ("container_id", container.container_id),
        ("pod_uid", container.pod_uid),
    ];
    for (key, value) in own {
        if let Some(value) = value {
            owned[key] = json!(value);
        }
    }
    let sample = driver.sample(&[]);
    let gpu = &sample["usage_update"]["gpus"][0];
    let mut expected = json!({
        "index": 0,
        "vendor": "nvidia",
        "name": "NVIDIA Full \u{2122}",
        "uuid": "GPU-8f6d2a10-0000-4000-8000-00000000abcd",
        "pci_address": "10000:c1:1f.0",
        "memory_total_bytes": 80000000001u64,
        "memory_used_bytes": 30000000002u64,
        "memory_free_bytes": 49000000003u64,
        "memory_reserved_bytes": 600000004,
        "utilization_percent": 81,
        "memory_utilization_percent": 42,
        "encoder_utilization_percent": 13,
        "decoder_utilization_percent": 14,
        "temperature_celsius": 71,
        "memory_temperature_celsius": 92,
        "power_watts": 287.5,
        "power_limit_watts": 650.25,
        "energy_joules": 123456789.5,
        "sm_clock_mhz": 1755,
        "memory_clock_mhz": 2619,
        "fan_percent": 66,
        "performance_state": 2,
        "clock_event_reasons": ["sw_power_cap", "hw_thermal_slowdown", "bit_12"],
        "ecc": {
            "volatile_corrected": 101,
            "volatile_uncorrected": 102,
            "aggregate_corrected": 5000000103u64,
            "aggregate_uncorrected": 104,
        },
        "remapped_rows": {"correctable": 5, "uncorrectable": 6, "pending": true, "failed": false},
        "pcie_generation": 4,
        "pcie_width": 8,
        "pcie_replays": 77,
        "nvlink": {
            "links_up": 12,
            "links_down": 6,
            "replay_errors": 36,
            "recovery_errors": 36,
            "crc_flit_errors": 36,
            "crc_data_errors": 36,
            "bytes_per_second": 0,
        },
        "mig_enabled": false,
        "processes": [
            owned,
            {"pid": 4199999, "kind": "compute_and_graphics", "memory_used_bytes": 2000002},
            {"pid": 4199998, "kind": "compute"},
            {"pid": 4199997, "kind": "graphics", "memory_used_bytes": 7},
        ],
    });
    let more = dispensable_values_of_full_gpu();
    expected.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&gpu[key], value, "{key}");
    }
    assert_eq!(keys(gpu), keys(&expected));
    // All but the MIG instances, slow calls, and what only AMD GPUs have: four parts of an APU's memory and three others. If this
    // fails, a value was added that is not tested here.
    let fields = format!("{:?}", Values::default()).matches(": None").count();
    assert_eq!(values(gpu).len() + 1 + 1 + 4 + 3, fields);
}

/// What few GPUs have.
fn dispensable_values_of_full_gpu() -> Value {
    json!({
        "instant_power_watts": 301.25,
        "module_power_watts": 512.5,
        "thermal_margin_celsius": -3,
        "recovery_action": "drain_and_reset",
        "violations": {
            "power_nanoseconds": 5000000001u64,
            "thermal_nanoseconds": 2,
            "sync_boost_nanoseconds": 3,
            "board_limit_nanoseconds": 4,
            "low_utilization_nanoseconds": 5,
            "reliability_nanoseconds": 6,
            "application_clocks_nanoseconds": 7,
            "base_clocks_nanoseconds": 8,
            "software_thermal_nanoseconds": 9,
            "hardware_thermal_nanoseconds": 10,
            "hardware_power_brake_nanoseconds": 11,
        },
        "retired_pages": {"single_bit": 21, "double_bit": 22, "pending": true},
        "row_remap_banks": {"max": 630, "high": 5, "partial": 3, "low": 2, "none": 1},
        "sram_ecc": {
            "volatile_corrected": 31,
            "volatile_uncorrected": 33,
            "aggregate_corrected": 41,
            "aggregate_uncorrected": 43,
            "threshold_exceeded": true,
        },
        "pcie_errors": {
            "correctable": 40,
            "naks_received": 41,
            "receiver": 42,
            "bad_tlp": 43,
            "naks_sent": 44,
            "bad_dllp": 45,
            "non_fatal": 46,
            "fatal": 47,
            "unsupported_requests": 48,
            "lcrc": 49,
        },
        "nvlink_counters": {
            "transmitted_packets": 12000,
            "transmitted_bytes": 12012,
            "received_packets": 12024,
            "received_bytes": 12036,
            "malformed_packets": 12060,
            "buffer_overruns": 12072,
            "receive_errors": 12084,
            "remote_errors": 12096,
            "general_errors": 12108,
            "integrity_errors": 12120,
            "transmit_discards": 12132,
            "recoveries_successful": 12144,
            "recoveries_failed": 12156,
            "recoveries": 12168,
            "effective_errors": 12216,
            "symbol_errors": 12240,
            "effective_bit_error_ratio": 7e-12,
            "symbol_bit_error_ratio": 7e-12,
        },
        "c2c": {
            "links": 2,
            "links_active": 2,
            "max_bytes_per_second": 44_712_000_000u64,
            "interrupt_errors": 34,
            "replay_errors": 36,
            "back_to_back_replay_errors": 38,
        },
        "profiling": {"sm_active_ratio": 0.405, "pcie_received_bytes_per_second": 3_145_728.0},
        "fabric": {
            "state": "completed",
            "cluster_uuid": "a0a1a2a3-a4a5-a6a7-a8a9-aaabacadaeaf",
            "clique_id": 7,
            "health": "unhealthy",
            "health_mask": 0x2499,
            "bandwidth_degraded": true,
            "route_recovering": false,
            "route_unhealthy": true,
            "access_timeout_recovering": false,
            "configuration": "no_partition",
            "partition_assigned": false,
        },
        "persistence_mode": false,
        "confidential_compute": {"enabled": true, "ready": false},
        "vgpu_licensed": true,
        "platform": {
            "chassis_serial_number": "1821325191344",
            "slot": 3,
            "tray": 12,
            "host": 1,
            "peer_type": 2,
            "module": 5,
        },
        "last_5_minutes": {
            "xids": [],
            "clock_events": [
                {"reason": "sw_power_cap", "samples": 2},
                {"reason": "hw_thermal_slowdown", "samples": 2},
            ],
        }
    })
}

/// Name of the user that runs the tests, or its ID.
fn effective_user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    let output = if output.status.success() {
        output
    } else {
        Command::new("id").arg("-u").output().unwrap()
    };
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn reports_mig_instances_and_their_processes() {
    let driver = Driver::new(
        "gpus = 2
         gpu.0.mig = 1
         gpu.0.mig_instances = 2
         gpu.0.memory_total = 70000000000
         gpu.0.memory_used = 7000000000
         gpu.0.processes = 4199991:100, 4199992:200, 4199993:300
         gpu.1.mig = 1",
    );
    let mut watched = driver.start(&[]);
    let update = watched.complete_update();
    let [gpu, empty] = [0, 1].map(|index| &update["gpus"][index]);
    assert_eq!((&gpu["mig_enabled"], &empty["mig_enabled"]), (&json!(true), &json!(true)));
    assert_eq!(empty["mig_instances"], json!([]));
    let instance = |index: u32| {
        json!({
            "index": index,
            "name": "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
            "uuid": format!("MIG-{index}a4e0000-fa4e-4fa4-8fa4-000000000000"),
            "gpu_instance": 7 + index,
            "compute_instance": 0,
            "memory_total_bytes": 10000000000u64,
            "memory_used_bytes": 1000000000,
        })
    };
    assert_eq!(gpu["mig_instances"], json!([instance(0), instance(1)]));
    let process = |pid: u32, bytes: u64, instance: u32| json!({"pid": pid, "kind": "compute", "memory_used_bytes": bytes, "gpu_instance": instance});
    let processes =
        json!([process(4199991, 100, 7), process(4199992, 200, 8), process(4199993, 300, 7)]);
    assert_eq!(gpu["processes"], processes);
    // In MIG mode NVML reports no utilization.
    assert!(update["gpu_percent"].is_null() && gpu["utilization_percent"].is_null());
    assert_eq!(update["gpu_mem_total_mb"], 66757);
    // The mode is changed while the agent runs.
    driver.set_script(
        "gpus = 2
         gpu.0.mig = 1
         gpu.0.mig_instances = 1
         gpu.0.processes = 4199991:100
         gpu.1.mig = 0",
    );
    watched.until("MIG mode switched off", |update| {
        (update["gpus"][1]["mig_enabled"] == json!(false)).then(|| {
            assert!(update["gpus"][1]["mig_instances"].is_null());
            assert_eq!(update["gpus"][0]["mig_instances"].as_array().unwrap().len(), 1);
        })
    });
    watched.stop();
}

#[test]
fn primary_gpu_is_an_index_or_the_aggregate() {
    let driver = Driver::new(
        "gpus = 3
         gpu.0.util_gpu = 10
         gpu.1.util_gpu = 21
         gpu.2.util_gpu = none
         gpu.0.memory_used = 1048576
         gpu.1.memory_used = 3145728
         gpu.2.memory_used = 5242880",
    );
    let primary = |setting: &str| {
        let update = &driver.sample(&[setting])["usage_update"];
        assert_eq!(state(update), "ok");
        let fields = ["gpu_percent", "gpu_mem_used_mb", "gpu_mem_total_mb"];
        fields.map(|field| update[field].as_u64())
    };
    assert_eq!(primary("gpu.primary=0"), [Some(10), Some(1), Some(81559)]);
    assert_eq!(primary("gpu.primary=1"), [Some(21), Some(3), Some(81559)]);
    assert_eq!(primary("gpu.primary=2"), [None, Some(5), Some(81559)]);
    assert_eq!(primary("gpu.primary=7"), [None; 3]);
    assert_eq!(primary("gpu.primary=aggregate"), [Some(16), Some(9), Some(3 * 81559)]);
}

#[test]
fn sample_command_prints_table_of_gpus() {
    let own = std::process::id();
    let driver = Driver::new(&format!("gpus = 2\nlost = 1\ngpu.0.processes = {own}:1048576"));
    let output = driver.command(&["sample"], &[]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |wanted: &str| {
        let found = text.lines().find(|line| line.contains(wanted));
        found.unwrap_or_else(|| panic!("no {wanted:?} in {text}"))
    };
    assert!(line("nvidia ").ends_with("driver 550.54.14, CUDA 12.4"), "{text}");
    for cell in ["0  NVIDIA H100 80GB HBM3", "20 %", "1.0 GiB of 79.6 GiB", "150 of 700 W", "P0"] {
        assert!(line("HBM3").contains(cell), "no {cell:?} in {text}");
    }
    let process = line("1.0 MiB");
    assert!(process.ends_with(&format!(" ({own})")), "{text}");
    assert!(process.contains(&effective_user()), "{text}");
    line("LOST: fell off the bus");
}

#[test]
fn reports_thousands_of_gpu_processes() {
    let mut script = "gpus = 8\n".to_owned();
    for gpu in 0..8 {
        let processes: Vec<String> = (0..2000)
            .map(|number| format!("{}:{}", 4190000 + number, gpu + (number << 20)))
            .collect();
        script += &format!("gpu.{gpu}.processes = {}\n", processes.join(","));
    }
    let driver = Driver::new(&script);
    let update = driver.sample(&[])["usage_update"].clone();
    assert_eq!(state(&update), "ok", "{}", update["nvidia"]);
    for gpu in 0..8 {
        let processes = update["gpus"][gpu]["processes"].as_array().unwrap();
        assert_eq!(processes.len(), 2000);
        assert_eq!(processes[1999]["memory_used_bytes"], gpu + (1999 << 20));
    }
}
