//! `wss://`: certificate verification and proxies. `tls_authorities.rs` tests changes while the agent runs.

use crate::support;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use tungstenite::Message;

use crate::support::tls_server::{Authority, Flaw};
use crate::support::{Agent, TempDir};

/// Serves one connection; returns the first request, if there is one.
fn hub(config: Arc<ServerConfig>) -> (SocketAddr, JoinHandle<Option<Value>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (address, std::thread::spawn(move || serve(&listener, config)))
}

/// The same in this thread.
fn serve(listener: &TcpListener, config: Arc<ServerConfig>) -> Option<Value> {
    let (socket, _) = listener.accept().unwrap();
    let stream = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
    let mut socket = tungstenite::accept(stream).ok()?;
    let text = socket.read().ok()?.into_text().ok()?;
    let request: Value = serde_json::from_str(&text).unwrap();
    let response = json!({"id": request["id"], "code": 0, "message": "ok"}).to_string();
    socket.send(Message::text(response)).unwrap();
    Some(request)
}

fn settings(url: &str, scratch: &TempDir, ca_file: Option<&str>) -> Vec<String> {
    let mut settings = vec![
        format!("hm.url={url}"),
        format!("state_dir={}", scratch.0.display()),
        "gpu.source=none".to_owned(),
        "node_id=n1".to_owned(),
    ];
    settings.extend(ca_file.map(|file| format!("tls.ca_file={file}")));
    settings
}

fn agent(url: &str, scratch: &TempDir, ca_file: Option<&str>) -> Agent {
    let settings = settings(url, scratch, ca_file);
    Agent::start(&settings.iter().map(String::as_str).collect::<Vec<_>>())
}

fn url(address: SocketAddr) -> String {
    format!("wss://localhost:{}/websocket", address.port())
}

#[test]
fn accepts_valid_chain_with_intermediate() {
    let (authority, scratch) = (Authority::new(), TempDir::new("tls"));
    let (address, hub) = hub(authority.server(&Flaw::None));
    let agent = agent(&url(address), &scratch, Some(&authority.file(&scratch)));
    agent.wait_log("online as n1");
    assert_eq!(hub.join().unwrap().unwrap()["type"], 1);
    agent.stop();
}

#[test]
fn rejects_invalid_certificates_with_reason() {
    for (flaw, known, why) in [
        (Flaw::None, false, "TLS handshake failed: invalid peer certificate: UnknownIssuer"),
        (Flaw::Name, true, "not valid for name"),
        (Flaw::Expired, true, "expired"),
    ] {
        let (authority, scratch) = (Authority::new(), TempDir::new("tls"));
        let (address, hub) = hub(authority.server(&flaw));
        let file = authority.file(&scratch);
        let agent = agent(&url(address), &scratch, known.then_some(file.as_str()));
        let line = agent.wait_log("hm: wss://localhost");
        assert!(line.contains(why), "{line}");
        let seconds: f64 = line.rsplit(' ').nth(1).unwrap().parse().unwrap();
        assert!(seconds >= 30.0, "needs an operator: {line}");
        assert!(hub.join().unwrap().is_none(), "nothing was sent to an unverified server");
        agent.stop();
    }
}

#[test]
fn logs_server_that_does_not_speak_tls() {
    let scratch = TempDir::new("tls");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        let _ = socket.read(&mut [0; 1024]);
    });
    let agent = agent(&url(address), &scratch, None);
    agent.wait_log("TLS handshake failed: received corrupt message");
    server.join().unwrap();
    agent.stop();
}

/// Tunnels one connection; returns the CONNECT request.
fn proxy(response: &'static str) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            request.extend(byte);
        }
        client.write_all(response.as_bytes()).unwrap();
        let request = String::from_utf8(request).unwrap();
        if response.contains("200") {
            let target = request.split(' ').nth(1).unwrap().replace("localhost", "127.0.0.1");
            let mut server = TcpStream::connect(target).unwrap();
            let (mut up, mut down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut up, &mut down));
            let _ = std::io::copy(&mut server, &mut client);
        }
        request
    });
    (address, thread)
}

#[test]
fn uses_proxy_from_environment() {
    let (authority, scratch) = (Authority::new(), TempDir::new("tls"));
    let (hub_address, hub) = hub(authority.server(&Flaw::None));
    let (proxy_address, proxy) = proxy("HTTP/1.1 200 Connection established\r\n\r\n");
    let mut command = support::hm_agent();
    command.env("HTTPS_PROXY", format!("http://me:secret@{proxy_address}"));
    command.args(["-s", "usage.listen=127.0.0.1:0", "-s", "heartbeat.enabled=false"]);
    for setting in settings(&url(hub_address), &scratch, Some(&authority.file(&scratch))) {
        command.args(["-s", &setting]);
    }
    let agent = Agent::spawn(command);
    agent.wait_log("online as n1");
    assert!(hub.join().unwrap().is_some());
    let log = agent.stop();
    let request = proxy.join().unwrap();
    let expected = format!("CONNECT localhost:{} HTTP/1.1\r\n", hub_address.port());
    assert!(request.starts_with(&expected), "{request}");
    assert!(request.contains("Proxy-Authorization: Basic bWU6c2VjcmV0\r\n"), "{request}");
    assert!(!log.iter().any(|line| line.contains("secret")), "{log:#?}");
}

#[test]
fn logs_status_of_proxy_that_rejects() {
    let scratch = TempDir::new("tls");
    let (proxy_address, _proxy) = proxy("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
    let mut command = support::hm_agent();
    command.env("https_proxy", proxy_address.to_string());
    command.args(["-s", "usage.listen=127.0.0.1:0", "-s", "heartbeat.enabled=false"]);
    for setting in settings("wss://hub.example/", &scratch, None) {
        command.args(["-s", &setting]);
    }
    let agent = Agent::spawn(command);
    agent.wait_log("proxy: HTTP status 407 Proxy Authentication Required");
    agent.stop();
}
