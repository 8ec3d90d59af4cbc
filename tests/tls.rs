//! `wss://`: good certificates are accepted, bad ones refused with the reason, and a proxy is used.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;

use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use tungstenite::Message;

use support::{Agent, Scratch};

struct Authority(CertifiedIssuer<'static, KeyPair>);

/// What is wrong with a certificate.
#[derive(PartialEq)]
enum Flaw {
    None,
    Name,
    Expired,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// The authority's certificate in a file.
    fn file(&self, scratch: &Scratch) -> String {
        scratch.write("ca.pem", &self.0.pem())
    }

    fn server(&self, flaw: &Flaw) -> Arc<ServerConfig> {
        let name = if *flaw == Flaw::Name { "elsewhere.example" } else { "localhost" };
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if *flaw == Flaw::Expired {
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        // The authority that is known has not signed it, but one that has.
        let mut between = CertificateParams::default();
        between.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        between.distinguished_name.push(rcgen::DnType::CommonName, "between");
        let between =
            CertifiedIssuer::signed_by(between, KeyPair::generate().unwrap(), &self.0).unwrap();
        let certificate = params.signed_by(&key, &between).unwrap();
        let chain = [certificate.der(), between.der()];
        let chain = chain.map(|each| CertificateDer::from(each.to_vec())).to_vec();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Arc::new(config)
    }
}

/// Serves one connection; what comes back is the first request, if it came so far.
fn hub(config: Arc<ServerConfig>) -> (SocketAddr, JoinHandle<Option<Value>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (address, std::thread::spawn(move || serve(&listener, config, || {})))
}

/// The same in this thread; `before` is done before the answer.
fn serve(
    listener: &TcpListener,
    config: Arc<ServerConfig>,
    before: impl FnOnce(),
) -> Option<Value> {
    let (socket, _) = listener.accept().unwrap();
    let stream = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
    let mut socket = tungstenite::accept(stream).ok()?;
    let text = socket.read().ok()?.into_text().ok()?;
    let request: Value = serde_json::from_str(&text).unwrap();
    before();
    let answer = json!({"id": request["id"], "code": 0, "message": "ok"}).to_string();
    socket.send(Message::text(answer)).unwrap();
    Some(request)
}

fn settings(url: &str, scratch: &Scratch, ca_file: Option<&str>) -> Vec<String> {
    let mut settings = vec![
        format!("hm.url={url}"),
        format!("state_dir={}", scratch.0.display()),
        "gpu.source=none".to_owned(),
        "node_id=n1".to_owned(),
    ];
    settings.extend(ca_file.map(|file| format!("tls.ca_file={file}")));
    settings
}

fn agent(url: &str, scratch: &Scratch, ca_file: Option<&str>) -> Agent {
    let settings = settings(url, scratch, ca_file);
    Agent::start(&settings.iter().map(String::as_str).collect::<Vec<_>>())
}

fn url(address: SocketAddr) -> String {
    format!("wss://localhost:{}/websocket", address.port())
}

#[test]
fn a_good_chain_is_accepted() {
    let (authority, scratch) = (Authority::new(), Scratch::new("tls"));
    let (address, hub) = hub(authority.server(&Flaw::None));
    let agent = agent(&url(address), &scratch, Some(&authority.file(&scratch)));
    agent.wait_log("online as n1");
    assert_eq!(hub.join().unwrap().unwrap()["type"], 1);
    agent.stop();
}

#[test]
fn bad_certificates_are_refused_with_the_reason() {
    for (flaw, known, why) in [
        (Flaw::None, false, "TLS: invalid peer certificate: UnknownIssuer"),
        (Flaw::Name, true, "not valid for name"),
        (Flaw::Expired, true, "expired"),
    ] {
        let (authority, scratch) = (Authority::new(), Scratch::new("tls"));
        let (address, hub) = hub(authority.server(&flaw));
        let file = authority.file(&scratch);
        let agent = agent(&url(address), &scratch, known.then_some(file.as_str()));
        let line = agent.wait_log("hm: wss://localhost");
        assert!(line.contains(why), "{line}");
        let seconds: f64 = line.rsplit(' ').nth(1).unwrap().parse().unwrap();
        assert!(seconds >= 30.0, "it will not mend itself soon: {line}");
        assert!(hub.join().unwrap().is_none(), "nothing was told to a stranger");
        agent.stop();
    }
}

#[test]
fn authorities_that_were_renewed_are_known_without_a_restart() {
    let (old, new, scratch) = (Authority::new(), Authority::new(), Scratch::new("tls"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let agent = agent(&url(listener.local_addr().unwrap()), &scratch, Some(&old.file(&scratch)));
    let renew = || drop(new.file(&scratch));
    assert!(serve(&listener, old.server(&Flaw::None), renew).is_some());
    agent.wait_log("online as n1");
    assert!(serve(&listener, new.server(&Flaw::None), || {}).is_some(), "the new one is known");
    scratch.write("ca.pem", "");
    assert!(serve(&listener, new.server(&Flaw::None), || {}).is_none());
    agent.wait_log("ca.pem holds no certificate");
    agent.stop();
}

#[test]
fn a_port_without_tls_is_said() {
    let scratch = Scratch::new("tls");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        let _ = socket.read(&mut [0; 1024]);
    });
    let agent = agent(&url(address), &scratch, None);
    agent.wait_log("TLS: received corrupt message");
    server.join().unwrap();
    agent.stop();
}

#[test]
fn a_file_without_certificates_is_no_start() {
    let scratch = Scratch::new("tls");
    let file = scratch.write("ca.pem", "nothing\n");
    let mut command = support::hm_agent();
    command.args(["-s", "usage.listen=127.0.0.1:0", "-s", "heartbeat.enabled=false"]);
    for setting in settings("wss://localhost:1/", &scratch, Some(&file)) {
        command.args(["-s", &setting]);
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("ca.pem holds no certificate"), "{stderr}");
}

/// Passes one connection on, as `CONNECT` asks; what comes back is what it was asked.
fn proxy(answer: &'static str) -> (SocketAddr, JoinHandle<String>) {
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
        client.write_all(answer.as_bytes()).unwrap();
        let request = String::from_utf8(request).unwrap();
        if answer.contains("200") {
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
fn the_proxy_of_the_environment_is_used() {
    let (authority, scratch) = (Authority::new(), Scratch::new("tls"));
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
fn a_proxy_that_refuses_is_named() {
    let scratch = Scratch::new("tls");
    let (proxy_address, _proxy) = proxy("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
    let mut command = support::hm_agent();
    command.env("https_proxy", proxy_address.to_string());
    command.args(["-s", "usage.listen=127.0.0.1:0", "-s", "heartbeat.enabled=false"]);
    for setting in settings("wss://hub.example/", &scratch, None) {
        command.args(["-s", &setting]);
    }
    let agent = Agent::spawn(command);
    agent.wait_log("the proxy: answers 407 Proxy Authentication Required");
    agent.stop();
}
