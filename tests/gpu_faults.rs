//! A driver that crashes, refuses or loses GPUs costs their values and nothing else, and is said. Every update that
//! these tests look at was on time and had the rest of the machine in it: `Watched` sees to that.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use support::fake_nvml::{
    Bus, Driver, Watched, assert_no_values, chatty_library, kill, message, problems, state, values,
};
use support::{SLACK, at_best, wait_until};

#[test]
fn a_crash_in_the_library_is_said_and_the_probe_comes_back_ever_more_slowly() {
    let driver = Driver::new("");
    let mut watched = driver.start(&["log_level=debug"]);
    watched.until_state("ok");
    driver.becomes("crash = nvmlDeviceGetTemperature");
    let update = watched.until_state("crashed");
    assert_no_values(&update);
    assert_eq!(problems(&update), ["failed"]);
    assert!(message(&update).contains("signal: 11"), "{update:#}");
    driver.forget_calls();
    let inits = || driver.calls().iter().filter(|call| call.0 == "nvmlInit_v2").count();
    // When it was looked for in vain for the last time, and when it was seen.
    let tries = [1, 2].map(|number| {
        let mut before = Instant::now();
        wait_until("a try", || {
            let now = Instant::now();
            let found = (inits() >= number).then(|| (before, Instant::now()));
            before = now;
            found
        })
    });
    let (longest, shortest) = (tries[1].1 - tries[0].0, tries[1].0 - tries[0].1);
    assert!(longest >= Duration::from_millis(1800), "{longest:?}");
    assert!(shortest < Duration::from_millis(3200) + SLACK, "{shortest:?}");
    driver.becomes("");
    watched.until_state("ok");
    // After good answers the next pause is short again.
    let mut kills = 0;
    at_best(Duration::from_millis(1800), || {
        watched.whole();
        watched.whole();
        let (pid, start) = (watched.probe(), Instant::now());
        kill(pid);
        kills += 1;
        let new = |watched: &Watched| watched.probes().into_iter().find(|new| *new != pid);
        wait_until("another probe", || new(&watched));
        let pause = start.elapsed();
        assert!(pause >= Duration::from_millis(1000), "{pause:?}");
        pause
    });
    let log = watched.stop();
    let said = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert_eq!(said("the GPU probe crashed in the driver's library: signal: 11"), 1, "{log:#?}");
    assert_eq!(said("the GPU probe was killed, perhaps by the kernel"), kills, "{log:#?}");
}

#[test]
fn a_crash_in_any_function_at_start_is_no_hang() {
    let driver = Driver::new("crash = nvmlDeviceGetHandleByIndex_v2");
    let mut watched = driver.start(&["gpu.timeout=10"]);
    let update = watched.update();
    assert_eq!(state(&update), "crashed");
    assert_eq!(watched.info["gpu_count"], 0);
    driver.becomes("");
    watched.until_state("ok");
    watched.stop();
}

#[test]
fn a_driver_upgraded_underneath_is_said_and_heals() {
    let driver = Driver::new("");
    let mut watched = driver.start(&[]);
    let pid = watched.probe();
    watched.until_state("ok");
    // The library in use goes on; who loads it anew finds the other version.
    driver.becomes("init = 18");
    kill(pid);
    let update = watched.until_state("version_mismatch");
    assert_no_values(&update);
    assert_eq!(problems(&update), ["failed"]);
    assert!(message(&update).contains("the driver was upgraded"), "{update:#}");
    assert!(update["nvidia"]["driver_version"].is_null(), "{update:#}");
    watched.agent.wait_log("NVIDIA driver and library versions do not match");
    driver.becomes("driver = 580.82.07\ncuda = 13000");
    let update = watched.until_state("ok");
    assert_eq!(
        update["nvidia"],
        json!({"state": "ok", "driver_version": "580.82.07", "cuda_version": "13.0"})
    );
    watched.stop();
}

#[test]
fn no_driver_is_no_hang_and_no_crash() {
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
    driver.becomes("");
    watched.until_state("ok");
    watched.stop();
}

#[test]
fn a_library_that_is_not_there_or_is_none_is_said() {
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
fn a_library_that_prints_does_not_speak_for_the_probe() {
    let driver = Driver::of(chatty_library(), "");
    let mut watched = driver.start(&[]);
    watched.until_state("ok");
    let log = watched.stop();
    assert!(log.iter().any(|line| line.contains("a library has no business here")), "{log:#?}");
}

#[test]
fn a_gpu_that_is_lost_is_named_and_the_others_go_on() {
    let driver = Driver::new("gpus = 3");
    let mut watched = driver.start(&[]);
    watched.until_state("ok");
    driver.becomes("gpus = 3\nlost = 1");
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
    // A new probe is refused even the handle: who it was is still known.
    kill(watched.probe());
    watched.until_state("crashed");
    let update = watched.until_state("ok");
    assert_eq!(problems(&update), ["fine", "lost", "fine"]);
    assert_eq!(update["gpus"][1]["uuid"], "GPU-fa4e0001-fa4e-4fa4-8fa4-000000000001");
    // Lost before the agent came, only its place is known.
    let update = driver.sample(&[])["usage_update"].clone();
    assert_eq!(problems(&update), ["fine", "lost", "fine"]);
    assert_eq!(update["gpus"][1]["name"], "NVIDIA GPU");
    driver.becomes("gpus = 3");
    kill(watched.probe());
    watched.until("it back", |update| (problems(update) == ["fine"; 3]).then_some(()));
    watched.agent.wait_log("GPU 1 (NVIDIA H100 80GB HBM3, 0000:11:00.0) recovered");
    watched.stop();
}

#[test]
fn a_gpu_that_the_driver_dropped_keeps_its_index_where_the_bus_shows_it() {
    let bus = Bus::new(&["0000:10:00.0", "0000:11:00.0"]);
    let driver = Driver::new("gpus = 2");
    let mut watched = driver.start(&[&bus.setting(), "gpu.primary=1"]);
    assert_eq!(watched.whole()["gpu_percent"], 33);
    driver.becomes("gpus = 2\ngone = 0");
    watched.until("a lost GPU", |update| (problems(update) == ["lost", "fine"]).then_some(()));
    kill(watched.probe());
    watched.until_state("crashed");
    let update = watched.until_state("ok");
    assert_eq!(problems(&update), ["lost", "fine"]);
    assert_eq!(update["gpus"][0]["name"], "NVIDIA H100 80GB HBM3");
    assert_eq!(update["gpus"][1]["index"], 1);
    assert_eq!(update["gpu_percent"], 33, "still the second one: {update:#}");
    let update = driver.sample(&[&bus.setting()])["usage_update"].clone();
    assert_eq!(problems(&update), ["lost", "fine"]);
    assert_eq!(update["gpus"][0]["name"], "NVIDIA GPU");
    assert_eq!(update["gpus"][0]["pci_address"], "0000:10:00.0");
    watched.stop();
}

/// It was listed twice, and the healthy one moved or was called lost.
#[test]
fn a_gpu_that_was_dead_before_the_agent_came_is_there_once_and_moves_nobody() {
    let bus = Bus::new(&["0000:10:00.0", "0000:11:00.0"]);
    for (script, dead, problem) in [
        ("lost = 0", 0, "lost"),
        ("lost = 1", 1, "lost"),
        ("error.0 = nvmlDeviceGetHandleByIndex_v2:999", 0, "failed"),
        ("hang.1 = nvmlDeviceGetHandleByIndex_v2", 1, "hung"),
    ] {
        let driver = Driver::new(&format!("gpus = 2\n{script}"));
        let mut watched = driver.start(&[&bus.setting(), "gpu.timeout=2"]);
        let mut expected = ["fine"; 2];
        expected[dead] = problem;
        watched.until(script, |update| (problems(update) == expected).then_some(()));
        for _ in 0..3 {
            let update = watched.next_update();
            assert_eq!(problems(&update), expected, "{script}: {update:#}");
            let addresses = [&update["gpus"][0], &update["gpus"][1]].map(|gpu| &gpu["pci_address"]);
            assert_eq!(addresses, ["0000:10:00.0", "0000:11:00.0"], "{script}");
            assert_eq!(update["gpus"][dead]["name"], "NVIDIA GPU", "{script}");
        }
        watched.stop();
    }
}

#[test]
fn a_gpu_that_we_may_not_see_is_not_lost() {
    let bus = Bus::new(&["0000:10:00.0", "0000:11:00.0"]);
    let driver = Driver::new("gpus = 2\nerror.1 = nvmlDeviceGetHandleByIndex_v2:4");
    let mut watched = driver.start(&[&bus.setting()]);
    let update = watched.until_state("ok");
    assert_eq!(problems(&update), ["fine"], "{update:#}");
    watched.stop();
}

#[test]
fn a_gpu_that_is_nowhere_any_more_is_not_listed() {
    let driver = Driver::new("gpus = 2");
    let mut watched = driver.start(&[]);
    watched.until_state("ok");
    driver.becomes("gpus = 2\ngone = 0");
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
fn a_gpu_that_the_driver_refuses_is_said_and_not_asked_for_again_at_once() {
    // 999 is an unknown error, 4 no permission: a container was not given that one.
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
    let asked = calls.iter().filter(|call| call.0 == "nvmlDeviceGetHandleByIndex_v2");
    assert_eq!(asked.count(), 3, "each once");
    watched.stop();
}
