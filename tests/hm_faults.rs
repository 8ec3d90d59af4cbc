//! What happens to links: cables, hubs and names fail and come back. After each fault the agent is back within
//! what its waits allow, and the hub's record is what the agent has taken: nothing missing, nothing out of order,
//! repeated only what was under way when a connection ended.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use hm_agent::limits;
use hm_agent::util::logger::unix_milliseconds;
use support::netns::{FAR, HubProcess, NOWHERE, TwoHosts, recorded, taken};
use support::{Agent, Scratch};

/// What a busy machine may take beyond what is computed.
const SLACK: Duration = Duration::from_secs(15);
/// The first wait for the next try, and the longest.
const FIRST: Duration = limits::RECONNECT.0;
const LONGEST: Duration = limits::RECONNECT.1;
/// The hub cuts who has not sent a ping for so long; the agent sends one a second.
const DEADLINE: Duration = Duration::from_secs(30);

#[test]
#[ignore = "is the hub of the other tests, in a process of its own"]
fn hub_process() {
    HubProcess::main();
}

/// An agent and a hub on two hosts, and what the hub has recorded.
struct Scene {
    agent: Agent,
    hub: Option<HubProcess>,
    cable: TwoHosts,
    state: Scratch,
    record: PathBuf,
    /// When the fault was over.
    over: Instant,
    over_unix_milliseconds: u64,
}

impl Scene {
    fn new() -> Self {
        let url = format!("hm.url=ws://{FAR}:9521/websocket");
        Self::with(|cable| {
            let mut command = cable.on(&cable.near, env!("CARGO_BIN_EXE_hm-agent"));
            command.args(["-s", &url]);
            command
        })
    }

    /// `command` runs the agent, and says where its hub is.
    fn with(command: impl FnOnce(&TwoHosts) -> Command) -> Self {
        let (cable, state) = (TwoHosts::new(), Scratch::new("faults"));
        let record = state.0.join("record");
        let hub = Some(start_hub(&cable, &record));
        let mut command = command(&cable);
        let state_dir = format!("state_dir={}", state.0.display());
        let settings = ["node_id=n1", "hm.report_interval=1", "hm.ping_interval=1", "interval=1"];
        let here = ["usage.listen=127.0.0.1:0", "gpu.source=none", &state_dir];
        for setting in settings.iter().chain(&here) {
            command.args(["-s", setting]);
        }
        let agent = Agent::spawn(command);
        let (over, over_unix_milliseconds) = (Instant::now(), unix_milliseconds());
        let scene = Self { agent, hub, cable, state, record, over, over_unix_milliseconds };
        scene.wait("reports before the fault", SLACK, || recorded(&scene.record).len() >= 3);
        scene
    }

    fn hub(&mut self) -> HubProcess {
        self.hub.take().unwrap()
    }

    fn start_hub(&mut self) {
        self.hub = Some(start_hub(&self.cable, &self.record));
    }

    /// How often the log says so.
    fn said(&self, text: &str) -> usize {
        self.agent.log().iter().filter(|line| line.contains(text)).count()
    }

    fn wait(&self, what: &str, patience: Duration, mut is_so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(
                start.elapsed() < patience,
                "{what}: not in {patience:?} {:#?}",
                self.agent.log()
            );
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// The fault is over.
    fn over(&mut self) {
        (self.over, self.over_unix_milliseconds) = (Instant::now(), unix_milliseconds());
    }

    /// Waits for a report that was taken after the fault was over. Then everything before it must be there, and the
    /// agent's samples no further apart than `apart`.
    fn assert_back_within(self, name: &str, bound: Duration, apart: Duration) {
        let backlog = taken(&self.state.0).len() as u32;
        let bound = bound + backlog * limits::REPORT_PAUSE * 2 + SLACK;
        let since = self.over_unix_milliseconds;
        self.wait("a new report", bound, || {
            recorded(&self.record).last().is_some_and(|(taken, _)| *taken > since)
        });
        println!("{name}: all delivered {:.1?} after the fault", self.over.elapsed());
        let seen = recorded(&self.record);
        let mut once: Vec<u64> = seen.iter().map(|(taken, _)| *taken).collect();
        once.dedup();
        let taken = taken(&self.state.0);
        assert_eq!(once, taken[..once.len()], "{seen:?}");
        let connections = self.said(": online as n1, ");
        assert!(seen.len() - once.len() < connections, "{connections} connections, {seen:?}");
        let apart = apart.as_millis() as u64;
        assert!(taken.windows(2).all(|pair| pair[1] - pair[0] <= apart), "{taken:?}");
        let log = self.agent.stop();
        println!("{}", log.join("\n"));
    }
}

fn start_hub(cable: &TwoHosts, record: &std::path::Path) -> HubProcess {
    let command = cable.on(&cable.far, std::env::current_exe().unwrap());
    HubProcess::start(command, &format!("{FAR}:9521"), DEADLINE, record)
}

/// Reports are taken every second, whatever the link does. On a busy machine some are late.
const SAMPLED: Duration = Duration::from_secs(4);

fn pass(time: Duration) {
    let start = Instant::now();
    while let Some(left) = time.checked_sub(start.elapsed()) {
        std::thread::park_timeout(left);
    }
}

#[test]
#[ignore = "needs root and ip; 30 s"]
fn a_cable_cut_for_ten_seconds() {
    let mut scene = Scene::new();
    scene.cable.cut();
    pass(Duration::from_secs(10));
    scene.cable.mend();
    scene.over();
    // Most often TCP repeats in time. If not, the answer is missing.
    scene.assert_back_within("cut, 10 s", limits::ANSWER + FIRST, SAMPLED);
}

#[test]
#[ignore = "needs root and ip; 3 minutes"]
fn a_cable_cut_for_two_minutes() {
    let mut scene = Scene::new();
    scene.cable.cut();
    let start = Instant::now();
    scene
        .wait("the missing answer", limits::ANSWER + SLACK, || scene.said("no answer within") == 1);
    assert!(start.elapsed() > limits::ANSWER - Duration::from_secs(2), "{:?}", start.elapsed());
    pass(Duration::from_secs(120).saturating_sub(start.elapsed()));
    let troubles: Vec<_> =
        scene.agent.log().into_iter().filter(|line| line.contains(" warn hm: ")).collect();
    assert!(troubles[1].contains("connecting took too long; next try in "), "{troubles:#?}");
    assert_eq!(troubles.len(), 2, "each trouble once: {troubles:#?}");
    scene.cable.mend();
    scene.over();
    let bound = LONGEST + limits::CONNECT;
    scene.assert_back_within("cut, 2 min", bound, SAMPLED);
}

#[test]
#[ignore = "needs root and ip; half a minute"]
fn a_hub_that_is_killed_and_comes_back() {
    let mut scene = Scene::new();
    scene.hub().kill();
    scene.wait("refusal", FIRST + SLACK, || scene.said("cannot be reached: ") == 1);
    pass(Duration::from_secs(5));
    scene.start_hub();
    scene.over();
    scene.assert_back_within("killed, 5 s", LONGEST, SAMPLED);
}

#[test]
#[ignore = "needs root and ip; a minute"]
fn a_hub_that_is_frozen_for_longer_than_an_answer_may_take() {
    let mut scene = Scene::new();
    let hub = scene.hub();
    hub.signal("-STOP");
    let patience = limits::ANSWER + FIRST + limits::HANDSHAKE + SLACK;
    // Its kernel goes on to accept connections.
    scene.wait("a slow upgrade", patience, || scene.said("the upgrade took too long") == 1);
    assert_eq!(scene.said("no answer within 20 s"), 1);
    hub.signal("-CONT");
    scene.hub = Some(hub);
    scene.over();
    let bound = FIRST * 2 + limits::ALREADY_ONLINE;
    scene.assert_back_within("frozen", bound, SAMPLED);
}

#[test]
#[ignore = "needs root and ip; 10 s"]
fn a_hub_that_is_restarted_in_good_order() {
    let mut scene = Scene::new();
    scene.hub().shut_down();
    scene.start_hub();
    scene.over();
    let goodbye = scene.agent.wait_log("closed the connection (1001: back soon)");
    assert!(goodbye.contains(" warn hm: ws://10.77.2.2:9521/websocket closed"), "{goodbye}");
    // One try may have come too early.
    scene.assert_back_within("restarted", FIRST * 3, SAMPLED);
}

const KNOWN: &str = "10.77.2.2 hub.test\n";

/// An agent that knows the hub by its name, and where its names come from.
fn with_names(resolver: &str) -> (Scene, Scratch) {
    let names = Scratch::new("names");
    let hosts = names.write("hosts", KNOWN);
    let resolver = names.write("resolv.conf", resolver);
    let mount = "mount --bind \"$0\" /etc/hosts && mount --bind \"$1\" /etc/resolv.conf && shift && exec \"$@\"";
    let scene = Scene::with(|cable| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", mount, &hosts, &resolver]);
        let agent = cable.on(&cable.near, env!("CARGO_BIN_EXE_hm-agent"));
        command.arg(agent.get_program()).args(agent.get_args());
        command.args(["-s", "hm.url=ws://hub.test:9521/websocket"]);
        command
    });
    (scene, names)
}

#[test]
#[ignore = "needs root, ip and unshare; half a minute"]
fn a_name_that_has_no_address_for_a_while() {
    let (mut scene, names) = with_names("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
    // The file is mounted there, so it is changed and not replaced.
    names.write("hosts", "");
    scene.hub().kill();
    scene.wait("no name", FIRST + SLACK, || scene.said("its name has no address: ") == 1);
    pass(Duration::from_secs(10));
    assert_eq!(scene.said("its name has no address: "), 1, "{:#?}", scene.agent.log());
    scene.start_hub();
    names.write("hosts", KNOWN);
    scene.over();
    scene.assert_back_within("no name, 10 s", LONGEST, SAMPLED);
}

#[test]
#[ignore = "needs root, ip and unshare; 10 s"]
fn a_name_server_that_is_silent_does_not_keep_the_agent_from_stopping() {
    let (mut scene, names) = with_names(&format!("nameserver {NOWHERE}\noptions timeout:30\n"));
    names.write("hosts", "");
    scene.hub().kill();
    scene.wait("the end of the hub", SLACK, || scene.said("the connection broke") == 1);
    // By then it asks for the name. The library's question has no end that a thread could be given.
    pass(FIRST + Duration::from_secs(1));
    let log = scene.agent.stop();
    assert_eq!(log.iter().filter(|line| line.contains(" warn hm: ")).count(), 1, "{log:#?}");
}

/// The hub's host crashes while the agent's is suspended: nobody has told the agent, and nobody knows its connection.
#[test]
#[ignore = "needs root and ip; 20 s"]
fn a_connection_that_only_the_agent_knows_after_a_suspend() {
    let mut scene = Scene::new();
    scene.agent.signal("-STOP");
    scene.cable.crash_far();
    scene.hub().kill();
    scene.start_hub();
    let asleep = Duration::from_secs(10);
    pass(asleep);
    scene.agent.signal("-CONT");
    scene.over();
    // Whatever it sends first is answered with a reset.
    let broken = scene.agent.wait_log("the connection broke: ");
    assert!(broken.contains("broke: connection reset by peer; next try in "), "{broken}");
    scene.assert_back_within("half open", FIRST, asleep + SAMPLED);
}

#[test]
#[ignore = "needs root and ip; 10 s"]
fn a_cable_that_is_cut_does_not_keep_the_agent_from_stopping() {
    let scene = Scene::new();
    scene.cable.cut();
    // Until there is something that nobody confirms.
    let delivered = recorded(&scene.record).len();
    scene.wait("a backlog", SLACK, || taken(&scene.state.0).len() > delivered + 2);
    let log = scene.agent.stop();
    assert!(!log.iter().any(|line| line.contains("abandoning threads")), "{log:#?}");
}
