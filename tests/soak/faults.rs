//! Faults, in random order. Each is applied once before any is applied again.

use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::env::Env;
use super::fault_log::{NO_DESCRIPTORS, STOPPED};
use super::support::fake_nvml::{kill, probes_of};
use super::support::rng::Rng;
use super::support::tcp_proxy::{ProxyMode, TcpProxy};

/// Applies a fault for a while and removes it.
type Fault = fn(&Env, &mut Rng);

const YEAR: i64 = 365 * 86_400;

const FAULTS: [(&str, Fault); 19] = [
    ("agent stopped for seconds", |env, rng| {
        stop_for(env, Duration::from_millis(500 + rng.below(14_500)));
    }),
    // Longer than the hub and Core wait for a pong.
    ("agent stopped for 50 s", |env, _| stop_for(env, Duration::from_secs(50))),
    ("hub: connections reset", |env, rng| set_way(&env.to_hub, ProxyMode::Cut, rng, 15)),
    ("hub: packets lost", |env, rng| set_way(&env.to_hub, ProxyMode::Frozen, rng, 35)),
    ("Core: connections reset", |env, rng| set_way(&env.to_core, ProxyMode::Cut, rng, 15)),
    ("Core: packets lost", |env, rng| set_way(&env.to_core, ProxyMode::Frozen, rng, 35)),
    ("driver hangs", |env, rng| driver(env, rng, "hang = nvmlDeviceGetTemperature")),
    ("GPU lost", |env, rng| driver(env, rng, "lost = 1")),
    ("driver crashes", |env, rng| driver(env, rng, "crash = nvmlDeviceGetTemperature")),
    ("GPU probe killed", |env, _| probes_of(env.agent().pid()).into_iter().for_each(kill)),
    ("ssh killed", |env, rng| kill_one(&env.monitor.children("ssh"), rng)),
    ("sshd restarted", |env, rng| {
        let mut sshd = env.sshd.lock().unwrap();
        sshd.kill();
        pause(env, rng, 4);
        sshd.run();
    }),
    ("command killed", |env, rng| {
        let pids: Vec<u32> = env.user.processes().into_iter().map(|(pid, _)| pid).collect();
        kill_one(&pids, rng);
    }),
    ("state_dir full", |env, rng| {
        env.disk.fill();
        pause(env, rng, 15);
        env.disk.empty();
    }),
    ("descriptor limit lowered", lower_descriptor_limit),
    ("SIGHUP, other settings", |env, rng| {
        let (most, timeout) = (2000 + rng.below(1000), 5 + rng.below(5));
        reload(env, &format!("[usage]\nmax_connections = {most}\n[gpu]\ntimeout = {timeout}\n"));
    }),
    ("SIGHUP, invalid settings", |env, rng| {
        let texts = ["interval = \"x\"\n", "[usage\n", "colour = 1\n", "interval = 1e9\n"];
        reload(env, texts[rng.below(4) as usize]);
    }),
    ("clock a year off, Core reconnects", |env, rng| {
        // With this clock the certificate of Core's relay has expired, or is not valid yet.
        let Some(clock) = &env.clock else { return };
        clock.wrong_by(if rng.below(2) == 0 { YEAR } else { -YEAR });
        set_way(&env.to_core, ProxyMode::Cut, rng, 1);
        pause(env, rng, 10);
        clock.wrong_by(0);
    }),
    ("all subscribers vanish", |env, _| {
        env.log.vanish_generation.fetch_add(1, Ordering::Relaxed);
    }),
];

/// Applies faults until the time is over; with `all`, at least each of them once.
pub fn run(env: &Env, time: Duration, all: bool, rng: &mut Rng) {
    let start = Instant::now();
    let (mut order, mut applied) = (Vec::new(), 0);
    while start.elapsed() < time || (all && applied < FAULTS.len()) {
        pause(env, rng, 4);
        if order.is_empty() {
            order = (0..FAULTS.len()).collect();
            rng.shuffle(&mut order);
        }
        let (name, fault) = FAULTS[order.pop().unwrap()];
        eprintln!("soak: {:.0?}: {name}", start.elapsed());
        env.log.during(name, || fault(env, rng));
        applied += 1;
    }
}

/// One second, and up to `seconds` more.
fn pause(env: &Env, rng: &mut Rng, seconds: u64) {
    env.log.pause(Duration::from_millis(1000 + rng.below(seconds * 1000)));
}

fn kill_one(pids: &[u32], rng: &mut Rng) {
    if let Some(pid) = pids.get(rng.below(pids.len().max(1) as u64) as usize) {
        // The process may have ended meanwhile.
        let _ = Command::new("kill").args(["-9", &pid.to_string()]).output();
    }
}

fn stop_for(env: &Env, time: Duration) {
    env.log.during(STOPPED, || {
        env.agent().signal("-STOP");
        env.log.pause(time);
        env.agent().signal("-CONT");
    });
}

fn set_way(relay: &TcpProxy, way: ProxyMode, rng: &mut Rng, seconds: u64) {
    relay.set_mode(way);
    std::thread::sleep(Duration::from_millis(1000 + rng.below(seconds * 1000)));
    relay.set_mode(ProxyMode::Forward);
}

fn driver(env: &Env, rng: &mut Rng, fault: &str) {
    env.driver.set_script(&format!("{}\n{fault}", super::GPUS));
    pause(env, rng, 15);
    env.driver.set_script(super::GPUS);
}

/// To the number of open descriptors, and at most five more.
fn lower_descriptor_limit(env: &Env, rng: &mut Rng) {
    let set = |limit: u64| {
        let (pid, limit) = (env.agent().pid().to_string(), format!("--nofile={limit}:"));
        assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
    };
    env.log.during(NO_DESCRIPTORS, || {
        set(env.agent().descriptors() as u64 + rng.below(6));
        pause(env, rng, 4);
        set(env.descriptor_limit);
    });
}

fn reload(env: &Env, text: &str) {
    let draft = env.files.write("draft", text);
    std::fs::rename(draft, env.files.0.join("settings.toml")).unwrap();
    env.agent().signal("-HUP");
}
