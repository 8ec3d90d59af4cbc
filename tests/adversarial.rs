//! Peers that mean harm, or are simply gone.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use support::attack::{Attacker, Target};
use support::cable::{Cable, FAR, NEAR};
use support::heartbeat::Line;
use support::{Agent, PATIENCE, at_best, wait_until};

#[test]
fn clients_cannot_fill_the_log() {
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
fn the_log_says_how_many_lines_it_left_out() {
    let agent = Agent::start(&[]);
    for _ in 0..50 {
        agent.http("/nothing", "");
    }
    // One a second comes back.
    wait_until("the count", || {
        agent.http("/nothing", "");
        agent.log().iter().any(|line| line.contains(" lines like this were left out")).then_some(())
    });
    agent.stop();
}

/// As fast as this machine connects, far past the cap: who is inside is served, and when the flood
/// ends there is room again within a second.
#[test]
fn a_flood_of_connections_keeps_nobody_inside_from_being_served() {
    let agent = Agent::start(&["usage.max_connections=20", "interval=1"]);
    let mut inside = agent.subscribe();
    at_best(Duration::from_millis(1500), || largest_gap_in_a_flood(&agent, &mut inside));
    at_best(Duration::from_secs(1), || {
        flood(&agent, Instant::now() + Duration::from_millis(200));
        let start = Instant::now();
        wait_until("room", || (agent.http("/usage", "").0 == 426).then_some(()));
        start.elapsed()
    });
    wait_until("few threads", || (agent.status("Threads") < 40).then_some(()));
    agent.stop();
}

fn flood(agent: &Agent, until: Instant) {
    while Instant::now() < until {
        let mut socket = agent.socket();
        let _ = socket.write_all(b"GET /usage HTTP/1.1\r\n");
    }
}

/// The longest time without an update, in three seconds.
fn largest_gap_in_a_flood(agent: &Agent, inside: &mut support::Client) -> Duration {
    inside.json();
    let until = Instant::now() + Duration::from_secs(3);
    std::thread::scope(|scope| {
        (0..2).for_each(|_| drop(scope.spawn(|| flood(agent, until))));
        let (mut last, mut largest) = (Instant::now(), Duration::ZERO);
        while Instant::now() < until {
            inside.json();
            largest = largest.max(last.elapsed());
            last = Instant::now();
        }
        largest
    })
}

#[test]
fn half_open_heads_do_not_keep_others_out_or_the_agent_from_stopping() {
    let agent = Agent::start(&["interval=1"]);
    let half: Vec<_> = (0..50)
        .map(|_| {
            let mut socket = agent.socket();
            socket.write_all(b"GET /usage HTTP/1.1\r\nX: ").unwrap();
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

/// They used to hold all places, and a Prometheus was refused until they were cut.
#[test]
fn who_does_not_read_keeps_nobody_from_scraping() {
    let agent = Agent::start(&["usage.max_connections_per_ip=0"]);
    let get = "GET /metrics HTTP/1.1\r\n\r\n".repeat(50);
    let deaf: Vec<_> = (0..60)
        .map(|_| {
            let mut socket = agent.socket();
            socket.write_all(get.as_bytes()).unwrap();
            socket
        })
        .collect();
    let busy = "Connection: close\r\nAccept-Encoding: gzip\r\n";
    for target in ["/metrics", "/snapshot", "/"] {
        for headers in [busy, "Connection: close\r\n"] {
            let mut line = Line::on(agent.socket());
            line.say(format!("GET {target} HTTP/1.1\r\n{headers}\r\n"));
            let answer = line.next(false).unwrap();
            assert_eq!((answer.status, answer.header("Connection")), (200, Some("close")));
        }
        let head = agent.raw(format!("HEAD {target} HTTP/1.1\r\n{busy}\r\n").as_bytes());
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    }
    drop(deaf);
    wait_until("few threads", || (agent.status("Threads") < 40).then_some(()));
    agent.stop();
}

/// As many silent connections as there may be used to keep everybody out until they were cut.
#[test]
fn who_asks_for_nothing_gives_way_to_others_and_subscribers_do_not() {
    let agent = Agent::start(&["usage.max_connections=20"]);
    let mut silent: Vec<_> = (0..20).map(|_| agent.socket()).collect();
    let mut inside: Vec<_> = (0..20).map(|_| agent.subscribe()).collect();
    for socket in &mut silent {
        assert_eq!(socket.read(&mut [0]).unwrap_or(0), 0);
    }
    assert_eq!(agent.http("/usage", "").0, 503);
    inside.pop();
    wait_until("room", || (agent.http("/usage", "").0 == 426).then_some(()));
    agent.stop();
}

/// A storm of these used to keep everybody else out, for a thread was started for each.
#[test]
#[ignore = "needs python"]
fn who_was_reset_before_it_was_let_in_costs_no_thread() {
    let agent = Agent::start(&[]);
    let target = Target {
        agent: &agent,
        monitor: agent.heartbeat(),
        host: "127.0.0.1",
        sources: "127.0.0.2".to_owned(),
    };
    agent.signal("-STOP");
    wait_until("it stopped", || (agent.state() == "T").then_some(()));
    let counts = Attacker::start(&[], "resets", Duration::from_millis(500), &target).end();
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

/// It used to go on for as long as the client did, and nothing else was looked at meanwhile: no deadline, no stop.
#[test]
#[ignore = "waits 10 s"]
fn a_message_of_empty_parts_without_end_is_not_read_for_ever() {
    let agent = Agent::start(&["log_level=debug"]);
    let mut client = agent.connect();
    client.0.get_ref().set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    let socket = client.0.get_mut();
    socket.write_all(b"\x01\x80\0\0\0\0").unwrap();
    let (start, parts) = (Instant::now(), b"\x00\x80\0\0\0\0".repeat(10_000));
    while socket.write_all(&parts).is_ok() {
        assert!(start.elapsed() < PATIENCE, "{:#?}", agent.log());
    }
    assert!(start.elapsed() >= Duration::from_secs(9), "{:?}", start.elapsed());
    agent.wait_log("lost: its message does not end");
    agent.stop();
}

/// A process that is gone when it goes out of scope.
struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs root and ip; 35 s"]
fn a_client_that_vanishes_without_a_word_is_noticed() {
    let cable = Cable::new();
    let mut command = cable.on(&cable.near, env!("CARGO_BIN_EXE_hm-agent"));
    command.args(["-s", &format!("usage.listen={NEAR}:0"), "-s", "interval=1"]);
    command.args(["-s", "heartbeat.enabled=false", "-s", "log_level=debug"]);
    let agent = Agent::spawn(command);
    let script = format!("{}/tests/peers/usage_websockets.py", env!("CARGO_MANIFEST_DIR"));
    let url = format!("ws://{}/usage", agent.address);
    let mut client = cable.on(&cable.far, std::env::var("HM_TEST_PYTHON").unwrap());
    client.args([&script, &url, "1", "3600"]).stderr(Stdio::null());
    let _client = Client(client.spawn().unwrap());
    agent.wait_log(&format!("usage: {FAR}:"));
    std::thread::park_timeout(Duration::from_secs(2));
    cable.cut();
    let start = Instant::now();
    while !agent.log().iter().any(|line| line.contains(" lost: ")) {
        assert!(start.elapsed() < PATIENCE, "{:#?}", agent.log());
        std::thread::park_timeout(Duration::from_millis(100));
    }
    println!("noticed after {:?}", start.elapsed());
    agent.stop();
}
