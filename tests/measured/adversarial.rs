//! Misbehaving clients, and clients that vanish.

use crate::support;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::support::attack::Attacker;
use crate::support::heartbeat::HttpConnection;
use crate::support::netns::{AGENT_ADDRESS, SERVER_ADDRESS, TwoHosts};
use crate::support::slowdown::assert_in_time;
use crate::support::{Agent, TEST_TIMEOUT, wait_until};

#[test]
fn limits_log_lines_that_clients_cause() {
    let agent = Agent::start(&[]);
    for _ in 0..300 {
        assert_eq!(agent.http("/\x1b[2J\r/secret", "").0, 400);
        assert_eq!(agent.http("/%1b[2J", "").0, 404);
    }
    let started = agent.started;
    let log = agent.stop();
    // Twenty at once, then one a second.
    let most = 40 + started.elapsed().as_secs() as usize;
    assert!(log.len() < most, "{} lines", log.len());
    assert!(!log.iter().any(|line| line.contains('\x1b')), "{log:#?}");
}

#[test]
fn logs_how_many_lines_were_suppressed() {
    let agent = Agent::start(&[]);
    for _ in 0..50 {
        agent.http("/nothing", "");
    }
    // The limiter refills at one line a second.
    wait_until("the count", || {
        agent.http("/nothing", "");
        agent.log().iter().any(|line| line.contains(" similar lines suppressed")).then_some(())
    });
    agent.stop();
}

/// Connections at the highest rate, far beyond the limit: the subscriber gets its updates, and a second after the flood new
/// clients are accepted.
#[test]
fn serves_subscriber_and_then_new_clients_in_connection_flood() {
    let agent = Agent::start(&["usage.max_connections=20", "interval=1"]);
    let mut subscriber = agent.subscribe();
    assert_in_time(Duration::from_millis(1500), || longest_gap_in_flood(&agent, &mut subscriber));
    assert_in_time(Duration::from_secs(1), || {
        flood(&agent, Instant::now() + Duration::from_millis(200));
        let start = Instant::now();
        wait_until("a free connection", || {
            (agent.http_status("/usage") == Some(426)).then_some(())
        });
        start.elapsed()
    });
    wait_until("few threads", || (agent.status("Threads") < 40).then_some(()));
    agent.stop();
}

fn flood(agent: &Agent, until: Instant) {
    while Instant::now() < until {
        let mut socket = agent.socket();
        let _ = socket.write_all(b"GET /usage HTTP/1.1\r\nHost: a\r\n");
    }
}

/// The longest time without an update in three seconds.
fn longest_gap_in_flood(agent: &Agent, subscriber: &mut support::Client) -> Duration {
    subscriber.json();
    let until = Instant::now() + Duration::from_secs(3);
    std::thread::scope(|scope| {
        (0..2).for_each(|_| drop(scope.spawn(|| flood(agent, until))));
        let (mut last, mut largest) = (Instant::now(), Duration::ZERO);
        while Instant::now() < until {
            subscriber.json();
            largest = largest.max(last.elapsed());
            last = Instant::now();
        }
        largest
    })
}

#[test]
fn incomplete_heads_do_not_delay_other_clients_or_shutdown() {
    let agent = Agent::start(&["interval=1"]);
    let half: Vec<_> = (0..50)
        .map(|_| {
            let mut socket = agent.socket();
            socket.write_all(b"GET /usage HTTP/1.1\r\nHost: a\r\nX: ").unwrap();
            socket
        })
        .collect();
    agent.subscribe();
    agent.stop();
    for mut socket in half {
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        assert_eq!(answer, b"");
    }
}

/// Such clients once held all scrape permits, and other scrapes were rejected until their deadline.
#[test]
fn clients_that_never_read_do_not_block_scrapes() {
    let agent = Agent::start(&["usage.max_connections_per_ip=0"]);
    let get = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n".repeat(50);
    let unread: Vec<_> = (0..60)
        .map(|_| {
            let mut socket = agent.socket();
            socket.write_all(get.as_bytes()).unwrap();
            socket
        })
        .collect();
    let busy = "Connection: close\r\nAccept-Encoding: gzip\r\n";
    for target in ["/metrics", "/snapshot", "/"] {
        for headers in [busy, "Connection: close\r\n"] {
            let mut line = HttpConnection::from_socket(agent.socket());
            line.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{headers}\r\n"));
            let answer = line.next(false).unwrap();
            assert_eq!((answer.status, answer.header("Connection")), (200, Some("close")));
        }
        let head = agent.raw(format!("HEAD {target} HTTP/1.1\r\nHost: a\r\n{busy}\r\n").as_bytes());
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    }
    drop(unread);
    wait_until("few threads", || (agent.status("Threads") < 40).then_some(()));
    agent.stop();
}

/// Idle connections at the limit once kept all other clients out until their deadline.
#[test]
fn evicts_idle_connections_but_not_subscribers_at_limit() {
    let agent = Agent::start(&["usage.max_connections=20"]);
    let mut silent: Vec<_> = (0..20).map(|_| agent.socket()).collect();
    let mut subscribers: Vec<_> = (0..20).map(|_| agent.subscribe()).collect();
    for socket in &mut silent {
        assert_eq!(socket.read(&mut [0]).unwrap_or(0), 0);
    }
    assert_eq!(agent.http("/usage", "").0, 503);
    subscribers.pop();
    wait_until("a free connection", || (agent.http_status("/usage") == Some(426)).then_some(()));
    agent.stop();
}

/// A thread for each of these once kept other clients waiting.
#[test]
#[ignore = "needs python"]
fn starts_no_thread_for_connection_reset_before_accept() {
    let agent = Agent::start(&[]);
    // Before the stop, which may come before this port listens.
    let heartbeat = agent.heartbeat();
    agent.signal("-STOP");
    wait_until("the stop", || (agent.state() == "T").then_some(()));
    let time = Duration::from_millis(500);
    let counts = Attacker::start("resets", time, &agent, heartbeat, 1).finish();
    agent.signal("-CONT");
    let text = agent.http("/metrics", "Connection: close\r\n").1;
    let accepted: Vec<u64> = text
        .lines()
        .filter(|line| line.starts_with("hm_agent_connections_accepted_total{"))
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert!(counts["resets"] > 100 && accepted == [1, 0], "{accepted:?} of {counts:?}");
    agent.stop();
}

/// The agent once read such a message without checking its deadline or the shutdown request.
#[test]
#[ignore = "10 s"]
fn closes_connection_when_empty_fragments_never_end() {
    let agent = Agent::start(&["log_level=debug"]);
    let mut client = agent.connect();
    client.0.get_ref().set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    let socket = client.0.get_mut();
    socket.write_all(b"\x01\x80\0\0\0\0").unwrap();
    let (start, parts) = (Instant::now(), b"\x00\x80\0\0\0\0".repeat(10_000));
    while socket.write_all(&parts).is_ok() {
        assert!(start.elapsed() < TEST_TIMEOUT, "{:#?}", agent.log());
    }
    assert!(start.elapsed() >= Duration::from_secs(9), "{:?}", start.elapsed());
    agent.wait_log("disconnected: message not complete within 10 s");
    agent.stop();
}

/// Kills the process when dropped.
struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs root and ip; 35 s"]
fn closes_connection_when_client_host_vanishes() {
    let cable = TwoHosts::new();
    let mut command = cable.on(&cable.near, env!("CARGO_BIN_EXE_hm-agent"));
    command.args(["-s", &format!("usage.listen={AGENT_ADDRESS}:0"), "-s", "interval=1"]);
    command.args(["-s", "heartbeat.enabled=false", "-s", "log_level=debug"]);
    let agent = Agent::spawn(command);
    let script = format!("{}/tests/peers/usage_websockets.py", env!("CARGO_MANIFEST_DIR"));
    let url = format!("ws://{}/usage", agent.address);
    let mut client = cable.on(&cable.far, std::env::var("HM_TEST_PYTHON").unwrap());
    client.args([&script, &url, "1", "3600"]).stderr(Stdio::null());
    let _client = Client(client.spawn().unwrap());
    agent.wait_log(&format!("usage: {SERVER_ADDRESS}:"));
    std::thread::park_timeout(Duration::from_secs(2));
    cable.cut();
    let start = Instant::now();
    while !agent.log().iter().any(|line| line.contains(" disconnected: ")) {
        assert!(start.elapsed() < TEST_TIMEOUT, "{:#?}", agent.log());
        std::thread::park_timeout(Duration::from_millis(100));
    }
    println!("closed after {:?}", start.elapsed());
    agent.stop();
}
