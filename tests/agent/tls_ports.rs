//! TLS on the ports of the agent.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::ClientConfig;
use serde_json::Value;
use tungstenite::{Message, WebSocket};

use crate::support::tls_server::{Authority, TlsSocket, connect};
use crate::support::{Agent, TempDir, hm_agent, reserve_address, wait_until};

/// Certificates, and an agent's settings with them.
struct Files {
    authority: Authority,
    directory: TempDir,
    certificate: String,
    key: String,
}

impl Files {
    fn new() -> Self {
        let (authority, directory) = (Authority::new(), TempDir::new("tls-ports"));
        let (certificate, key) = authority.files(&directory, "node", &["localhost", "127.0.0.1"]);
        Self { authority, directory, certificate, key }
    }

    fn settings(&self, port: &str) -> [String; 2] {
        [
            format!("{port}.tls_certificate_file={}", self.certificate),
            format!("{port}.tls_key_file={}", self.key),
        ]
    }

    fn start(&self, settings: &[&str]) -> Agent {
        let own = ["usage", "heartbeat"].map(|port| self.settings(port)).concat();
        let mut all = vec!["interval=1", "gpu.source=none"];
        all.extend(own.iter().map(String::as_str).chain(settings.iter().copied()));
        Agent::start(&all)
    }

    /// The output and the exit code of a subcommand with the settings of an agent that `start` has started.
    fn run(&self, agent: &Agent, arguments: &[&str]) -> (String, Option<i32>) {
        let mut command = hm_agent();
        command.args(arguments).env("SSL_CERT_FILE", self.authority.file(&self.directory));
        if !arguments.contains(&"--url") {
            command.arg("-s").arg(format!("usage.listen={}", agent.address));
            for setting in self.settings("usage") {
                command.arg("-s").arg(setting);
            }
        }
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (String::from_utf8(text).unwrap(), output.status.code())
    }
}

/// Fails if TLS does not end properly, with an alert.
fn get(address: SocketAddr, client: &Arc<ClientConfig>, target: &str) -> std::io::Result<String> {
    let mut socket = connect(address, client)?;
    write!(socket, "GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut response = String::new();
    socket.read_to_string(&mut response)?;
    Ok(response)
}

fn subscribe(address: SocketAddr, client: &Arc<ClientConfig>) -> WebSocket<TlsSocket> {
    let socket = connect(address, client).unwrap();
    let (mut socket, _) = tungstenite::client("wss://localhost/usage", socket).unwrap();
    socket.send(Message::text("subscribe:usage")).unwrap();
    socket
}

fn wait_update(socket: &mut WebSocket<TlsSocket>) {
    loop {
        let update: Value =
            serde_json::from_str(socket.read().unwrap().to_text().unwrap()).unwrap();
        if update["type"] == "usage_update" {
            return;
        }
    }
}

#[test]
fn ports_serve_clients_over_tls_only() {
    let files = Files::new();
    let [certificate, key] = files.settings("monitor");
    let monitor = ["monitor.enabled=true", "monitor.listen=127.0.0.1:0", &certificate, &key];
    let agent = files.start(&monitor);
    let client = files.authority.client(None);
    let metrics = get(agent.address, &client, "/metrics").unwrap();
    assert!(metrics.contains("\nnode_memory_MemTotal_bytes "), "{metrics}");
    let page = get(agent.address, &client, "/").unwrap();
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    let mut subscriber = subscribe(agent.address, &client);
    (0..3).for_each(|_| wait_update(&mut subscriber));
    let heartbeat = agent.heartbeat();
    let registered = get(heartbeat, &client, "/hb_init?60000&appid=job").unwrap();
    assert!(registered.starts_with("HTTP/1.1 200 OK\r\n"), "{registered}");
    let line = agent.wait_log("monitor listening on ");
    let monitor = line.rsplit(' ').next().unwrap().parse().unwrap();
    let (mut hosts, _) =
        tungstenite::client("wss://localhost/monitor", connect(monitor, &client).unwrap()).unwrap();
    hosts.send(Message::text(r#"{"jsonrpc":"2.0","id":1,"method":"nonsense"}"#)).unwrap();
    assert!(hosts.read().unwrap().to_text().unwrap().contains("error"));
    for (address, target) in [(agent.address, "/metrics"), (heartbeat, "/list"), (monitor, "/")] {
        let mut socket = TcpStream::connect(address).unwrap();
        write!(socket, "GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut response = String::new();
        socket.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{response}");
        assert!(response.contains("requires TLS"), "{response}");
    }
    agent.stop();
}

#[test]
fn half_a_record_delays_no_update() {
    let files = Files::new();
    let agent = files.start(&[]);
    let mut subscriber = subscribe(agent.address, &files.authority.client(None));
    wait_update(&mut subscriber);
    let mut record = Vec::new();
    let TlsSocket { conn, .. } = subscriber.get_mut();
    // An empty ping of WebSocket, masked.
    conn.writer().write_all(&[0x89, 0x80, 0, 0, 0, 0]).unwrap();
    conn.write_tls(&mut record).unwrap();
    let (half, rest) = record.split_at(record.len() / 2);
    subscriber.get_mut().sock.write_all(half).unwrap();
    (0..3).for_each(|_| wait_update(&mut subscriber));
    subscriber.get_mut().sock.write_all(rest).unwrap();
    while !matches!(subscriber.read().unwrap(), Message::Pong(_)) {}
    agent.stop();
}

#[test]
fn subcommands_verify_the_agent() {
    let files = Files::new();
    let agent = files.start(&[]);
    wait_until("a checked node", || {
        let (text, code) = files.run(&agent, &["health", "--json"]);
        (code != Some(3)).then_some(text)
    });
    let (events, code) = files.run(&agent, &["events"]);
    assert!(events.contains("hm-agent 0.1.0 started") && code == Some(0), "{events}");
    let url = format!("https://localhost:{}", agent.heartbeat().port());
    let beat = ["beat", "--url", &url, "--id", "job", "--", "true"];
    let (text, code) = files.run(&agent, &beat);
    assert_eq!(code, Some(0), "{text}");
    // Another agent's certificate.
    let other = Files::new();
    let (text, code) = other.run(&agent, &["health"]);
    assert!(text.contains("certificate") && code == Some(3), "{text}");
    let (text, code) = other.run(&agent, &["status", "--url", &url]);
    assert!(text.contains("certificate") && code != Some(0), "{text}");
    agent.stop();
}

#[test]
fn clients_need_a_certificate_of_the_authority() {
    let files = Files::new();
    let ca = files.authority.file(&files.directory);
    let agent = files.start(&[&format!("usage.tls_client_ca_file={ca}")]);
    let stranger = Files::new();
    let strange = (stranger.certificate.clone(), stranger.key.clone());
    for refused in [None, Some(&strange)] {
        let client = files.authority.client(refused);
        assert!(get(agent.address, &client, "/-/healthy").is_err());
    }
    let own = files.authority.files(&files.directory, "client", &["client"]);
    let client = files.authority.client(Some(&own));
    let healthy = get(agent.address, &client, "/-/healthy").unwrap();
    assert!(healthy.starts_with("HTTP/1.1 200 OK\r\n"), "{healthy}");
    // The subcommands present the agent's certificate.
    let setting = format!("usage.tls_client_ca_file={ca}");
    let (text, code) = files.run(&agent, &["events", "-s", &setting]);
    assert!(code == Some(0), "{text}");
    let (text, code) = files.run(&agent, &["events"]);
    assert!(code != Some(0), "{text}");
    agent.stop();
}

#[test]
fn renewed_certificate_is_used_and_connections_stay() {
    let files = Files::new();
    let agent = files.start(&[]);
    let client = files.authority.client(None);
    let mut subscriber = subscribe(agent.address, &client);
    wait_update(&mut subscriber);
    let certificate = || {
        let socket = connect(agent.address, &client).unwrap();
        socket.conn.peer_certificates().unwrap()[0].to_vec()
    };
    let before = certificate();
    // The key of another certificate.
    let wrong = TempDir::new("tls-ports-wrong");
    let (_, key) = files.authority.files(&wrong, "node", &["localhost"]);
    let good = std::fs::read(&files.key).unwrap();
    std::fs::copy(&key, &files.key).unwrap();
    agent.wait_log("TLS certificate reload failed, keeping previous");
    assert_eq!(certificate(), before);
    std::fs::write(&files.key, good).unwrap();
    agent.wait_log("TLS certificate recovered");
    files.authority.files(&files.directory, "node", &["localhost", "127.0.0.1"]);
    wait_until("the new certificate", || (certificate() != before).then_some(()));
    (0..3).for_each(|_| wait_update(&mut subscriber));
    agent.stop();
}

#[test]
fn files_that_cannot_be_used_are_errors() {
    let files = Files::new();
    let [certificate, key] = files.settings("usage");
    let run = |name: &str, settings: &[&str]| {
        let mut command = hm_agent();
        command.arg(name).args(["-s", "usage.listen=127.0.0.1:0", "-s", "gpu.source=none"]);
        command.args(settings.iter().flat_map(|setting| ["-s", setting]));
        let state = format!("state_dir={}", files.directory.0.join("state").display());
        let output = command.args(["-s", &state]).output().unwrap();
        assert!(!output.status.success(), "{name} {settings:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let missing = "usage.tls_key_file=/nonexistent";
    for name in ["run", "check"] {
        let error = run(name, &[&certificate, missing]);
        assert!(error.contains("usage.tls_key_file") && error.contains("/nonexistent"), "{error}");
        let error = run(name, &[&certificate]);
        assert!(error.contains("usage.tls_certificate_file: needs usage.tls_key_file"), "{error}");
    }
    let error = run("check", &[&certificate, &key, "usage.tls_client_ca_file=/etc/hostname"]);
    assert!(error.contains("usage.tls_client_ca_file"), "{error}");
}

#[test]
#[ignore = "needs Python's websockets and Node's ws"]
fn serves_published_clients_of_usage() {
    let files = Files::new();
    let agent = files.start(&[]);
    let ca = files.authority.file(&files.directory);
    let url = format!("wss://localhost:{}/usage", agent.address.port());
    let script = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name);
    let python = std::env::var("HM_TEST_PYTHON").expect("HM_TEST_PYTHON is set by ./tests/run");
    let mut websockets = Command::new(python);
    websockets.arg(script("usage_websockets.py")).args([&url, "1", "6"]).env("SSL_CERT_FILE", &ca);
    let mut ws = Command::new("node");
    ws.arg(script("usage_ws.mjs")).args([&url, "1", "5"]).env("NODE_EXTRA_CA_CERTS", &ca);
    for mut client in [websockets, ws] {
        let output = client.output().unwrap();
        assert!(output.status.success(), "{client:?} {output:?}");
    }
    agent.stop();
}

#[test]
#[ignore = "needs Prometheus"]
fn prometheus_scrapes_with_a_certificate() {
    let files = Files::new();
    let ca = files.authority.file(&files.directory);
    let agent = files.start(&[&format!("usage.tls_client_ca_file={ca}")]);
    let (certificate, key) = files.authority.files(&files.directory, "prometheus", &["prometheus"]);
    let tls = format!("{{ca_file: {ca}, cert_file: {certificate}, key_file: {key}}}");
    let port = agent.address.port();
    let config = format!(
        "scrape_configs: [{{job_name: node, scrape_interval: 1s, scheme: https, tls_config: {tls}, \
         static_configs: [{{targets: ['localhost:{port}']}}]}}]\n"
    );
    let config = files.directory.write("prometheus.yml", &config);
    let address = reserve_address();
    let mut prometheus = Command::new("prometheus")
        .arg(format!("--config.file={config}"))
        .arg(format!("--storage.tsdb.path={}", files.directory.0.join("tsdb").display()))
        .arg(format!("--web.listen-address={address}"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let is_up = || {
        let mut socket = TcpStream::connect(address).ok()?;
        write!(socket, "GET /api/v1/query?query=up HTTP/1.0\r\n\r\n").ok()?;
        let mut response = String::new();
        socket.read_to_string(&mut response).ok()?;
        response.contains("\"job\":\"node\"").then_some(response.contains(",\"1\"]"))
    };
    let is_up = std::panic::catch_unwind(|| {
        wait_until("a successful scrape", || is_up().filter(|is_up| *is_up))
    });
    prometheus.kill().unwrap();
    prometheus.wait().unwrap();
    assert!(is_up.unwrap());
    agent.stop();
}
