//! Several hubs, their database, and what can happen to each.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::TEST_TIMEOUT;
use crate::support::balancer::Balancer;
use crate::support::cluster::Member;
use crate::support::postgres::Postgres;
use crate::support::rng::Rng;
use crate::support::tcp_proxy::{ProxyMode, TcpProxy};
use crate::support::wall_clock::WallClock;

const DISK_MEBIBYTES: u32 = 160;
/// A larger difference of the hub's clock replaces the time by which a report is recognised.
const MAX_CLOCK_ERROR: u64 = 480;

/// Of a hub that has exited.
const RESTART_INTERVAL: Duration = Duration::from_secs(1);

/// The number is that of a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    KillHub(usize),
    StopHub(usize),
    FreezeHub(usize),
    WrongClock(usize),
    /// Between the hub and the database: connections end, or nothing is forwarded.
    CutFromDatabase(usize),
    FreezeDatabaseLink(usize),
    /// Between nodes and the hub.
    CutFromNodes(usize),
    FreezeNodeLinks(usize),
    KillDatabase,
    FreezeDatabase,
    FillDisk,
}

/// Of what there is one fault at a time.
#[derive(Debug, PartialEq, Eq)]
enum Subject {
    Hub(usize),
    DatabaseLink(usize),
    NodeLinks(usize),
    Database,
}

impl Fault {
    fn subject(self) -> Subject {
        match self {
            Self::KillHub(hub) | Self::StopHub(hub) => Subject::Hub(hub),
            Self::FreezeHub(hub) | Self::WrongClock(hub) => Subject::Hub(hub),
            Self::CutFromDatabase(hub) | Self::FreezeDatabaseLink(hub) => {
                Subject::DatabaseLink(hub)
            }
            Self::CutFromNodes(hub) | Self::FreezeNodeLinks(hub) => Subject::NodeLinks(hub),
            Self::KillDatabase | Self::FreezeDatabase | Self::FillDisk => Subject::Database,
        }
    }

    fn random(rng: &mut Rng, hubs: usize) -> Self {
        let hub = rng.below(hubs as u64) as usize;
        match rng.below(11) {
            0 => Self::KillHub(hub),
            1 => Self::StopHub(hub),
            2 => Self::FreezeHub(hub),
            3 => Self::WrongClock(hub),
            4 => Self::CutFromDatabase(hub),
            5 => Self::FreezeDatabaseLink(hub),
            6 => Self::CutFromNodes(hub),
            7 => Self::FreezeNodeLinks(hub),
            8 => Self::KillDatabase,
            9 => Self::FreezeDatabase,
            _ => Self::FillDisk,
        }
    }
}

pub struct Cluster {
    pub members: Vec<Member>,
    pub postgres: Postgres,
    /// What nodes connect to.
    pub hm: Balancer,
    pub core: Balancer,
    database_links: Vec<TcpProxy>,
    clocks: Vec<Option<WallClock>>,
    active: Vec<(Fault, Instant)>,
    start: Instant,
    rng: Rng,
    /// Logs of hubs that have ended.
    logs: Vec<String>,
    pub counts: std::collections::BTreeMap<String, usize>,
}

impl Cluster {
    pub fn start(hubs: usize, rng: Rng) -> Self {
        let postgres = Postgres::on_disk(DISK_MEBIBYTES);
        let database_links: Vec<_> =
            (0..hubs).map(|_| TcpProxy::to(postgres.address, None)).collect();
        let settings = ["commands.enabled=true", "nodes.offline_after=5"];
        let members: Vec<Member> = (0..hubs)
            .map(|hub| {
                let store = postgres.url_at(database_links[hub].address);
                Member::start(&format!("hub-{hub}"), &store, &settings)
            })
            .collect();
        let address = |of: fn(&Member) -> SocketAddr| members.iter().map(of).collect::<Vec<_>>();
        let hm = Balancer::to(address(|member| member.hm).into_iter());
        let core = Balancer::to(address(|member| member.core).into_iter());
        let clocks = (0..hubs).map(|_| None).collect();
        let start = Instant::now();
        let (active, logs, counts) = Default::default();
        Self {
            members,
            postgres,
            hm,
            core,
            database_links,
            clocks,
            active,
            start,
            rng,
            logs,
            counts,
        }
    }

    pub fn say(&self, what: impl fmt::Display) {
        println!("{:7.1} s  {what}", self.start.elapsed().as_secs_f64());
    }

    pub fn random(&mut self, limit: Duration) -> Duration {
        Duration::from_millis(self.rng.below(limit.as_millis() as u64))
    }

    fn has(&self, subject: &Subject) -> bool {
        self.active.iter().any(|(fault, _)| fault.subject() == *subject)
    }

    /// Starts a random fault that lasts for at most `longest`. With `spares_first`, the process of the first hub goes on.
    pub fn begin(&mut self, longest: Duration, spares_first: bool) {
        let fault = Fault::random(&mut self.rng, self.members.len());
        let ends_first = matches!(fault, Fault::KillHub(0) | Fault::StopHub(0));
        if self.has(&fault.subject()) || self.active.len() >= 3 || ends_first && spares_first {
            return;
        }
        let time = self.random(longest);
        self.say(format_args!("{fault:?} for {:.1} s", time.as_secs_f64()));
        let name = format!("{fault:?}");
        *self.counts.entry(name.split('(').next().unwrap().to_owned()).or_default() += 1;
        match fault {
            Fault::KillHub(hub) => {
                let log = self.members[hub].kill();
                self.keep_log(hub, log);
            }
            Fault::StopHub(hub) => {
                let log = self.members[hub].stop();
                self.keep_log(hub, log);
            }
            Fault::FreezeHub(hub) => self.members[hub].hub().signal("-STOP"),
            Fault::WrongClock(hub) => {
                let clock = WallClock::of(self.members[hub].hub().pid());
                let error = self.rng.below(2 * MAX_CLOCK_ERROR) as i64 - MAX_CLOCK_ERROR as i64;
                self.say(format_args!("the clock of hub {hub} is wrong by {error} s"));
                clock.iter().for_each(|clock| clock.wrong_by(error));
                self.clocks[hub] = clock;
            }
            Fault::CutFromDatabase(hub) => self.database_links[hub].set_mode(ProxyMode::Cut),
            Fault::FreezeDatabaseLink(hub) => self.database_links[hub].set_mode(ProxyMode::Frozen),
            Fault::CutFromNodes(hub) => self.set_node_links(hub, ProxyMode::Cut),
            Fault::FreezeNodeLinks(hub) => self.set_node_links(hub, ProxyMode::Frozen),
            Fault::KillDatabase => self.postgres.kill(),
            Fault::FreezeDatabase => self.postgres.signal("-STOP"),
            Fault::FillDisk => self.postgres.disk().fill(),
        }
        self.active.push((fault, Instant::now() + time));
    }

    fn set_node_links(&self, hub: usize, mode: ProxyMode) {
        self.hm.set_mode(hub, mode);
        self.core.set_mode(hub, mode);
    }

    fn keep_log(&mut self, hub: usize, log: Vec<String>) {
        self.logs.extend(log.into_iter().map(|line| format!("hub-{hub}: {line}")));
    }

    /// Ends the faults whose time is over.
    pub fn end_due(&mut self) {
        let now = Instant::now();
        let is_due = |(_, until): &(Fault, Instant)| *until <= now;
        let (due, active) = std::mem::take(&mut self.active).into_iter().partition(is_due);
        self.active = active;
        self.end(due);
    }

    pub fn end_all(&mut self) {
        let start = Instant::now();
        while !self.active.is_empty() {
            assert!(start.elapsed() < TEST_TIMEOUT, "{:?} have not ended", self.active);
            let all = std::mem::take(&mut self.active);
            self.end(all);
        }
    }

    fn end(&mut self, mut faults: Vec<(Fault, Instant)>) {
        // A hub starts only with its database.
        let is_start = |fault| matches!(fault, Fault::KillHub(_) | Fault::StopHub(_));
        faults.sort_by_key(|(fault, _)| is_start(*fault));
        for (fault, until) in faults {
            match fault {
                Fault::KillHub(hub) | Fault::StopHub(hub) => {
                    if self.has(&Subject::Database) || self.has(&Subject::DatabaseLink(hub)) {
                        self.active.push((fault, until));
                        continue;
                    }
                    // E.g. another hub that is frozen holds a lock. systemd tries again, too.
                    if let Err(log) = self.members[hub].try_run() {
                        self.say(format_args!("hub {hub} has not started: {:?}", log.last()));
                        self.keep_log(hub, log);
                        self.active.push((fault, Instant::now() + RESTART_INTERVAL));
                        continue;
                    }
                }
                Fault::FreezeHub(hub) => self.members[hub].hub().signal("-CONT"),
                Fault::WrongClock(hub) => {
                    let clock = self.clocks[hub].take();
                    clock.iter().for_each(|clock| clock.wrong_by(0));
                }
                Fault::CutFromDatabase(hub) | Fault::FreezeDatabaseLink(hub) => {
                    self.database_links[hub].set_mode(ProxyMode::Forward);
                }
                Fault::CutFromNodes(hub) | Fault::FreezeNodeLinks(hub) => {
                    self.set_node_links(hub, ProxyMode::Forward);
                }
                Fault::KillDatabase => self.postgres.run(),
                Fault::FreezeDatabase => self.postgres.signal("-CONT"),
                Fault::FillDisk => {
                    self.postgres.disk().empty();
                    self.postgres.run_if_ended();
                }
            }
            self.say(format_args!("{fault:?} is over"));
        }
    }
}

impl Drop for Cluster {
    /// Prints the logs if the test has failed.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.logs.iter().for_each(|line| println!("{line}"));
            for member in self.members.iter().filter(|member| member.is_up()) {
                member.hub().log().iter().for_each(|line| println!("{}: {line}", member.name));
            }
            self.postgres.log().iter().for_each(|line| println!("postgres: {line}"));
        }
    }
}
