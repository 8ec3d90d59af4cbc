//! Hostile peers on all ports at once, at whatever rate the machine makes, while servers that mean harm are at the other end
//! of the links: those who are inside are served all the time, whoever comes when an attack is over is let in within a
//! second, and nothing is forgotten. `HM_SIEGE_SECONDS` is how long all attacks go on together; each alone has a sixth.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use support::attack::{Attacker, Counts, Target};
use support::cable::{Cable, NEAR, NOWHERE, taken};
use support::hub::{Hub, Seen};
use support::inside::{Inside, newcomers};
use support::monitor::Monitor;
use support::sshd::{CC, PASSWORD, Sshd};
use support::{Agent, Scratch, lasting_port, pass, wait_until};

/// Whoever comes after an attack is served within this.
const SOON: Duration = Duration::from_secs(1);
/// What may be left of a siege in memory. glibc keeps for each thread what that has freed.
const KEPT_KB: u64 = if cfg!(target_env = "musl") { 4096 } else { 48 << 10 };
/// An attack is made again when the machine may be the reason that somebody waited: so often in all.
const TRIES: usize = 3;

/// The names of the two hosts and of what is between them.
const CABLE: &str = "HM_TEST_CABLE";

fn together() -> Duration {
    let seconds = std::env::var("HM_SIEGE_SECONDS").map(|seconds| seconds.parse().unwrap());
    Duration::from_secs(seconds.unwrap_or(9))
}

/// The test is in a network of its own, with a router to attackers who can be cut off.
#[test]
#[ignore = "needs root, ip, sshd and python; takes two processors for 40 s"]
fn under_siege_on_all_ports_those_inside_are_served_and_the_rest_a_second_later() {
    let cable = Cable::new();
    let name = [&*cable.near, cable.router(), &*cable.far].join(" ");
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", cable.near)).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "inner", "--ignored", "--nocapture"]).env(CABLE, name);
    assert!(command.status().unwrap().success());
}

#[test]
#[ignore = "is a part of another test, in a network of its own"]
fn inner() {
    let Ok(cable) = std::env::var(CABLE) else { return };
    hm_agent::sys::raise_descriptor_limit().unwrap();
    let names: Vec<&str> = cable.split(' ').collect();
    let mut scene = Scene::new(names[1], names[2]);
    let before = Footprint::of(&scene.monitor.agent);
    let far = format!("--net=/run/netns/{}", names[2]);
    let alone = together() / 6;
    scene.vanish(&far);
    for (attack, sign) in [
        ("slow", "bytes"),
        ("silent", "sent away"),
        ("flood", "sent away"),
        ("resets", "resets"),
        ("heads", "431"),
        ("frames", "close 1009"),
        ("deaf", "held"),
        ("pipelined", "requests"),
    ] {
        let before = scene.accepted();
        scene.endure(attack, sign, || {
            let counts = Attacker::start(&[], attack, alone, &scene.target("127.0.0.1")).end();
            if attack == "resets" {
                // Most of them were over before they could be let in, and cost no thread.
                let accepted = scene.accepted() - before;
                println!("{accepted} of {} accepted", counts["connections"]);
            }
            counts
        });
    }
    scene.endure("half_open", "begun", || {
        let mut attacker =
            Attacker::start(&["nsenter", &far], "half_open", alone, &scene.target(NOWHERE));
        attacker.wait_ready();
        let port = scene.monitor.agent.address.port();
        wait_until("half-open connections", || (half_open(port) > 500).then_some(()));
        pass(alone);
        // They go on: nobody tells the agent's host that these will never be there.
        drop(attacker);
        Counts::from([("begun".to_owned(), 12000), ("half-open".to_owned(), half_open(port))])
    });
    scene.hm_turns_hostile();
    scene.endure("all", "sent away", || {
        Attacker::start(&[], "all", together(), &scene.target("127.0.0.1")).end()
    });
    scene.end(&before);
}

/// Connections to a port that the kernel has answered and that are not there yet.
fn half_open(port: u16) -> u64 {
    let text = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let is_one = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[1].ends_with(&format!(":{port:04X}")) && fields[3] == "03"
    };
    text.lines().skip(1).filter(is_one).count() as u64
}

#[derive(Debug)]
struct Footprint {
    threads: u64,
    descriptors: usize,
    memory_kb: u64,
}

impl Footprint {
    fn of(agent: &Agent) -> Self {
        Self {
            threads: agent.status("Threads"),
            descriptors: agent.descriptors(),
            memory_kb: agent.status("RssAnon"),
        }
    }
}

/// An agent, those who are inside, and the servers of its links.
struct Scene {
    router: String,
    state_dir: Scratch,
    monitor: Monitor,
    inside: Option<Inside>,
    _sshd: Sshd,
    hub: Option<Hub>,
    hub_port: u16,
    /// Timestamps of the reports that a hub has taken.
    delivered: BTreeSet<u64>,
    hostile_hub: Option<Attacker>,
    core: Attacker,
    core_port: u16,
    started: Instant,
}

impl Scene {
    fn new(router: &str, far: &str) -> Self {
        give_addresses(far);
        let (hub_port, core_port) = (lasting_port(), lasting_port());
        let hub = hub_on(hub_port);
        let core = Attacker::serve("all", core_port);
        let state_dir = Scratch::new("siege");
        let monitor = agent_of(&state_dir, hub_port, core_port);
        let sshd = Sshd::start(&[CC]);
        let mut watcher = monitor.connect();
        watcher.start(&[sshd.host("cc", Some(PASSWORD))]);
        monitor.agent.tell("/hb_init?3600000&appid=kept");
        let inside = Inside::of(&monitor.agent, Some(watcher));
        let scene = Self {
            router: router.to_owned(),
            state_dir,
            monitor,
            inside: Some(inside),
            _sshd: sshd,
            hub: Some(hub),
            hub_port,
            delivered: BTreeSet::new(),
            hostile_hub: None,
            core,
            core_port,
            started: Instant::now(),
        };
        wait_until("everybody inside", || {
            let inside = scene.inside();
            inside.assert_all_here(&scene.monitor.agent);
            inside.counts().iter().all(|count| *count > 2).then_some(())
        });
        scene
    }

    fn inside(&self) -> &Inside {
        self.inside.as_ref().unwrap()
    }

    fn target<'a>(&'a self, host: &'a str) -> Target<'a> {
        let (host, sources) = match host {
            "127.0.0.1" => (host, numbered("127.0.0.", 2..62)),
            NOWHERE => (NEAR, NOWHERE.to_owned()),
            _ => (host, numbered("10.77.2.", 10..50)),
        };
        Target { agent: &self.monitor.agent, monitor: self.monitor.address(), host, sources }
    }

    /// Connections that were let in on all ports.
    fn accepted(&self) -> u64 {
        let metrics = self.monitor.agent.http("/metrics", "Connection: close\r\n").1;
        let lines =
            metrics.lines().filter(|line| line.starts_with("hm_agent_connections_accepted_total{"));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// Lives through an attack, of which `sign` must have been counted.
    fn endure(&self, name: &str, sign: &str, mut attack: impl FnMut() -> Counts) {
        let tries: Vec<_> = (0..TRIES)
            .map_while(|_| {
                let start = Instant::now();
                let counts = attack();
                assert!(counts.get(sign).is_some_and(|count| *count > 0), "{name}: {counts:?}");
                self.judge(name, &counts, start, Instant::now())
            })
            .collect();
        assert!(tries.len() < TRIES, "{name}: {tries:#?}");
    }

    /// How long somebody waited, if that was too long.
    fn judge(&self, name: &str, counts: &Counts, start: Instant, end: Instant) -> Option<String> {
        let agent = &self.monitor.agent;
        let new = newcomers(agent, Some(self.monitor.address()), end);
        let waits = self.inside().since(start);
        let seconds = (end - start).as_secs_f64();
        let line = format!("{name}, {seconds:.1} s: {counts:?}; inside {waits:.0?}; new {new:.0?}");
        println!("{line}");
        self.inside().assert_all_here(agent);
        let fine = waits.are_fine() && new.iter().all(|wait| *wait < SOON);
        (!fine).then_some(line)
    }

    /// Clients of each kind, whose network is cut: nobody says that they are gone, and while the agent cannot know it there
    /// is room for others.
    fn vanish(&self, far: &str) {
        let mut is_cut = false;
        self.endure("vanish", "connections", || {
            if std::mem::replace(&mut is_cut, true) {
                self.route("del");
            }
            let mut gone =
                Attacker::start(&["nsenter", far], "vanish", together() / 6, &self.target(NEAR));
            gone.wait_ready();
            self.route("add");
            gone.end()
        });
        self.route("del");
    }

    /// What comes from the attackers' host gets nowhere, and nothing says so.
    fn route(&self, what: &str) {
        ip(&format!("-n {} route {what} blackhole {NEAR}/32", self.router));
    }

    /// The hub's place is taken by somebody else.
    fn hm_turns_hostile(&mut self) {
        let seen = self.hub.take().unwrap().stop();
        self.delivered.extend(reports(&seen));
        self.hostile_hub = Some(Attacker::serve("all", self.hub_port));
    }

    /// As many threads, descriptors and as much memory as before; then another start, which knows all that was known.
    fn end(mut self, before: &Footprint) {
        let agent = &self.monitor.agent;
        let after = wait_until("as little as before", || {
            let now = Footprint::of(agent);
            let threads = now.threads <= before.threads + 4;
            (threads && now.descriptors <= before.descriptors + 4).then_some(now)
        });
        println!("before {before:?}, after {after:?}");
        assert!(after.memory_kb < before.memory_kb + KEPT_KB);
        let cpu = agent.cpu_seconds();
        pass(Duration::from_secs(2));
        let cpu = agent.cpu_seconds() - cpu;
        assert!(cpu < 0.5, "{cpu} s of two, with nothing to do");
        let counts = self.inside().counts();
        println!("inside: {counts:?} in {:.0?}", self.started.elapsed());
        assert!(counts[0] as u64 + 2 >= self.started.elapsed().as_secs(), "updates are missing");
        self.inside.take().unwrap().leave();
        let (agent, late) = (&self.monitor.agent, format!("[{}] is ", support::inside::APP));
        assert_eq!(agent.said(&late), 0, "{:#?}", agent.log());
        let known = agent.list();
        assert!(known.iter().any(|app| app == "kept"), "{known:?}");
        println!("hm: {:?}; core: {:?}", self.hostile_hub.take().unwrap().end(), self.core.end());
        let log = self.monitor.stop();
        println!("{} lines of log", log.len());
        // Each of a handful of kinds: twenty at once, and then one a second.
        assert!(log.len() as u64 <= 10 * (20 + self.started.elapsed().as_secs()), "{log:#?}");

        let taken: BTreeSet<u64> = taken(&self.state_dir.0).into_iter().collect();
        let hub = hub_on(self.hub_port);
        let again = agent_of(&self.state_dir, self.hub_port, self.core_port);
        let all: BTreeSet<String> = again.agent.list().into_iter().collect();
        assert!(known.iter().all(|app| all.contains(app)), "{known:?}, and then {all:?}");
        wait_until("all reports", || {
            let delivered: BTreeSet<u64> = hub.reports().into_iter().collect();
            taken
                .iter()
                .all(|at| self.delivered.contains(at) || delivered.contains(at))
                .then_some(())
        });
        println!(
            "{} reports, {} of them late",
            taken.len(),
            taken.difference(&self.delivered).count()
        );
        assert!(taken.len() as u64 + 5 >= self.started.elapsed().as_secs() / 2, "{}", taken.len());
        again.stop();
    }
}

fn reports(seen: &[Seen]) -> impl Iterator<Item = u64> {
    seen.iter().filter(|seen| seen.kind == 2).map(|seen| seen.timestamp)
}

fn hub_on(port: u16) -> Hub {
    Hub::on(([127, 0, 0, 1], port).into(), true, Duration::from_secs(30))
}

/// On every address of its host, with all that there is.
fn agent_of(state_dir: &Scratch, hub: u16, core: u16) -> Monitor {
    let settings = [
        "interval=1",
        "gpu.source=none",
        "usage.listen=0.0.0.0:0",
        "heartbeat.listen=0.0.0.0:0",
        "monitor.listen=0.0.0.0:0",
        "hm.report_interval=1",
        &format!("hm.url=ws://127.0.0.1:{hub}/websocket"),
        &format!("core.url=ws://127.0.0.1:{core}/api/v1/ws"),
        &format!("state_dir={}", state_dir.0.display()),
    ];
    // glibc gives threads heaps of their own and keeps what is free in them, as it comes.
    Monitor::start_with(&settings, |command| {
        command.env("MALLOC_ARENA_MAX", "1");
    })
}

fn numbered(network: &str, numbers: std::ops::Range<u32>) -> String {
    let all: Vec<String> = numbers.map(|number| format!("{network}{number}")).collect();
    all.join(",")
}

fn ip(line: &str) {
    assert!(Command::new("ip").args(line.split(' ')).status().unwrap().success(), "ip {line}");
}

/// Addresses of the attackers' host, and one from which no answer comes back.
fn give_addresses(far: &str) {
    for address in numbered("10.77.2.", 10..50).split(',') {
        ip(&format!("-n {far} addr add {address}/24 dev hm0"));
    }
    ip(&format!("-n {far} addr add {NOWHERE}/32 dev hm0"));
}
