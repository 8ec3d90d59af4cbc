//! The probe process: when it runs, what it has access to, and that it never outlives the agent.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::fake_nvml::{
    Bus, Driver, UpdateStream, Watched, assert_no_values, current_library, kill, message,
    probes_of, problems, programs, state,
};
use crate::support::{Agent, SLACK, assert_best_of_five, wait_until};

const ADDRESSES: [&str; 2] = ["0000:10:00.0", "0000:11:00.0"];

#[test]
fn suspended_gpu_is_not_queried_until_it_resumes() {
    let bus = Bus::new(&ADDRESSES);
    bus.set_power(ADDRESSES[0], "suspended");
    let driver = Driver::new("gpus = 2");
    let mut watched = driver.start(&[&bus.setting(), "gpu.primary=1"]);
    let touched = |gpu: &str| driver.calls().iter().any(|call| call.1 == gpu);
    for _ in 0..3 {
        let update = watched.complete_update();
        assert_eq!((state(&update), problems(&update)), ("ok", vec!["suspended", "fine"]));
        assert_eq!(update["gpu_percent"], 33);
        assert_eq!(update["gpus"][0]["pci_address"], ADDRESSES[0]);
    }
    assert!(touched("1") && !touched("0"), "{:?}", driver.calls());
    bus.set_power(ADDRESSES[0], "active");
    let both = |update: &Value| problems(update) == ["fine", "fine"];
    assert!(watched.count_until(both) <= 4, "queried too late");
    assert_eq!(watched.complete_update()["gpus"][0]["temperature_celsius"], 40);
    // Now the other GPU is suspended.
    bus.set_power(ADDRESSES[1], "suspended");
    assert!(watched.count_until(|update| !both(update)) <= 4, "noticed too late");
    driver.clear_calls();
    for _ in 0..2 {
        let update = watched.complete_update();
        assert_eq!(problems(&update), ["fine", "suspended"]);
        assert_eq!(update["gpus"][1]["name"], "NVIDIA H100 80GB HBM3", "known from before");
        assert!(update["gpu_percent"].is_null(), "{update:#}");
    }
    assert!(touched("0") && !touched("1"), "{:?}", driver.calls());
    watched.stop();
}

#[test]
fn runs_no_probe_while_all_gpus_are_suspended() {
    let bus = Bus::new(&ADDRESSES);
    ADDRESSES.iter().for_each(|address| bus.set_power(address, "suspended"));
    let driver = Driver::new("gpus = 2");
    let mut watched = driver.start(&[&bus.setting()]);
    for _ in 0..2 {
        let update = watched.next_update();
        assert_eq!(state(&update), "suspended");
        assert_eq!(problems(&update), ["suspended", "suspended"]);
        assert_no_values(&update);
        assert_eq!(watched.probes(), [0; 0]);
    }
    assert_eq!(watched.info["gpu_count"], 2);
    assert_eq!(driver.calls(), []);
    bus.set_power(ADDRESSES[1], "active");
    assert_eq!(problems(&watched.until_state("ok")), ["suspended", "fine"]);
    bus.set_power(ADDRESSES[1], "suspended");
    watched.until_state("suspended");
    wait_until("no probe", || watched.probes().is_empty().then_some(()));
    watched.stop();
}

#[test]
fn runs_no_probe_if_disabled_or_without_gpu() {
    let driver = Driver::new("gpus = 2");
    let mut watched = driver.start(&["gpu.source=none"]);
    for _ in 0..2 {
        let update = watched.next_update();
        assert_eq!((state(&update), &update["gpus"]), ("absent", &json!([])));
        assert!(update.as_object().unwrap().get("nvidia").is_none());
    }
    assert_eq!(watched.info["gpu_count"], 0);
    assert_eq!(driver.calls(), []);
    watched.stop();

    let has_device = ["/dev/nvidiactl", "/dev/dxg"].iter().any(|path| Path::new(path).exists());
    if !has_device {
        let bus = Bus::new(&[]);
        let settings = ["-s", "interval=1", "-s", "usage.listen=127.0.0.1:0", "-s", &bus.setting()];
        let mut watched = Watched::new(Agent::spawn(driver.hm_agent(&settings)));
        let update = watched.next_update();
        assert_eq!((&update["nvidia"], &update["gpus"]), (&json!({"state": "no_gpu"}), &json!([])));
        assert_eq!(driver.calls(), []);
        watched.stop();
    }
}

#[test]
fn finds_the_library_in_the_loader_path() {
    let driver = Driver::new("gpus = 2");
    let bus = Bus::new(&ADDRESSES);
    for setting in ["gpu.source=nvml", &bus.setting()] {
        let mut command = driver.hm_agent(&["sample", "--json", "-s", setting]);
        command.env("LD_LIBRARY_PATH", current_library().parent().unwrap());
        let output = command.output().unwrap();
        let sample: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(state(&sample["usage_update"]), "ok", "{setting}: {output:?}");
        assert_eq!(problems(&sample["usage_update"]), ["fine", "fine"]);
    }
}

#[test]
fn reload_stops_and_starts_the_probe() {
    let driver = Driver::new("gpus = 2");
    let library = current_library().display().to_string();
    let settings = |source: &str| {
        let text =
            format!("interval = 1\n[gpu]\nsource = \"{source}\"\nnvml_library = \"{library}\"\n");
        driver.scratch.write("a.toml", &text)
    };
    let arguments = ["-c", &settings("auto"), "-s", "usage.listen=127.0.0.1:0"];
    let mut watched = Watched::new(Agent::spawn(driver.hm_agent(&arguments)));
    watched.until_state("ok");
    assert_best_of_five(Duration::from_millis(700), || {
        settings("auto");
        watched.agent.signal("-HUP");
        watched.probe();
        settings("none");
        watched.agent.signal("-HUP");
        let start = Instant::now();
        wait_until("no probe", || watched.probes().is_empty().then_some(()));
        start.elapsed() // not only at the next tick
    });
    let update = watched.until_state("absent");
    assert_eq!(update["gpus"], json!([]));
    assert_no_values(&update);
    assert_eq!(UpdateStream::subscribe(&watched.agent).info["gpu_count"], 0);
    driver.clear_calls();
    watched.next_update();
    watched.next_update();
    assert_eq!((watched.probes(), driver.calls()), (vec![], vec![]));
    settings("nvml");
    watched.agent.signal("-HUP");
    let update = watched.until_state("ok");
    assert_eq!(problems(&update), ["fine", "fine"]);
    watched.stop();
}

/// Regression: after collection was enabled, the probe queried suspended GPUs until the next scan of the bus.
#[test]
fn enabling_collection_does_not_resume_suspended_gpus() {
    let bus = Bus::new(&ADDRESSES);
    bus.set_power(ADDRESSES[0], "suspended");
    let driver = Driver::new("gpus = 2");
    let library = current_library().display().to_string();
    let settings = |source: &str| {
        let gpu = format!("[gpu]\nsource = \"{source}\"\nnvml_library = \"{library}\"\n");
        driver.scratch.write("a.toml", &format!("interval = 1\n{gpu}"))
    };
    let arguments =
        ["-c", &settings("none"), "-s", &bus.setting(), "-s", "usage.listen=127.0.0.1:0"];
    let mut watched = Watched::new(Agent::spawn(driver.hm_agent(&arguments)));
    watched.until_state("absent");
    settings("auto");
    watched.agent.signal("-HUP");
    watched.until_state("ok");
    let update = watched.next_update();
    assert_eq!(problems(&update), ["suspended", "fine"]);
    assert!(driver.calls().iter().all(|call| call.1 != "0"), "{:?}", driver.calls());
    watched.stop();
}

/// A reload also stops a hung probe: another library may solve the problem.
#[test]
fn reload_stops_a_hung_probe() {
    let driver = Driver::new("hang = nvmlInit_v2");
    let library = current_library().display().to_string();
    let settings = |source: &str| {
        let text =
            format!("interval = 1\n[gpu]\nsource = \"{source}\"\nnvml_library = \"{library}\"\n");
        driver.scratch.write("a.toml", &format!("{text}timeout = 60\n"))
    };
    let arguments = ["-c", &settings("auto"), "-s", "usage.listen=127.0.0.1:0"];
    let mut watched = Watched::new(Agent::spawn(driver.hm_agent(&arguments)));
    let update = watched.next_update();
    assert_eq!(state(&update), "starting", "clients do not wait for the driver timeout");
    watched.probe();
    settings("none");
    watched.agent.signal("-HUP");
    wait_until("no probe", || watched.probes().is_empty().then_some(()));
    watched.until_state("absent");
    watched.stop();
}

#[test]
fn restarts_leak_no_file_descriptor_or_process() {
    let driver = Driver::new("gpus = 2");
    let libraries = ["a.so", "b.so"].map(|name| {
        let path = driver.scratch.0.join(name);
        std::fs::copy(current_library(), &path).unwrap();
        path.display().to_string()
    });
    let settings = |round: usize| {
        let text = format!("interval = 1\n[gpu]\nnvml_library = \"{}\"\n", libraries[round % 2]);
        driver.scratch.write("a.toml", &text)
    };
    let arguments = ["-c", &settings(0), "-s", "usage.listen=127.0.0.1:0"];
    let mut watched = Watched::new(Agent::spawn(driver.hm_agent(&arguments)));
    watched.until_state("ok");
    let descriptors = watched.agent.descriptors_at_rest();
    let mut pid = watched.probe();
    let inits = || driver.calls().iter().filter(|call| call.0 == "nvmlInit_v2").count();
    for round in 1..=10 {
        settings(round);
        watched.agent.signal("-HUP");
        let new = |watched: &Watched| watched.probes().into_iter().find(|new| *new != pid);
        pid = wait_until("another probe", || new(&watched));
        wait_until("its first call", || (inits() > round).then_some(()));
    }
    watched.next_update();
    watched.until_state("ok");
    assert_eq!(inits(), 11);
    assert_eq!(watched.agent.descriptors_at_rest(), descriptors);
    assert_eq!(programs(watched.agent.pid()), [pid]);
    watched.stop();
}

#[test]
fn restarts_a_killed_probe() {
    let driver = Driver::new("");
    let mut watched = driver.start(&[]);
    watched.until_state("ok");
    let descriptors = watched.agent.descriptors_at_rest();
    let pid = watched.probe();
    kill(pid);
    let update = watched.until_state("crashed");
    assert!(message(&update).contains("signal: 9"), "{update:#}");
    assert_no_values(&update);
    let update = watched.until_state("ok");
    assert_eq!(update["gpu_percent"], 20);
    assert_ne!(watched.probe(), pid);
    assert_eq!(watched.agent.descriptors_at_rest(), descriptors);
    watched.stop();
}

#[test]
fn probe_exits_when_the_agent_is_killed() {
    let scripts = [
        "",
        "hang = nvmlInit_v2",
        "hang = nvmlDeviceGetTemperature",
        "hang.0 = nvmlDeviceGetName\ngpus = 2",
    ];
    for script in scripts {
        let driver = Driver::new(script);
        let mut command = driver.command(&[], &["gpu.timeout=60"]);
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        wait_until("the call", || {
            let wanted = script.split([' ', '\n']).nth(2).unwrap_or("nvmlDeviceGetName");
            driver.calls().iter().any(|call| call.0 == wanted).then_some(())
        });
        assert_eq!(probes_of(child.id()).len(), 1);
        child.kill().unwrap();
        let start = Instant::now();
        child.wait().unwrap();
        wait_until("no probe", || probes_of(child.id()).is_empty().then_some(()));
        assert!(start.elapsed() < SLACK, "{script}: {:?}", start.elapsed());
    }
}

#[test]
fn shutdown_does_not_wait_for_a_hung_driver() {
    for script in ["hang = nvmlInit_v2", "hang = nvmlDeviceGetTemperature"] {
        let driver = Driver::new(script);
        let watched = driver.start(&["gpu.timeout=60"]);
        watched.probe();
        watched.stop();
    }
}

#[test]
fn interrupt_from_terminal_does_not_reach_the_probe() {
    let driver = Driver::new("");
    let mut command = driver.command(&[], &[]);
    command.process_group(0);
    let mut watched = Watched::new(Agent::spawn(command));
    watched.until_state("ok");
    let probe = watched.probe();
    let stat = std::fs::read_to_string(format!("/proc/{probe}/stat")).unwrap();
    let group = stat.rsplit(") ").next().unwrap().split(' ').nth(2).unwrap().to_owned();
    assert_eq!(group, probe.to_string(), "its own process group");
    let pid = watched.agent.pid();
    let group = format!("-{pid}");
    assert!(Command::new("kill").args(["-INT", "--", &group]).status().unwrap().success());
    let mut agent = watched.into_agent();
    assert_eq!(agent.wait().0.code(), Some(0));
    wait_until("no probe", || probes_of(pid).is_empty().then_some(()));
    let log = agent.log();
    assert!(!log.iter().any(|line| line.contains("the GPU probe crashed")), "{log:#?}");
}

#[test]
fn probe_inherits_no_secrets_or_sockets() {
    let driver = Driver::new("");
    let mut command = driver.command(&[], &[]);
    command.env("HM_AGENT_USAGE_TOKEN", "a-secret").env("HM_AGENT_GPU_PRIMARY", "0");
    command.env("NOTIFY_SOCKET", "/nowhere/notify");
    let agent = Agent::spawn(command);
    let _client = agent.socket();
    let probe = wait_until("a probe", || probes_of(agent.pid()).first().copied());
    wait_until("its first call", || (!driver.calls().is_empty()).then_some(()));
    let environment = std::fs::read(format!("/proc/{probe}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(environment.contains("HM_FAKE_NVML="), "{environment}");
    for name in ["HM_AGENT_", "a-secret", "NOTIFY_SOCKET"] {
        assert!(!environment.contains(name), "{environment}");
    }
    let links: Vec<String> = std::fs::read_dir(format!("/proc/{probe}/fd"))
        .unwrap()
        .filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
        .map(|link| link.display().to_string())
        .collect();
    assert!(links.len() >= 3, "{links:?}");
    let inherited = ["socket:", "memfd:", "anon_inode:"];
    let inherited = |link: &&String| inherited.iter().any(|kind| link.starts_with(kind));
    assert_eq!(links.iter().find(inherited), None, "{links:?}");
    agent.stop();
}

/// Xorshift generator: the same sequence for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[test]
#[ignore = "takes half a minute"]
fn recovers_after_random_driver_faults() {
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let mut random = Random(seed.as_nanos() as u64 | 1);
    println!("seed {}", random.0);
    let scripts = [
        "gpus = 2",
        "gpus = 8",
        "gpus = 2\nhang = nvmlDeviceGetTemperature",
        "gpus = 2\nhang.0 = nvmlDeviceGetPowerUsage",
        "gpus = 2\nhang = nvmlInit_v2",
        "gpus = 2\ncrash = nvmlDeviceGetFieldValues",
        "gpus = 2\ncrash.1 = nvmlDeviceGetName",
        "gpus = 2\ninit = 18",
        "gpus = 2\nlost = 0",
        "gpus = 2\ngone = 1",
        "gpus = 2\nxid = 1:0:79, 2:1:79",
    ];
    let driver = Driver::new("gpus = 2");
    let mut watched = driver.start(&["gpu.timeout=1", "log_level=debug"]);
    watched.until_state("ok");
    let descriptors = watched.agent.descriptors_at_rest();
    let memory = watched.agent.status("VmRSS");
    let mut states = std::collections::BTreeSet::new();
    for round in 0..1000 {
        if round >= 200 && states.iter().any(|state| state != "ok") {
            break;
        }
        // Healthy half of the time, because the restart delay grows with each failure.
        let script = random.below(2 * scripts.len() as u64) as usize;
        driver.set_script(scripts.get(script).unwrap_or(&scripts[0]));
        let until = Instant::now() + Duration::from_millis(50 + random.below(60));
        wait_until("the next change", || {
            assert!(watched.probes().len() <= 1, "{:?}", watched.probes());
            (Instant::now() >= until).then_some(())
        });
        states.extend(watched.received().iter().map(|update| state(update).to_owned()));
    }
    assert!(states.iter().any(|state| state != "ok"), "{states:?}");
    driver.set_script("gpus = 2");
    // A probe in which a single GPU hangs would be restarted after ten minutes only.
    for probe in watched.probes() {
        let _ = Command::new("kill").args(["-9", &probe.to_string()]).status(); // may have exited
    }
    watched.received();
    watched.until("recovery", |update| {
        let is_healthy = state(update) == "ok" && problems(update) == ["fine", "fine"];
        (is_healthy && update["gpu_percent"] == 20).then_some(())
    });
    assert_eq!(programs(watched.agent.pid()), watched.probes());
    assert!(watched.agent.descriptors_at_rest() <= descriptors);
    let grown = watched.agent.status("VmRSS").saturating_sub(memory);
    assert!(grown < 1024, "memory grew by {grown} KiB");
    watched.stop();
}
