//! A driver that hangs, crashes, refuses or loses GPUs costs their values and nothing else, and is said. Every
//! update that these tests look at was on time and had the rest of the machine in it: `Watched` sees to that.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use support::fake_nvml::{
    Bus, Driver, Updates, Watched, assert_no_values, current_library, kill, message, old_library,
    problems, state, values,
};
use support::wait_until;

/// Has a GPU call as many functions as it can.
const BUSY: &str = "
gpus = 1
gpu.0.fan = 50
gpu.0.mig = 1
gpu.0.mig_instances = 1
gpu.0.processes = 4199999:1
";

/// The functions that a healthy probe calls, as the library's log has them.
fn functions(library: &'static Path) -> BTreeSet<String> {
    let driver = Driver::of(library, BUSY);
    driver.sample(&[]);
    let functions: BTreeSet<String> =
        driver.calls().into_iter().map(|(function, _)| function).collect();
    assert!(functions.contains("nvmlInit_v2") && functions.len() > 25, "{functions:?}");
    functions
}

#[test]
fn a_hang_in_any_function_at_start_is_said_and_heals() {
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
    let driver = Driver::of(library, &format!("{BUSY}\nhang = {function}"));
    let start = Instant::now();
    let mut watched = driver.start(&["gpu.timeout=1"]);
    let update = watched.update();
    assert_eq!(state(&update), "hung", "{function}: {update:#}");
    assert!(start.elapsed() < Duration::from_secs(3), "{function}: {:?}", start.elapsed());
    assert_no_values(&update);
    assert!(message(&update).contains("has not answered for 1 s"), "{function}: {update:#}");
    assert_eq!(watched.info["gpu_count"], 0, "{function}");
    driver.becomes(BUSY);
    let update = watched.until_state("ok");
    assert_eq!(problems(&update), ["fine"], "{function}");
    assert!(update["gpu_mem_total_mb"].is_number(), "{function}: {update:#}");
    watched.stop();
}

#[test]
fn a_hang_later_takes_the_values_away_in_time_and_heals() {
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
    driver.becomes(&format!("gpus = 2\nhang = {function}"));
    let start = Instant::now();
    let mut with_values = 0;
    let update = watched.until("hung", |update| {
        with_values += u32::from(update["gpu_mem_used_mb"].is_number());
        (state(update) == "hung").then(|| update.clone())
    });
    // The next question, its deadline, and the next tick.
    assert!(start.elapsed() < Duration::from_secs(4), "{function}: {:?}", start.elapsed());
    assert!(with_values <= 2, "{function}: values of {with_values} s ago");
    assert_no_values(&update);
    assert_eq!(problems(&update), ["hung", "hung"], "{function}");
    assert_eq!(update["gpus"][1]["uuid"], "GPU-fa4e0001-fa4e-4fa4-8fa4-000000000001");
    let info = Updates::of(&watched.agent).info.clone();
    assert_eq!(info["gpus"][1], json!({"index": 1, "name": "NVIDIA H100 80GB HBM3"}));
    watched.agent.wait_log("NVIDIA driver hangs: it has not answered for 1 s");
    driver.becomes("gpus = 2");
    let update = watched.until_state("ok");
    assert_eq!(problems(&update), ["fine", "fine"], "{function}");
    watched.stop();
}

#[test]
fn a_driver_that_hangs_on_is_killed_again_and_again_and_updates_keep_coming() {
    let driver = Driver::new("hang = nvmlInit_v2");
    let mut watched = driver.start(&["gpu.timeout=1"]);
    watched.until("the third probe", |update| {
        assert_eq!(state(update), "hung");
        (driver.calls().len() >= 3).then_some(())
    });
    assert!(watched.probes().len() <= 1, "{:?}", watched.probes());
    let log = watched.stop();
    let said = log.iter().filter(|line| line.contains("driver hangs")).count();
    assert_eq!(said, 1, "a change of state is said, not each try: {log:#?}");
}

#[test]
fn one_gpu_hangs_in_any_function_and_the_others_go_on() {
    let functions: Vec<String> = {
        let driver = Driver::new(BUSY);
        driver.sample(&[]);
        let calls: BTreeSet<_> = driver.calls().into_iter().filter(|(_, gpu)| gpu == "0").collect();
        calls.into_iter().map(|(function, _)| function).collect()
    };
    assert!(functions.len() > 25, "{functions:?}");
    // More would need more sets of events than the library has for one process.
    std::thread::scope(|scope| {
        for some in functions.chunks(12) {
            scope.spawn(|| all_hang_but_one(some));
        }
    });
}

/// Each GPU hangs in a function of its own, and the last one in none.
fn all_hang_but_one(functions: &[String]) {
    let healthy = functions.len();
    let script = |temperature: usize| {
        let mut script = format!("gpus = {}\ngpu.{healthy}.temp = {temperature}\n", healthy + 1);
        for (at, function) in functions.iter().enumerate() {
            let busy = BUSY.replace("gpus = 1", "").replace("gpu.0", &format!("gpu.{at}"));
            script += &format!("hang.{at} = {function}\n{busy}");
        }
        script
    };
    let driver = Driver::new(&script(30));
    let mut watched = driver.start(&[]);
    let update = watched.update();
    assert_eq!(state(&update), "ok", "{update:#}");
    assert_eq!(watched.info["gpu_count"], healthy + 1);
    let gpus = update["gpus"].as_array().unwrap();
    for (gpu, function) in gpus.iter().zip(functions) {
        assert_eq!(gpu["problem"], "hung", "{function}");
        assert_eq!(values(gpu), [""; 0], "{function}");
    }
    assert_eq!(gpus[healthy]["problem"], Value::Null);
    assert_eq!(gpus[healthy]["temperature_celsius"], 30);
    for temperature in 31..33 {
        driver.becomes(&script(temperature));
        watched.next_update();
        let update = watched.next_update();
        assert_eq!(update["gpus"][healthy]["temperature_celsius"], temperature, "not of now");
    }
    // What hung does not come back by itself; a new probe finds it well.
    driver.becomes("gpus = 2");
    kill(watched.probe());
    watched.until("all well", |update| (problems(update) == ["fine", "fine"]).then_some(()));
    watched.stop();
}

#[test]
fn one_gpu_of_two_hangs_later_and_the_other_ones_values_go_on() {
    let driver = Driver::new("gpus = 2");
    let mut watched = driver.start(&["gpu.timeout=2", "gpu.primary=1"]);
    watched.until_state("ok");
    driver.becomes("gpus = 2\nhang.0 = nvmlDeviceGetPowerUsage");
    let pid = watched.probe();
    let mut last = Value::Null;
    watched.until("one GPU hanging", |update| {
        assert_eq!(update["gpu_percent"], 33, "never without: {update:#}");
        last = update["gpus"][0].clone();
        (problems(update) == ["hung", "fine"]).then_some(())
    });
    assert_eq!(last["name"], "NVIDIA H100 80GB HBM3");
    assert_eq!(last["pci_address"], "0000:10:00.0");
    watched.agent.wait_log("GPU 0 (NVIDIA H100 80GB HBM3, 0000:10:00.0) is hung");
    for percent in 50..54 {
        let script =
            format!("gpus = 2\nhang.0 = nvmlDeviceGetPowerUsage\ngpu.1.util_gpu = {percent}");
        driver.becomes(&script);
        watched.next_update();
        assert_eq!(watched.next_update()["gpu_percent"], percent, "no older than a tick");
    }
    assert_eq!(watched.probes(), [pid], "the others are not disturbed");
    watched.stop();
}

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
    let tries =
        [1, 2].map(|number| wait_until("a try", || (inits() >= number).then_some(Instant::now())));
    let between = tries[1] - tries[0];
    assert!((1.8..3.2).contains(&between.as_secs_f64()), "{between:?}");
    driver.becomes("");
    watched.until_state("ok");
    driver.forget_calls();
    // After a good answer the next pause is short again.
    let pid = watched.probe();
    kill(pid);
    let killed = Instant::now();
    wait_until("another probe", || watched.probes().first().filter(|new| **new != pid).copied());
    let pause = killed.elapsed().as_secs_f64();
    assert!((0.8..1.8).contains(&pause), "{pause}");
    let log = watched.stop();
    let said = log.iter().filter(|line| line.contains("took the GPU probe with it")).count();
    assert_eq!(said, 2, "{log:#?}");
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
    watched.agent.wait_log("NVIDIA driver and library do not match");
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
    assert!(message(&update).contains("is NVIDIA's driver installed and loaded?"), "{update:#}");
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
    assert!(lost["message"].as_str().unwrap().contains("it fell off the bus"));
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
    watched.agent.wait_log("GPU 1 (NVIDIA H100 80GB HBM3, 0000:11:00.0) has values again");
    watched.stop();
}

#[test]
fn a_gpu_that_the_driver_dropped_keeps_its_index_where_the_bus_shows_it() {
    let bus = Bus::new(&["0000:10:00.0", "0000:11:00.0"]);
    let driver = Driver::new("gpus = 2");
    let mut watched = driver.start(&[&bus.setting(), "gpu.primary=1"]);
    assert_eq!(watched.next_update()["gpu_percent"], 33);
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
    watched.agent.wait_log("GPU 0 (NVIDIA H100 80GB HBM3, 0000:10:00.0) is not there any more");
    watched.stop();
}

#[test]
fn errors_are_counted_by_code_and_outlive_the_probe() {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let driver = Driver::new("gpus = 2");
    let mut watched = driver.start(&[]);
    assert!(watched.next_update()["gpus"][0]["xids"].is_null());
    let wait_for = |watched: &mut Watched, gpu: usize, expected: &[(u64, u64)]| {
        watched.until(&format!("{expected:?}"), |update| {
            let xids = update["gpus"][gpu]["xids"].as_array()?;
            let counts = xids
                .iter()
                .map(|xid| (xid["code"].as_u64().unwrap(), xid["count"].as_u64().unwrap()));
            (counts.collect::<Vec<_>>() == expected).then(|| xids.clone())
        })
    };
    let before = now();
    driver.becomes("gpus = 2\nxid = 1:1:31, 2:1:31");
    let xids = wait_for(&mut watched, 1, &[(31, 2)]);
    let last = xids[0]["last_unix_seconds"].as_u64().unwrap();
    assert!((before..=now()).contains(&last), "{last} is not between {before} and {}", now());
    driver.becomes("gpus = 2\nxid = 1:1:31, 2:1:31, 3:1:31, 4:1:79, 5:0:48");
    let xids = wait_for(&mut watched, 1, &[(31, 3), (79, 1)]);
    assert!(xids[0]["last_unix_seconds"].as_u64().unwrap() >= last);
    wait_for(&mut watched, 0, &[(48, 1)]);
    watched.agent.wait_log("GPU 1 (NVIDIA H100 80GB HBM3, 0000:11:00.0) reported XID 79, 1 since");
    // One that is lost has no values, and its errors.
    driver.becomes("gpus = 2\nlost = 1");
    let update = watched.until("a lost GPU", |update| {
        (problems(update) == ["fine", "lost"]).then(|| update.clone())
    });
    assert_eq!(update["gpus"][1]["xids"].as_array().unwrap().len(), 2);
    kill(watched.probe());
    let update = watched.until_state("crashed");
    assert_eq!(update["gpus"][1]["xids"].as_array().unwrap().len(), 2);
    driver.becomes("gpus = 2\nxid = 1:1:79");
    wait_for(&mut watched, 1, &[(31, 3), (79, 2)]);
    watched.stop();
}

#[test]
fn a_sample_ends_though_the_driver_hangs() {
    let driver = Driver::new("hang = nvmlDeviceGetCount_v2");
    let start = Instant::now();
    let update = driver.sample(&[])["usage_update"].clone();
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert_eq!(state(&update), "hung");
    assert!(update["cpu_percent"].is_number());
    let output = driver.command(&["sample"], &["gpu.timeout=1"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("the driver hangs: it has not answered for 1 s"), "{text}");
}

#[test]
#[ignore = "waits 10 s"]
fn a_sample_does_not_wait_as_long_as_the_agent_would() {
    let driver = Driver::new("hang = nvmlInit_v2");
    let start = Instant::now();
    let update = driver.sample(&["gpu.timeout=60"])["usage_update"].clone();
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
    assert_eq!(state(&update), "starting");
}
