//! 1 000 applications send a heartbeat each second while 5 000 connections are idle: each is answered in time.

use crate::support;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::support::heartbeat::HttpConnection;
use crate::support::{Agent, assert_best_of_five};

const IDLE: usize = 5000;
const APPS: usize = 1000;
const SECONDS: usize = 10;
const BUDGET: Duration = Duration::from_millis(50);
/// For a build without optimisation.
const BUDGET_IDLE_BYTES: u64 = 20_000;

/// An application with a connection of its own.
struct App {
    socket: TcpStream,
    /// Due times of unanswered heartbeats, oldest first.
    due: Vec<Duration>,
    received: Vec<u8>,
}

impl App {
    /// Reads available bytes. Returns the number of complete responses.
    fn receive(&mut self) -> usize {
        let mut part = [0; 4096];
        loop {
            match self.socket.read(&mut part) {
                Ok(0) => panic!("the agent closed the connection"),
                Ok(count) => self.received.extend_from_slice(&part[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        let text = String::from_utf8(self.received.clone()).unwrap();
        let whole = text.rfind("\r\n\r\n2000").map_or(0, |at| at + 8);
        let answers = text[..whole].matches("\r\n\r\n2000").count();
        assert_eq!(text[..whole].matches("HTTP/1.1 200 OK\r\n").count(), answers, "{text}");
        self.received.drain(..whole);
        answers
    }
}

#[test]
#[ignore = "holds 6 000 connections and measures time"]
fn answers_1000_applications_among_5000_idle_connections() {
    hm_agent::sys::raise_descriptor_limit().unwrap();
    let agent = Agent::start(&[]);
    HttpConnection::open(&agent).get("/list");
    let before = agent.status("VmRSS");
    let mut idle: Vec<HttpConnection> = (0..IDLE).map(|_| HttpConnection::open(&agent)).collect();
    for line in &mut idle {
        assert_eq!(line.get("/list").status, 200);
    }
    let each = (agent.status("VmRSS") - before) * 1024 / IDLE as u64;

    assert!(each <= BUDGET_IDLE_BYTES, "{each} bytes");
    assert_best_of_five(BUDGET, || {
        let mut late = send_heartbeats(&agent, SECONDS);
        late.sort_unstable();
        // The p99 of each second. The better half excludes seconds in which the machine was busy.
        let p99 = |second: &[(u64, Duration)]| second[(second.len() - 1) * 99 / 100].1;
        let mut seconds: Vec<_> = late.chunk_by(|a, b| a.0 == b.0).map(p99).collect();
        seconds.sort_unstable();
        println!(
            "{} heartbeats: p99 of each second {seconds:?}; {each} bytes RSS for an idle connection",
            late.len()
        );
        assert_eq!(late.len(), APPS * SECONDS, "every heartbeat is answered");
        assert_eq!(agent.list().len(), APPS, "no application is missing");
        assert!(
            !agent.log().iter().any(|line| line.contains("] is ")),
            "no application was overdue"
        );
        for (at, line) in idle.iter_mut().enumerate() {
            let done = line.get(&format!("/hb_done?0&appid=app{}", at % APPS));
            assert_eq!(done.status, 200, "idle connections still work");
        }
        seconds[SECONDS / 2 - 1]
    });
    // Closing many connections could make the shutdown exceed its limit on a busy machine.
    drop(idle);
    agent.stop();
}

/// Sends heartbeats. Returns the due second of each and the time from when it was due until its response.
fn send_heartbeats(agent: &Agent, seconds: usize) -> Vec<(u64, Duration)> {
    let mut poll = Poll::new().unwrap();
    let mut apps: Vec<App> = (0..APPS)
        .map(|at| {
            let socket = std::net::TcpStream::connect(agent.heartbeat()).unwrap();
            socket.set_nonblocking(true).unwrap();
            let mut socket = TcpStream::from_std(socket);
            poll.registry().register(&mut socket, Token(at), Interest::READABLE).unwrap();
            App { socket, due: Vec::new(), received: Vec::new() }
        })
        .collect();
    let (start, total) = (Instant::now(), APPS * seconds);
    let due_at =
        |index: usize| Duration::from_secs(1) * u32::try_from(index).unwrap() / APPS as u32;
    let deadline = due_at(total) + support::TEST_TIMEOUT;
    let (mut sent, mut late) = (0, Vec::with_capacity(total));
    let mut events = Events::with_capacity(1024);
    while late.len() < total && start.elapsed() < deadline {
        while sent < total && start.elapsed() >= due_at(sent) {
            let app = &mut apps[sent % APPS];
            let number = sent % APPS;
            // One write, because the kernel delays the later parts of a split request (Nagle).
            let request =
                format!("GET /hb_ping?1000&appid=app{number} HTTP/1.1\r\nHost: a\r\n\r\n");
            app.socket.write_all(request.as_bytes()).unwrap();
            app.due.push(due_at(sent));
            sent += 1;
        }
        let wait = if sent < total { due_at(sent).saturating_sub(start.elapsed()) } else { BUDGET };
        poll.poll(&mut events, Some(wait)).unwrap();
        let now = start.elapsed();
        for event in &events {
            let app = &mut apps[event.token().0];
            for _ in 0..app.receive() {
                let due = app.due.remove(0);
                late.push((due.as_secs(), now - due));
            }
        }
    }
    late
}
