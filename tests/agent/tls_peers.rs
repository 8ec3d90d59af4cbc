//! `wss://` to nginx with OpenSSL, with several key types and protocol versions.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use crate::support::hm_server::HmServer;
use crate::support::nginx::{Nginx, PASS_UPGRADES};
use crate::support::{Agent, TempDir, reserve_port, wait_until};

/// Creates a self-signed certificate for `localhost` in `cert.pem` and `key.pem`.
fn make_certificate(scratch: &TempDir, key: &[&str]) {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-nodes", "-subj", "/CN=localhost", "-days", "30"]);
    command.args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]);
    // rustls rejects CA certificates as server certificates.
    command.args(["-addext", "basicConstraints=critical,CA:FALSE"]).args(key);
    let output = command.args(["-keyout", "key.pem", "-out", "cert.pem"]).current_dir(&scratch.0);
    let output = output.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "needs nginx and openssl"]
fn connects_to_nginx_with_every_key_type() {
    let curve = |name| vec!["-newkey", "ec", "-pkeyopt", name];
    let cases = [
        (vec!["-newkey", "rsa:2048", "-sha256"], "TLSv1.2", "localhost"),
        (vec!["-newkey", "rsa:4096", "-sha512"], "TLSv1.3", "127.0.0.1"),
        (curve("ec_paramgen_curve:prime256v1"), "TLSv1.2", "127.0.0.1"),
        (curve("ec_paramgen_curve:secp384r1"), "TLSv1.3", "localhost"),
        (vec!["-newkey", "ed25519"], "TLSv1.3", "localhost"),
    ];
    for (key, version, host) in cases {
        let (hub, scratch) = (HmServer::start(), TempDir::new("tls"));
        make_certificate(&scratch, &key);
        let dir = scratch.0.display();
        let upstream = hub.address;
        let nginx = Nginx::start(
            "ssl",
            &format!(
                "ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/key.pem;
                ssl_protocols {version};
                location / {{ proxy_pass http://{upstream}; {PASS_UPGRADES} }}"
            ),
        );
        let agent = Agent::start(&[
            &format!("hm.url=wss://{host}:{}/websocket", nginx.port),
            &format!("tls.ca_file={dir}/cert.pem"),
            &format!("state_dir={dir}"),
            "hm.report_interval=1",
            "interval=1",
            "gpu.source=none",
        ]);
        println!("{key:?} {version} {host}");
        assert!(hub.wait_reports(2).len() >= 2);
        drop(nginx);
        agent.wait_log("warn hm: wss://");
        agent.stop();
    }
}

/// Runs `openssl req`, with `words` separated by blanks.
fn request(scratch: &TempDir, words: &str) {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-nodes", "-days", "30"]).args(words.split(' '));
    let output = command.current_dir(&scratch.0).output().unwrap();
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A certificate in `cert.pem` whose authority is in `ca.pem`. Each of `authority` and `server` is a key and a digest.
fn issue(scratch: &TempDir, authority: &str, server: &str, extension: &str) {
    request(scratch, &format!("-newkey {authority} -subj /CN=ca -keyout ca.key -out ca.pem"));
    request(
        scratch,
        &format!(
            "-newkey {server} -CA ca.pem -CAkey ca.key -subj /CN=localhost -keyout key.pem -out cert.pem \
             -addext subjectAltName=DNS:localhost -addext {extension}"
        ),
    );
}

/// `openssl s_server` with the certificate of [`issue`] and weak algorithms allowed; killed when dropped.
struct OpensslServer(Child, u16);

impl OpensslServer {
    fn start(scratch: &TempDir, version: &str) -> Self {
        let port = reserve_port();
        let mut command = Command::new("openssl");
        command.args(["s_server", "-quiet", "-cert", "cert.pem", "-key", "key.pem"]);
        command.args(["-cipher", "ALL:@SECLEVEL=0", version, "-accept", &port.to_string()]);
        command.current_dir(&scratch.0).stdin(Stdio::piped());
        let server =
            Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap(), port);
        wait_until("openssl", || TcpStream::connect(("127.0.0.1", port)).ok());
        server
    }
}

impl Drop for OpensslServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The log line about a connection to a server with this certificate.
fn failure(authority: &str, server: &str, extension: &str, version: &str) -> String {
    let scratch = TempDir::new("tls");
    issue(&scratch, authority, server, extension);
    let openssl = OpensslServer::start(&scratch, version);
    let agent = Agent::start(&[
        &format!("hm.url=wss://localhost:{}/", openssl.1),
        &format!("tls.ca_file={}/ca.pem", scratch.0.display()),
        "gpu.source=none",
    ]);
    let line = agent.wait_log("hm: wss://localhost");
    agent.stop();
    line
}

const P256: &str = "ec -pkeyopt ec_paramgen_curve:prime256v1 -sha256";
const P521: &str = "ec -pkeyopt ec_paramgen_curve:secp521r1";
const LEAF: &str = "basicConstraints=critical,CA:FALSE";

#[test]
#[ignore = "needs openssl"]
fn unsupported_certificates_are_explained_in_the_log() {
    let ec = |curve: &str, digest: &str| format!("ec -pkeyopt ec_paramgen_curve:{curve} {digest}");
    // The digest of the server's request is that of the authority's signature.
    let signed = |digest: &str| P256.replace("-sha256", digest);
    let cases = [
        (P256, format!("{P521} -sha256"), "server has no certificate or cipher suite", "P-521"),
        (P256, "ed448 -sha256".to_owned(), "server has no certificate or cipher suite", "Ed448"),
        (P256, signed("-sha512"), "signed with ecdsa-with-SHA512", "issue one with RSA of"),
        (P256, signed("-sha1"), "signed with ecdsa-with-SHA1", "issue one with RSA of"),
        (P256, signed("-sha224"), "signed with ecdsa-with-SHA224", "issue one with RSA of"),
        (&ec("secp384r1", "-sha384"), signed("-sha512"), "signed with ecdsa-with-SHA512", "P-384"),
        (P521, signed("-sha512"), "signed with ecdsa-with-SHA512", "issue one with RSA of"),
        (P521, P256.to_owned(), "signed with ecdsa-with-SHA256 by a key of type ECDSA P-521", ""),
        ("ed448", "ec -pkeyopt ec_paramgen_curve:prime256v1".to_owned(), "signed with Ed448", ""),
        ("rsa:2048", signed("-sha1"), "signed with sha1WithRSAEncryption", "issue one with RSA of"),
        ("rsa:1024", P256.to_owned(), "BadSignature", "RSA of 2048 to 8192 bits"),
        ("rsa:2048", "rsa:1024 -sha256".to_owned(), "BadSignature", "RSA of 2048 to 8192 bits"),
    ];
    std::thread::scope(|scope| {
        for (authority, server, why, advice) in &cases {
            scope.spawn(move || {
                for version in ["-tls1_2", "-tls1_3"] {
                    let line = failure(authority, server, LEAF, version);
                    println!("{authority}, {server}, {version}: {line}");
                    assert!(line.contains("TLS handshake failed: "), "{line}");
                    assert!(line.contains(why) && line.contains(advice), "{why}: {line}");
                }
            });
        }
    });
}

#[test]
#[ignore = "needs openssl"]
fn certificates_for_other_purposes_are_explained_in_the_log() {
    for (extension, version, why) in [
        ("basicConstraints=critical,CA:TRUE", "-tls1_3", "that of an authority (CA:TRUE)"),
        (
            "basicConstraints=CA:FALSE -addext extendedKeyUsage=clientAuth",
            "-tls1_3",
            "extended key usage for server authentication",
        ),
        (LEAF, "-tls1_1", "server supports neither TLS 1.2 nor TLS 1.3"),
    ] {
        let line = failure(P256, P256, extension, version);
        assert!(line.contains(why), "{line}");
    }
}
