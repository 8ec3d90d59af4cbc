//! Network, server and DNS failures of the hm connection. After each fault the agent is online again within its backoff,
//! and the server has received every report in order; only a report in flight when a connection broke may be repeated.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::netns::{
    BLACKHOLE_ADDRESS, HmServerProcess, SERVER_ADDRESS, TwoHosts, recorded, taken,
};
use crate::support::{Agent, TempDir};
use hm_agent::hm_client::session::{ALREADY_ONLINE_RETRY, REPORT_PAUSE};
use hm_agent::net::endpoint::{CONNECT_TIMEOUT, HANDSHAKE_TIMEOUT};
use hm_agent::net::reconnecting_client::{RECONNECT_BACKOFF, RESPONSE_TIMEOUT};
use hm_agent::util::logger::unix_milliseconds;

/// Tolerance for a busy machine.
const SLACK: Duration = Duration::from_secs(15);
/// The first and the longest reconnect delay.
const FIRST: Duration = RECONNECT_BACKOFF.0;
const LONGEST: Duration = RECONNECT_BACKOFF.1;
/// The server closes connections without a ping for this long; the agent sends one a second.
const DEADLINE: Duration = Duration::from_secs(30);

/// An agent and a server on two hosts, and what the server has recorded.
struct Fixture {
    agent: Agent,
    hub: Option<HmServerProcess>,
    cable: TwoHosts,
    state: TempDir,
    record: PathBuf,
    /// When the fault ended.
    over: Instant,
    over_unix_milliseconds: u64,
}

impl Fixture {
    fn new() -> Self {
        let url = format!("hm.url=ws://{SERVER_ADDRESS}:9521/websocket");
        Self::with(|cable| {
            let mut command = cable.on(&cable.near, env!("CARGO_BIN_EXE_hm-agent"));
            command.args(["-s", &url]);
            command
        })
    }

    /// `command` runs the agent with its `hm.url`.
    fn with(command: impl FnOnce(&TwoHosts) -> Command) -> Self {
        let (cable, state) = (TwoHosts::new(), TempDir::new("faults"));
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
        let fixture = Self { agent, hub, cable, state, record, over, over_unix_milliseconds };
        fixture.wait("reports before the fault", SLACK, || recorded(&fixture.record).len() >= 3);
        fixture
    }

    fn hub(&mut self) -> HmServerProcess {
        self.hub.take().unwrap()
    }

    fn start_hub(&mut self) {
        self.hub = Some(start_hub(&self.cable, &self.record));
    }

    /// Number of log lines that contain `text`.
    fn count_log(&self, text: &str) -> usize {
        self.agent.log().iter().filter(|line| line.contains(text)).count()
    }

    fn wait(&self, what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(
                start.elapsed() < timeout,
                "{what}: not in {timeout:?} {:#?}",
                self.agent.log()
            );
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Marks the end of the fault.
    fn end_fault(&mut self) {
        (self.over, self.over_unix_milliseconds) = (Instant::now(), unix_milliseconds());
    }

    /// Waits for a report that was taken after the fault. All earlier ones must have been delivered, and no two may be
    /// further apart than `apart`.
    fn assert_recovers_within(self, name: &str, bound: Duration, apart: Duration) {
        let backlog = taken(&self.state.0).len() as u32;
        let bound = bound + backlog * REPORT_PAUSE * 2 + SLACK;
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
        let connections = self.count_log(": online as n1, ");
        assert!(seen.len() - once.len() < connections, "{connections} connections, {seen:?}");
        let apart = apart.as_millis() as u64;
        assert!(taken.windows(2).all(|pair| pair[1] - pair[0] <= apart), "{taken:?}");
        let log = self.agent.stop();
        println!("{}", log.join("\n"));
    }
}

fn start_hub(cable: &TwoHosts, record: &std::path::Path) -> HmServerProcess {
    let command = cable.on(&cable.far, std::env::current_exe().unwrap());
    HmServerProcess::start(command, &format!("{SERVER_ADDRESS}:9521"), DEADLINE, record)
}

/// Reports are taken every second, also while disconnected. On a busy machine some are late.
const SAMPLED: Duration = Duration::from_secs(4);

fn sleep_for(time: Duration) {
    let start = Instant::now();
    while let Some(left) = time.checked_sub(start.elapsed()) {
        std::thread::park_timeout(left);
    }
}

#[test]
#[ignore = "needs root and ip; 30 s"]
fn recovers_after_10_s_of_packet_loss() {
    let mut fixture = Fixture::new();
    fixture.cable.cut();
    sleep_for(Duration::from_secs(10));
    fixture.cable.restore();
    fixture.end_fault();
    // TCP usually retransmits in time; otherwise the response times out.
    fixture.assert_recovers_within("cut, 10 s", RESPONSE_TIMEOUT + FIRST, SAMPLED);
}

#[test]
#[ignore = "needs root and ip; 3 minutes"]
fn recovers_after_2_min_of_packet_loss() {
    let mut fixture = Fixture::new();
    fixture.cable.cut();
    let start = Instant::now();
    fixture.wait("the response timeout", RESPONSE_TIMEOUT + SLACK, || {
        fixture.count_log("response timeout") == 1
    });
    assert!(start.elapsed() > RESPONSE_TIMEOUT - Duration::from_secs(2), "{:?}", start.elapsed());
    sleep_for(Duration::from_secs(120).saturating_sub(start.elapsed()));
    let warnings: Vec<_> =
        fixture.agent.log().into_iter().filter(|line| line.contains(" warn hm: ")).collect();
    assert!(warnings[1].contains("TCP connect timed out; next attempt in "), "{warnings:#?}");
    assert_eq!(warnings.len(), 2, "each reason once: {warnings:#?}");
    fixture.cable.restore();
    fixture.end_fault();
    let bound = LONGEST + CONNECT_TIMEOUT;
    fixture.assert_recovers_within("cut, 2 min", bound, SAMPLED);
}

#[test]
#[ignore = "needs root and ip; half a minute"]
fn recovers_after_server_was_killed() {
    let mut fixture = Fixture::new();
    fixture.hub().kill();
    fixture.wait("refusal", FIRST + SLACK, || fixture.count_log("connect failed: ") == 1);
    sleep_for(Duration::from_secs(5));
    fixture.start_hub();
    fixture.end_fault();
    fixture.assert_recovers_within("killed, 5 s", LONGEST, SAMPLED);
}

#[test]
#[ignore = "needs root and ip; a minute"]
fn recovers_after_server_was_stopped_beyond_response_timeout() {
    let mut fixture = Fixture::new();
    let hub = fixture.hub();
    hub.signal("-STOP");
    let timeout = RESPONSE_TIMEOUT + FIRST + HANDSHAKE_TIMEOUT + SLACK;
    // The kernel still accepts connections for the stopped process.
    fixture.wait("a handshake timeout", timeout, || {
        fixture.count_log("WebSocket handshake timed out") == 1
    });
    assert_eq!(fixture.count_log("response timeout (20 s)"), 1);
    hub.signal("-CONT");
    fixture.hub = Some(hub);
    fixture.end_fault();
    let bound = FIRST * 2 + ALREADY_ONLINE_RETRY;
    fixture.assert_recovers_within("frozen", bound, SAMPLED);
}

#[test]
#[ignore = "needs root and ip; 10 s"]
fn recovers_after_server_closed_and_restarted() {
    let mut fixture = Fixture::new();
    fixture.hub().shut_down();
    fixture.start_hub();
    fixture.end_fault();
    let closed = fixture.agent.wait_log("closed by server (1001: back soon)");
    assert!(closed.contains(" warn hm: ws://10.77.2.2:9521/websocket closed"), "{closed}");
    // One attempt may have failed before.
    fixture.assert_recovers_within("restarted", FIRST * 3, SAMPLED);
}

const KNOWN: &str = "10.77.2.2 hub.test\n";

/// An agent that connects to a host name, and the files of its resolver.
fn with_names(resolver: &str) -> (Fixture, TempDir) {
    let names = TempDir::new("names");
    let hosts = names.write("hosts", KNOWN);
    let resolver = names.write("resolv.conf", resolver);
    let mount = "mount --bind \"$0\" /etc/hosts && mount --bind \"$1\" /etc/resolv.conf && shift && exec \"$@\"";
    let fixture = Fixture::with(|cable| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", mount, &hosts, &resolver]);
        let agent = cable.on(&cable.near, env!("CARGO_BIN_EXE_hm-agent"));
        command.arg(agent.get_program()).args(agent.get_args());
        command.args(["-s", "hm.url=ws://hub.test:9521/websocket"]);
        command
    });
    (fixture, names)
}

#[test]
#[ignore = "needs root, ip and unshare; half a minute"]
fn recovers_after_dns_lookups_failed() {
    let (mut fixture, names) = with_names("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
    // The file is bind-mounted, so it is changed in place.
    names.write("hosts", "");
    fixture.hub().kill();
    fixture.wait("no name", FIRST + SLACK, || fixture.count_log("DNS lookup failed: ") == 1);
    sleep_for(Duration::from_secs(10));
    assert_eq!(fixture.count_log("DNS lookup failed: "), 1, "{:#?}", fixture.agent.log());
    fixture.start_hub();
    names.write("hosts", KNOWN);
    fixture.end_fault();
    fixture.assert_recovers_within("no name, 10 s", LONGEST, SAMPLED);
}

#[test]
#[ignore = "needs root, ip and unshare; 10 s"]
fn stops_in_time_during_hanging_dns_lookup() {
    let (mut fixture, names) =
        with_names(&format!("nameserver {BLACKHOLE_ADDRESS}\noptions timeout:30\n"));
    names.write("hosts", "");
    fixture.hub().kill();
    fixture.wait("the end of the hub", SLACK, || fixture.count_log("connection lost") == 1);
    // By then a lookup runs, which cannot be interrupted.
    sleep_for(FIRST + Duration::from_secs(1));
    let log = fixture.agent.stop();
    assert_eq!(log.iter().filter(|line| line.contains(" warn hm: ")).count(), 1, "{log:#?}");
}

/// The server's host crashes while the agent's is suspended, so that the connection is half-open.
#[test]
#[ignore = "needs root and ip; 20 s"]
fn recovers_from_half_open_connection_after_suspend() {
    let mut fixture = Fixture::new();
    fixture.agent.signal("-STOP");
    fixture.cable.crash_far();
    fixture.hub().kill();
    fixture.start_hub();
    let suspended = Duration::from_secs(10);
    sleep_for(suspended);
    fixture.agent.signal("-CONT");
    fixture.end_fault();
    // The first packet that it sends is answered with a reset.
    let lost = fixture.agent.wait_log("connection lost: ");
    assert!(lost.contains("lost: connection reset by peer; next attempt in "), "{lost}");
    fixture.assert_recovers_within("half open", FIRST, suspended + SAMPLED);
}

#[test]
#[ignore = "needs root and ip; 10 s"]
fn stops_in_time_while_packets_are_lost() {
    let fixture = Fixture::new();
    fixture.cable.cut();
    // Until there is unacknowledged data.
    let delivered = recorded(&fixture.record).len();
    fixture.wait("a backlog", SLACK, || taken(&fixture.state.0).len() > delivered + 2);
    let log = fixture.agent.stop();
    assert!(!log.iter().any(|line| line.contains("abandoning threads")), "{log:#?}");
}
