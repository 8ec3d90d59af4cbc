//! Wall clocks that jump by hours and years, and an agent that is stopped for a while.

use crate::support;
use std::time::{Duration, Instant};

use crate::support::core::Core;
use crate::support::core_fixture;
use crate::support::heartbeat::{lines_of, list_setting};
use crate::support::hm_server::HmServer;
use crate::support::notify_socket::NotifySocket;
use crate::support::supervised::Setup;
use crate::support::tcp_proxy::{Certificate, ProxyMode, TcpProxy};
use crate::support::wall_clock::WallClock;
use crate::support::{Agent, Client, SLACK, TempDir, wait_until};
use hm_agent::util::logger::{unix_seconds, utc};
use serde_json::Value;

/// A supervised agent that is silent for this long is killed.
const WATCHDOG_TIMEOUT: Duration = Duration::from_secs(60);
const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;

/// An agent with both upstreams, Core over TLS, and a hook for overdue applications. Dropped in this order.
struct Fixture {
    agent: Agent,
    to_core: TcpProxy,
    hub: HmServer,
    core: Core,
    files: TempDir,
}

impl Fixture {
    fn new(core_reachable: bool, manager: Option<&NotifySocket>) -> Self {
        let (hub, core, files) = (HmServer::start(), Core::start(), TempDir::new("time"));
        let certificate = Certificate::for_days(90);
        let to_core = TcpProxy::to(core.address, Some(certificate.server.clone()));
        to_core.set_mode(if core_reachable { ProxyMode::Forward } else { ProxyMode::Cut });
        let hook = format!("echo \"$APP_ID $HB_STATE\" >> {}", files.0.join("overdue").display());
        let url = format!("core.url=wss://localhost:{}/api/v1/ws", to_core.address.port());
        let more = [
            list_setting("heartbeat.on_overdue", &["sh", "-c", &hook]),
            format!("tls.ca_file={}", files.write("ca.pem", &certificate.authority)),
            hub.setting(),
            "hm.report_interval=1".to_owned(),
        ];
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        let mut command = core_fixture::command(&url, &files, &more);
        if let Some(manager) = manager {
            command.env("NOTIFY_SOCKET", &manager.name).env("WATCHDOG_USEC", "2000000");
        }
        let fixture = Self { agent: Agent::spawn(command), to_core, hub, core, files };
        fixture.hub.wait_reports(2);
        if core_reachable {
            fixture.core.wait("heartbeat", 2);
        }
        fixture
    }

    fn hooks(&self) -> Vec<String> {
        lines_of(&self.files.0.join("overdue"))
    }

    /// Both upstreams go on, on the same connections.
    fn assert_connected(&self, what: &str) {
        let (reports, beats) = (self.hub.reports().len(), self.core.seen("heartbeat").len());
        self.hub.wait_reports(reports + 2);
        self.core.wait("heartbeat", beats + 2);
        let connections = (self.hub.connections(), self.core.connections());
        assert_eq!(connections, (1, 1), "{what}: reconnected");
    }
}

/// Updates come every second, dated `error` seconds from the test's clock.
fn assert_updates(client: &mut Client, error: i64, what: &str) {
    let is_dated = |update: &Value| {
        let is = update["timestamp"].as_i64().unwrap() - unix_seconds() as i64;
        (is - error).abs() < 10
    };
    // Earlier updates may still be in the socket.
    wait_until(what, || is_dated(&client.json()).then_some(()));
    for _ in 0..3 {
        let last = Instant::now();
        assert!(is_dated(&client.json()), "{what}");
        assert!(last.elapsed() < Duration::from_secs(1) + SLACK, "{what}: {:?}", last.elapsed());
    }
}

#[test]
fn clock_jumps_change_only_timestamps() {
    let fixture = Fixture::new(true, None);
    let Some(clock) = WallClock::of(fixture.agent.pid()) else {
        eprintln!("skipped: the clock of a process cannot be set on this architecture");
        return;
    };
    let mut client = fixture.agent.subscribe();
    // By the wall clock they would be dropped at the first jump, or never.
    for (id, interval) in [("long", 600_000), ("late", 1000)] {
        fixture.agent.get_ok(&format!("/hb_init?{interval}&appid={id}"));
    }
    fixture.agent.get_ok("/maintenance?600000&appid=long");
    let start = Instant::now();
    for error in [HOUR, 0, -HOUR, 0, YEAR, -YEAR, 0] {
        clock.wrong_by(error);
        let what = format!("{error} s");
        assert_updates(&mut client, error, &what);
        fixture.assert_connected(&what);
    }
    // It is dropped 12 s after its last heartbeat by the monotonic clock.
    wait_until("all transitions", || (fixture.hooks().len() >= 3).then_some(()));
    assert!(start.elapsed() >= Duration::from_secs(12));
    assert_eq!(fixture.hooks(), ["late WARNING", "late CRITICAL", "late DROPPED"]);
    assert_eq!(fixture.agent.list(), ["long"]);
    let line = fixture.agent.get_ok("/status?0&appid=long");
    assert!(line.starts_with("OK") && line.contains("maintenance"), "{line}");
    let log = fixture.agent.stop();
    let set_back = log.iter().filter(|line| line.contains("hm: system clock was set back")).count();
    // From an hour ahead to 0, from 0 to an hour behind, from a year ahead to a year behind.
    assert_eq!(set_back, 3, "{log:#?}");
    let warnings = log.iter().filter(|line| line.contains(" warn ") || line.contains(" error "));
    let others = warnings.filter(|line| !line.contains("set back") && !line.contains("[late]"));
    assert_eq!(others.count(), 0, "{log:#?}");
}

#[test]
#[ignore = "a minute"]
fn rejects_certificate_while_clock_is_a_year_off() {
    std::thread::scope(|scope| {
        scope.spawn(|| certificate_with_wrong_clock(YEAR, "expired at 20"));
        scope.spawn(|| certificate_with_wrong_clock(-YEAR, "not valid before 20"));
    });
}

fn certificate_with_wrong_clock(error: i64, why: &str) {
    let fixture = Fixture::new(false, None);
    let Some(clock) = WallClock::of(fixture.agent.pid()) else {
        eprintln!("skipped: the clock of a process cannot be set on this architecture");
        return;
    };
    clock.wrong_by(error);
    fixture.to_core.set_mode(ProxyMode::Forward);
    let line = fixture.agent.wait_log(&format!("invalid peer certificate: {why}"));
    let year = utc((unix_seconds() as i64 + error) as u64)[..4].to_owned();
    assert!(line.contains(&format!("; local clock is {year}")), "{line}");
    clock.wrong_by(0);
    fixture.core.wait("heartbeat", 2);
    // The other upstream stayed connected.
    assert_eq!(fixture.hub.connections(), 1);
    fixture.agent.stop();
}

#[test]
fn reports_no_app_overdue_after_sigstop() {
    let manager = NotifySocket::new();
    let fixture = Fixture::new(true, Some(&manager));
    let mut client = fixture.agent.subscribe();
    // Without the agent's paused clock they would be dropped after 12 s.
    for number in 0..20 {
        fixture.agent.get_ok(&format!("/hb_init?1000&appid=app-{number}"));
    }
    let stop_time = Duration::from_secs(13);
    fixture.agent.signal("-STOP");
    wait_until("the stop", || (fixture.agent.state() == "T").then_some(()));
    // Drain what was sent before the stop.
    client.0.get_ref().set_nonblocking(true).unwrap();
    while client.0.read().is_ok() {}
    client.0.get_ref().set_nonblocking(false).unwrap();
    while manager.receive(Duration::ZERO).is_some() {}
    client.assert_no_message_for(stop_time);
    fixture.agent.signal("-CONT");
    let resumed = Instant::now();
    // One sample, and then one a second.
    let mut received: Vec<Duration> = Vec::new();
    for _ in 0..4 {
        assert_eq!(client.json()["type"], "usage_update");
        received.push(resumed.elapsed());
    }
    assert!(received[3] > Duration::from_secs(2), "a burst: {received:?}");
    assert!(
        manager.count_watchdog(Duration::from_secs(2)) >= 1,
        "no watchdog notification after the stop"
    );
    for number in 0..20 {
        fixture.agent.get_ok(&format!("/hb_ping?1000&appid=app-{number}"));
    }
    assert_eq!(fixture.agent.list().len(), 20);
    fixture.assert_connected("after a stop");
    assert_eq!(fixture.hooks(), [""; 0], "an app was reported overdue");
    for number in 0..20 {
        fixture.agent.get_ok(&format!("/hb_done?0&appid=app-{number}"));
    }
    // An app that is silent while the agent runs is reported.
    fixture.agent.get_ok("/hb_init?0&appid=late");
    wait_until("three transitions", || (fixture.hooks().len() == 3).then_some(()));
    let log = fixture.agent.stop();
    assert!(!log.iter().any(|line| line.contains("stalled")), "{log:#?}");
}

/// A frozen container stops both for longer than an agent may be silent.
#[test]
#[ignore = "a minute"]
fn supervisor_does_not_kill_agent_after_both_were_stopped() {
    let setup = Setup::new("frozen");
    let supervisor = setup.in_foreground(&[]);
    wait_until("an agent", || setup.is_listening().then_some(()));
    let agent = supervisor.agent();
    let both = |signal: &str| {
        supervisor.signal(signal);
        support::supervised::signal(agent, signal);
    };
    both("-STOP");
    std::thread::sleep(WATCHDOG_TIMEOUT + Duration::from_secs(2));
    both("-CONT");
    wait_until("service", || setup.is_listening().then_some(()));
    // A kill would have happened by then.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(supervisor.agent(), agent, "{}", setup.read("log"));
    assert!(!setup.read("log").contains("killing agent"), "{}", setup.read("log"));
    supervisor.stop();
}
