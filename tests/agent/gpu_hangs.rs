//! A driver that hangs for one GPU or all: values of the GPUs are absent and nothing else is affected. `Watched` checks that
//! each update arrives on time and contains the host's values.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::gpu_profiling::DISPENSABLE;
use crate::support::fake_nvml::{
    Driver, UpdateStream, Watched, assert_no_values, current_library, kill, message, old_library,
    probes_of, problems, state, values, wait_first_gpu_state,
};
use crate::support::{Agent, SLACK, assert_best_of_five, wait_until};

/// A GPU for which the probe calls as many functions as possible.
const FULL_GPU: &str = "
gpus = 1
gpu.0.fan = 50
gpu.0.mig = 1
gpu.0.mig_instances = 1
gpu.0.processes = 4199999:1
";

/// The functions that the probe calls with a healthy driver, without [`DISPENSABLE`].
fn functions(library: &'static Path) -> BTreeSet<String> {
    let driver = Driver::of(library, FULL_GPU);
    driver.sample(&[]);
    let functions: BTreeSet<String> = driver
        .calls()
        .into_iter()
        .map(|(function, _)| function)
        .filter(|function| is_needed(function))
        .collect();
    assert!(functions.contains("nvmlInit_v2") && functions.len() > 25, "{functions:?}");
    functions
}

fn is_needed(function: &str) -> bool {
    !DISPENSABLE.contains(&function)
}

#[test]
fn reports_hang_in_any_function_at_startup_and_recovers() {
    let current = functions(current_library());
    let mut old = functions(old_library());
    old.retain(|function| !current.contains(function));
    assert!(current.len() > 35 && old.len() > 4, "{current:?} {old:?}");
    let current = current.into_iter().map(|function| (current_library(), function));
    let cases: Vec<_> =
        current.chain(old.into_iter().map(|function| (old_library(), function))).collect();
    let cases = Mutex::new(cases);
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                while let Some((library, function)) = { cases.lock().unwrap().pop() } {
                    hang_at_start(library, &function);
                }
            });
        }
    });
}

fn hang_at_start(library: &'static Path, function: &str) {
    let driver = Driver::of(library, &format!("{FULL_GPU}\nhang = {function}"));
    let agent = Agent::spawn(driver.command(&[], &["gpu.timeout=1"]));
    wait_first_gpu_state(&agent);
    let mut watched = Watched::new(agent);
    let update = watched.update();
    assert_eq!(state(&update), "hung", "{function}: {update:#}");
    assert_no_values(&update);
    // The second probe gets twice the time.
    let messages = ["no reply for 1 s", "no reply for 2 s"];
    assert!(messages.contains(&message(&update)), "{function}: {update:#}");
    assert_eq!(watched.info["gpu_count"], 0, "{function}");
    driver.set_script(FULL_GPU);
    watched.until(function, |update| {
        let is_healthy = state(update) == "ok" && problems(update) == ["fine"];
        (is_healthy && update["gpu_mem_total_mb"].is_number()).then_some(())
    });
    watched.stop();
}

#[test]
fn removes_values_when_the_driver_hangs_later_and_recovers() {
    let functions = [
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetFieldValues",
        "nvmlDeviceGetNvLinkState",
        "nvmlDeviceGetGraphicsRunningProcesses_v2",
        "nvmlEventSetWait_v2",
    ];
    std::thread::scope(|scope| {
        for function in functions {
            scope.spawn(move || hang_later(function));
        }
    });
}

fn hang_later(function: &str) {
    let driver = Driver::new("gpus = 2");
    let mut watched = driver.start(&["gpu.timeout=1"]);
    watched.until_state("ok");
    driver.set_script(&format!("gpus = 2\nhang = {function}"));
    watched.received();
    let start = Instant::now();
    let mut with_values = 0;
    let update = watched.until("hung", |update| {
        with_values += u32::from(update["gpu_mem_used_mb"].is_number());
        (state(update) == "hung").then(|| update.clone())
    });
    // The next request, its timeout and the next tick.
    let elapsed = start.elapsed();
    assert!(elapsed < Duration::from_secs(4) + SLACK, "{function}: {elapsed:?}");
    assert!(with_values <= 3, "{function}: values for {with_values} s");
    assert_no_values(&update);
    assert_eq!(problems(&update), ["hung", "hung"], "{function}");
    assert_eq!(update["gpus"][1]["uuid"], "GPU-fa4e0001-fa4e-4fa4-8fa4-000000000001");
    let info = UpdateStream::subscribe(&watched.agent).info.clone();
    assert_eq!(info["gpus"][1], json!({"index": 1, "name": "NVIDIA H100 80GB HBM3"}));
    watched.agent.wait_log("NVIDIA driver hangs: no reply for 1 s");
    driver.set_script("gpus = 2");
    watched.until(function, |update| {
        (state(update) == "ok" && problems(update) == ["fine", "fine"]).then_some(())
    });
    watched.stop();
}

#[test]
fn restarts_probe_repeatedly_while_the_driver_hangs() {
    let driver = Driver::new("hang = nvmlInit_v2");
    let mut watched = driver.start(&["gpu.timeout=1"]);
    watched.until_state("hung");
    watched.until("the third probe", |update| {
        assert_eq!(state(update), "hung");
        (driver.calls().len() >= 3).then_some(())
    });
    assert!(watched.probes().len() <= 1, "{:?}", watched.probes());
    let log = watched.stop();
    let count = log.iter().filter(|line| line.contains("driver hangs")).count();
    assert_eq!(count, 1, "only the change of state is logged: {log:#?}");
}

#[test]
fn removes_stale_values_long_before_the_driver_timeout() {
    let driver = Driver::new("gpus = 2");
    let mut watched = driver.start(&["gpu.timeout=30"]);
    watched.until_state("ok");
    driver.set_script("gpus = 2\nhang = nvmlDeviceGetTemperature");
    let with_values = watched.count_until(|update| update["gpu_mem_used_mb"].is_null());
    assert!(with_values <= 4, "{with_values} updates with values");
    for _ in 0..2 {
        let update = watched.next_update();
        assert_no_values(&update);
        assert_eq!(update["gpus"][1]["name"], "NVIDIA H100 80GB HBM3");
    }
    assert_eq!(UpdateStream::subscribe(&watched.agent).info["gpu_count"], 2);
    watched.stop();
}

#[test]
fn other_gpus_keep_values_if_one_hangs_in_any_function() {
    let functions: Vec<String> = {
        let driver = Driver::new(FULL_GPU);
        driver.sample(&[]);
        let calls: BTreeSet<_> = driver.calls().into_iter().filter(|(_, gpu)| gpu == "0").collect();
        calls
            .into_iter()
            .map(|(function, _)| function)
            .filter(|function| is_needed(function))
            .collect()
    };
    assert!(functions.len() > 25, "{functions:?}");
    // The fake library supports a limited number of event sets per process.
    std::thread::scope(|scope| {
        for some in functions.chunks(12) {
            scope.spawn(|| all_hang_but_one(some));
        }
    });
}

/// Each GPU hangs in another function, and the last one is healthy.
fn all_hang_but_one(functions: &[String]) {
    let healthy = functions.len();
    let script = |temperature: usize| {
        let mut script = format!("gpus = {}\ngpu.{healthy}.temp = {temperature}\n", healthy + 1);
        for (at, function) in functions.iter().enumerate() {
            let busy = FULL_GPU.replace("gpus = 1", "").replace("gpu.0", &format!("gpu.{at}"));
            script += &format!("hang.{at} = {function}\n{busy}");
        }
        script
    };
    let driver = Driver::new(&script(30));
    let mut watched = Watched::new(Agent::spawn(driver.command(&[], &["gpu.timeout=2"])));
    // On a slow machine the healthy one may take longer than `gpu.timeout` at first.
    let update = watched.until_state("ok");
    let gpus = update["gpus"].as_array().unwrap();
    assert_eq!(gpus.len(), healthy + 1);
    for (gpu, function) in gpus.iter().zip(functions) {
        assert_eq!(gpu["problem"], "hung", "{function}");
        assert_eq!(values(gpu), [""; 0], "{function}");
    }
    assert_eq!(gpus[healthy]["problem"], Value::Null);
    assert_eq!(gpus[healthy]["temperature_celsius"], 30);
    let mut temperature = 30;
    for _ in 0..2 {
        // Not older than a tick.
        assert_best_of_five(3, || {
            temperature += 1;
            driver.set_script(&script(temperature));
            watched
                .count_until(|update| update["gpus"][healthy]["temperature_celsius"] == temperature)
        });
    }
    // A blocked thread does not recover; a new probe finds the GPU healthy.
    driver.set_script("gpus = 2");
    kill(watched.probe());
    watched.until("recovery", |update| (problems(update) == ["fine", "fine"]).then_some(()));
    watched.stop();
}

#[test]
fn other_gpu_keeps_values_if_one_hangs_later() {
    let driver = Driver::new("gpus = 2");
    let mut watched = driver.start(&["gpu.primary=1"]);
    watched.until_state("ok");
    driver.set_script("gpus = 2\nhang.0 = nvmlDeviceGetPowerUsage");
    let pid = watched.probe();
    let (mut last, mut without) = (Value::Null, 0);
    watched.until("one GPU hanging", |update| {
        without += usize::from(update["gpu_percent"] != 33);
        assert!(without < 2, "at most one update without values, on a slow machine: {update:#}");
        last = update["gpus"][0].clone();
        (problems(update) == ["hung", "fine"]).then_some(())
    });
    assert_eq!(last["name"], "NVIDIA H100 80GB HBM3");
    assert_eq!(last["pci_address"], "0000:10:00.0");
    watched.agent.wait_log("GPU 0 (NVIDIA H100 80GB HBM3, 0000:10:00.0) is hung");
    let mut percent = 50;
    for _ in 0..3 {
        // Not older than a tick.
        assert_best_of_five(3, || {
            percent += 1;
            let script = format!("hang.0 = nvmlDeviceGetPowerUsage\ngpu.1.util_gpu = {percent}");
            driver.set_script(&format!("gpus = 2\n{script}"));
            watched.count_until(|update| update["gpu_percent"] == percent)
        });
    }
    assert_eq!(watched.probes(), [pid], "the probe is not restarted");
    watched.stop();
}

#[test]
fn new_timeout_applies_after_reload() {
    let driver = Driver::new("gpus = 2");
    let library = current_library().display().to_string();
    let settings = |timeout: u32| {
        let text =
            format!("interval = 1\n[gpu]\ntimeout = {timeout}\nnvml_library = \"{library}\"\n");
        driver.scratch.write("a.toml", &text)
    };
    let arguments = ["-c", &settings(60), "-s", "usage.listen=127.0.0.1:0"];
    let mut watched = Watched::new(Agent::spawn(driver.hm_agent(&arguments)));
    watched.until_state("ok");
    settings(4);
    watched.agent.signal("-HUP");
    watched.agent.wait_log("configuration reloaded");
    watched.next_update();
    driver.set_script("gpus = 2\nhang.0 = nvmlDeviceGetPowerUsage");
    watched.until("one GPU hanging", |update| {
        assert_eq!(state(update), "ok", "only one GPU hangs");
        (problems(update) == ["hung", "fine"]).then_some(())
    });
    watched.stop();
}

#[test]
fn stopped_agent_does_not_report_the_driver_as_hung() {
    let driver = Driver::new("");
    let mut watched = driver.start(&["gpu.timeout=4"]);
    watched.until_state("ok");
    let probe = watched.probe().to_string();
    let signal = |name: &str, pid: &str| {
        assert!(Command::new("kill").args([name, pid]).status().unwrap().success());
    };
    signal("-STOP", &probe);
    watched.next_update(); // a request is outstanding
    watched.agent.signal("-STOP");
    signal("-CONT", &probe);
    let until = Instant::now() + Duration::from_secs(5);
    wait_until("more than the timeout", || (Instant::now() > until).then_some(()));
    watched.agent.signal("-CONT");
    let agent = watched.into_agent();
    let mut later = UpdateStream::subscribe(&agent);
    for _ in 0..2 {
        assert_eq!(state(&later.update()), "ok");
    }
    assert_eq!(probes_of(agent.pid()).len(), 1);
    let log = agent.stop();
    assert!(!log.iter().any(|line| line.contains("hangs")), "{log:#?}");
}

/// Regression: the agent spun on the event of the first result after it had stopped waiting for it.
#[test]
fn late_first_result_does_not_cause_busy_loop() {
    let driver = Driver::new("hang = nvmlInit_v2");
    let mut watched = driver.start(&["gpu.timeout=8"]);
    assert_eq!(state(&watched.update()), "starting");
    watched.until_state("hung");
    let before = watched.agent.cpu_seconds();
    for _ in 0..2 {
        watched.next_update();
    }
    let used = watched.agent.cpu_seconds() - before;
    assert!(used < 0.5, "{used} s of CPU time in 2 s");
    watched.stop();
}

#[test]
fn late_first_result_is_published_before_the_next_tick() {
    let driver = Driver::new("hang = nvmlInit_v2");
    let watched = driver.start(&["gpu.timeout=4", "interval=3600"]);
    watched.agent.wait_log("NVIDIA driver hangs");
    let start = Instant::now();
    wait_until("an update with the state", || {
        let update = UpdateStream::subscribe(&watched.agent).update();
        assert!(start.elapsed() < SLACK, "{:#}", update["nvidia"]);
        (state(&update) == "hung").then_some(())
    });
    watched.stop();
}

#[test]
fn sample_command_ends_if_the_driver_hangs() {
    let driver = Driver::new("hang = nvmlDeviceGetCount_v2");
    let start = Instant::now();
    let update = driver.sample(&["gpu.timeout=2"])["usage_update"].clone();
    assert!(start.elapsed() < Duration::from_secs(4) + SLACK, "{:?}", start.elapsed());
    assert_eq!(state(&update), "hung");
    assert!(update["cpu_percent"].is_number());
    let output = driver.command(&["sample"], &["gpu.timeout=1"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("the driver hangs: no reply for 1 s"), "{text}");
}

#[test]
#[ignore = "waits 10 s"]
fn sample_command_does_not_wait_for_a_long_driver_timeout() {
    let driver = Driver::new("hang = nvmlInit_v2");
    let start = Instant::now();
    let update = driver.sample(&["gpu.timeout=60"])["usage_update"].clone();
    assert!(start.elapsed() < Duration::from_secs(12) + SLACK, "{:?}", start.elapsed());
    assert_eq!(state(&update), "starting");
}

#[test]
fn replaces_a_stopped_probe() {
    let driver = Driver::new("");
    let mut watched = driver.start(&["gpu.timeout=2"]);
    watched.until_state("ok");
    let probe = watched.probe();
    assert!(Command::new("kill").args(["-STOP", &probe.to_string()]).status().unwrap().success());
    assert_no_values(&watched.until_state("hung"));
    watched.until_state("ok");
    assert_ne!(watched.probes(), [probe]);
    let log = watched.stop();
    assert!(!log.iter().any(|line| line.contains("cannot be killed")), "{log:#?}");
}
