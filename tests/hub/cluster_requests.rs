//! Requests that one hub passes on to another one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::cluster::pair_with_scheme;
use crate::requests;
use crate::support::cluster::Member;
use crate::support::hub::http;
use crate::support::postgres::Postgres;
use crate::support::tls_server::{Authority, connect};
use crate::support::{Agent, TempDir, wait_until};

#[test]
#[ignore = "needs PostgreSQL"]
fn requests_for_nodes_of_another_hub_are_passed_over_tls() {
    let postgres = Postgres::start();
    let (scratch, authority) = (TempDir::new("tls"), Authority::new());
    let (chain, key) = authority.files(&scratch, "hub", &["localhost", "127.0.0.1"]);
    // Hubs trust the authorities in the file of their own certificate.
    let with_authority = std::fs::read_to_string(&chain).unwrap() + &authority.pem();
    std::fs::write(&chain, with_authority).unwrap();
    let tokens = scratch.write("operators", "secret read reader\n");
    let settings = [
        format!("tls.certificate_file={chain}"),
        format!("tls.key_file={key}"),
        "hm.tls=false".to_owned(),
        "core.tls=false".to_owned(),
        format!("operators.tokens_file={tokens}"),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let [one, two] = pair_with_scheme("https", &postgres, &settings);
    let agent = requests::agent(one.hub(), "a", "hm");
    let client = authority.client(None);
    let get = |member: &Member, target: &str, token: &str| {
        let mut socket = connect(member.hub().web, &client).unwrap();
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).unwrap();
        let mut response = Vec::new();
        // The hub ends the connection without a TLS message.
        let _ = socket.read_to_end(&mut response);
        String::from_utf8_lossy(&response).into_owned()
    };
    wait_until("metrics over the other hub", || {
        let response = get(&two, "/nodes/a/metrics", "secret");
        response.starts_with("HTTP/1.1 200 ").then_some(())
    });
    let metrics = get(&two, "/nodes/a/metrics", "secret");
    assert!(metrics.contains("node_cpu_seconds_total"), "{metrics}");
    assert!(get(&two, "/nodes/a/last_snapshot", "secret").contains("406 Not Acceptable"));
    assert!(get(&two, "/nodes/a/metrics", "wrong").starts_with("HTTP/1.1 401 "));
    assert!(get(&two, "/nodes/b/metrics", "secret").starts_with("HTTP/1.1 404 "));
    let web = one.hub().web.to_string();
    wait_until("the target at the other hub", || {
        let targets = get(&two, "/sd", "secret");
        (targets.contains(&web) && targets.contains(r#""__scheme__":"https""#)).then_some(())
    });
    // The secret of a hub is good for the resources of nodes alone.
    let secret = postgres.query("SELECT secret FROM instance WHERE name = 'one'").remove(0);
    assert!(get(&one, "/nodes/a/metrics", &secret).starts_with("HTTP/1.1 200 "));
    for target in ["/sd", "/metrics", "/api/fleet", "/api/v1/nodes"] {
        assert!(get(&one, target, &secret).starts_with("HTTP/1.1 401 "), "{target}");
    }
    agent.stop();
    wait_until("the end", || {
        get(&two, "/nodes/a/metrics", "secret").starts_with("HTTP/1.1 502 ").then_some(())
    });
}

#[test]
#[ignore = "needs PostgreSQL"]
fn node_with_connections_to_two_hubs_is_whole_at_each() {
    let postgres = Postgres::start();
    let members = ["one", "two", "three"].map(|name| Member::start(name, &postgres.url(), &[]));
    let [one, two, _] = &members;
    let state = TempDir::new("node");
    let agent = Agent::start(&[
        &format!("state_dir={}", state.0.display()),
        "node_id=a",
        "gpu.source=none",
        &format!("hm.url=ws://{}/websocket", one.hub().address),
        &format!("core.url=ws://{}/api/v1/ws", two.hub().core),
        "core.token=default-token",
    ]);
    let gzip = "Accept-Encoding: gzip\r\n";
    for member in &members {
        wait_until("metrics of Core", || {
            let latest = member.hub().rest("GET", "nodes/a/metrics/latest", "");
            latest["data"]["cpu_usage"].is_number().then_some(())
        });
        wait_until("the last snapshot", || {
            let response = try_bytes(member.hub().web, "/nodes/a/last_snapshot", gzip);
            response.starts_with(b"HTTP/1.1 200 ").then_some(())
        });
        let metrics = http(member.hub().web, "GET", "/nodes/a/metrics", "", "");
        assert!(metrics.starts_with("HTTP/1.1 200 "), "{metrics}");
    }
    agent.stop();
}

/// A response whose body may be compressed.
fn try_bytes(address: SocketAddr, target: &str, headers: &str) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).unwrap();
    let request =
        format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    socket.write_all(request.as_bytes()).unwrap();
    let mut response = Vec::new();
    socket.read_to_end(&mut response).unwrap();
    response
}
