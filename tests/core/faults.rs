//! Cables and Cores fail in the middle of a command, between network namespaces: its result arrives all the same, once
//! on a connection, and not again after it was acknowledged.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use hm_agent::limits;

use crate::support::core_process::{CoreProcess, Noted, messages, noted};
use crate::support::netns::{FAR, NEAR, TwoHosts};
use crate::support::node::{self, User, behind};
use crate::support::{Agent, Scratch};
use crate::{SLACK, pass};

/// The first and the longest wait for the next try.
const FIRST: Duration = limits::RECONNECT.0;
const LONGEST: Duration = limits::RECONNECT.1;

/// An agent and a Core on two hosts, and a command that runs.
struct Scene {
    // Ended in this order.
    agent: Agent,
    core: Option<CoreProcess>,
    cable: TwoHosts,
    user: User,
    scratch: Scratch,
    record: PathBuf,
    _state: Scratch,
}

fn start_core(cable: &TwoHosts, record: &std::path::Path) -> CoreProcess {
    let command = cable.on(&cable.far, std::env::current_exe().unwrap());
    CoreProcess::start(command, &format!("{FAR}:9999"), record)
}

impl Scene {
    /// The command lasts for so many seconds.
    fn new(seconds: u32) -> Self {
        let (cable, user, state) = (TwoHosts::new(), User::new(), Scratch::new("faults"));
        let scratch = user.scratch();
        let record = state.0.join("record");
        let core = Some(start_core(&cable, &record));
        let url = format!("core.url=ws://{FAR}:9999/api/v1/ws");
        let command = node::command(&url, &state, &["core.commands=any"]);
        let agent =
            Agent::spawn(user.known_to(&behind(&["ip", "netns", "exec", &cable.near], &command)));
        let mut scene = Self { agent, core, cable, user, scratch, record, _state: state };
        let ran = scene.scratch.0.join("ran");
        let text = format!("echo x >> {}; sleep {seconds}; echo done", ran.display());
        scene.core().execute("c", &text, 120);
        scene.wait("the command", SLACK, |scene| {
            !messages(&scene.record, "command_started").is_empty() && ran.exists()
        });
        let register = &messages(&scene.record, "node_register")[0].1;
        assert_eq!(register["data"]["ip_address"], NEAR);
        scene
    }

    fn core(&mut self) -> &mut CoreProcess {
        self.core.as_mut().unwrap()
    }

    fn kill_core(&mut self) {
        self.core.take().unwrap().kill();
    }

    fn start_core(&mut self) {
        self.core = Some(start_core(&self.cable, &self.record));
    }

    fn wait(&self, what: &str, patience: Duration, mut is_so: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !is_so(self) {
            let log = || self.agent.log();
            assert!(start.elapsed() < patience, "{what}: not in {patience:?} {:#?}", log());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn acknowledged(&self) -> usize {
        let is_it = |(_, what): &(_, Noted)| matches!(what, Noted::Acknowledged(_));
        noted(&self.record).iter().filter(|line| is_it(line)).count()
    }

    /// The fault is over; the result arrives within `bound`.
    fn assert_told_within(mut self, name: &str, bound: Duration) {
        let over = Instant::now();
        self.wait("the result", bound + SLACK, |scene| scene.acknowledged() > 0);
        println!("{name}: told {:.1?} after the fault", over.elapsed());
        // The acknowledgement may have been lost. If not, that was all.
        let beats = messages(&self.record, "heartbeat").len();
        self.wait("more beats", limits::ANSWER + LONGEST, |scene| {
            messages(&scene.record, "heartbeat").len() > beats + 3
        });
        let results = messages(&self.record, "command_result");
        let (_, first) = &results[0];
        assert_eq!(
            (&first["data"]["exit_code"], &first["data"]["stdout"]),
            (&0.into(), &"done\n".into())
        );
        let mut connections = Vec::new();
        for (connection, result) in &results {
            assert_eq!((&result["id"], &result["data"]), (&first["id"], &first["data"]));
            assert!(!connections.contains(connection), "twice on one connection: {results:#?}");
            connections.push(*connection);
        }
        assert_eq!(std::fs::read_to_string(self.scratch.0.join("ran")).unwrap(), "x\n");
        // Nothing is told again on a new connection.
        let acknowledged = self.acknowledged();
        self.kill_core();
        self.start_core();
        let beats = messages(&self.record, "heartbeat").len();
        self.wait("beats of a new connection", LONGEST, |scene| {
            messages(&scene.record, "heartbeat").len() > beats + 1
        });
        assert_eq!(self.acknowledged(), acknowledged);
        self.user.assert_gone("the command");
        println!("{}", self.agent.stop().join("\n"));
    }
}

#[test]
#[ignore = "needs root and ip; half a minute"]
fn a_cable_cut_in_mid_command() {
    let scene = Scene::new(3);
    scene.cable.cut();
    pass(Duration::from_secs(10));
    scene.cable.mend();
    // Most often TCP repeats in time. If not, the answer is missing.
    scene.assert_told_within("cut, 10 s", limits::ANSWER + FIRST);
}

/// Its result is on the way when the cable is cut: nobody knows whether it has arrived.
#[test]
#[ignore = "needs root and ip; half a minute"]
fn an_acknowledgement_that_is_lost_with_its_core() {
    let mut scene = Scene::new(1);
    scene.core().withhold(&["command_result"]);
    scene.wait("a result", SLACK, |scene| !messages(&scene.record, "command_result").is_empty());
    scene.kill_core();
    scene.start_core();
    scene.assert_told_within("not acknowledged", FIRST * 3);
}

#[test]
#[ignore = "needs root and ip; half a minute"]
fn a_core_that_is_killed_in_mid_command() {
    let mut scene = Scene::new(3);
    scene.kill_core();
    pass(Duration::from_secs(6));
    scene.start_core();
    scene.assert_told_within("killed, 6 s", LONGEST);
}

#[test]
#[ignore = "needs root and ip; half a minute"]
fn a_core_that_is_restarted_in_mid_command() {
    let mut scene = Scene::new(8);
    scene.core.take().unwrap().shut_down();
    scene.start_core();
    scene.agent.wait_log("closed the connection (1001: back soon)");
    scene.assert_told_within("restarted", Duration::from_secs(8) + FIRST * 3);
}

#[test]
#[ignore = "needs root and ip; half a minute"]
fn a_core_that_is_frozen_for_a_while_in_mid_command() {
    let mut scene = Scene::new(2);
    scene.core().signal("-STOP");
    pass(Duration::from_secs(8));
    scene.core().signal("-CONT");
    scene.assert_told_within("frozen, 8 s", limits::ANSWER);
    // Nobody has hung up: what was sent meanwhile is read and answered.
}

#[test]
#[ignore = "needs root and ip; a minute"]
fn a_core_that_is_frozen_for_longer_than_an_answer_may_take() {
    let mut scene = Scene::new(2);
    scene.core().signal("-STOP");
    let patience = limits::ANSWER + FIRST + limits::HANDSHAKE + SLACK;
    // Its kernel goes on to accept connections.
    scene.wait("a slow upgrade", patience, |scene| {
        scene.agent.count_log("the upgrade took too long") == 1
    });
    assert_eq!(scene.agent.count_log("no answer within 20 s"), 1);
    scene.core().signal("-CONT");
    scene.assert_told_within("frozen", FIRST * 4);
}

/// Core's host crashes while the agent's is suspended: nobody has told the agent, and nobody knows its connection.
#[test]
#[ignore = "needs root and ip; half a minute"]
fn a_connection_that_only_the_agent_knows_after_a_suspend() {
    let mut scene = Scene::new(3);
    scene.agent.signal("-STOP");
    scene.cable.crash_far();
    scene.kill_core();
    scene.start_core();
    pass(Duration::from_secs(6));
    scene.agent.signal("-CONT");
    scene.assert_told_within("half open", FIRST * 3);
}
