//! `wss://` to nginx with OpenSSL, with several key types and protocol versions.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;

use support::hm_server::HmServer;
use support::nginx::{Nginx, PASS_UPGRADES};
use support::{Agent, TempDir};

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
