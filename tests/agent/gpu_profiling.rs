//! Profiling metrics by GPM, and other calls that the agent can do without: what happens when they are unsupported, slow,
//! hang or crash.

use serde_json::{Value, json};

use crate::support::fake_nvml::{Driver, Watched, kill, problems, state};
use crate::support::wait_until;

/// A busy GPU.
const BUSY: &str = "gpu.0.gpm_metrics = 1:50, 2:40, 3:30, 5:25, 10:10, 20:5\n";

/// Functions for values that the agent can do without. The probe calls them in a thread of its own.
pub const DISPENSABLE: [&str; 15] = [
    "nvmlGpmQueryDeviceSupport",
    "nvmlGpmSampleAlloc",
    "nvmlGpmSampleGet",
    "nvmlGpmMigSampleGet",
    "nvmlGpmMetricsGet",
    "nvmlGpmSampleFree",
    "nvmlDeviceGetGpuFabricInfoV",
    "nvmlDeviceGetRowRemapperHistogram",
    "nvmlDeviceGetSramEccErrorStatus",
    "nvmlDeviceGetMarginTemperature",
    "nvmlDeviceGetPersistenceMode",
    "nvmlSystemGetConfComputeState",
    "nvmlSystemGetConfComputeGpusReadyState",
    "nvmlDeviceGetGridLicensableFeatures_v4",
    "nvmlDeviceGetPlatformInfo",
];

fn profiling(update: &Value, gpu: usize) -> &Value {
    &update["gpus"][gpu]["profiling"]
}

fn calls(driver: &Driver, function: &str) -> usize {
    driver.calls().iter().filter(|call| call.0 == function).count()
}

fn until_profiling(watched: &mut Watched) -> Value {
    watched.until("profiling metrics", |update| {
        profiling(update, 0).is_object().then(|| update.clone())
    })
}

#[test]
fn older_gpus_and_drivers_have_no_profiling_metrics() {
    let driver = Driver::new(&format!("gpus = 2\n{BUSY}gpu.1.gpm = 0"));
    let mut watched = driver.start(&[]);
    let update = until_profiling(&mut watched);
    assert!(profiling(&update, 1).is_null(), "{update:#}");
    assert!(driver.calls().iter().all(|call| call.0 != "nvmlGpmSampleGet" || call.1 == "0"));
    watched.stop();
    let driver = Driver::old("");
    let mut watched = driver.start(&[]);
    for _ in 0..3 {
        let update = watched.complete_update();
        assert!(profiling(&update, 0).is_null(), "{update:#}");
    }
    watched.stop();
}

#[test]
fn metrics_are_those_of_the_interval_and_absent_without_value() {
    let driver = Driver::new(&format!("{BUSY}gpu.0.util_gpu = 20"));
    let mut watched = driver.start(&[]);
    let update = until_profiling(&mut watched);
    let expected = json!({
        "graphics_engine_ratio": 0.5,
        "sm_active_ratio": 0.4,
        "sm_occupancy_ratio": 0.3,
        "tensor_ratio": 0.25,
        "dram_ratio": 0.1,
        "pcie_transmitted_bytes_per_second": 5_242_880.0,
    });
    assert_eq!(profiling(&update, 0), &expected);
    driver.set_script("gpu.0.gpm_metrics = 1:0, 2:nan, 30:99\ngpu.0.util_gpu = 20");
    watched.until("other values", |update| {
        let expected = json!({"graphics_engine_ratio": 0.0, "nvdec_ratios": [0.99]});
        (profiling(update, 0) == &expected).then_some(())
    });
    watched.stop();
}

#[test]
fn reports_metrics_of_mig_instances() {
    let driver = Driver::new(
        "gpu.0.mig = 1
         gpu.0.mig_instances = 2
         gpu.0.gpm_metrics = 1:50, 20:5, 60:7",
    );
    let mut watched = driver.start(&[]);
    let update = watched.until("profiling metrics", |update| {
        update["gpus"][0]["mig_instances"][1]["profiling"].is_object().then(|| update.clone())
    });
    let expected = json!({"graphics_engine_ratio": 0.5});
    assert_eq!(
        update["gpus"][0]["mig_instances"][0]["profiling"], expected,
        "not those of the GPU"
    );
    assert!(profiling(&update, 0).is_null());
    let text = watched.agent.http("/metrics", "Connection: close\r\n").1;
    for id in [7, 8] {
        let label = format!("GPU_I_ID=\"{id}\",GPU_I_PROFILE=\"1g.10gb\"}} 0.5");
        let is_of_instance = |line: &str| {
            line.starts_with("DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu=\"0\"") && line.ends_with(&label)
        };
        assert!(text.lines().any(is_of_instance), "{text}");
    }
    watched.stop();
}

/// Counters of a GPU have been seen to stop. Its samples are taken anew.
#[test]
fn zeros_of_a_busy_gpu_are_left_out() {
    let zeros = "gpu.0.gpm_metrics = 1:0, 2:0, 3:0, 5:0, 10:0\n";
    let driver = Driver::new(&format!("{zeros}gpu.0.util_gpu = 90"));
    let mut watched = driver.start(&[]);
    for _ in 0..4 {
        let update = watched.complete_update();
        assert!(profiling(&update, 0).is_null(), "{update:#}");
    }
    driver.set_script(&format!("{zeros}gpu.0.util_gpu = 3"));
    let update = until_profiling(&mut watched);
    assert_eq!(profiling(&update, 0)["sm_active_ratio"], 0.0, "an idle GPU");
    driver.set_script(&format!("{BUSY}gpu.0.util_gpu = 90"));
    watched
        .until("values", |update| (profiling(update, 0)["sm_active_ratio"] == 0.4).then_some(()));
    watched.stop();
}

#[test]
fn frees_samples_before_the_probe_ends() {
    let driver = Driver::new(&format!("gpus = 2\n{BUSY}"));
    let mut watched = driver.start(&[]);
    until_profiling(&mut watched);
    watched.stop();
    let [allocated, freed] =
        ["nvmlGpmSampleAlloc", "nvmlGpmSampleFree"].map(|function| calls(&driver, function));
    assert!(allocated >= 4, "{allocated}");
    assert_eq!(freed, allocated);
    assert_eq!(calls(&driver, "nvmlGpmSetStreamingEnabled"), 0);
}

/// Only what that thread reads is absent.
#[test]
fn hang_in_dispensable_call_costs_no_other_value() {
    std::thread::scope(|scope| {
        for function in DISPENSABLE {
            scope.spawn(move || hang_in(function));
        }
    });
}

fn hang_in(function: &str) {
    let mig = match function {
        "nvmlGpmMigSampleGet" => "gpu.0.mig = 1\ngpu.0.mig_instances = 1\n",
        _ => "",
    };
    let script = format!("gpus = 2\ncc = 1\ncc_ready = 1\n{BUSY}{mig}hang = {function}");
    let driver = Driver::new(&script);
    let mut watched = driver.start(&["gpu.timeout=5"]);
    let update = watched.until(function, |update| {
        update["gpus"][1]["slow_calls"].is_array().then(|| update.clone())
    });
    assert_eq!((state(&update), problems(&update)), ("ok", vec!["fine", "fine"]), "{function}");
    assert_eq!(update["gpus"][1]["temperature_celsius"], 43, "{function}");
    assert_eq!(update["gpus"][1]["slow_calls"][0]["calls"], "profiling_and_health", "{function}");
    watched.agent.wait_log("they are not made until it returns");
    for _ in 0..2 {
        let update = watched.complete_update();
        assert_eq!(problems(&update), ["fine", "fine"], "{function}");
    }
    // Another probe is not affected.
    driver.set_script(&format!("gpus = 2\n{BUSY}"));
    kill(watched.probe());
    until_profiling(&mut watched);
    watched.stop();
}

#[test]
fn crash_in_dispensable_call_costs_no_other_value() {
    for function in ["nvmlGpmMetricsGet", "nvmlDeviceGetPlatformInfo"] {
        let driver = Driver::new(&format!("gpus = 2\n{BUSY}crash = {function}"));
        let mut watched = driver.start(&[]);
        watched.agent.wait_log("states that need newer calls are left out for an hour");
        watched.received();
        watched.until_state("ok");
        for _ in 0..3 {
            let update = watched.complete_update();
            assert_eq!((state(&update), problems(&update)), ("ok", vec!["fine", "fine"]));
            assert_eq!(update["gpus"][1]["temperature_celsius"], 43, "{function}");
            assert!(profiling(&update, 0).is_null() && update["gpus"][0]["fabric"].is_null());
        }
        watched.stop();
    }
}

#[test]
fn slow_calls_are_made_less_often_and_reported() {
    let driver = Driver::new(&format!(
        "{BUSY}slow = nvmlDeviceGetFieldValues:60, nvmlGpmSampleGet:40\ngpu.0.recovery_action = 2"
    ));
    let mut watched = driver.start(&[]);
    let slow = watched.until("slow calls", |update| {
        let slow = update["gpus"][0]["slow_calls"].as_array()?.clone();
        (slow.len() == 2).then_some(slow)
    });
    for (call, (name, milliseconds)) in slow.iter().zip([("fields", 60.0), ("profiling", 40.0)]) {
        assert_eq!(call["calls"], name);
        assert!(call["seconds"].as_f64().unwrap() >= milliseconds / 1000.0, "{call}");
        let interval = call["interval_seconds"].as_f64().unwrap();
        assert!((interval - 100.0 * call["seconds"].as_f64().unwrap()).abs() < 0.001, "{call}");
    }
    watched.agent.wait_log("s for calls of the group fields, they are made every");
    driver.clear_calls();
    for _ in 0..3 {
        let update = watched.complete_update();
        let gpu = &update["gpus"][0];
        assert_eq!(gpu["recovery_action"], "node_reboot", "the last value is kept");
        assert_eq!(profiling(&update, 0)["sm_active_ratio"], 0.4);
    }
    let made = ["nvmlDeviceGetFieldValues", "nvmlGpmSampleGet"].map(|name| calls(&driver, name));
    assert!(made[0] <= 1 && made[1] <= 1, "{made:?}");
    let text = watched.agent.http("/metrics", "Connection: close\r\n").1;
    for line in ["slow_call_seconds", "slow_call_interval_seconds"] {
        let is_line = |text: &str| {
            text.starts_with(&format!("hm_agent_gpu_{line}{{gpu=\"0\""))
                && text.contains("calls=\"fields\"")
        };
        assert!(text.lines().any(is_line), "{text}");
    }
    watched.stop();
}

#[test]
fn late_profiling_metrics_do_not_delay_the_reply() {
    let driver = Driver::new(&format!("gpus = 2\n{BUSY}"));
    let mut watched = driver.start(&[]);
    until_profiling(&mut watched);
    driver.set_script(&format!("gpus = 2\n{BUSY}slow = nvmlGpmSampleGet:2500"));
    let update = watched.until("a slow call", |update| {
        update["gpus"][0]["slow_calls"].is_array().then(|| update.clone())
    });
    assert_eq!(problems(&update), ["fine", "fine"]);
    assert_eq!(update["gpus"][1]["temperature_celsius"], 43);
    wait_until("values by a late reply", || {
        let update = watched.complete_update();
        profiling(&update, 0).is_object().then_some(())
    });
    watched.stop();
}
