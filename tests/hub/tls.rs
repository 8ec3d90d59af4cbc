//! TLS on the ports of the hub. `tls_files.rs` tests its files.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use rustls::ClientConfig;
use serde_json::json;
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

use crate::support::hub::{Hub, Node, http, json_body, report, stored};
use crate::support::tls_server::{Authority, TlsSocket, connect};
use crate::support::{Agent, TEST_TIMEOUT, TempDir, wait_until};

/// A hub whose ports have TLS.
pub struct TlsHub {
    pub hub: Hub,
    pub authority: Authority,
    pub state: TempDir,
    /// Settings of the files.
    pub settings: Vec<String>,
    /// A client without a certificate.
    pub client: Arc<ClientConfig>,
}

impl TlsHub {
    pub fn start(settings: &[&str]) -> Self {
        let (authority, state) = (Authority::new(), TempDir::new("hub"));
        let (chain, key) = authority.files(&state, "hub", &["localhost", "127.0.0.1"]);
        let mut all = vec![format!("tls.certificate_file={chain}"), format!("tls.key_file={key}")];
        let ca = authority.file(&state);
        all.extend(settings.iter().map(|setting| setting.replace("CA_FILE", &ca)));
        let hub = Hub::start(&state, &all.iter().map(String::as_str).collect::<Vec<_>>());
        let client = authority.client(None);
        Self { hub, authority, state, settings: all, client }
    }

    pub fn node(&self) -> Node<TlsSocket> {
        let socket = connect(self.hub.address, &self.client).unwrap();
        Node::over(socket, self.hub.address, "").unwrap()
    }

    pub fn get(&self, target: &str) -> String {
        get(self.hub.web, &self.client, target).unwrap()
    }

    fn agent(&self, id: &str, url: &str) -> Agent {
        let (id, ca) = (format!("node_id={id}"), self.state.0.join("ca.pem"));
        let ca = format!("tls.ca_file={}", ca.display());
        Agent::start(&[url, &id, &ca, "interval=1", "gpu.source=none"])
    }
}

/// Fails if TLS does not end properly, with an alert.
pub fn get(address: SocketAddr, client: &Arc<ClientConfig>, target: &str) -> io::Result<String> {
    let mut socket = connect(address, client)?;
    write!(socket, "GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut response = String::new();
    socket.read_to_string(&mut response)?;
    Ok(response)
}

#[test]
fn agents_of_both_protocols_are_scraped_over_tls() {
    let tls = TlsHub::start(&[]);
    let hm = format!("hm.url=wss://localhost:{}/websocket", tls.hub.address.port());
    let core = format!("core.url=wss://localhost:{}/api/v1/ws", tls.hub.core.port());
    let agents = [tls.agent("a", &hm), tls.agent("b", &core)];
    for id in ["a", "b"] {
        let scraped = wait_until("metrics", || {
            let response = tls.get(&format!("/nodes/{id}/metrics"));
            response.starts_with("HTTP/1.1 200 OK\r\n").then_some(response)
        });
        assert!(scraped.contains("\nnode_memory_MemTotal_bytes "), "{scraped}");
    }
    let report = tls.hub.log().into_iter().find(|line| line.contains("node a is online"));
    assert!(report.is_some(), "{:#?}", tls.hub.log());
    tls.hub.stop();
    agents[0].wait_log("closed by server");
}

#[test]
fn port_without_tls_stays_plain() {
    let tls = TlsHub::start(&["hm.tls=false", "core.tls=false"]);
    assert_eq!(tls.hub.node().online("a"), 0);
    assert_eq!(tls.hub.rest("GET", "nodes/stats", "")["success"], true);
    assert!(tls.get("/-/healthy").ends_with("OK\n"));
    let refused = connect(tls.hub.address, &tls.client).map(|_| ()).unwrap_err();
    assert!(
        matches!(refused.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof),
        "{refused}"
    );
}

#[test]
fn plain_request_at_tls_port_gets_400() {
    let tls = TlsHub::start(&[]);
    for address in [tls.hub.address, tls.hub.core, tls.hub.web] {
        let response = http(address, "GET", "/", "", "");
        assert!(response.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{response}");
        assert!(response.contains("requires TLS"), "{response}");
    }
}

/// Collects what a WebSocket client sends.
#[derive(Default)]
struct Recorder(Vec<u8>);

impl Write for Recorder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Recorder {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }
}

/// The bytes of `online` and `count` reports.
fn messages(node_id: &str, count: i64) -> Vec<u8> {
    let mut node = Node(WebSocket::from_raw_socket(Recorder::default(), Role::Client, None));
    node.send(1, 0, 0, &json!({"node_id": node_id}));
    (1..=count).for_each(|time| node.send(2, time as u64, time, &report()));
    std::mem::take(&mut node.0.get_mut().0)
}

/// The hub has decrypted most of these messages before its event loop takes over the connection.
#[test]
fn messages_sent_with_the_handshake_are_all_answered() {
    const REPORTS: i64 = 200;
    const UPGRADE: &str = "GET /websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let tls = TlsHub::start(&[]);
    let mut socket = connect(tls.hub.address, &tls.client).unwrap();
    socket.write_all(&[UPGRADE.as_bytes(), &messages("a", REPORTS)].concat()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    let mut node = Node(WebSocket::from_raw_socket(socket, Role::Client, None));
    assert_eq!(node.header().2, 0);
    for id in 1..=REPORTS {
        let (kind, answered, code) = node.header();
        assert_eq!((answered, code), (id as u64, 0), "{kind}");
    }
}

#[test]
fn long_messages_pass_in_both_directions() {
    let tls = TlsHub::start(&[]);
    let mut node = tls.node();
    assert_eq!(node.online("a"), 0);
    let long = "x".repeat(60 << 10);
    // The hub answers a ping with the same payload.
    for size in [0, 1, 125] {
        node.0.send(Message::Ping(long.as_bytes()[..size].to_vec().into())).unwrap();
        let Message::Pong(payload) = node.0.read().unwrap() else { panic!("not a pong") };
        assert_eq!(payload.len(), size);
    }
    let mut models = report();
    models["project"] = json!(long[..30_000]);
    node.send(2, 1, 1, &models);
    assert_eq!(node.header().1, 1);
    // Longer than the hub permits, which may end the connection before it has read everything.
    let sent = node.0.send(Message::text("x".repeat(100_000)));
    assert!(sent.is_err() || node.0.read().is_err());
}

/// The node writes reports without reading answers until the hub reads no more, then reads everything.
#[test]
fn node_that_does_not_read_delays_no_other() {
    const REPORTS: usize = 3000;
    let tls = TlsHub::start(&[]);
    let mut slow = tls.node().0.into_inner();
    setsockopt(&slow.sock, sockopt::RcvBuf, &4096).unwrap();
    slow.sock.set_nonblocking(true).unwrap();
    slow.conn.set_buffer_limit(None);
    slow.conn.writer().write_all(&messages("slow", REPORTS as i64)).unwrap();
    let (mut count, mut since) = (0, Instant::now());
    wait_until("a hub that reads no more", || {
        let _ = slow.conn.write_tls(&mut slow.sock);
        let now = stored(&tls.state, "slow").len();
        if now > count {
            (count, since) = (now, Instant::now());
        }
        (count > 0 && since.elapsed() > Duration::from_secs(2)).then_some(())
    });
    assert!(count < REPORTS, "the hub reads although its answers are not read");
    let mut other = tls.node();
    assert_eq!((other.online("other"), other.report(1)), (0, 0));
    let mut answers = String::new();
    wait_until("all answers", || {
        let _ = slow.conn.write_tls(&mut slow.sock);
        let _ = slow.conn.read_tls(&mut slow.sock);
        slow.conn.process_new_packets().unwrap();
        let mut bytes = Vec::new();
        let _ = slow.conn.reader().read_to_end(&mut bytes);
        answers.push_str(&String::from_utf8_lossy(&bytes));
        (answers.matches("\"code\":0").count() > REPORTS).then_some(())
    });
    // Sent in chunks.
    let all = get(tls.hub.core, &tls.client, "/api/v1/nodes/slow/reports?limit=10000").unwrap();
    assert_eq!(json_body(&all)["data"]["reports"].as_array().unwrap().len(), REPORTS);
}

#[test]
fn slow_handshakes_delay_no_other_client_and_end() {
    let tls = TlsHub::start(&[]);
    let started = Instant::now();
    let connect_slowly = |bytes: &[u8]| {
        let mut socket = TcpStream::connect(tls.hub.address).unwrap();
        socket.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        socket.write_all(bytes).unwrap();
        socket
    };
    // The beginning of a ClientHello of 512 bytes.
    let hello = [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
    let mut slow: Vec<TcpStream> =
        (0..100).map(|at| connect_slowly(&hello[..at % hello.len()])).collect();
    let mut node = tls.node();
    assert_eq!((node.online("a"), node.report(1)), (0, 0));
    let mut dripping = connect_slowly(&hello);
    dripping.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    wait_until("the end of a handshake of single bytes", || {
        let is_writable = dripping.write_all(&[0]).is_ok();
        match dripping.read(&mut [0; 64]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && is_writable => None,
            _ => Some(()),
        }
    });
    for socket in &mut slow {
        let end = socket.read(&mut [0; 64]);
        assert!(
            matches!(end, Ok(0))
                || end.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionReset),
            "{end:?}"
        );
    }
    assert!(started.elapsed() < TEST_TIMEOUT, "took {:?}", started.elapsed());
    assert_eq!(node.report(2), 0);
}

#[test]
fn connection_is_kept_for_further_requests() {
    let tls = TlsHub::start(&[]);
    let mut socket = connect(tls.hub.web, &tls.client).unwrap();
    for _ in 0..3 {
        socket.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut response = Vec::new();
        while !response.ends_with(b"\r\n\r\nOK\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            response.extend(byte);
        }
    }
    assert_eq!(socket.conn.alpn_protocol(), None, "the client offers none");
}

#[test]
fn session_cookie_is_for_tls_only() {
    let scratch = TempDir::new("operators");
    let operators = scratch.write("operators", "secret read adam\n");
    let tls = TlsHub::start(&[&format!("operators.tokens_file={operators}")]);
    let mut socket = connect(tls.hub.web, &tls.client).unwrap();
    let host = format!("hub.example:{}", tls.hub.web.port());
    let body = r#"{"token":"secret"}"#;
    let request = format!(
        "POST /api/login HTTP/1.1\r\nHost: {host}\r\nOrigin: https://{host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    socket.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(response.contains("; SameSite=Strict; Secure\r\n"), "{response}");
}

#[test]
#[ignore = "needs curl"]
fn curl_verifies_the_hub_and_negotiates_http() {
    let tls = TlsHub::start(&[]);
    let curl = |arguments: &[&str]| {
        let url = format!("https://localhost:{}/-/healthy", tls.hub.web.port());
        Command::new("curl").args(["-sv", "--ipv4"]).args(arguments).arg(url).output().unwrap()
    };
    let ca = tls.state.0.join("ca.pem").display().to_string();
    for version in ["--tls-max=1.2", "--tlsv1.3"] {
        let version: Vec<&str> = version.split('=').collect();
        let output = curl(&[&version[..], &["--cacert", &ca]].concat());
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && output.stdout == b"OK\n", "{output:?}");
        assert!(log.contains("http/1.1"), "{log}");
    }
    assert_eq!(curl(&[]).status.code(), Some(60), "the authority is unknown to curl");
    assert_ne!(curl(&["--tls-max", "1.1", "--cacert", &ca]).status.code(), Some(0));
}

#[test]
#[ignore = "needs Python's websockets"]
fn python_client_connects_over_tls() {
    const SCRIPT: &str = "
import asyncio, ssl, sys, websockets
async def main(url, ca):
    async with websockets.connect(url, ssl=ssl.create_default_context(cafile=ca)) as socket:
        await (await socket.ping())
asyncio.run(main(*sys.argv[1:]))
";
    let tls = TlsHub::start(&[]);
    let url = format!("wss://127.0.0.1:{}/websocket", tls.hub.address.port());
    let python = std::env::var("HM_TEST_PYTHON").expect("HM_TEST_PYTHON is set by ./tests/run");
    let mut command = Command::new(python);
    let output =
        command.args(["-c", SCRIPT, &url]).arg(tls.state.0.join("ca.pem")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
