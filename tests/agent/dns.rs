//! Name servers that answer for IPv4 and fail for IPv6. Runs in network namespaces, with a name server on 127.0.0.1.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Instant;

use crate::support::{Agent, SLACK, TempDir, hm_agent, wait_until};
use hm_agent::net::resolve::IPV6_LOOKUP_TIMEOUT;

/// What the name server does with queries for IPv6 addresses; in a namespace only.
const MODE: &str = "HM_TEST_AAAA";
const SILENT: &str = "silent";
/// Response codes without an address: no error, SERVFAIL, NXDOMAIN, REFUSED.
const MODES: [&str; 5] = [SILENT, "0", "2", "3", "5"];

/// Answers every query for an IPv4 address with 127.0.0.1.
fn serve_names(socket: &UdpSocket, mode: &str) {
    const A: u8 = 1;
    let mut query = [0; 512];
    while let Ok((length, peer)) = socket.recv_from(&mut query) {
        let name_end = 13 + query[12..length].iter().position(|&byte| byte == 0).unwrap();
        let question = &query[12..name_end + 4];
        let is_ipv4 = query[name_end + 1] == A;
        if !is_ipv4 && mode == SILENT {
            continue;
        }
        let code: u8 = if is_ipv4 { 0 } else { mode.parse().unwrap() };
        let answer: &[u8] = &[0xc0, 12, 0, A, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1];
        let answer = if is_ipv4 { answer } else { &[] };
        let flags = [0x81, 0x80 | code];
        let header =
            [query[0], query[1], flags[0], flags[1], 0, 1, 0, u8::from(is_ipv4), 0, 0, 0, 0];
        socket.send_to(&[&header, question, answer].concat(), peer).unwrap();
    }
}

/// Runs a test of this file in a network namespace for each mode.
fn in_each_mode(test: &str) {
    let scratch = TempDir::new("dns");
    let resolver = scratch.write("resolv.conf", "nameserver 127.0.0.1\n");
    let script = "ip link set lo up && mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    for mode in MODES {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "sh", "-c", script, &resolver]);
        command.arg(std::env::current_exe().unwrap()).args([
            "--exact",
            &format!("dns::{test}"),
            "--ignored",
        ]);
        let output = command.env(MODE, mode).output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "AAAA {mode}: {text}");
    }
}

/// Starts the name server in a namespace. Outside, runs the test in namespaces and returns `false`.
fn is_in_namespace(test: &str) -> bool {
    let Ok(mode) = std::env::var(MODE) else {
        in_each_mode(test);
        return false;
    };
    let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
    std::thread::spawn(move || serve_names(&socket, &mode));
    true
}

/// Starts an agent that connects to `port` of a name, perhaps through a proxy.
fn start(key: &str, port: u16, proxy: Option<&str>) -> Agent {
    let mut command = hm_agent();
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(name);
    }
    command.envs(proxy.map(|proxy| ("http_proxy", proxy)));
    let url = format!("{key}=ws://server.example.test:{port}/");
    let settings = ["usage.listen=127.0.0.1:0", "gpu.source=none", &url];
    command.args(settings.iter().flat_map(|setting| ["-s", setting]));
    Agent::spawn(command)
}

fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// The beginning of what the next client sends.
fn accept(listener: &TcpListener) -> (TcpStream, String) {
    listener.set_nonblocking(true).unwrap();
    let (mut socket, _) = wait_until("a connection", || listener.accept().ok());
    socket.set_nonblocking(false).unwrap();
    let mut buffer = [0; 1024];
    let length = socket.read(&mut buffer).unwrap();
    (socket, String::from_utf8_lossy(&buffer[..length]).into_owned())
}

#[test]
#[ignore = "needs root, ip and unshare"]
fn ipv4_address_is_used_whatever_happens_to_aaaa() {
    if !is_in_namespace("ipv4_address_is_used_whatever_happens_to_aaaa") {
        return;
    }
    for key in ["hm.url", "core.url"] {
        let (listener, port) = listen();
        let agent = start(key, port, None);
        assert!(accept(&listener).1.starts_with("GET /"));
        assert!(agent.started.elapsed() < SLACK, "{key}");
        agent.stop();
    }
    let (listener, port) = listen();
    let agent = start("hm.url", 1, Some(&format!("http://proxy.example.test:{port}")));
    assert!(accept(&listener).1.starts_with("CONNECT server.example.test:1 "));
    assert!(agent.started.elapsed() < SLACK, "proxy");
    agent.stop();
    let (listener, port) = listen();
    let server = std::thread::spawn(move || {
        let (mut client, request) = accept(&listener);
        client.write_all(b"HTTP/1.0 200 OK\r\n\r\nOK - fine\n").unwrap();
        request
    });
    let url = format!("http://server.example.test:{port}");
    let output = hm_agent().args(["status", "x", "--url", &url]).output().unwrap();
    assert!(server.join().unwrap().starts_with("GET /status"), "{output:?}");
}

#[test]
#[ignore = "needs root, ip and unshare"]
fn refused_connection_is_reported_without_waiting_for_aaaa() {
    if !is_in_namespace("refused_connection_is_reported_without_waiting_for_aaaa") {
        return;
    }
    let (listener, port) = listen();
    drop(listener);
    let agent = start("hm.url", port, None);
    let line = agent.wait_log("hm: ws://server.example.test");
    assert!(
        line.contains(&format!("connect failed: 127.0.0.1:{port}: connection refused")),
        "{line}"
    );
    let took = agent.started.elapsed();
    assert!(took < IPV6_LOOKUP_TIMEOUT + SLACK, "{took:?}");
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    accept(&listener);
    agent.stop();
    let now = Instant::now();
    let url = format!("http://server.example.test:{port}");
    drop(listener);
    let output = hm_agent().args(["status", "x", "--url", &url]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("connection refused"), "{output:?}");
    assert!(now.elapsed() < IPV6_LOOKUP_TIMEOUT + SLACK);
}
