//! Attacks on all ports, and shortages of descriptors, threads and memory. Clients that were connected before are served all the
//! time, new clients are served within a second after the end (more on a busy machine), and the agent uses no more afterwards than before.
//! `HM_FLOOD_SECONDS` is how long all attacks together last; each alone lasts a sixth of it.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::attack::{Attacker, Counts};
use crate::support::bystanders::{APP, Bystanders, new_client_delays};
use crate::support::control_group::ControlGroup;
use crate::support::monitor::Monitor;
use crate::support::sshd::{CC, PASSWORD, Sshd};
use crate::support::{Agent, TEST_TIMEOUT, TempDir, sleep_for, wait_until};

const NEW_CLIENT_TIMEOUT: Duration = Duration::from_secs(1);
/// The same after a crowd that has used up the memory: 8000 connections, which the kernel has queued, come before the new client.
const CROWD_TIMEOUT: Duration = Duration::from_secs(2);
/// Other load on the machine may delay a client in one attempt; a defect delays it in each.
const ATTEMPTS: usize = 3;
const SHORTAGE: Duration = Duration::from_secs(3);
/// Connections that are attempted during a shortage.
const PENDING_CLIENTS: usize = 600;
/// Enough for what the agent needs, and not for all connections that are attempted. In such a control group the kernel once
/// killed the agent.
const GROUP_BYTES: u64 = 64 << 20;
/// What may be left in memory. glibc keeps for each thread what that thread has freed.
const MEMORY_GROWTH_KB: u64 = if cfg!(target_env = "musl") { 4096 } else { 48 << 10 };

#[test]
#[ignore = "needs root, sshd and python; uses two CPUs for 40 s"]
fn serves_existing_clients_during_floods_on_all_ports() {
    hm_agent::sys::raise_descriptor_limit().unwrap();
    let seconds = std::env::var("HM_FLOOD_SECONDS").map_or(9, |text| text.parse().unwrap());
    let together = Duration::from_secs(seconds);
    let fixture = Fixture::new(&[], &[]);
    for (attack, sign) in [
        ("slow", "bytes"),
        ("silent", "closed"),
        ("flood", "closed"),
        ("resets", "resets"),
        ("heads", "431"),
        ("frames", "close 1009"),
        ("unread", "held"),
        ("pipelined", "requests"),
        ("together", "closed"),
    ] {
        let time = if attack == "together" { together } else { together / 6 };
        fixture.assert_served_during(attack, || {
            let counts = fixture.attack(attack, time, 60);
            assert!(counts.get(sign).is_some_and(|count| *count > 0), "{attack}: {counts:?}");
        });
    }
    fixture.finish();
}

#[test]
#[ignore = "needs root, sshd and python; 30 s"]
fn serves_existing_clients_when_resources_run_out() {
    let group = |controller| {
        ControlGroup::new(controller)
            .inspect_err(|error| println!("skipped, no control group: {error}"))
            .ok()
    };
    let (pids, memory) = (group("pids"), group("memory"));
    memory.iter().for_each(|memory| memory.set_limit("memory", &GROUP_BYTES.to_string()));
    let groups: Vec<_> = pids.iter().chain(&memory).collect();
    let unlimited = ["usage.max_connections=0", "usage.max_connections_per_ip=0"];
    let fixture = Fixture::new(&unlimited, &groups);
    let mut all = vec![Shortage::Descriptors, Shortage::AddressSpace];
    all.extend(pids.as_ref().map(Shortage::Threads));
    for shortage in &all {
        fixture.run_out_of(std::slice::from_ref(shortage));
    }
    fixture.run_out_of(&all);
    if memory.is_some() {
        let limit = CROWD_TIMEOUT;
        fixture.assert_served_within(limit, "control group memory", || {
            let message = "memory limit of the control group nearly reached";
            let before = fixture.agent().count_log(message);
            let mut time = SHORTAGE;
            while fixture.agent().count_log(message) == before {
                // On a slow machine fewer connections come in the same time.
                let counts = fixture.attack("crowd", time, 2);
                time *= 2;
                assert!(time < TEST_TIMEOUT, "{counts:?} {:#?}", fixture.agent().log());
            }
        });
    }
    fixture.finish();
}

/// A limit that is lowered while the agent runs.
#[derive(Debug)]
enum Shortage<'a> {
    Descriptors,
    AddressSpace,
    Threads(&'a ControlGroup),
}

impl Shortage<'_> {
    /// Part of the log line about it. Its end is the C library's text.
    fn message(&self) -> &'static str {
        match self {
            Self::Descriptors => "cannot accept connections: ",
            Self::AddressSpace if cfg!(target_env = "musl") => "a thread: out of memory",
            Self::AddressSpace => "a thread: cannot allocate memory",
            Self::Threads(_) => "a thread: resource temporarily unavailable",
        }
    }

    /// Sets the limit to what is in use, or less.
    fn begin(&self, agent: &Agent) {
        match self {
            Self::Descriptors => prlimit(agent, &format!("--nofile={}:", agent.descriptors() - 3)),
            // Enough to answer existing clients, too little for another connection.
            Self::AddressSpace => {
                prlimit(agent, &format!("--as={}:", agent.status("VmSize") * 1024 + (900 << 10)));
            }
            Self::Threads(group) => {
                group.set_limit("pids", &group.read("pids.current").to_string());
            }
        }
    }

    fn end(&self, agent: &Agent) {
        match self {
            Self::Descriptors => prlimit(agent, "--nofile=20000:"),
            Self::AddressSpace => prlimit(agent, "--as=unlimited:"),
            Self::Threads(group) => group.set_limit("pids", "max"),
        }
    }
}

fn prlimit(agent: &Agent, limit: &str) {
    let status = Command::new("prlimit").args(["--pid", &agent.pid().to_string(), limit]).status();
    assert!(status.unwrap().success(), "prlimit {limit}");
}

/// Threads, descriptors, and private memory in kB.
type Resources = (u64, usize, u64);

fn resources(agent: &Agent) -> Resources {
    (agent.status("Threads"), agent.descriptors(), agent.status("RssAnon"))
}

/// An agent with clients on all ports, one of which watches a host over SSH.
struct Fixture {
    monitor: Monitor,
    clients: Bystanders,
    before: Resources,
    started: Instant,
    state_dir: TempDir,
    _sshd: Sshd,
}

impl Fixture {
    fn new(settings: &[&str], groups: &[&ControlGroup]) -> Self {
        let state_dir = TempDir::new("flood");
        let monitor = start_agent(&state_dir, settings, groups);
        let sshd = Sshd::start(&[CC]);
        let mut watcher = monitor.connect();
        watcher.start(&[sshd.host("cc", Some(PASSWORD))]);
        monitor.agent.get_ok("/hb_init?3600000&appid=kept");
        let clients = Bystanders::start(&monitor.agent, Some(watcher));
        wait_until("service of all clients", || {
            clients.assert_all_served(&monitor.agent);
            clients.counts().iter().all(|count| *count > 2).then_some(())
        });
        let (before, started) = (resources(&monitor.agent), Instant::now());
        Self { monitor, clients, before, started, state_dir, _sshd: sshd }
    }

    fn agent(&self) -> &Agent {
        &self.monitor.agent
    }

    fn attack(&self, attack: &str, time: Duration, sources: u8) -> Counts {
        Attacker::start(attack, time, self.agent(), self.monitor.address(), sources).finish()
    }

    fn assert_served_during(&self, name: &str, event: impl Fn()) {
        self.assert_served_within(NEW_CLIENT_TIMEOUT, name, event);
    }

    /// Runs `event` until no client has to wait too long, at most [`ATTEMPTS`] times.
    fn assert_served_within(&self, new_client_timeout: Duration, name: &str, event: impl Fn()) {
        let mut attempts = Vec::new();
        while attempts.len() < ATTEMPTS {
            self.wait_for_threads();
            let start = Instant::now();
            event();
            let end = Instant::now();
            let new = new_client_delays(self.agent(), Some(self.monitor.address()), end);
            let waits = self.clients.since(start);
            self.clients.assert_all_served(self.agent());
            println!("{name}, {:.1?}: existing {waits:.0?}; new {new:.0?}", end - start);
            let limit = waits.scaled(new_client_timeout);
            if waits.within_limits() && new.iter().all(|wait| *wait < limit) {
                return;
            }
            attempts.push((waits, new));
        }
        panic!("{name}: {attempts:#?}");
    }

    fn wait_for_threads(&self) {
        let limit = self.before.0 + 4;
        wait_until("few threads", || (self.agent().status("Threads") <= limit).then_some(()));
    }

    fn run_out_of(&self, shortages: &[Shortage<'_>]) {
        let ports = [self.agent().address, self.agent().heartbeat(), self.monitor.address()];
        let logged = |shortage: &Shortage<'_>| self.agent().count_log(shortage.message());
        self.assert_served_during(&format!("{shortages:?}"), || {
            let before: Vec<_> = shortages.iter().map(logged).collect();
            let start = Instant::now();
            shortages.iter().for_each(|shortage| shortage.begin(self.agent()));
            let mut pending = Vec::new();
            wait_until("a log line about the shortage", || {
                let connect = |port: &SocketAddr| TcpStream::connect(port).unwrap();
                (0..10).for_each(|_| pending.extend(ports.iter().map(connect)));
                // Of several shortages at once, the first one hides the others.
                let after = shortages.iter().map(logged);
                let is_logged = after.zip(&before).any(|(after, before)| after > *before);
                (is_logged && pending.len() >= PENDING_CLIENTS).then_some(())
            });
            sleep_for(SHORTAGE.saturating_sub(start.elapsed()));
            shortages.iter().for_each(|shortage| shortage.end(self.agent()));
        });
    }

    /// Resources are released, no client was dropped, the log is short, and a restarted agent knows its applications.
    fn finish(self) {
        let agent = &self.monitor.agent;
        let after = wait_until("release of threads and descriptors", || {
            let now = resources(agent);
            (now.0 <= self.before.0 + 4 && now.1 <= self.before.1 + 4).then_some(now)
        });
        println!("{:?} before, {after:?} after", self.before);
        assert!(after.2 < self.before.2 + MEMORY_GROWTH_KB, "{:?}, {after:?}", self.before);
        let cpu = agent.cpu_seconds();
        sleep_for(Duration::from_secs(2));
        let cpu = agent.cpu_seconds() - cpu;
        assert!(cpu < 0.5, "{cpu} s of CPU in two seconds without load");
        let elapsed = self.started.elapsed().as_secs();
        assert!(self.clients.counts()[0] as u64 + 2 >= elapsed, "updates are missing");
        self.clients.stop();
        assert_eq!(agent.count_log(&format!("[{APP}] is ")), 0, "{:#?}", agent.log());
        let known = agent.list();
        assert!(known.iter().any(|app| app == "kept"), "{known:?}");
        let log = self.monitor.stop();
        // About ten kinds of lines, each limited to twenty at once and then one a second.
        assert!(log.len() as u64 <= 10 * (20 + elapsed), "{log:#?}");
        let restarted = start_agent(&self.state_dir, &[], &[]);
        let listed = restarted.agent.list();
        assert!(known.iter().all(|app| listed.contains(app)), "{known:?}, then {listed:?}");
        restarted.stop();
    }
}

fn start_agent(state_dir: &TempDir, settings: &[&str], groups: &[&ControlGroup]) -> Monitor {
    let state_dir = format!("state_dir={}", state_dir.0.display());
    let own = ["interval=1", "gpu.source=none", &state_dir];
    Monitor::start_with(&[&own, settings].concat(), |command| {
        // glibc gives each thread a heap of its own and keeps what is free in it.
        command.env("MALLOC_ARENA_MAX", "1");
        for group in groups {
            *command = group.wrap(command);
        }
    })
}
