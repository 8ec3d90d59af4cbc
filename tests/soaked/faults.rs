//! What goes wrong: one thing after the other, dealt like cards, so that each comes up before any comes again.

use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Scene;
use super::story::{DESCRIPTORS, STOPPED};
use super::support::dice::Dice;
use super::support::fake_nvml::probes_of;
use super::support::relay::{Relay, Way};

/// It does something, and mends it.
type Act = fn(&Scene, &mut Dice);

pub const FAULTS: [(&str, Act); 23] = [
    ("the agent is stopped for seconds", |scene, dice| {
        stop_for(scene, Duration::from_millis(500 + dice.below(14_500)));
    }),
    // Longer than the hub and Core wait for a word.
    ("the agent is stopped for 50 s", |scene, _| stop_for(scene, Duration::from_secs(50))),
    ("hub: connections ended", |scene, dice| way(&scene.to_hub, Way::Cut, dice, 15)),
    ("hub: nothing passes", |scene, dice| way(&scene.to_hub, Way::Frozen, dice, 35)),
    ("Core: connections ended", |scene, dice| way(&scene.to_core, Way::Cut, dice, 15)),
    ("Core: nothing passes", |scene, dice| way(&scene.to_core, Way::Frozen, dice, 35)),
    ("driver hangs", |scene, dice| script(scene, dice, "hang = nvmlDeviceGetTemperature")),
    ("a GPU is lost", |scene, dice| script(scene, dice, "lost = 1")),
    ("driver crashes", |scene, dice| script(scene, dice, "crash = nvmlDeviceGetTemperature")),
    ("GPU probe killed", |scene, _| {
        probes_of(scene.agent().pid()).iter().for_each(|pid| kill(*pid));
    }),
    ("an ssh killed", |scene, dice| {
        let ssh = scene.monitor.children("ssh");
        ssh.get(dice.below(ssh.len().max(1) as u64) as usize)
            .into_iter()
            .for_each(|pid| kill(*pid));
    }),
    ("sshd killed, and back", |scene, dice| {
        let mut sshd = scene.sshd.lock().unwrap();
        sshd.kill();
        pass(scene, dice, 4);
        sshd.run();
    }),
    ("a command killed", |scene, dice| {
        let processes = scene.user.processes();
        let one = processes.get(dice.below(processes.len().max(1) as u64) as usize);
        one.into_iter().for_each(|(pid, _)| kill(*pid));
    }),
    ("state_dir full", |scene, dice| {
        scene.disk.fill();
        pass(scene, dice, 15);
        std::fs::remove_file(scene.disk.file("fill")).unwrap();
    }),
    ("the limit of open files is lowered", few_descriptors),
    ("SIGHUP, other settings", |scene, dice| {
        let (most, patience) = (2000 + dice.below(1000), 5 + dice.below(5));
        let text = format!("[usage]\nmax_connections = {most}\n[gpu]\ntimeout = {patience}\n");
        reload(scene, &text);
    }),
    ("SIGHUP, wrong settings", |scene, dice| {
        let texts = ["interval = \"x\"\n", "[usage\n", "colour = 1\n", "interval = 1e9\n"];
        reload(scene, texts[dice.below(4) as usize]);
    }),
    ("clock an hour ahead", |scene, dice| clock(scene, dice, 3600)),
    ("clock an hour behind", |scene, dice| clock(scene, dice, -3600)),
    ("clock a year ahead", |scene, dice| clock(scene, dice, 365 * 86_400)),
    ("clock a year behind", |scene, dice| clock(scene, dice, -365 * 86_400)),
    ("clock a year ahead, and Core's connection ends", |scene, dice| {
        // By that clock its certificate has expired.
        let Some(clock) = &scene.clock else { return };
        clock.wrong_by(365 * 86_400);
        way(&scene.to_core, Way::Cut, dice, 1);
        pass(scene, dice, 10);
        clock.wrong_by(0);
    }),
    ("all subscribers vanish at once", |scene, _| {
        scene.story.rushes.fetch_add(1, Ordering::Relaxed);
    }),
];

/// Deals faults until the time is up, and at least each of them once if `all`.
pub fn deal(scene: &Scene, time: Duration, all: bool, dice: &mut Dice) {
    let start = Instant::now();
    let mut pack: Vec<usize> = Vec::new();
    let mut dealt = 0;
    while start.elapsed() < time || (all && dealt < FAULTS.len()) {
        pass(scene, dice, 4);
        if pack.is_empty() {
            pack = (0..FAULTS.len()).collect();
            dice.shuffle(&mut pack);
        }
        let (name, act) = FAULTS[pack.pop().unwrap()];
        eprintln!("soak: {:?}: {name}", scene.start.elapsed());
        scene.story.during(name, || act(scene, dice));
        dealt += 1;
    }
}

/// A second, and at the most so many more.
fn pass(scene: &Scene, dice: &mut Dice, seconds: u64) {
    scene.story.pass(Duration::from_millis(1000 + dice.below(seconds * 1000)));
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

fn way(relay: &Relay, way: Way, dice: &mut Dice, seconds: u64) {
    relay.is(way);
    std::thread::sleep(Duration::from_millis(1000 + dice.below(seconds * 1000)));
    relay.is(Way::Open);
}

fn script(scene: &Scene, dice: &mut Dice, trouble: &str) {
    scene.driver.becomes(&format!("{}\n{trouble}", super::GPUS));
    pass(scene, dice, 15);
    scene.driver.becomes(super::GPUS);
}

/// As many as are open, and a few more.
fn few_descriptors(scene: &Scene, dice: &mut Dice) {
    let limit = |most: &str| {
        let pid = scene.agent().pid().to_string();
        let limit = format!("--nofile={most}:");
        assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
    };
    scene.story.during(DESCRIPTORS, || {
        limit(&(scene.agent().descriptors() as u64 + dice.below(6)).to_string());
        pass(scene, dice, 4);
        limit(&scene.descriptors.to_string());
    });
}

fn reload(scene: &Scene, text: &str) {
    let draft = scene.files.write("draft", text);
    std::fs::rename(draft, scene.files.0.join("settings.toml")).unwrap();
    scene.agent().signal("-HUP");
}

fn clock(scene: &Scene, dice: &mut Dice, seconds: i64) {
    let Some(clock) = &scene.clock else { return };
    clock.wrong_by(seconds);
    pass(scene, dice, 15);
    clock.wrong_by(0);
}
