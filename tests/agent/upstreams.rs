//! Both upstreams, dashboards, heartbeats and commands while network and servers fail: afterwards the agent has no more
//! threads, descriptors and memory than before. `tests/soak/run reports` runs this for ten minutes.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::core_fixture::{self, User};
use crate::support::core_process::{CoreProcess, CoreRecord, core_records, messages};
use crate::support::netns::{HmServerProcess, SERVER_ADDRESS, TwoHosts, recorded};
use crate::support::{Agent, Client, TempDir, websocket};
use tungstenite::{Error, Message};

const DEADLINE: Duration = Duration::from_secs(30);
/// After the last fault the agent recovers within the longest reconnect delay and the backlog.
const TIMEOUT: Duration = Duration::from_secs(120);
const QUIET_SECONDS: u64 = 30;
/// Allowed growth after the first round. glibc keeps freed memory for each thread.
const MAX_GROWTH_KB: u64 = if cfg!(target_env = "musl") { 1024 } else { 24 << 10 };

const USAGE: &str = "HM_TEST_USAGE";
const HEARTBEAT: &str = "HM_TEST_HEARTBEAT";

/// Dashboards and applications on the agent's host, until standard input has data.
#[test]
#[ignore = "the load process of another test"]
fn load_process() {
    let address = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let (Some(usage), Some(heartbeat)) = (address(USAGE), address(HEARTBEAT)) else { return };
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| watch(usage, &end));
        }
        scope.spawn(|| reconnect_repeatedly(usage, &end));
        for number in 0..3 {
            let end = &end;
            scope.spawn(move || send_heartbeats(heartbeat, number, end));
        }
        println!("load started");
        let _ = std::io::stdin().read_line(&mut String::new());
        end.store(true, Ordering::Relaxed);
    });
    std::process::exit(0);
}

fn pause() {
    std::thread::park_timeout(Duration::from_millis(100));
}

fn dashboard(usage: SocketAddr, text: &str) -> Client {
    let mut client = Client(websocket::connect(usage, "/usage"));
    client.send_text(text);
    client
}

/// A dashboard that stays connected and gets an update each second.
fn watch(usage: SocketAddr, end: &AtomicBool) {
    let mut client = dashboard(usage, "subscribe:usage");
    while !end.load(Ordering::Relaxed) {
        client.json();
    }
    client.0.close(None).unwrap();
    while !matches!(client.0.read(), Err(Error::ConnectionClosed | Error::Io(_))) {}
}

/// Dashboards that disconnect without a close frame, and a client that sends nonsense.
fn reconnect_repeatedly(usage: SocketAddr, end: &AtomicBool) {
    while !end.load(Ordering::Relaxed) {
        let mut client = dashboard(usage, "subscribe:detail");
        (0..3).for_each(|_| drop(client.json()));
        let mut client = dashboard(usage, "nonsense");
        client.0.send(Message::Ping("?".into())).unwrap();
        drop(TcpStream::connect(usage).unwrap());
        pause();
    }
}

fn send_heartbeats(heartbeat: SocketAddr, number: usize, end: &AtomicBool) {
    use std::io::{Read, Write};
    let get = |target: &str| {
        let mut socket = TcpStream::connect(heartbeat).unwrap();
        let request = format!(
            "GET {target}&appid=app-{number} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        socket.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    };
    while !end.load(Ordering::Relaxed) {
        get("/hb_init?2000");
        (0..5).for_each(|_| {
            get("/hb_ping?2000");
            pause();
        });
        get("/hb_done?0");
    }
}

/// Everything on the two hosts.
struct Fixture {
    // Ended in this order.
    agent: Agent,
    hub: Option<HmServerProcess>,
    core: Option<CoreProcess>,
    cable: TwoHosts,
    user: User,
    state: TempDir,
    commands: usize,
}

/// Resources of the agent.
#[derive(Debug, PartialEq, Eq)]
struct Resources {
    threads: u64,
    descriptors: usize,
}

impl Fixture {
    fn new() -> Self {
        let (cable, user, state) = (TwoHosts::new(), User::new(), TempDir::new("upstreams"));
        let core = format!("core.url=ws://{SERVER_ADDRESS}:9999/api/v1/ws");
        let hub = format!("hm.url=ws://{SERVER_ADDRESS}:9521/websocket");
        let settings = ["core.commands=any", &hub, "hm.report_interval=1", "hm.ping_interval=1"];
        let command = core_fixture::command(&core, &state, &settings);
        let wrapped = core_fixture::wrap(&["ip", "netns", "exec", &cable.near], &command);
        let agent = Agent::spawn(user.with_user_database(&wrapped));
        let mut fixture = Self { agent, hub: None, core: None, cable, user, state, commands: 0 };
        fixture.start_hub();
        fixture.start_core();
        fixture
    }

    fn record(&self, name: &str) -> PathBuf {
        self.state.0.join(name)
    }

    fn start_hub(&mut self) {
        let command = self.cable.on(&self.cable.far, std::env::current_exe().unwrap());
        let address = format!("{SERVER_ADDRESS}:9521");
        self.hub = Some(HmServerProcess::start(command, &address, DEADLINE, &self.record("hub")));
    }

    fn start_core(&mut self) {
        let command = self.cable.on(&self.cable.far, std::env::current_exe().unwrap());
        self.core = Some(CoreProcess::start(
            command,
            &format!("{SERVER_ADDRESS}:9999"),
            &self.record("core"),
        ));
    }

    fn load(&self) -> Child {
        let mut command = self.cable.on(&self.cable.near, std::env::current_exe().unwrap());
        command.args(["--exact", "upstreams::load_process", "--ignored", "--nocapture"]);
        command.env(USAGE, self.agent.address.to_string());
        command.env(HEARTBEAT, self.agent.heartbeat().to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    fn wait(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            let log = || self.agent.log();
            assert!(start.elapsed() < TIMEOUT, "{what}: not in {TIMEOUT:?} {:#?}", log());
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Requests a command every half second for `time`.
    fn sleep_for(&mut self, time: Duration) {
        let texts = [
            ("echo a", 5),
            ("seq 1 100000", 5),
            ("sleep 1000", 1),
            ("setsid sleep 1000 > /dev/null 2>&1 & echo a >&2; exit 3", 5),
            ("head -c 300000 /dev/zero", 5),
            ("no-such-program", 5),
        ];
        let start = Instant::now();
        while start.elapsed() < time {
            if let Some(core) = &mut self.core {
                let (text, timeout) = texts[self.commands % texts.len()];
                core.execute(&format!("c{}", self.commands), text, timeout);
                self.commands += 1;
            }
            std::thread::park_timeout(Duration::from_millis(500).min(time));
        }
    }

    /// Faults of the upstreams, each for `seconds`.
    fn faults(&mut self, seconds: u64) {
        let time = Duration::from_secs(seconds);
        self.cable.cut();
        self.sleep_for(time);
        self.cable.restore();
        self.sleep_for(time);
        self.core.take().unwrap().kill();
        self.sleep_for(time);
        self.start_core();
        self.sleep_for(time);
        self.hub.take().unwrap().kill();
        self.sleep_for(time);
        self.start_hub();
        self.sleep_for(time);
        self.core.as_ref().unwrap().signal("-STOP");
        self.hub.as_ref().unwrap().signal("-STOP");
        self.sleep_for(time);
        self.core.as_ref().unwrap().signal("-CONT");
        self.hub.as_ref().unwrap().signal("-CONT");
        self.sleep_for(time);
        self.core.take().unwrap().shut_down();
        self.hub.take().unwrap().shut_down();
        self.start_core();
        self.start_hub();
        self.sleep_for(time);
    }

    /// All faults under load, then a pause without load.
    fn round(&mut self, seconds: u64) -> Resources {
        let mut load = self.load();
        self.faults(seconds);
        drop(load.stdin.take());
        assert!(load.wait().unwrap().success(), "the load: {:#?}", self.agent.log());
        self.wait_idle()
    }

    /// Waits until all results are delivered; returns the agent's resources then.
    fn wait_idle(&self) -> Resources {
        let (hub, core) = (self.record("hub"), self.record("core"));
        let (reports, heartbeats) = (recorded(&hub).len(), messages(&core, "heartbeat").len());
        self.wait("both upstreams", |_| {
            recorded(&hub).len() > reports + 3
                && messages(&core, "heartbeat").len() > heartbeats + 3
        });
        self.wait("results of all started commands", |_| missing_results(&core).is_empty());
        self.wait("the end of all commands", |fixture| {
            fixture.user.processes().is_empty()
                && core_fixture::children(fixture.agent.pid()).is_empty()
        });
        let resources = || Resources {
            threads: self.agent.status("Threads"),
            descriptors: self.agent.descriptors(),
        };
        // Until threads of disconnected dashboards have ended.
        let (mut last, mut since) = (resources(), Instant::now());
        self.wait("constant resources", |_| {
            let now = resources();
            if now != last {
                (last, since) = (now, Instant::now());
            }
            since.elapsed() > Duration::from_secs(3)
        });
        last
    }
}

/// Started commands without a confirmed result.
fn missing_results(record: &std::path::Path) -> Vec<String> {
    let id =
        |message: &serde_json::Value| message["data"]["command_id"].as_str().unwrap().to_owned();
    let mut started = Vec::new();
    let mut finished = Vec::new();
    let lines = core_records(record);
    let acknowledged: Vec<&String> = lines
        .iter()
        .filter_map(|(_, what)| match what {
            CoreRecord::Acknowledged(id) => Some(id),
            CoreRecord::Seen(_) => None,
        })
        .collect();
    for (_, what) in &lines {
        let CoreRecord::Seen(message) = what else { continue };
        if message["type"] == "command_started" {
            started.push(id(message));
        } else if message["type"] == "command_result"
            && acknowledged.iter().any(|acknowledged| message["id"] == ***acknowledged)
        {
            finished.push(id(message));
        }
    }
    started.retain(|started| !finished.contains(started));
    started
}

#[test]
#[ignore = "needs root and ip; a minute, ten in tests/soak/run reports"]
fn faults_under_load_leak_no_resources() {
    let seconds =
        std::env::var("HM_UPSTREAMS_SECONDS").map_or(QUIET_SECONDS, |text| text.parse().unwrap());
    let mut fixture = Fixture::new();
    // Allocates all buffers.
    let before = fixture.round(1);
    let size = fixture.agent.status("RssAnon");
    println!("{before:?}, {size} kB");
    let start = Instant::now();
    let mut longest = 1;
    while start.elapsed() < Duration::from_secs(seconds) {
        let now = fixture.round(longest);
        println!("{:?}: {now:?}, {} kB", start.elapsed(), fixture.agent.status("RssAnon"));
        assert_eq!(now, before, "threads and descriptors");
        // Sometimes longer than the response timeout.
        longest = if longest < 30 { longest * 3 } else { 1 };
        longest = longest.min(seconds / 10).max(1);
    }
    let end = fixture.agent.status("RssAnon");
    assert!(end <= size + MAX_GROWTH_KB, "{size} kB, then {end} kB");
    println!("{} commands; {}", fixture.commands, fixture.agent.log().len());
    fixture.agent.stop();
}
