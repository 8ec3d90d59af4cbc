//! Certificate authorities of `wss://`: wrong files, and changes while the agent runs, which count at each connection.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};

use crate::support::tls_server::{Authority, Flaw};
use crate::support::wall_clock::WallClock;
use crate::support::{Agent, TempDir, hm_agent};

type WebSocket = tungstenite::WebSocket<StreamOwned<ServerConnection, TcpStream>>;

/// A server of an agent that trusts `scratch/ca.pem`.
struct Setup {
    /// `hm.url` or `core.url`.
    url: &'static str,
    /// `tls.ca_file`, `SSL_CERT_FILE` or `SSL_CERT_DIR`.
    trust: &'static str,
    version: &'static SupportedProtocolVersion,
    through_proxy: bool,
}

const SETUPS: [Setup; 6] = [
    setup("hm.url", "tls.ca_file", &TLS12, false),
    setup("hm.url", "tls.ca_file", &TLS13, true),
    setup("hm.url", "SSL_CERT_FILE", &TLS13, false),
    setup("core.url", "tls.ca_file", &TLS13, false),
    setup("core.url", "SSL_CERT_FILE", &TLS12, true),
    setup("core.url", "SSL_CERT_DIR", &TLS13, false),
];

const fn setup(
    url: &'static str,
    trust: &'static str,
    version: &'static SupportedProtocolVersion,
    through_proxy: bool,
) -> Setup {
    Setup { url, trust, version, through_proxy }
}

impl Setup {
    fn start(&self, listener: &TcpListener, trusted: &Path) -> Agent {
        let mut command = hm_agent();
        let port = listener.local_addr().unwrap().port();
        if self.through_proxy {
            command.env("https_proxy", start_proxy());
        }
        let settings = [
            "usage.listen=127.0.0.1:0",
            "gpu.source=none",
            &format!("{}=wss://localhost:{port}/", self.url),
        ];
        command.args(settings.iter().flat_map(|setting| ["-s", setting]));
        trust(&mut command, self.trust, trusted);
        Agent::spawn(command)
    }

    /// Starts an agent and changes something while it is connected. Returns the agent and what its next connection leads to.
    fn reconnect(&self, change: impl FnOnce(&Agent, &TempDir)) -> (Agent, Option<WebSocket>) {
        let (authority, scratch) = (Authority::new(), TempDir::new("authorities"));
        let path = Path::new(&authority.file(&scratch)).to_owned();
        let trusted = if self.trust == "SSL_CERT_DIR" { scratch.0.clone() } else { path };
        let config = authority.server_with(&Flaw::None, &[self.version]);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let agent = self.start(&listener, &trusted);
        let first = accept(&listener, &config).expect("a connection");
        change(&agent, &scratch);
        drop(first);
        let second = accept(&listener, &config);
        (agent, second)
    }
}

/// Makes `trusted` what the agent trusts.
fn trust(command: &mut Command, by: &str, trusted: &Path) {
    if by == "tls.ca_file" {
        command.arg("-s").arg(format!("tls.ca_file={}", trusted.display()));
    } else {
        command.env(by, trusted);
    }
}

/// Accepts a connection as far as the WebSocket upgrade. `None`: the agent refuses the server.
fn accept(listener: &TcpListener, config: &Arc<ServerConfig>) -> Option<WebSocket> {
    let (socket, _) = listener.accept().unwrap();
    let connection = ServerConnection::new(config.clone()).unwrap();
    tungstenite::accept(StreamOwned::new(connection, socket)).ok()
}

/// A proxy that tunnels connections to this machine. Returns its URL.
fn start_proxy() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            std::thread::spawn(move || tunnel(client.unwrap()));
        }
    });
    url
}

fn tunnel(mut client: TcpStream) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        request.extend(byte);
    }
    let request = String::from_utf8(request).unwrap();
    let target = request.split(' ').nth(1).unwrap().replace("localhost", "127.0.0.1");
    let mut server = TcpStream::connect(target).unwrap();
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
    let (mut up, mut down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut up, &mut down); // ends when either side closes
        let _ = down.shutdown(std::net::Shutdown::Both);
    });
    let _ = std::io::copy(&mut server, &mut client); // as above
    let _ = client.shutdown(std::net::Shutdown::Both);
}

/// Runs the test for every setup at the same time.
fn for_each_setup(test: impl Fn(&Setup) + Sync) {
    std::thread::scope(|scope| {
        for setup in &SETUPS {
            scope.spawn(|| {
                println!(
                    "{} {} {:?} {}",
                    setup.url, setup.trust, setup.version, setup.through_proxy
                );
                test(setup);
            });
        }
    });
}

#[test]
fn sessions_are_not_resumed() {
    for_each_setup(|setup| {
        let (agent, second) = setup.reconnect(|_, _| {});
        let kind = second.expect("a second connection").get_ref().conn.handshake_kind();
        assert_eq!(kind, Some(rustls::HandshakeKind::Full));
        agent.stop();
    });
}

#[test]
fn removed_authority_is_refused_at_next_connection() {
    for_each_setup(|setup| {
        let (agent, second) = setup.reconnect(|_, scratch| drop(Authority::new().file(scratch)));
        assert!(second.is_none());
        // The new authority has the name of the old one.
        agent.wait_log("invalid peer certificate: BadSignature");
        agent.stop();
    });
}

#[test]
#[ignore = "needs root and x86-64: sets the agent's clock"]
fn certificate_that_expires_is_refused_at_next_connection() {
    for_each_setup(|setup| {
        let later = |agent: &Agent, _: &TempDir| {
            let clock = WallClock::of(agent.pid()).expect("x86-64");
            clock.wrong_by(20 * 365 * 86_400);
        };
        let (agent, second) = setup.reconnect(later);
        assert!(second.is_none());
        agent.wait_log("invalid peer certificate: expired at 2040-01-01T00:00:00Z");
        agent.stop();
    });
}

#[test]
fn renewed_authority_is_accepted_at_next_connection() {
    for trust in ["tls.ca_file", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
        let (old, new, scratch) = (Authority::new(), Authority::new(), TempDir::new("authorities"));
        let path = Path::new(&old.file(&scratch)).to_owned();
        let trusted = if trust == "SSL_CERT_DIR" { scratch.0.clone() } else { path };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let agent = setup("hm.url", trust, &TLS13, false).start(&listener, &trusted);
        let first = accept(&listener, &old.server(&Flaw::None)).expect("a connection");
        new.file(&scratch);
        drop(first);
        assert!(accept(&listener, &new.server(&Flaw::None)).is_some(), "{trust}");
        agent.stop();
    }
}

#[test]
fn file_that_becomes_unusable_refuses_next_connection_with_reason() {
    for setup in &SETUPS {
        let (agent, second) = setup.reconnect(|_, scratch| drop(scratch.write("ca.pem", "")));
        assert!(second.is_none(), "not the system's authorities");
        let line = agent.wait_log("TLS handshake failed: ");
        assert!(line.contains(&format!("{}: /", setup.trust)), "{line}");
        assert!(line.contains("contains no certificate"), "{line}");
        agent.stop();
    }
}

/// Exit code and standard error of `hm-agent run` or `check` with these authorities.
fn start_with(subcommand: &str, by: &str, trusted: &Path) -> (Option<i32>, String) {
    let mut command = hm_agent();
    command.args([subcommand, "-s", "usage.listen=127.0.0.1:0", "-s", "hm.url=wss://localhost:1/"]);
    trust(&mut command, by, trusted);
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn unusable_authorities_prevent_start_and_fail_check() {
    let scratch = TempDir::new("authorities");
    scratch.write("empty.pem", "");
    scratch.write("text.pem", "no certificate\n");
    let pem = Authority::new().pem();
    scratch.write("truncated.pem", &pem[..pem.len() / 2]);
    for (by, name, why) in [
        ("tls.ca_file", "missing.pem", "no such file or directory"),
        ("tls.ca_file", "", "not a regular file"),
        ("tls.ca_file", "empty.pem", "contains no certificate"),
        ("tls.ca_file", "text.pem", "contains no certificate"),
        ("tls.ca_file", "truncated.pem", "it ends within a certificate"),
        ("SSL_CERT_FILE", "missing.pem", "no such file or directory"),
        ("SSL_CERT_FILE", "empty.pem", "contains no certificate"),
        ("SSL_CERT_FILE", "truncated.pem", "it ends within a certificate"),
        ("SSL_CERT_DIR", "missing", "no such file or directory"),
        ("SSL_CERT_DIR", "empty.pem", "not a directory"),
        ("SSL_CERT_DIR", "", "contains no certificate"),
    ] {
        let path = scratch.0.join(name);
        for subcommand in ["run", "check"] {
            let (code, stderr) = start_with(subcommand, by, &path);
            assert_eq!(code, Some(2), "{by} {name}: {stderr}");
            let shown = path.display().to_string();
            let parts = [by, shown.trim_end_matches('/'), why];
            assert!(parts.iter().all(|part| stderr.contains(part)), "{by} {name}: {stderr}");
        }
    }
}

#[test]
fn ca_file_is_checked_without_upstream_and_on_reload() {
    let scratch = TempDir::new("authorities");
    let file = scratch.write("ca.pem", "");
    let setting = format!("tls.ca_file={file}");
    let output = hm_agent().args(["check", "-s", &setting]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let expected = format!(
        "hm-agent: command line: tls.ca_file: {file} contains no certificate in PEM format\n"
    );
    assert_eq!(String::from_utf8(output.stderr).unwrap(), expected);
    Authority::new().file(&scratch);
    let agent = Agent::start(&[&setting]);
    std::fs::remove_file(&file).unwrap();
    agent.signal("-HUP");
    let line = agent.wait_log("configuration reload failed");
    assert!(line.contains("tls.ca_file: cannot read"), "{line}");
    agent.stop();
}
