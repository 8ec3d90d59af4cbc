//! What the log says of a link: each trouble once, however often it is met again, and each in words of its own.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use support::hub::Hub;
use support::{Agent, Scratch};

/// The longest of the waits here, with what a busy machine may need.
const PATIENCE: Duration = Duration::from_secs(120);

fn agent(url: &str, state: &Scratch) -> Agent {
    let url = format!("hm.url={url}");
    let state = format!("state_dir={}", state.0.display());
    let settings = ["node_id=n1", "hm.report_interval=1", "interval=1", "gpu.source=none"];
    Agent::start(&[&[url.as_str(), &state], &settings[..]].concat())
}

fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// What the log says of the link, from after its level on.
fn lines(log: &[String]) -> Vec<&str> {
    let of_link = |line: &&str| line.contains("hm: ") && !line.contains("this node has no GPU");
    log.iter().map(|line| &line[21..]).filter(of_link).collect()
}

/// Something that accepts connections and is no hub. It ends when it goes out of scope.
struct Server {
    address: SocketAddr,
    tries: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// It says `answer` to everybody who asks and hangs up; nothing: it says nothing, and never hangs up.
    fn new(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (tries, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, over) = (tries.clone(), ended.clone());
        let held = Mutex::new(Vec::new());
        let thread = std::thread::spawn(move || {
            while let Ok((mut socket, _)) = listener.accept() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                count.fetch_add(1, Ordering::Relaxed);
                if answer.is_empty() {
                    held.lock().unwrap().push(socket);
                } else {
                    let _ = socket.read(&mut [0; 4096]);
                    let _ = socket.write_all(answer.as_bytes());
                }
            }
        });
        Self { address, tries, ended, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Meets the same server `tries` times; what the log says of it is one line that contains `text`.
fn assert_said_once(answer: &'static str, tries: usize, text: &str) {
    let (server, state) = (Server::new(answer), Scratch::new("log"));
    let agent = agent(&format!("ws://{}/websocket?token=s3cret", server.address), &state);
    wait(text, || server.tries.load(Ordering::Relaxed) >= tries);
    // The last try has to fail yet, and a line about it would come then.
    let time = if answer.is_empty() { 12 } else { 1 };
    std::thread::park_timeout(Duration::from_secs(time));
    let log = agent.stop();
    let said = lines(&log);
    assert!(said.len() == 1 && said[0].starts_with("warn hm: ws://127.0.0.1:"), "{said:#?}");
    assert!(said[0].contains(&format!("/websocket {text}")), "{said:#?}");
    assert!(!said[0].contains("s3cret"), "{said:#?}");
}

#[test]
#[ignore = "waits for the second try after a 4xx, 40 s"]
fn each_trouble_is_said_once_and_not_each_time_it_is_met() {
    let unauthorized = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 8\r\n\r\nno token";
    let forbidden = "HTTP/1.1 403 Forbidden\r\nContent-Length: 11\r\n\r\nwrong token";
    let unknown = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    let broken = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\noops";
    let gateway = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n";
    let cases = [
        (unauthorized, 2, "answers 401: no token; next try in 3"),
        (forbidden, 2, "answers 403: wrong token; next try in 3"),
        (unknown, 2, "answers 404: "),
        (broken, 3, "answers 500: oops; next try in "),
        (gateway, 3, "answers 502: "),
        ("SSH-2.0-x\r\n", 2, "does not speak the protocol: "),
        ("", 2, "the upgrade took too long"),
    ];
    std::thread::scope(|scope| {
        for (answer, tries, text) in cases {
            scope.spawn(move || assert_said_once(answer, tries, text));
        }
    });
}

#[test]
#[ignore = "waits for several tries, 20 s"]
fn a_port_where_nobody_listens_is_said_once() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let state = Scratch::new("log");
    let agent = agent(&format!("ws://{address}/"), &state);
    // Waits of 3 s, 6 s, and 12 s at most: at least three tries.
    std::thread::park_timeout(Duration::from_secs(12));
    let log = agent.stop();
    let said = lines(&log);
    assert_eq!(said.len(), 1, "{said:#?}");
    assert!(said[0].contains("connection refused; next try in "), "{said:#?}");
}

/// The hub's answers to the first requests, and what the log says until reports are delivered.
fn said_of(codes: &[u64], reports: usize) -> Vec<String> {
    let (hub, state) = (Hub::start(), Scratch::new("log"));
    hub.codes(codes);
    let agent = agent(&format!("ws://{}/", hub.address), &state);
    wait("reports", || hub.reports().len() >= reports);
    // Delivered is what was answered.
    std::thread::park_timeout(Duration::from_millis(500));
    let log = agent.stop();
    lines(&log).into_iter().map(str::to_owned).collect()
}

fn assert_said(codes: &[u64], reports: usize, expected: &[&str]) {
    let said = said_of(codes, reports);
    assert_eq!(said.len(), expected.len(), "{codes:?}: {said:#?}");
    for (line, text) in said.iter().zip(expected) {
        assert!(line.contains(text), "{text:?}: {said:#?}");
    }
}

#[test]
#[ignore = "waits for several tries, half a minute"]
fn what_a_hub_answers_is_said_once() {
    let online = ": online as n1, ";
    let older = "holds an older connection of this node (\"no\"); waiting for it to expire";
    assert_said(&[5, 5, 5], 1, &[older, online]);
    let again = "takes reports again; 3 were refused and dropped";
    assert_said(&[0, 1, 2, 3], 1, &[online, "refuses a report (\"no\"), which is dropped", again]);
    assert_said(&[0, 4, 4, 4], 1, &[online, "asks for later: \"no\""]);
    // It takes the node in and then does not know it.
    assert_said(&[0, 6, 0, 6, 0, 6], 1, &[online, "asks for later: \"no\""]);
}

#[test]
#[ignore = "waits for two missing answers, 45 s"]
fn a_hub_that_goes_online_and_answers_no_report_is_said_once() {
    let online = ": online as n1, ";
    assert_said(&[0, 99, 0, 99], 1, &[online, "no answer within 20 s", online]);
}

#[test]
fn another_trouble_is_said_and_the_same_one_again_after_good_times() {
    let (hub, state) = (Hub::start(), Scratch::new("log"));
    let address = hub.address;
    let agent = agent(&format!("ws://{address}/"), &state);
    hub.wait_reports(1);
    hub.stop();
    agent.wait_log("cannot be reached");
    let hub = Hub::on(address, false, Duration::from_secs(30));
    hub.wait_reports(2);
    hub.shut_down();
    agent.wait_log("closed the connection (1001: back soon)");
    wait("the second refusal", || {
        agent.log().iter().filter(|line| line.contains("cannot be reached")).count() == 2
    });
    let log = agent.stop();
    let said = lines(&log);
    let expected = ["online", "broke", "reached", "online", "closed", "reached"];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    assert!(said.iter().zip(expected).all(|(line, text)| line.contains(text)), "{said:#?}");
}
