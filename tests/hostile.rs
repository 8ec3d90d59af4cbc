//! Peers that mean harm, or are simply gone.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{Agent, Client, PATIENCE, at_best, wait_until};

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
        agent.http("/", "");
    }
    // One a second comes back.
    wait_until("the count", || {
        agent.http("/", "");
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
fn largest_gap_in_a_flood(agent: &Agent, inside: &mut Client) -> Duration {
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

struct Cable {
    inner: String,
    outer: String,
    children: Vec<Child>,
}

impl Cable {
    /// Two hosts of our own with a cable between them: 10.77.0.1 and 10.77.0.2.
    fn new() -> Self {
        let id = std::process::id();
        let cable =
            Self { inner: format!("hma{id}"), outer: format!("hmb{id}"), children: Vec::new() };
        let (inner, outer) = (&cable.inner, &cable.outer);
        for line in [
            format!("netns add {inner}"),
            format!("netns add {outer}"),
            format!("link add hm0 netns {inner} type veth peer name hm0 netns {outer}"),
            format!("-n {inner} addr add 10.77.0.1/30 dev hm0"),
            format!("-n {outer} addr add 10.77.0.2/30 dev hm0"),
            format!("-n {inner} link set hm0 up"),
            format!("-n {outer} link set hm0 up"),
        ] {
            assert!(ip(&line), "ip {line}");
        }
        cable
    }

    /// From now on nothing comes back from the outer host: no answer, no reset.
    fn cut(&self) {
        assert!(ip(&format!("-n {} route add blackhole 10.77.0.1/32", self.outer)));
    }
}

fn ip(line: &str) -> bool {
    Command::new("ip").args(line.split(' ')).status().unwrap().success()
}

impl Drop for Cable {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        ip(&format!("netns del {}", self.inner));
        ip(&format!("netns del {}", self.outer));
    }
}

#[test]
#[ignore = "needs root and ip; 35 s"]
fn a_client_that_vanishes_without_a_word_is_noticed() {
    let mut cable = Cable::new();
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &cable.inner, env!("CARGO_BIN_EXE_hm-agent")]);
    command.args(["-s", "usage.listen=10.77.0.1:0", "-s", "interval=1"]);
    // Loopback is down there.
    command.args(["-s", "heartbeat.enabled=false"]);
    command.args(["-s", "log_level=debug"]);
    let agent = Agent::spawn(command);
    let script = format!("{}/tests/peers/usage_websockets.py", env!("CARGO_MANIFEST_DIR"));
    let url = format!("ws://{}/usage", agent.address);
    let mut client = Command::new("ip");
    client.args(["netns", "exec", &cable.outer, &std::env::var("HM_TEST_PYTHON").unwrap()]);
    client.args([&script, &url, "1", "3600"]).stderr(Stdio::null());
    cable.children.push(client.spawn().unwrap());
    agent.wait_log("usage: 10.77.0.2:");
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
