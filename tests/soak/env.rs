//! An agent with everything on, its servers, and the threads of its clients.

use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::apps::{self, Silences};
use super::clients::{self, Commands};
use super::fault_log::{FaultLog, STOPPED};
use super::resource_usage::{self, Usage};
use super::subscribers::{self, SUBSCRIBERS};
use super::support::core::Core;
use super::support::core_fixture::{User, children};
use super::support::core_wire;
use super::support::fake_nvml::Driver;
use super::support::full_disk::FullDisk;
use super::support::heartbeat::list_setting;
use super::support::hm_server::HmServer;
use super::support::monitor::Monitor;
use super::support::rng::Rng;
use super::support::sshd::{CC, PASSWORD, Sshd, User as Account};
use super::support::tcp_proxy::{Certificate, TcpProxy};
use super::support::wall_clock::WallClock;
use super::support::{Agent, TempDir};
use super::{GPUS, INTERVAL, REPORT_INTERVAL, TOKEN, faults};

/// Size of the disk of state_dir: what the agent needs at most.
const STATE_MEBIBYTES: u32 = 64;
const ACCOUNTS: [&str; 3] = ["cc", "dd", "ee"];
/// Longer than the longest retry delay and the work that follows.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(240);
/// Resources that do not change for this long are taken as those at rest.
const REST: Duration = Duration::from_secs(10);

/// Dropped in this order.
pub struct Env {
    pub monitor: Monitor,
    pub log: FaultLog,
    start: Instant,
    pub to_hub: TcpProxy,
    pub to_core: TcpProxy,
    hub: HmServer,
    pub core: Core,
    pub driver: Driver,
    pub sshd: Mutex<Sshd>,
    hosts: Vec<Value>,
    pub user: User,
    pub disk: FullDisk,
    pub files: TempDir,
    pub marks: TempDir,
    /// `None` on machines where the clock of a process cannot be set.
    pub clock: Option<WallClock>,
    pub descriptor_limit: u64,
}

impl Env {
    pub fn new() -> Self {
        let (hub, core, user, disk) = (
            HmServer::start(),
            Core::start(),
            User::new(),
            FullDisk::of_mebibytes(STATE_MEBIBYTES),
        );
        let (files, marks, known_hosts) =
            (TempDir::new("soak"), user.scratch(), TempDir::new("known hosts"));
        let certificate = Certificate::for_days(90);
        let to_hub = TcpProxy::to(hub.address, None);
        let to_core = TcpProxy::to(core.address, Some(certificate.server.clone()));
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
        // SIGHUP reads this file again; the settings of the command line take precedence.
        let file = files.write("settings.toml", "[usage]\nmax_connections = 3000\n");
        let command = driver.command(&["-c", &file], &settings);
        let start = Instant::now();
        let agent = Agent::spawn(disk.run_inside(&user.with_user_database(&command)));
        agent.wait_log("registered as n1");
        let sshd = Sshd::start(&ACCOUNTS.map(|name| Account { name, ..CC }));
        let hosts = ACCOUNTS.map(|name| sshd.host(name, Some(PASSWORD))).to_vec();
        let descriptor_limit = descriptor_limit(agent.pid());
        let clock = WallClock::of(agent.pid());
        let monitor = Monitor::of(agent, known_hosts);
        let (sshd, log) = (Mutex::new(sshd), FaultLog::default());
        Self {
            monitor,
            log,
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
            descriptor_limit,
        }
    }

    pub fn agent(&self) -> &Agent {
        &self.monitor.agent
    }

    /// Runs all clients and faults for this time; with `all`, until each fault was applied.
    pub fn load(
        &self,
        time: Duration,
        all: bool,
        rng: &mut Rng,
        commands: &mut Commands,
        silences: &mut Silences,
    ) -> Vec<Usage> {
        let log = &self.log;
        log.stop.store(false, Ordering::Relaxed);
        let forks: Vec<Rng> = (0..SUBSCRIBERS + 10).map(|_| Rng::of(rng.below(u64::MAX))).collect();
        let mut forks = forks.into_iter();
        let mut fork = || forks.next().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..SUBSCRIBERS {
                let (usage, rng) = (self.agent().address, fork());
                let small = std::thread::Builder::new().stack_size(128 << 10);
                small.spawn_scoped(scope, move || subscribers::run(usage, log, rng)).unwrap();
            }
            for _ in 0..3 {
                let rng = fork();
                scope.spawn(move || clients::monitor_hosts(&self.monitor, &self.hosts, log, rng));
            }
            scope.spawn(|| clients::scrape(&self.monitor, log));
            let (of_core, marks) = (fork(), self.marks.0.join("ran"));
            scope.spawn(move || commands.run(&self.core, &marks, log, of_core));
            let apps: Vec<_> = (0..apps::THREADS)
                .map(|number| (number, fork()))
                .map(|(number, rng)| scope.spawn(move || apps::run(self.agent(), number, log, rng)))
                .collect();
            let usages = scope.spawn(|| resource_usage::record(self.agent(), log));
            faults::run(self, time, all, rng);
            // The consequences of the last fault.
            log.pause(Duration::from_secs(5));
            log.stop.store(true, Ordering::Relaxed);
            for (id, (count, may_lack_hooks)) in
                apps.into_iter().flat_map(|app| app.join().unwrap())
            {
                let known = silences.entry(id).or_default();
                *known = (known.0 + count, known.1 | may_lack_hooks);
            }
            usages.join().unwrap()
        })
    }

    fn metric(&self, name: &str) -> Option<f64> {
        let bearer = format!("Authorization: Bearer {TOKEN}\r\nConnection: close\r\n");
        let text = self.agent().http("/metrics", &bearer).1;
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    /// What is not finished yet, if anything.
    fn unfinished(&self, commands: &mut Commands) -> Option<String> {
        if commands.resend(&self.core) {
            return Some("commands without a result".to_owned());
        }
        for link in ["hm", "core"] {
            let online = format!("hm_agent_upstream_state{{upstream=\"{link}\",state=\"online\"}}");
            if self.metric(&online) != Some(1.0) {
                return Some(format!("{link} is not online"));
            }
        }
        let backlog = self.metric("hm_agent_upstream_backlog{upstream=\"hm\"}");
        let children = children(self.agent().pid());
        let commands = self.user.processes();
        let hosts = self.sshd.lock().unwrap().processes();
        // The one child is the GPU probe.
        let is_idle = backlog.is_some_and(|backlog| backlog <= 1.0)
            && children.len() == 1
            && commands.is_empty()
            && hosts.is_empty();
        (!is_idle).then(|| format!("{backlog:?} {children:?} {commands:?} {hosts:?}"))
    }

    /// Waits until all work is finished and resources no longer change, and returns them.
    pub fn rest(&self, commands: &mut Commands) -> Usage {
        let begin = Instant::now();
        let step = |what: &str| {
            assert!(begin.elapsed() < RECOVERY_TIMEOUT, "{what}: {:#?}", self.agent().log());
            std::thread::sleep(Duration::from_millis(500));
        };
        while let Some(what) = self.unfinished(commands) {
            step(&what);
        }
        let usage = || Usage::of(self.agent(), &self.log);
        let (mut last, mut since) = (usage(), Instant::now());
        while since.elapsed() < REST {
            step("resources keep changing");
            let now = usage();
            if now.held() != last.held() {
                since = Instant::now();
            }
            last = now;
        }
        last
    }

    /// One report an interval, except while the agent was stopped; repeats only where a connection ended before the answer.
    pub fn check_reports(&self) {
        let (stops, stopped) = self.log.faults().get(STOPPED).copied().unwrap_or_default();
        let time = (self.start.elapsed() - stopped).as_secs_f64();
        let mut reports = self.hub.reports();
        let all = reports.len();
        reports.sort_unstable();
        reports.dedup();
        let expected = (time / REPORT_INTERVAL as f64) as usize;
        // A report that falls due during a stop is taken afterwards, and the next one an interval later.
        let tolerance = 5 + stops;
        let range = expected.saturating_sub(tolerance)..=expected + tolerance;
        let (repeated, connections) = (all - reports.len(), self.to_hub.connections());
        self.log.count("reports", reports.len() as u64);
        self.log.count("reports repeated", repeated as u64);
        if !range.contains(&reports.len()) || repeated > connections {
            let count = reports.len();
            self.log.fail(format!(
                "{count} reports, not {range:?}; {repeated} repeated in {connections} connections"
            ));
        }
    }

    /// Stops the agent. It leaves no process behind.
    pub fn finish(self) -> FaultLog {
        let Self { monitor, log, user, sshd, .. } = self;
        if let Some(line) = monitor.stop().iter().find(|line| line.contains("panicked")) {
            log.fail(line.clone());
        }
        user.assert_no_processes("the agent has stopped");
        let left = sshd.lock().unwrap().processes();
        if !left.is_empty() {
            log.fail(format!("processes left on the host: {left:?}"));
        }
        log
    }
}

/// The soft RLIMIT_NOFILE.
fn descriptor_limit(pid: u32) -> u64 {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_whitespace().nth(3).unwrap().parse().unwrap()
}
