//! Both uplinks, dashboards, applications that beat and commands, while cables and servers fail: when all is quiet
//! again, the agent holds no thread, no descriptor and no memory more than before. `tests/soak reports` does it for ten minutes.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::core_process::{CoreProcess, Noted, messages, noted};
use support::netns::{FAR, HubProcess, TwoHosts, recorded};
use support::node::{self, User};
use support::{Agent, Client, Scratch};
use tungstenite::{Error, Message};

const DEADLINE: Duration = Duration::from_secs(30);
/// After the last fault all is as it was within the longest wait between two tries and what follows it.
const PATIENCE: Duration = Duration::from_secs(120);
const QUIET_SECONDS: u64 = 30;
/// What there may be that was not there after the first round of faults. glibc keeps for each thread what that has freed.
const KEPT_KB: u64 = if cfg!(target_env = "musl") { 1024 } else { 24 << 10 };

#[test]
#[ignore = "is the hub of another test, in a process of its own"]
fn hub_process() {
    HubProcess::main();
}

#[test]
#[ignore = "is the Core of another test, in a process of its own"]
fn core_process() {
    CoreProcess::be();
}

const USAGE: &str = "HM_TEST_USAGE";
const HEARTBEAT: &str = "HM_TEST_HEARTBEAT";

/// Dashboards and applications on the agent's host, until somebody says something.
#[test]
#[ignore = "is what runs beside the agent of another test, in a process of its own"]
fn load_process() {
    let address = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let (Some(usage), Some(heartbeat)) = (address(USAGE), address(HEARTBEAT)) else { return };
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| watch(usage, &end));
        }
        scope.spawn(|| come_and_go(usage, &end));
        for number in 0..3 {
            let end = &end;
            scope.spawn(move || beat(heartbeat, number, end));
        }
        println!("the load is there");
        let _ = std::io::stdin().read_line(&mut String::new());
        end.store(true, Ordering::Relaxed);
    });
    std::process::exit(0);
}

fn rest() {
    std::thread::park_timeout(Duration::from_millis(100));
}

fn dashboard(usage: SocketAddr, text: &str) -> Client {
    let socket = TcpStream::connect(usage).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut client = Client(tungstenite::client(format!("ws://{usage}/usage"), socket).unwrap().0);
    client.say(text);
    client
}

/// A dashboard that stays. There is an update each second, whatever the uplinks do.
fn watch(usage: SocketAddr, end: &AtomicBool) {
    let mut client = dashboard(usage, "subscribe:usage");
    while !end.load(Ordering::Relaxed) {
        client.json();
    }
    client.0.close(None).unwrap();
    while !matches!(client.0.read(), Err(Error::ConnectionClosed | Error::Io(_))) {}
}

/// Dashboards that leave without a word, and somebody who is none.
fn come_and_go(usage: SocketAddr, end: &AtomicBool) {
    while !end.load(Ordering::Relaxed) {
        let mut client = dashboard(usage, "subscribe:detail");
        (0..3).for_each(|_| drop(client.json()));
        let mut client = dashboard(usage, "nonsense");
        client.0.send(Message::Ping("?".into())).unwrap();
        drop(TcpStream::connect(usage).unwrap());
        rest();
    }
}

fn beat(heartbeat: SocketAddr, number: usize, end: &AtomicBool) {
    use std::io::{Read, Write};
    let ask = |what: &str| {
        let mut socket = TcpStream::connect(heartbeat).unwrap();
        let request =
            format!("GET {what}&appid=app-{number} HTTP/1.1\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    };
    while !end.load(Ordering::Relaxed) {
        ask("/hb_init?2000");
        (0..5).for_each(|_| {
            ask("/hb_ping?2000");
            rest();
        });
        ask("/hb_done?0");
    }
}

/// All that is on the two hosts.
struct Scene {
    // Ended in this order.
    agent: Agent,
    hub: Option<HubProcess>,
    core: Option<CoreProcess>,
    cable: TwoHosts,
    user: User,
    state: Scratch,
    commands: usize,
}

/// What an agent holds.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    threads: u64,
    descriptors: usize,
}

impl Scene {
    fn new() -> Self {
        let (cable, user, state) = (TwoHosts::new(), User::new(), Scratch::new("uplinks"));
        let core = format!("core.url=ws://{FAR}:9999/api/v1/ws");
        let hub = format!("hm.url=ws://{FAR}:9521/websocket");
        let settings = ["core.commands=any", &hub, "hm.report_interval=1", "hm.ping_interval=1"];
        let command = node::command(&core, &state, &settings);
        let there = node::behind(&["ip", "netns", "exec", &cable.near], &command);
        let agent = Agent::spawn(user.known_to(&there));
        let mut scene = Self { agent, hub: None, core: None, cable, user, state, commands: 0 };
        scene.start_hub();
        scene.start_core();
        scene
    }

    fn record(&self, name: &str) -> PathBuf {
        self.state.0.join(name)
    }

    fn start_hub(&mut self) {
        let command = self.cable.on(&self.cable.far, std::env::current_exe().unwrap());
        let address = format!("{FAR}:9521");
        self.hub = Some(HubProcess::start(command, &address, DEADLINE, &self.record("hub")));
    }

    fn start_core(&mut self) {
        let command = self.cable.on(&self.cable.far, std::env::current_exe().unwrap());
        self.core = Some(CoreProcess::start(command, &format!("{FAR}:9999"), &self.record("core")));
    }

    fn load(&self) -> Child {
        let mut command = self.cable.on(&self.cable.near, std::env::current_exe().unwrap());
        command.args(["--exact", "load_process", "--ignored", "--nocapture"]);
        command.env(USAGE, self.agent.address.to_string());
        command.env(HEARTBEAT, self.agent.heartbeat().to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    fn wait(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !is_so(self) {
            let log = || self.agent.log();
            assert!(start.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?} {:#?}", log());
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// So long, with a command every half second.
    fn pass(&mut self, time: Duration) {
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

    /// What happens to uplinks, each for so many seconds.
    fn faults(&mut self, seconds: u64) {
        let time = Duration::from_secs(seconds);
        self.cable.cut();
        self.pass(time);
        self.cable.mend();
        self.pass(time);
        self.core.take().unwrap().kill();
        self.pass(time);
        self.start_core();
        self.pass(time);
        self.hub.take().unwrap().kill();
        self.pass(time);
        self.start_hub();
        self.pass(time);
        self.core.as_ref().unwrap().signal("-STOP");
        self.hub.as_ref().unwrap().signal("-STOP");
        self.pass(time);
        self.core.as_ref().unwrap().signal("-CONT");
        self.hub.as_ref().unwrap().signal("-CONT");
        self.pass(time);
        self.core.take().unwrap().shut_down();
        self.hub.take().unwrap().shut_down();
        self.start_core();
        self.start_hub();
        self.pass(time);
    }

    /// One round with everything, and then nothing but the uplinks.
    fn round(&mut self, seconds: u64) -> Held {
        let mut load = self.load();
        self.faults(seconds);
        drop(load.stdin.take());
        assert!(load.wait().unwrap().success(), "the load: {:#?}", self.agent.log());
        self.quiet()
    }

    /// Waits until all that was begun has been told; what the agent holds then.
    fn quiet(&self) -> Held {
        let (hub, core) = (self.record("hub"), self.record("core"));
        let (reports, beats) = (recorded(&hub).len(), messages(&core, "heartbeat").len());
        self.wait("both uplinks", |_| {
            recorded(&hub).len() > reports + 3 && messages(&core, "heartbeat").len() > beats + 3
        });
        self.wait("results of all that was begun", |_| untold(&core).is_empty());
        self.wait("the end of all commands", |scene| {
            scene.user.processes().is_empty() && node::children(scene.agent.pid()).is_empty()
        });
        let held = || Held {
            threads: self.agent.status("Threads"),
            descriptors: self.agent.descriptors(),
        };
        // Dashboards that left without a word are noticed, and threads end.
        let (mut last, mut since) = (held(), Instant::now());
        self.wait("rest", |_| {
            let now = held();
            if now != last {
                (last, since) = (now, Instant::now());
            }
            since.elapsed() > Duration::from_secs(3)
        });
        last
    }
}

/// Commands that have begun and of which Core knows no end.
fn untold(record: &std::path::Path) -> Vec<String> {
    let id =
        |message: &serde_json::Value| message["data"]["command_id"].as_str().unwrap().to_owned();
    let mut begun = Vec::new();
    let mut told = Vec::new();
    let lines = noted(record);
    let acknowledged: Vec<&String> = lines
        .iter()
        .filter_map(|(_, what)| match what {
            Noted::Acknowledged(id) => Some(id),
            Noted::Seen(_) => None,
        })
        .collect();
    for (_, what) in &lines {
        let Noted::Seen(message) = what else { continue };
        if message["type"] == "command_started" {
            begun.push(id(message));
        } else if message["type"] == "command_result"
            && acknowledged.iter().any(|acknowledged| message["id"] == ***acknowledged)
        {
            told.push(id(message));
        }
    }
    begun.retain(|begun| !told.contains(begun));
    begun
}

#[test]
#[ignore = "needs root and ip; a minute, ten in tests/soak reports"]
fn uplinks_dashboards_applications_and_commands_leave_nothing_behind() {
    let seconds =
        std::env::var("HM_UPLINKS_SECONDS").map_or(QUIET_SECONDS, |text| text.parse().unwrap());
    let mut scene = Scene::new();
    // After this all buffers are as large as they get.
    let before = scene.round(1);
    let size = scene.agent.status("RssAnon");
    println!("{before:?}, {size} kB");
    let start = Instant::now();
    let mut longest = 1;
    while start.elapsed() < Duration::from_secs(seconds) {
        let now = scene.round(longest);
        println!("{:?}: {now:?}, {} kB", start.elapsed(), scene.agent.status("RssAnon"));
        assert_eq!(now, before, "threads and descriptors");
        // Long enough now and then for an answer to be missing.
        longest = if longest < 30 { longest * 3 } else { 1 };
        longest = longest.min(seconds / 10).max(1);
    }
    let kept = scene.agent.status("RssAnon");
    assert!(kept <= size + KEPT_KB, "{size} kB, then {kept} kB");
    println!("{} commands; {}", scene.commands, scene.agent.log().len());
    scene.agent.stop();
}
