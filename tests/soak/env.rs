//! An agent with everything on, and everybody whom it talks to.

use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::applications::{self, Told};
use super::clients::{self, Commands};
use super::fault_log::Story;
use super::resource_usage::{self, Sample};
use super::subscribers::Crowd;
use super::support::core::Core;
use super::support::core_wire;
use super::support::disk::Disk;
use super::support::fake_nvml::Driver;
use super::support::heartbeat::list_setting;
use super::support::hub::Hub;
use super::support::monitor::Monitor;
use super::support::node::{User, children};
use super::support::relay::{Certificate, Relay};
use super::support::rng::Rng;
use super::support::sshd::{CC, PASSWORD, Sshd, User as Account};
use super::support::wall_clock::WallClock;
use super::support::{Agent, Scratch};
use super::{GPUS, INTERVAL, REPORT_INTERVAL, faults};

pub const TOKEN: &str = "soak-token";
const ACCOUNTS: [&str; 3] = ["cc", "dd", "ee"];
/// After the last fault all is as it was within the longest wait between two tries and what follows it.
const PATIENCE: Duration = Duration::from_secs(240);
const REST: Duration = Duration::from_secs(10);

pub struct Scene {
    // Ended in this order.
    pub monitor: Monitor,
    pub story: Story,
    pub start: Instant,
    pub to_hub: Relay,
    pub to_core: Relay,
    pub hub: Hub,
    pub core: Core,
    pub driver: Driver,
    pub sshd: Mutex<Sshd>,
    hosts: Vec<Value>,
    pub user: User,
    pub disk: Disk,
    pub files: Scratch,
    pub marks: Scratch,
    /// `None`: its clock cannot be set here.
    pub clock: Option<WallClock>,
    /// How many it may open.
    pub descriptors: u64,
}

impl Scene {
    pub fn new() -> Self {
        let (hub, core, user, disk) = (Hub::start(), Core::start(), User::new(), Disk::new());
        let (files, marks, known_hosts) =
            (Scratch::new("soak"), user.scratch(), Scratch::new("known hosts"));
        let certificate = Certificate::for_days(90);
        let to_hub = Relay::to(hub.address, None);
        let to_core = Relay::to(core.address, Some(certificate.server.clone()));
        let driver = Driver::new(GPUS);
        let hook = format!("echo \"$APP_ID $HB_STATE\" >> {}", files.0.join("overdue").display());
        let settings = [
            format!("interval={INTERVAL}"),
            format!("state_dir={}", disk.directory.0.display()),
            "node_id=n1".to_owned(),
            format!("usage.token={TOKEN}"),
            "usage.max_connections_per_ip=0".to_owned(),
            list_setting("heartbeat.on_overdue", &["sh", "-c", &hook]),
            format!("hm.url=ws://{}/websocket", to_hub.address),
            format!("hm.report_interval={REPORT_INTERVAL}"),
            format!("core.url=wss://localhost:{}/api/v1/ws", to_core.address.port()),
            format!("core.token={}", core_wire::TOKEN),
            "core.heartbeat_interval=5".to_owned(),
            "core.commands=any".to_owned(),
            format!("tls.ca_file={}", files.write("ca.pem", &certificate.authority)),
            "monitor.enabled=true".to_owned(),
            "monitor.listen=127.0.0.1:0".to_owned(),
            format!("monitor.known_hosts={}", known_hosts.0.join("known").display()),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        // What SIGHUP reads again; what is on the command line goes before.
        let file = files.write("settings.toml", "[usage]\nmax_connections = 3000\n");
        let command = driver.command(&["-c", &file], &settings);
        let start = Instant::now();
        let agent = Agent::spawn(disk.before(&user.known_to(&command)));
        agent.wait_log("registered as n1");
        let accounts = ACCOUNTS.map(|name| Account { name, ..CC });
        let sshd = Sshd::start(&accounts);
        let hosts = ACCOUNTS.map(|name| sshd.host(name, Some(PASSWORD))).to_vec();
        let descriptors = most_descriptors(agent.pid());
        let clock = WallClock::of(&agent);
        let monitor = Monitor::of(agent, known_hosts);
        let (sshd, story) = (Mutex::new(sshd), Story::default());
        Self {
            monitor,
            story,
            start,
            to_hub,
            to_core,
            hub,
            core,
            driver,
            sshd,
            hosts,
            user,
            disk,
            files,
            marks,
            clock,
            descriptors,
        }
    }

    pub fn agent(&self) -> &Agent {
        &self.monitor.agent
    }

    /// All the load and faults for so long; with each fault at least once if `all`.
    pub fn load(
        &self,
        time: Duration,
        all: bool,
        rng: &mut Rng,
        commands: &mut Commands,
        told: &mut Told,
    ) -> Vec<Sample> {
        let story = &self.story;
        story.over.store(false, Ordering::Relaxed);
        let (usage, heartbeat) = (self.agent().address, self.agent().heartbeat());
        let seeds: Vec<u64> = (0..10).map(|_| rng.below(u64::MAX)).collect();
        let mut seeds = seeds.into_iter().map(Rng::of);
        let mut seed = || seeds.next().unwrap();
        std::thread::scope(|scope| {
            let crowd = Crowd::new(usage, story, seed());
            let mut threads = vec![scope.spawn(move || crowd.run())];
            threads.push(scope.spawn(|| clients::scrape(&self.monitor, story)));
            let of_core = seed();
            let marks = self.marks.0.join("ran");
            threads.push(scope.spawn(move || commands.give(&self.core, &marks, story, of_core)));
            for _ in 0..3 {
                let rng = seed();
                let watch = move || clients::watch(&self.monitor, &self.hosts, story, rng);
                threads.push(scope.spawn(watch));
            }
            let beating: Vec<_> = (0..applications::THREADS)
                .map(|number| (number, seed()))
                .map(|(number, rng)| {
                    scope.spawn(move || applications::beat(heartbeat, number, story, rng))
                })
                .collect();
            let meter = scope.spawn(|| resource_usage::measure(self.agent(), story));
            faults::deal(self, time, all, rng);
            // What comes of the last one comes.
            story.pass(Duration::from_secs(5));
            story.over.store(true, Ordering::Relaxed);
            let ended = threads.into_iter().all(|thread| thread.join().is_ok());
            if !ended {
                story.wrong("a client has panicked".to_owned());
            }
            for thread in beating {
                for (id, (words, unsure)) in thread.join().unwrap() {
                    let known = told.entry(id).or_default();
                    known.0.extend(words);
                    known.1 |= unsure;
                }
            }
            meter.join().unwrap()
        })
    }

    fn metric(&self, name: &str) -> Option<f64> {
        let bearer = format!("Authorization: Bearer {TOKEN}\r\nConnection: close\r\n");
        let text = self.agent().http("/metrics", &bearer).1;
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    /// Waits until all that was begun is done and nothing moves; what the agent holds then.
    pub fn rest(&self, commands: &mut Commands) -> Sample {
        let moves = || {
            for link in ["hm", "core"] {
                let online =
                    format!("hm_agent_upstream_state{{upstream=\"{link}\",state=\"online\"}}");
                if self.metric(&online) != Some(1.0) {
                    return Some(format!("{link} is not online"));
                }
            }
            let backlog = self.metric("hm_agent_upstream_backlog{upstream=\"hm\"}");
            let children = children(self.agent().pid());
            let commands = self.user.processes();
            let hosts = self.sshd.lock().unwrap().processes();
            let is_still = backlog.is_some_and(|backlog| backlog <= 1.0)
                && children.len() == 1 // the probe
                && commands.is_empty()
                && hosts.is_empty();
            (!is_still).then(|| format!("{backlog:?} {children:?} {commands:?} {hosts:?}"))
        };
        let begin = Instant::now();
        while let Some(what) =
            commands.ask_again(&self.core).then(|| "commands".to_owned()).or_else(moves)
        {
            assert!(begin.elapsed() < PATIENCE, "{what}: {:#?}", self.agent().log());
            std::thread::sleep(Duration::from_millis(500));
        }
        // Subscribers that left without a word are noticed, and threads end.
        let held = || {
            let sample = Sample::of(self.agent());
            (sample.threads, sample.descriptors, sample.children)
        };
        let (mut last, mut since) = (held(), Instant::now());
        while since.elapsed() < REST {
            assert!(begin.elapsed() < PATIENCE, "no rest: {:#?}", self.agent().log());
            std::thread::sleep(Duration::from_millis(500));
            let now = held();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        Sample::of(self.agent())
    }

    /// One each interval, but while the agent was stopped; twice only where a connection broke before the answer.
    pub fn judge_reports(&self) {
        let (stops, stopped) = self.story.stopped();
        let time = (self.start.elapsed() - stopped).as_secs_f64();
        let mut reports = self.hub.reports();
        let all = reports.len();
        reports.sort_unstable();
        reports.dedup();
        let expected = (time / REPORT_INTERVAL as f64) as usize;
        // The one that falls due during a stop is taken after it, and the next one an interval later.
        let apart = 5 + stops as usize;
        let (most, fewest) = (expected + apart, expected.saturating_sub(apart));
        let broken = self.to_hub.connections();
        self.story.count("reports", reports.len() as u64);
        self.story.count("reports that came twice", (all - reports.len()) as u64);
        self.story.count("connections to the hub", broken as u64);
        self.story.count("connections to Core", self.to_core.connections() as u64);
        if !(fewest..=most).contains(&reports.len()) || all - reports.len() > broken {
            self.story.wrong(format!(
                "{} reports, not {fewest} to {most}; {} twice, of {broken} connections",
                reports.len(),
                all - reports.len()
            ));
        }
    }

    /// Stops the agent, which leaves nothing behind.
    pub fn end(self) -> Story {
        let Self { monitor, story, user, sshd, .. } = self;
        let log = monitor.stop();
        for level in [" warn ", " error "] {
            let lines = log.iter().filter(|line| line.contains(level)).count() as u64;
            let name = if level == " warn " { "warnings in the log" } else { "errors in the log" };
            story.count(name, lines);
        }
        if let Some(line) = log.iter().find(|line| line.contains("panicked")) {
            story.wrong(line.clone());
        }
        user.assert_gone("the agent has stopped");
        let left = sshd.lock().unwrap().processes();
        if !left.is_empty() {
            story.wrong(format!("on the host: {left:?}"));
        }
        story
    }
}

/// RLIMIT_NOFILE, the soft one.
fn most_descriptors(pid: u32) -> u64 {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_whitespace().nth(3).unwrap().parse().unwrap()
}
