//! A driver that crashes, fails or loses GPUs: values of the GPUs are absent, the problem is reported, and nothing else is
//! affected. `Watched` checks that each update arrives on time and contains the host's values.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::fake_nvml::{
    Bus, Driver, Watched, assert_no_values, chatty_library, children, kill, message, problems,
    state, values,
};
use crate::support::supervised::signal;
use crate::support::{SLACK, assert_best_of_five, wait_until};

#[test]
fn reports_library_crash_and_restarts_probe_with_backoff() {
    let driver = Driver::new("");
    let mut watched = driver.start(&["log_level=debug"]);
    watched.until_state("ok");
    driver.set_script("crash = nvmlDeviceGetTemperature");
    let update = watched.until_state("crashed");
    assert_no_values(&update);
    assert_eq!(problems(&update), ["failed"]);
    assert!(message(&update).contains("signal: 11"), "{update:#}");
    driver.clear_calls();
    let inits = || driver.calls().iter().filter(|call| call.0 == "nvmlInit_v2").count();
    // Each start of a probe is between the last check without it and the first check with it.
    let starts = [1, 2].map(|number| {
        let mut before = Instant::now();
        wait_until("a start", || {
            let now = Instant::now();
            let found = (inits() >= number).then(|| (before, Instant::now()));
            before = now;
            found
        })
    });
    let (longest, shortest) = (starts[1].1 - starts[0].0, starts[1].0 - starts[0].1);
    assert!(longest >= Duration::from_millis(1800), "{longest:?}");
    assert!(shortest < Duration::from_millis(3200) + SLACK, "{shortest:?}");
    driver.set_script("");
    watched.until_state("ok");
    // After good replies the next delay is short again.
    let mut kills = 0;
    assert_best_of_five(Duration::from_millis(1800), || {
        watched.complete_update();
        watched.complete_update();
        let (pid, start) = (watched.probe(), Instant::now());
        kill(pid);
        kills += 1;
        let new = |watched: &Watched| watched.probes().into_iter().find(|new| *new != pid);
        wait_until("another probe", || new(&watched));
        let delay = start.elapsed();
        assert!(delay >= Duration::from_millis(1000), "{delay:?}");
        delay
    });
    let log = watched.stop();
    let count = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert_eq!(count("the GPU probe crashed in the driver's library: signal: 11"), 1, "{log:#?}");
    assert_eq!(count("the GPU probe was killed, perhaps by the kernel"), kills, "{log:#?}");
}

/// The agent sees the end of the probe's output first, and asks the supervisor to stop.
#[test]
fn reports_cause_of_exit_when_supervisor_is_slower_than_agent() {
    let driver = Driver::new("");
    let mut watched = driver.start(&[]);
    watched.until_state("ok");
    let probe = watched.probe();
    let mut children_of_agent = children(watched.agent.pid()).into_iter();
    let supervisor = children_of_agent.find(|child| children(*child).contains(&probe)).unwrap();
    signal(supervisor, "-STOP");
    kill(probe);
    wait_until("SIGTERM", || {
        let status = std::fs::read_to_string(format!("/proc/{supervisor}/status")).unwrap();
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
        let pending = u64::from_str_radix(pending.trim(), 16).unwrap();
        (pending & 1 << (libc::SIGTERM - 1) != 0).then_some(())
    });
    signal(supervisor, "-CONT");
    let update = watched.until_state("crashed");
    assert!(message(&update).contains("perhaps by the kernel's OOM killer"), "{update:#}");
    watched.stop();
}

#[test]
fn crash_during_startup_is_not_reported_as_hang() {
    let driver = Driver::new("crash = nvmlDeviceGetHandleByIndex_v2");
    let mut watched = driver.start(&["gpu.timeout=10"]);
    let update = watched.update();
    assert_eq!(state(&update), "crashed");
    assert_eq!(watched.info["gpu_count"], 0);
    driver.set_script("");
    watched.until_state("ok");
    watched.stop();
}

#[test]
fn reports_driver_upgrade_without_reboot_and_recovers() {
    let driver = Driver::new("");
    let mut watched = driver.start(&[]);
    let pid = watched.probe();
    watched.until_state("ok");
    // A loaded library continues to work; a new probe loads the other version.
    driver.set_script("init = 18");
    kill(pid);
    let update = watched.until_state("version_mismatch");
    assert_no_values(&update);
    assert_eq!(problems(&update), ["failed"]);
    assert!(message(&update).contains("the driver was upgraded"), "{update:#}");
    assert!(update["nvidia"]["driver_version"].is_null(), "{update:#}");
    watched.agent.wait_log("NVIDIA driver and library versions do not match");
    driver.set_script("driver = 580.82.07\ncuda = 13000");
    let update = watched.until_state("ok");
    assert_eq!(
        update["nvidia"],
        json!({"state": "ok", "driver_version": "580.82.07", "cuda_version": "13.0"})
    );
    watched.stop();
}

#[test]
fn missing_driver_is_not_reported_as_hang_or_crash() {
    std::thread::scope(|scope| {
        for code in [9, 12] {
            scope.spawn(move || no_driver(code));
        }
    });
}

fn no_driver(code: u32) {
    let driver = Driver::new(&format!("init = {code}"));
    let mut watched = driver.start(&["gpu.timeout=30"]);
    let update = watched.update();
    assert_eq!(state(&update), "no_driver", "{code}: {update:#}");
    assert!(message(&update).contains("is the NVIDIA driver installed and loaded?"), "{update:#}");
    assert_eq!((&update["gpus"], &watched.info["gpu_count"]), (&json!([]), &json!(0)));
    driver.set_script("");
    watched.until_state("ok");
    watched.stop();
}

#[test]
fn reports_missing_and_invalid_library() {
    let driver = Driver::new("");
    let no_library = driver.scratch.write("text", "not a library\n");
    let other = driver.scratch.0.join("other.so").display().to_string();
    let cc = Command::new("cc").args(["-shared", "-o", &other, "-x", "c", "/dev/null"]).status();
    assert!(cc.unwrap().success());
    let missing = format!("gpu.nvml_library={}/missing.so", driver.scratch.0.display());
    let cases = [
        (missing.as_str(), "no_driver", "missing.so"),
        (&format!("gpu.nvml_library={no_library}"), "no_driver", "text"),
        (&format!("gpu.nvml_library={other}"), "unavailable", "nvmlInit"),
    ];
    for (setting, expected, named) in cases {
        let mut watched = driver.start(&[setting]);
        let update = watched.update();
        assert_eq!(state(&update), expected, "{setting}: {update:#}");
        assert!(message(&update).contains(named), "{setting}: {update:#}");
        assert_no_values(&update);
        watched.stop();
    }
}

#[test]
fn output_of_the_library_does_not_corrupt_replies() {
    let driver = Driver::of(chatty_library(), "");
    let mut watched = driver.start(&[]);
    watched.until_state("ok");
    let log = watched.stop();
    assert!(log.iter().any(|line| line.contains("printed by the library")), "{log:#?}");
}

#[test]
fn reports_lost_gpu_and_keeps_values_of_others() {
    let driver = Driver::new("gpus = 3");
    let mut watched = driver.start(&[]);
    watched.until_state("ok");
    driver.set_script("gpus = 3\nlost = 1");
    let update = watched.until("a lost GPU", |update| {
        (problems(update) == ["fine", "lost", "fine"]).then(|| update.clone())
    });
    assert_eq!(state(&update), "ok");
    let lost = &update["gpus"][1];
    assert_eq!(lost["name"], "NVIDIA H100 80GB HBM3");
    assert_eq!(values(lost), [""; 0]);
    assert!(lost["message"].as_str().unwrap().contains("fell off the bus"));
    assert_eq!(update["gpus"][2]["temperature_celsius"], 46);
    watched.agent.wait_log("GPU 1 (NVIDIA H100 80GB HBM3, 0000:11:00.0) is lost");
    // A new probe cannot even get its handle, but the agent remembers its identity.
    kill(watched.probe());
    watched.until_state("crashed");
    let update = watched.until_state("ok");
    assert_eq!(problems(&update), ["fine", "lost", "fine"]);
    assert_eq!(update["gpus"][1]["uuid"], "GPU-fa4e0001-fa4e-4fa4-8fa4-000000000001");
    // If it was lost before the agent started, only its index is known.
    let update = driver.sample(&[])["usage_update"].clone();
    assert_eq!(problems(&update), ["fine", "lost", "fine"]);
    assert_eq!(update["gpus"][1]["name"], "NVIDIA GPU");
    driver.set_script("gpus = 3");
    kill(watched.probe());
    watched.until("its recovery", |update| (problems(update) == ["fine"; 3]).then_some(()));
    watched.agent.wait_log("GPU 1 (NVIDIA H100 80GB HBM3, 0000:11:00.0) recovered");
    watched.stop();
}

#[test]
fn lost_gpu_on_bus_keeps_its_index() {
    let bus = Bus::new(&["0000:10:00.0", "0000:11:00.0"]);
    let driver = Driver::new("gpus = 2");
    let mut watched = driver.start(&[&bus.setting(), "gpu.primary=1"]);
    assert_eq!(watched.complete_update()["gpu_percent"], 33);
    driver.set_script("gpus = 2\ngone = 0");
    watched.until("a lost GPU", |update| (problems(update) == ["lost", "fine"]).then_some(()));
    kill(watched.probe());
    watched.until_state("crashed");
    let update = watched.until_state("ok");
    assert_eq!(problems(&update), ["lost", "fine"]);
    assert_eq!(update["gpus"][0]["name"], "NVIDIA H100 80GB HBM3");
    assert_eq!(update["gpus"][1]["index"], 1);
    assert_eq!(update["gpu_percent"], 33, "still the second GPU: {update:#}");
    let update = driver.sample(&[&bus.setting()])["usage_update"].clone();
    assert_eq!(problems(&update), ["lost", "fine"]);
    assert_eq!(update["gpus"][0]["name"], "NVIDIA GPU");
    assert_eq!(update["gpus"][0]["pci_address"], "0000:10:00.0");
    watched.stop();
}

/// Regression: the GPU was listed twice, and the healthy one got another index or was reported as lost.
#[test]
fn gpu_lost_before_start_is_listed_once_at_its_index() {
    let bus = Bus::new(&["0000:10:00.0", "0000:11:00.0"]);
    for (script, broken, problem) in [
        ("lost = 0", 0, "lost"),
        ("lost = 1", 1, "lost"),
        ("error.0 = nvmlDeviceGetHandleByIndex_v2:999", 0, "failed"),
        ("hang.1 = nvmlDeviceGetHandleByIndex_v2", 1, "hung"),
    ] {
        let driver = Driver::new(&format!("gpus = 2\n{script}"));
        let mut watched = driver.start(&[&bus.setting(), "gpu.timeout=2"]);
        let mut expected = ["fine"; 2];
        expected[broken] = problem;
        watched.until(script, |update| (problems(update) == expected).then_some(()));
        for _ in 0..3 {
            let update = watched.next_update();
            assert_eq!(problems(&update), expected, "{script}: {update:#}");
            let addresses = [&update["gpus"][0], &update["gpus"][1]].map(|gpu| &gpu["pci_address"]);
            assert_eq!(addresses, ["0000:10:00.0", "0000:11:00.0"], "{script}");
            assert_eq!(update["gpus"][broken]["name"], "NVIDIA GPU", "{script}");
        }
        watched.stop();
    }
}

#[test]
fn inaccessible_gpu_is_not_reported_as_lost() {
    let bus = Bus::new(&["0000:10:00.0", "0000:11:00.0"]);
    let driver = Driver::new("gpus = 2\nerror.1 = nvmlDeviceGetHandleByIndex_v2:4");
    let mut watched = driver.start(&[&bus.setting()]);
    let update = watched.until_state("ok");
    assert_eq!(problems(&update), ["fine"], "{update:#}");
    watched.stop();
}

#[test]
fn removed_gpu_is_not_listed() {
    let driver = Driver::new("gpus = 2");
    let mut watched = driver.start(&[]);
    watched.until_state("ok");
    driver.set_script("gpus = 2\ngone = 0");
    kill(watched.probe());
    watched.until_state("crashed");
    let update = watched.until_state("ok");
    assert_eq!(problems(&update), ["fine"]);
    assert_eq!(update["gpus"][0]["uuid"], "GPU-fa4e0001-fa4e-4fa4-8fa4-000000000001");
    assert_eq!(update["gpu_percent"], 33);
    watched.agent.wait_log("GPU 0 (NVIDIA H100 80GB HBM3, 0000:10:00.0) removed");
    watched.stop();
}

#[test]
fn reports_failed_gpu_and_does_not_reopen_it_at_once() {
    // 999 is an unknown error; 4 is no permission, as for a GPU that a container has no access to.
    let driver = Driver::new(
        "gpus = 3
         error.0 = nvmlDeviceGetHandleByIndex_v2:999
         error.1 = nvmlDeviceGetHandleByIndex_v2:4",
    );
    let mut watched = driver.start(&[]);
    assert_eq!(watched.info["gpu_count"], 2);
    for _ in 0..3 {
        let update = watched.next_update();
        assert_eq!((state(&update), problems(&update)), ("ok", vec!["failed", "fine"]));
        assert_eq!(update["gpus"][1]["index"], 2);
        assert_eq!(values(&update["gpus"][0]), [""; 0]);
    }
    let calls = driver.calls();
    let opened = calls.iter().filter(|call| call.0 == "nvmlDeviceGetHandleByIndex_v2");
    let failed = opened.filter(|call| call.1 != "2");
    assert_eq!(failed.count(), 2, "each once");
    watched.stop();
}
