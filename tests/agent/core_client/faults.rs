//! Network and Core failures during a command, between network namespaces. The result is delivered, once per connection, and
//! not again after it was confirmed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use hm_agent::net::endpoint::HANDSHAKE_TIMEOUT;
use hm_agent::net::reconnecting_client::{RECONNECT_BACKOFF, RESPONSE_TIMEOUT};

use crate::core_client::{SLACK, sleep_for};
use crate::support::core_fixture::{self, User, wrap};
use crate::support::core_process::{CoreProcess, CoreRecord, core_records, messages};
use crate::support::netns::{AGENT_ADDRESS, SERVER_ADDRESS, TwoHosts};
use crate::support::{Agent, TempDir};

/// The first and the longest reconnect delay.
const FIRST: Duration = RECONNECT_BACKOFF.0;
const LONGEST: Duration = RECONNECT_BACKOFF.1;

/// An agent and a Core on two hosts, and a running command.
struct Fixture {
    // Ended in this order.
    agent: Agent,
    core: Option<CoreProcess>,
    cable: TwoHosts,
    user: User,
    scratch: TempDir,
    record: PathBuf,
    _state: TempDir,
}

fn start_core(cable: &TwoHosts, record: &std::path::Path) -> CoreProcess {
    let command = cable.on(&cable.far, std::env::current_exe().unwrap());
    CoreProcess::start(command, &format!("{SERVER_ADDRESS}:9999"), record)
}

impl Fixture {
    /// The command takes `seconds`.
    fn new(seconds: u32) -> Self {
        let (cable, user, state) = (TwoHosts::new(), User::new(), TempDir::new("faults"));
        let scratch = user.scratch();
        let record = state.0.join("record");
        let core = Some(start_core(&cable, &record));
        let url = format!("core.url=ws://{SERVER_ADDRESS}:9999/api/v1/ws");
        let command = core_fixture::command(&url, &state, &["core.commands=any"]);
        let agent = Agent::spawn(
            user.with_user_database(&wrap(&["ip", "netns", "exec", &cable.near], &command)),
        );
        let mut fixture = Self { agent, core, cable, user, scratch, record, _state: state };
        let ran = fixture.scratch.0.join("ran");
        let text = format!("echo x >> {}; sleep {seconds}; echo done", ran.display());
        fixture.core().execute("c", &text, 120);
        fixture.wait("the command", SLACK, |fixture| {
            !messages(&fixture.record, "command_started").is_empty() && ran.exists()
        });
        let register = &messages(&fixture.record, "node_register")[0].1;
        assert_eq!(register["data"]["ip_address"], AGENT_ADDRESS);
        fixture
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

    fn wait(&self, what: &str, timeout: Duration, mut condition: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            let log = || self.agent.log();
            assert!(start.elapsed() < timeout, "{what}: not in {timeout:?} {:#?}", log());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn confirmed(&self) -> usize {
        let is_confirmation =
            |(_, what): &(_, CoreRecord)| matches!(what, CoreRecord::Acknowledged(_));
        core_records(&self.record).iter().filter(|line| is_confirmation(line)).count()
    }

    /// After the fault, the result is delivered within `bound`.
    fn assert_delivered_within(mut self, name: &str, bound: Duration) {
        let fault_end = Instant::now();
        self.wait("the result", bound + SLACK, |fixture| fixture.confirmed() > 0);
        println!("{name}: delivered {:.1?} after the fault", fault_end.elapsed());
        // If the confirmation was lost, the result is sent again.
        let heartbeats = messages(&self.record, "heartbeat").len();
        self.wait("more heartbeats", RESPONSE_TIMEOUT + LONGEST, |fixture| {
            messages(&fixture.record, "heartbeat").len() > heartbeats + 3
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
        // A confirmed result is not sent again on a new connection.
        let confirmed = self.confirmed();
        self.kill_core();
        self.start_core();
        let heartbeats = messages(&self.record, "heartbeat").len();
        self.wait("heartbeats of a new connection", LONGEST, |fixture| {
            messages(&fixture.record, "heartbeat").len() > heartbeats + 1
        });
        assert_eq!(self.confirmed(), confirmed);
        self.user.assert_no_processes("the command");
        println!("{}", self.agent.stop().join("\n"));
    }
}

#[test]
#[ignore = "needs root and ip; half a minute"]
fn delivers_result_after_packet_loss() {
    let fixture = Fixture::new(3);
    fixture.cable.cut();
    sleep_for(Duration::from_secs(10));
    fixture.cable.restore();
    // TCP usually retransmits in time; otherwise the response times out.
    fixture.assert_delivered_within("cut, 10 s", RESPONSE_TIMEOUT + FIRST);
}

/// The agent cannot know whether the result was stored.
#[test]
#[ignore = "needs root and ip; half a minute"]
fn repeats_result_when_core_is_killed_before_confirming() {
    let mut fixture = Fixture::new(1);
    fixture.core().ignore_kinds(&["command_result"]);
    fixture
        .wait("a result", SLACK, |fixture| !messages(&fixture.record, "command_result").is_empty());
    fixture.kill_core();
    fixture.start_core();
    fixture.assert_delivered_within("not acknowledged", FIRST * 3);
}

#[test]
#[ignore = "needs root and ip; half a minute"]
fn delivers_result_after_core_was_killed() {
    let mut fixture = Fixture::new(3);
    fixture.kill_core();
    sleep_for(Duration::from_secs(6));
    fixture.start_core();
    fixture.assert_delivered_within("killed, 6 s", LONGEST);
}

#[test]
#[ignore = "needs root and ip; half a minute"]
fn delivers_result_after_core_restarted() {
    let mut fixture = Fixture::new(8);
    fixture.core.take().unwrap().shut_down();
    fixture.start_core();
    fixture.agent.wait_log("closed by server (1001: back soon)");
    fixture.assert_delivered_within("restarted", Duration::from_secs(8) + FIRST * 3);
}

#[test]
#[ignore = "needs root and ip; half a minute"]
fn delivers_result_after_core_was_stopped_for_8_s() {
    let mut fixture = Fixture::new(2);
    fixture.core().signal("-STOP");
    sleep_for(Duration::from_secs(8));
    fixture.core().signal("-CONT");
    fixture.assert_delivered_within("frozen, 8 s", RESPONSE_TIMEOUT);
}

#[test]
#[ignore = "needs root and ip; a minute"]
fn delivers_result_after_core_was_stopped_beyond_response_timeout() {
    let mut fixture = Fixture::new(2);
    fixture.core().signal("-STOP");
    let timeout = RESPONSE_TIMEOUT + FIRST + HANDSHAKE_TIMEOUT + SLACK;
    // The kernel still accepts connections for the stopped process.
    fixture.wait("a handshake timeout", timeout, |fixture| {
        fixture.agent.count_log("WebSocket handshake timed out") == 1
    });
    assert_eq!(fixture.agent.count_log("response timeout (20 s)"), 1);
    fixture.core().signal("-CONT");
    fixture.assert_delivered_within("frozen", FIRST * 4);
}

/// Core's host crashes while the agent's is suspended, so that the connection is half-open.
#[test]
#[ignore = "needs root and ip; half a minute"]
fn delivers_result_over_new_connection_after_suspend() {
    let mut fixture = Fixture::new(3);
    fixture.agent.signal("-STOP");
    fixture.cable.crash_far();
    fixture.kill_core();
    fixture.start_core();
    sleep_for(Duration::from_secs(6));
    fixture.agent.signal("-CONT");
    fixture.assert_delivered_within("half open", FIRST * 3);
}
