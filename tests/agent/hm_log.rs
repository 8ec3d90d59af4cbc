//! Log lines of the hm client: each kind of failure once, however often it repeats.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::hm_server::HmServer;
use crate::support::{Agent, TempDir, reserve_address};

/// Longer than any delay here, with tolerance for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(120);

fn agent(url: &str, state: &TempDir) -> Agent {
    let url = format!("hm.url={url}");
    let state = format!("state_dir={}", state.0.display());
    let settings = ["node_id=n1", "hm.report_interval=1", "interval=1", "gpu.source=none"];
    Agent::start(&[&[url.as_str(), &state], &settings[..]].concat())
}

fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < TIMEOUT, "timeout waiting for {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// The client's log lines without their timestamps.
fn lines(log: &[String]) -> Vec<&str> {
    let is_client = |line: &&str| line.contains("hm: ") && !line.contains("node has no GPU");
    log.iter().map(|line| &line[21..]).filter(is_client).collect()
}

/// Accepts connections and does not speak hm. Stops when dropped.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Sends `response` to each request and closes; empty: sends nothing and never closes.
    fn new(response: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, stopped) = (connections.clone(), ended.clone());
        let held = Mutex::new(Vec::new());
        let thread = std::thread::spawn(move || {
            while let Ok((mut socket, _)) = listener.accept() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                count.fetch_add(1, Ordering::Relaxed);
                if response.is_empty() {
                    held.lock().unwrap().push(socket);
                } else {
                    let _ = socket.read(&mut [0; 4096]);
                    let _ = socket.write_all(response.as_bytes());
                }
            }
        });
        Self { address, connections, ended, thread: Some(thread) }
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

/// Connects to the same server `attempts` times; the log has one line about it, which contains `text`.
fn assert_logged_once(response: &'static str, attempts: usize, text: &str) {
    let (server, state) = (Server::new(response), TempDir::new("log"));
    let agent = agent(&format!("ws://{}/websocket?token=s3cret", server.address), &state);
    wait(text, || server.connections.load(Ordering::Relaxed) >= attempts);
    // The last attempt has not failed yet; a second line would appear then.
    let time = if response.is_empty() { 12 } else { 1 };
    std::thread::park_timeout(Duration::from_secs(time));
    let log = agent.stop();
    let logged = lines(&log);
    assert!(logged.len() == 1 && logged[0].starts_with("warn hm: ws://127.0.0.1:"), "{logged:#?}");
    assert!(logged[0].contains(&format!("/websocket {text}")), "{logged:#?}");
    assert!(!logged[0].contains("s3cret"), "{logged:#?}");
}

#[test]
#[ignore = "waits for the second attempt after a 4xx, 40 s"]
fn logs_each_kind_of_failure_once() {
    let unauthorized = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 8\r\n\r\nno token";
    let forbidden = "HTTP/1.1 403 Forbidden\r\nContent-Length: 11\r\n\r\nwrong token";
    let unknown = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    let broken = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\noops";
    let gateway = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n";
    let cases = [
        (
            unauthorized,
            2,
            "HTTP status 401 instead of a WebSocket upgrade: no token; next attempt in 3",
        ),
        (
            forbidden,
            2,
            "HTTP status 403 instead of a WebSocket upgrade: wrong token; next attempt in 3",
        ),
        (unknown, 2, "HTTP status 404 "),
        (broken, 3, "HTTP status 500 instead of a WebSocket upgrade: oops; next attempt in "),
        (gateway, 3, "HTTP status 502 "),
        ("SSH-2.0-x\r\n", 2, "protocol error: "),
        ("", 2, "WebSocket handshake timed out"),
    ];
    std::thread::scope(|scope| {
        for (response, attempts, text) in cases {
            scope.spawn(move || assert_logged_once(response, attempts, text));
        }
    });
}

#[test]
#[ignore = "waits for several attempts, 20 s"]
fn logs_connection_refused_once() {
    let address = reserve_address();
    let state = TempDir::new("log");
    let agent = agent(&format!("ws://{address}/"), &state);
    // Delays of at most 3 s and 6 s: at least three attempts.
    std::thread::park_timeout(Duration::from_secs(12));
    let log = agent.stop();
    let logged = lines(&log);
    assert_eq!(logged.len(), 1, "{logged:#?}");
    assert!(logged[0].contains("connection refused; next attempt in "), "{logged:#?}");
}

/// Asserts what the log has once `reports` are delivered to a server that answers the first requests with `codes`.
fn assert_lines(codes: &[u64], reports: usize, expected: &[&str]) {
    let (hub, state) = (HmServer::start(), TempDir::new("log"));
    hub.codes(codes);
    let agent = agent(&format!("ws://{}/", hub.address), &state);
    wait("reports", || hub.reports().len() >= reports);
    // The client logs when it receives the response.
    wait("the log", || lines(&agent.log()).len() >= expected.len());
    let log = agent.stop();
    let logged = lines(&log);
    assert_eq!(logged.len(), expected.len(), "{codes:?}: {logged:#?}");
    for (line, text) in logged.iter().zip(expected) {
        assert!(line.contains(text), "{text:?}: {logged:#?}");
    }
}

#[test]
#[ignore = "waits for several attempts, half a minute"]
fn logs_each_response_code_once() {
    let online = ": online as n1, ";
    let older = "has an older connection of this node (\"no\"); waiting until it expires";
    assert_lines(&[5, 5, 5], 1, &[older, online]);
    let again = "accepts reports again; 3 were rejected and dropped";
    assert_lines(&[0, 1, 2, 3], 1, &[online, "rejected a report (\"no\"), dropped", again]);
    assert_lines(&[0, 4, 4, 4], 1, &[online, "temporarily rejects requests, retrying: \"no\""]);
    // It accepts the node and then does not know it.
    assert_lines(
        &[0, 6, 0, 6, 0, 6],
        1,
        &[online, "node is not online any more (\"no\"), going online again"],
    );
}

#[test]
#[ignore = "waits for two response timeouts, 45 s"]
fn logs_server_that_never_answers_reports_once() {
    let online = ": online as n1, ";
    assert_lines(&[0, 99, 0, 99], 1, &[online, "response timeout (20 s)", online]);
}

#[test]
fn logs_other_failure_and_same_failure_again_after_recovery() {
    let (hub, state) = (HmServer::start(), TempDir::new("log"));
    let address = hub.address;
    let agent = agent(&format!("ws://{address}/"), &state);
    hub.wait_reports(1);
    hub.stop();
    agent.wait_log("connect failed");
    let hub = HmServer::on(address, false, Duration::from_secs(30));
    hub.wait_reports(2);
    hub.shut_down();
    agent.wait_log("closed by server (1001: back soon)");
    wait("the second failure", || {
        agent.log().iter().filter(|line| line.contains("connect failed")).count() == 2
    });
    let log = agent.stop();
    let logged = lines(&log);
    let expected = ["online", "lost", "connect failed", "online", "closed", "connect failed"];
    assert_eq!(logged.len(), expected.len(), "{logged:#?}");
    assert!(logged.iter().zip(expected).all(|(line, text)| line.contains(text)), "{logged:#?}");
}
