//! What goes wrong: one thing after the other, dealt like cards, so that each comes up before any comes again.

use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Scene;
use super::fault_log::{DESCRIPTORS, STOPPED};
use super::support::fake_nvml::probes_of;
use super::support::relay::{Relay, Way};
use super::support::rng::Rng;

/// It does something, and mends it.
type Act = fn(&Scene, &mut Rng);

pub const FAULTS: [(&str, Act); 23] = [
    ("the agent is stopped for seconds", |scene, rng| {
        stop_for(scene, Duration::from_millis(500 + rng.below(14_500)));
    }),
    // Longer than the hub and Core wait for a word.
    ("the agent is stopped for 50 s", |scene, _| stop_for(scene, Duration::from_secs(50))),
    ("hub: connections ended", |scene, rng| way(&scene.to_hub, Way::Cut, rng, 15)),
    ("hub: nothing passes", |scene, rng| way(&scene.to_hub, Way::Frozen, rng, 35)),
    ("Core: connections ended", |scene, rng| way(&scene.to_core, Way::Cut, rng, 15)),
    ("Core: nothing passes", |scene, rng| way(&scene.to_core, Way::Frozen, rng, 35)),
    ("driver hangs", |scene, rng| script(scene, rng, "hang = nvmlDeviceGetTemperature")),
    ("a GPU is lost", |scene, rng| script(scene, rng, "lost = 1")),
    ("driver crashes", |scene, rng| script(scene, rng, "crash = nvmlDeviceGetTemperature")),
    ("GPU probe killed", |scene, _| {
        probes_of(scene.agent().pid()).iter().for_each(|pid| kill(*pid));
    }),
    ("an ssh killed", |scene, rng| {
        let ssh = scene.monitor.children("ssh");
        ssh.get(rng.below(ssh.len().max(1) as u64) as usize).into_iter().for_each(|pid| kill(*pid));
    }),
    ("sshd killed, and back", |scene, rng| {
        let mut sshd = scene.sshd.lock().unwrap();
        sshd.kill();
        pass(scene, rng, 4);
        sshd.run();
    }),
    ("a command killed", |scene, rng| {
        let processes = scene.user.processes();
        let one = processes.get(rng.below(processes.len().max(1) as u64) as usize);
        one.into_iter().for_each(|(pid, _)| kill(*pid));
    }),
    ("state_dir full", |scene, rng| {
        scene.disk.fill();
        pass(scene, rng, 15);
        std::fs::remove_file(scene.disk.file("fill")).unwrap();
    }),
    ("the limit of open files is lowered", few_descriptors),
    ("SIGHUP, other settings", |scene, rng| {
        let (most, patience) = (2000 + rng.below(1000), 5 + rng.below(5));
        let text = format!("[usage]\nmax_connections = {most}\n[gpu]\ntimeout = {patience}\n");
        reload(scene, &text);
    }),
    ("SIGHUP, wrong settings", |scene, rng| {
        let texts = ["interval = \"x\"\n", "[usage\n", "colour = 1\n", "interval = 1e9\n"];
        reload(scene, texts[rng.below(4) as usize]);
    }),
    ("clock an hour ahead", |scene, rng| clock(scene, rng, 3600)),
    ("clock an hour behind", |scene, rng| clock(scene, rng, -3600)),
    ("clock a year ahead", |scene, rng| clock(scene, rng, 365 * 86_400)),
    ("clock a year behind", |scene, rng| clock(scene, rng, -365 * 86_400)),
    ("clock a year ahead, and Core's connection ends", |scene, rng| {
        // By that clock its certificate has expired.
        let Some(clock) = &scene.clock else { return };
        clock.wrong_by(365 * 86_400);
        way(&scene.to_core, Way::Cut, rng, 1);
        pass(scene, rng, 10);
        clock.wrong_by(0);
    }),
    ("all subscribers vanish at once", |scene, _| {
        scene.story.rushes.fetch_add(1, Ordering::Relaxed);
    }),
];

/// Deals faults until the time is up, and at least each of them once if `all`.
pub fn deal(scene: &Scene, time: Duration, all: bool, rng: &mut Rng) {
    let start = Instant::now();
    let mut pack: Vec<usize> = Vec::new();
    let mut dealt = 0;
    while start.elapsed() < time || (all && dealt < FAULTS.len()) {
        pass(scene, rng, 4);
        if pack.is_empty() {
            pack = (0..FAULTS.len()).collect();
            rng.shuffle(&mut pack);
        }
        let (name, act) = FAULTS[pack.pop().unwrap()];
        eprintln!("soak: {:?}: {name}", scene.start.elapsed());
        scene.story.during(name, || act(scene, rng));
        dealt += 1;
    }
}

/// A second, and at the most so many more.
fn pass(scene: &Scene, rng: &mut Rng, seconds: u64) {
    scene.story.pass(Duration::from_millis(1000 + rng.below(seconds * 1000)));
}

pub fn kill(pid: u32) {
    // It may have ended by itself.
    let _ = Command::new("kill").args(["-9", &pid.to_string()]).output();
}

fn stop_for(scene: &Scene, time: Duration) {
    scene.story.during(STOPPED, || {
        scene.agent().signal("-STOP");
        scene.story.pass(time);
        scene.agent().signal("-CONT");
    });
}

fn way(relay: &Relay, way: Way, rng: &mut Rng, seconds: u64) {
    relay.is(way);
    std::thread::sleep(Duration::from_millis(1000 + rng.below(seconds * 1000)));
    relay.is(Way::Open);
}

fn script(scene: &Scene, rng: &mut Rng, trouble: &str) {
    scene.driver.becomes(&format!("{}\n{trouble}", super::GPUS));
    pass(scene, rng, 15);
    scene.driver.becomes(super::GPUS);
}

/// As many as are open, and a few more.
fn few_descriptors(scene: &Scene, rng: &mut Rng) {
    let limit = |most: &str| {
        let pid = scene.agent().pid().to_string();
        let limit = format!("--nofile={most}:");
        assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
    };
    scene.story.during(DESCRIPTORS, || {
        limit(&(scene.agent().descriptors() as u64 + rng.below(6)).to_string());
        pass(scene, rng, 4);
        limit(&scene.descriptors.to_string());
    });
}

fn reload(scene: &Scene, text: &str) {
    let draft = scene.files.write("draft", text);
    std::fs::rename(draft, scene.files.0.join("settings.toml")).unwrap();
    scene.agent().signal("-HUP");
}

fn clock(scene: &Scene, rng: &mut Rng, seconds: i64) {
    let Some(clock) = &scene.clock else { return };
    clock.wrong_by(seconds);
    pass(scene, rng, 15);
    clock.wrong_by(0);
}
