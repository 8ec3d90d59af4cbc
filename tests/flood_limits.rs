//! Descriptors, threads and memory that run out, one after the other and all at once, while clients want in: those who are
//! inside are served all the time, whoever comes when there is enough again is let in within a second, the log says what was
//! missing, and nothing ends.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use support::attack::{Attacker, Target};
use support::control_group::ControlGroup;
use support::inside::{APP, Inside, newcomers};
use support::monitor::Monitor;
use support::sshd::{CC, PASSWORD, Sshd};
use support::{Agent, Scratch, pass, wait_until};

/// So long there is too little of something.
const SHORTAGE: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(1);
/// So many want in meanwhile.
const CROWD: usize = 600;
/// A shortage is made again when the machine may be the reason that somebody waited: so often in all.
const TRIES: usize = 3;
/// The agent's own control group, with all that it may need and not with all that may be wanted of it.
const GROUP_BYTES: u64 = 64 << 20;

/// What may be limited while it runs.
enum Shortage<'a> {
    Descriptors,
    AddressSpace,
    Threads(&'a ControlGroup),
}

impl Shortage<'_> {
    /// What the log says of it.
    fn said(&self) -> &'static str {
        match self {
            Self::Descriptors => "cannot accept: ",
            // As the C library calls it.
            Self::AddressSpace if cfg!(target_env = "musl") => "a thread: out of memory",
            Self::AddressSpace => "a thread: cannot allocate memory",
            Self::Threads(_) => "a thread: resource temporarily unavailable",
        }
    }

    /// From now on there is no more than there is already, or even less.
    fn begin(&self, agent: &Agent) {
        match self {
            Self::Descriptors => limit(agent, &format!("--nofile={}:", agent.descriptors() - 3)),
            // Not for another connection, and for what those who are inside ask.
            Self::AddressSpace => {
                limit(agent, &format!("--as={}:", agent.status("VmSize") * 1024 + (900 << 10)));
            }
            Self::Threads(group) => group.set("pids", &group.count("pids.current").to_string()),
        }
    }

    fn end(&self, agent: &Agent) {
        match self {
            Self::Descriptors => limit(agent, "--nofile=20000:"),
            Self::AddressSpace => limit(agent, "--as=unlimited:"),
            Self::Threads(group) => group.set("pids", "max"),
        }
    }
}

fn limit(agent: &Agent, what: &str) {
    let status = Command::new("prlimit").args(["--pid", &agent.pid().to_string(), what]).status();
    assert!(status.unwrap().success(), "prlimit {what}");
}

struct Scene {
    monitor: Monitor,
    inside: Inside,
    /// Without a crowd.
    threads: u64,
    _sshd: Sshd,
}

impl Scene {
    fn ports(&self) -> [SocketAddr; 3] {
        let agent = &self.monitor.agent;
        [agent.address, agent.heartbeat(), self.monitor.address()]
    }

    /// Lives through shortages while a crowd wants in.
    fn endure(&self, name: &str, shortages: &[&Shortage<'_>]) {
        let agent = &self.monitor.agent;
        let tries: Vec<_> = (0..TRIES)
            .map_while(|_| {
                // With all of the crowd before gone, and its memory.
                wait_until("rest", || (agent.status("Threads") <= self.threads + 4).then_some(()));
                let said = |shortage: &&Shortage<'_>| agent.said(shortage.said());
                let before: Vec<_> = shortages.iter().map(said).collect();
                let start = Instant::now();
                shortages.iter().for_each(|shortage| shortage.begin(agent));
                let mut crowd = Vec::new();
                wait_until(name, || {
                    let connect = |port: &SocketAddr| TcpStream::connect(port).unwrap();
                    (0..10).for_each(|_| crowd.extend(self.ports().iter().map(connect)));
                    let after = shortages.iter().map(said);
                    // Of those at the same time one keeps the others from being noticed.
                    let noticed = after.zip(&before).any(|(after, before)| after > *before);
                    (noticed && crowd.len() >= CROWD).then_some(())
                });
                pass(SHORTAGE.saturating_sub(start.elapsed()));
                let wanted = crowd.len();
                shortages.iter().for_each(|shortage| shortage.end(agent));
                drop(crowd);
                self.judge(&format!("{name}, {wanted} wanted in"), start, Instant::now())
            })
            .collect();
        assert!(tries.len() < TRIES, "{tries:#?}");
    }

    /// How long somebody waited, if that was too long.
    fn judge(&self, name: &str, start: Instant, end: Instant) -> Option<String> {
        let agent = &self.monitor.agent;
        let new = newcomers(agent, Some(self.monitor.address()), end);
        let waits = self.inside.since(start);
        let seconds = (end - start).as_secs_f64();
        let line = format!("{name}, {seconds:.1} s: inside {waits:.0?}; new {new:.0?}");
        println!("{line}");
        self.inside.assert_all_here(agent);
        let fine = waits.are_fine() && new.iter().all(|wait| *wait < SOON);
        (!fine).then_some(line)
    }
}

fn agent(state_dir: &Scratch, groups: &[&ControlGroup]) -> Monitor {
    let state_dir = format!("state_dir={}", state_dir.0.display());
    let caps = ["usage.max_connections=0", "usage.max_connections_per_ip=0"];
    let settings = ["interval=1", "gpu.source=none", &state_dir].into_iter().chain(caps);
    Monitor::start_with(&settings.collect::<Vec<_>>(), |command| {
        command.env("MALLOC_ARENA_MAX", "1");
        for group in groups {
            *command = group.hold(command);
        }
    })
}

#[test]
#[ignore = "needs root, sshd and python; runs out of things for 30 s"]
fn when_things_run_out_those_inside_are_served_and_the_rest_a_second_later() {
    let group = |controller| {
        ControlGroup::new(controller)
            .inspect_err(|why| println!("left out, as there is no control group: {why}"))
            .ok()
    };
    let (pids, memory) = (group("pids"), group("memory"));
    memory.iter().for_each(|memory| memory.set("memory", &GROUP_BYTES.to_string()));
    let state_dir = Scratch::new("limits");
    let groups: Vec<_> = pids.iter().chain(&memory).collect();
    let monitor = agent(&state_dir, &groups);
    let sshd = Sshd::start(&[CC]);
    let mut watcher = monitor.connect();
    watcher.start(&[sshd.host("cc", Some(PASSWORD))]);
    monitor.agent.tell("/hb_init?3600000&appid=kept");
    let inside = Inside::of(&monitor.agent, Some(watcher));
    let mut scene = Scene { monitor, inside, threads: 0, _sshd: sshd };
    wait_until("everybody inside", || {
        scene.inside.assert_all_here(&scene.monitor.agent);
        scene.inside.counts().iter().all(|count| *count > 2).then_some(())
    });
    scene.threads = scene.monitor.agent.status("Threads");
    let agent_now = &scene.monitor.agent;
    let held = || (agent_now.status("Threads"), agent_now.descriptors());
    let (before, small) = (held(), agent_now.status("RssAnon"));
    let started = Instant::now();

    let threads = pids.as_ref().map(Shortage::Threads);
    let mut all = vec![&Shortage::Descriptors, &Shortage::AddressSpace];
    scene.endure("descriptors", &all[..1]);
    scene.endure("address space", &all[1..]);
    if let Some(threads) = &threads {
        scene.endure("threads", &[threads]);
        all.push(threads);
    }
    scene.endure("all of them", &all);
    if memory.is_some() {
        overrun(&scene);
    }

    wait_until("as little as before", || {
        let (threads, descriptors) = held();
        (threads <= before.0 + 4 && descriptors <= before.1 + 4).then_some(())
    });
    println!(
        "{before:?}, {small} kB before; {:?}, {} kB after",
        held(),
        agent_now.status("RssAnon")
    );
    let Scene { monitor, inside, .. } = scene;
    inside.leave();
    assert_eq!(monitor.agent.said(&format!("[{APP}] is ")), 0, "{:#?}", monitor.agent.log());
    let log = monitor.stop();
    println!("{} lines of log", log.len());
    assert!(log.len() as u64 <= 10 * (20 + started.elapsed().as_secs()), "{log:#?}");
    let again = agent(&state_dir, &[]);
    assert!(again.agent.list().iter().any(|app| app == "kept"), "{:?}", again.agent.list());
    again.stop();
}

/// More connections than there is memory for in the agent's control group. It used to be killed.
fn overrun(scene: &Scene) {
    let agent = &scene.monitor.agent;
    let tries: Vec<_> = (0..TRIES)
        .map_while(|_| {
            let said = "the memory of its control group is nearly used up";
            let before = agent.said(said);
            let target = Target {
                agent,
                monitor: scene.monitor.address(),
                host: "127.0.0.1",
                sources: "127.0.0.2,127.0.0.3".to_owned(),
            };
            let start = Instant::now();
            let counts = Attacker::start(&[], "crowd", SHORTAGE, &target).end();
            let end = Instant::now();
            assert!(agent.said(said) > before, "{counts:?} {:#?}", agent.log());
            scene.judge(&format!("memory of a control group, {counts:?}"), start, end)
        })
        .collect();
    assert!(tries.len() < TRIES, "{tries:#?}");
}
