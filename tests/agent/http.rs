//! HTTP on the telemetry port: routing, limits, authentication and malformed requests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::support::heartbeat::HttpConnection;
use crate::support::{Agent, SLACK, TempDir, wait_until};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};

const UPGRADE: &str = "Host: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Requests an upgrade. Returns the status and the open connection.
fn upgrade(agent: &Agent, target: &str, headers: &str) -> (u16, TcpStream) {
    let mut socket = agent.socket();
    write!(socket, "GET {target} HTTP/1.1\r\n{UPGRADE}{headers}\r\n").unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(socket.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&answer));
        answer.extend(byte);
    }
    let status = String::from_utf8(answer).unwrap();
    (status.split(' ').nth(1).unwrap().parse().unwrap(), socket)
}

fn status(agent: &Agent, target: &str, headers: &str) -> u16 {
    upgrade(agent, target, headers).0
}

#[test]
fn rejected_upgrade_explains_what_is_missing() {
    let agent = Agent::start(&[]);
    let (code, answer) = agent.http("/usage", "Host: a\r\n");
    assert_eq!(code, 426);
    assert!(answer.contains("\r\nUpgrade: websocket\r\n"), "{answer}");
    assert!(answer.ends_with("connect with ws://\n"), "{answer}");
    let (code, answer) = agent.http("/elsewhere?x=/usage", UPGRADE);
    assert_eq!(code, 404);
    assert!(answer.contains("telemetry is at /, /usage"), "{answer}");
    assert_eq!(agent.http("/usage/", UPGRADE).0, 404);
    let accepted = agent.raw(format!("GET /usage HTTP/1.0\r\n{UPGRADE}\r\n").as_bytes());
    assert!(accepted.starts_with("HTTP/1.1 400") && accepted.contains("proxy_http_version 1.1"));
    agent.stop();
}

#[test]
fn upgrade_response_matches_rfc_6455_example() {
    let agent = Agent::start(&[]);
    let mut socket = agent.socket();
    write!(socket, "GET /usage HTTP/1.1\r\n{UPGRADE}\r\n").unwrap();
    let mut answer = [0; 129];
    socket.read_exact(&mut answer).unwrap();
    let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&answer), expected);
    agent.stop();
}

#[test]
fn serves_absolute_targets_and_skips_chunked_bodies() {
    let agent = Agent::start(&[]);
    let at = format!("http://{}", agent.address);
    for path in ["/metrics", "/-/healthy", "/snapshot", ""] {
        let code = agent.http(&format!("{at}{path}"), "Connection: close\r\n").0;
        assert_eq!(code, 200, "{path}");
    }
    assert_eq!(status(&agent, &format!("{at}/usage"), ""), 101);
    // The body of an upgrade request is no WebSocket frame.
    let chunked = "Transfer-Encoding: chunked\r\n";
    let mut socket = agent.socket();
    let body = "5\r\nhello\r\n0\r\n\r\n";
    write!(socket, "GET /usage HTTP/1.1\r\n{UPGRADE}{chunked}\r\n{body}").unwrap();
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
    let scrape =
        format!("GET /metrics HTTP/1.1\r\nHost: a\r\n{chunked}Connection: close\r\n\r\n{body}");
    assert!(agent.raw(scrape.as_bytes()).starts_with("HTTP/1.1 200 "));
    agent.stop();
}

#[test]
fn malformed_or_oversized_head_is_rejected() {
    let agent = Agent::start(&[]);
    let long = format!("GET /usage HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(9000));
    assert!(agent.raw(long.as_bytes()).starts_with("HTTP/1.1 431 "));
    let many = format!("GET /usage HTTP/1.1\r\nHost: a\r\n{}\r\n", "a: b\r\n".repeat(70));
    assert!(agent.raw(many.as_bytes()).starts_with("HTTP/1.1 431 "));
    for bad in ["\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", "hello\r\n\r\n", "GET /usage\r\n\r\n"] {
        assert!(agent.raw(bad.as_bytes()).starts_with("HTTP/1.1 400 "), "{bad:?}");
    }
    let mut half = agent.socket();
    half.write_all(b"GET /usage HT").unwrap();
    half.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    half.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    agent.stop();
}

#[test]
#[ignore = "waits 10 s"]
fn slow_head_is_rejected_with_408_after_10_s() {
    let agent = Agent::start(&[]);
    let start = Instant::now();
    let mut socket = agent.socket();
    let mut drip = socket.try_clone().unwrap();
    let dripping = std::thread::spawn(move || {
        let request = format!("GET /usage HTTP/1.1\r\nHost: a\r\nX: {}", "a".repeat(500));
        for byte in request.bytes() {
            if drip.write_all(&[byte]).is_err() {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(100));
        }
    });
    let mut answer = [0; 20];
    socket.read_exact(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 408 Request"));
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(10) && took < Duration::from_secs(10) + SLACK, "{took:?}");
    drop(socket);
    dripping.join().unwrap();
    agent.stop();
}

#[test]
fn token_is_accepted_in_header_and_query() {
    let scratch = TempDir::new("token");
    let file = scratch.write("token", "s3cret+x\n");
    let agent = Agent::start(&[&format!("usage.token_file={file}"), "log_level=trace"]);
    let (code, answer) = agent.http("/usage", UPGRADE);
    assert_eq!(code, 401);
    assert!(answer.contains("\r\nWWW-Authenticate: Bearer\r\n"), "{answer}");
    assert_eq!(status(&agent, "/usage", "Authorization: Bearer s3cret+x\r\n"), 101);
    assert_eq!(status(&agent, "/usage", "authorization: bearer s3cret+x\r\n"), 101);
    assert_eq!(status(&agent, "/usage?a=b&token=s3cret%2Bx", ""), 101);
    assert_eq!(status(&agent, "/usage?token=s3cret+x", ""), 101);
    for wrong in ["/usage?token=s3cret", "/usage?token=", "/usage?token=s3cret%2Bxx"] {
        assert_eq!(agent.http(wrong, UPGRADE).0, 401, "{wrong}");
    }
    assert_eq!(status(&agent, "/usage", "Authorization: Basic s3cret+x\r\n"), 401);
    let log = agent.stop();
    assert!(!log.iter().any(|line| line.contains("s3cret")), "{log:#?}");
}

#[test]
fn wrong_token_is_distinguished_from_a_missing_one() {
    let agent = Agent::start(&["usage.token=s3cret"]);
    for path in ["/usage", "/metrics", "/snapshot"] {
        for headers in ["Connection: close\r\n", UPGRADE] {
            let (code, missing) = agent.http(path, headers);
            assert!(missing.contains("\r\nWWW-Authenticate: Bearer\r\n"), "{missing}");
            assert!(code == 401 && missing.contains("\r\n\r\ntoken required: "), "{missing}");
            let bearer = format!("{headers}Authorization: Bearer wrong\r\n");
            for (target, headers) in
                [(format!("{path}?token=wrong"), headers), (path.into(), &bearer)]
            {
                let (code, wrong) = agent.http(&target, headers);
                let challenge = "\r\nWWW-Authenticate: Bearer error=\"invalid_token\"\r\n";
                assert!(wrong.contains(challenge), "{wrong}");
                assert!(code == 401 && wrong.contains("\r\n\r\nwrong token"), "{wrong}");
            }
        }
    }
    agent.stop();
}

/// Requests on a persistent connection. Returns the status and the open connection.
fn keep_alive(agent: &Agent, target: &str, headers: &str) -> (u16, TcpStream) {
    let mut line = HttpConnection::from_socket(agent.socket());
    line.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{headers}\r\n"));
    (line.read().status, line.socket().try_clone().unwrap())
}

/// Connects to an agent on a loopback address from another one.
fn connect_from([a, b, c, d]: [u8; 4], agent: SocketAddr) -> TcpStream {
    let socket =
        socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(socket.as_raw_fd(), &SockaddrIn::new(a, b, c, d, 0)).unwrap();
    connect(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, agent.port())).unwrap();
    TcpStream::from(socket)
}

#[test]
fn local_user_cannot_use_up_connections_of_another_address() {
    let limits = ["usage.listen=0.0.0.0:0", "usage.max_connections_per_ip=2"];
    let from_victim = |agent: &Agent, headers: &str| {
        let mut line = HttpConnection::from_socket(connect_from([127, 0, 0, 2], agent.address));
        line.send(format!("GET /metrics HTTP/1.1\r\nHost: a\r\n{headers}\r\n"));
        line.read().status
    };
    for (token, target, headers) in [
        (true, "/-/healthy", "X-Forwarded-For: 127.0.0.2\r\n"),
        (true, "/", "X-Real-IP: 127.0.0.2\r\n"),
        (true, "/healthz", "X-Forwarded-For: ::ffff:127.0.0.2\r\n"),
        (true, "/-/healthy?token=wrong", "X-Forwarded-For: 127.0.0.2\r\n"),
        (false, "/metrics", "X-Forwarded-For: 127.0.0.2\r\n"),
        (false, "/snapshot", "X-Forwarded-For: [::ffff:127.0.0.2]:80\r\n"),
    ] {
        let token = token.then_some("usage.token=s3cret");
        let agent = Agent::start(&[&limits[..], token.as_slice()].concat());
        let held: Vec<_> = (0..2).map(|_| keep_alive(&agent, target, headers)).collect();
        assert!(held.iter().all(|(status, _)| *status == 200), "{target} {headers}");
        let bearer = "Authorization: Bearer s3cret\r\n";
        assert_eq!(from_victim(&agent, bearer), 200, "{target} {headers}");
        if token.is_some() {
            let proxied = format!("{bearer}{headers}");
            assert_eq!(keep_alive(&agent, "/metrics", &proxied).0, 200, "{target} {headers}");
        }
        agent.stop();
    }
}

#[test]
fn per_ip_limit_counts_ipv6_networks_and_mapped_ipv4_addresses() {
    let agent = Agent::start(&["usage.max_connections_per_ip=1"]);
    let as_client = |ip: &str| upgrade(&agent, "/usage", &format!("X-Forwarded-For: {ip}\r\n"));
    let first = [as_client("2001:db8::1"), as_client("192.0.2.1")];
    assert!(first.iter().all(|(status, _)| *status == 101));
    for same in ["2001:db8::2", "2001:db8::ffff:ffff:ffff:ffff", "::ffff:192.0.2.1"] {
        assert_eq!(as_client(same).0, 503, "{same}");
    }
    for other in ["2001:db8:0:1::1", "::ffff:192.0.2.2"] {
        assert_eq!(as_client(other).0, 101, "{other}");
    }
    agent.stop();
}

#[test]
fn rejects_websocket_from_other_origin() {
    let agent = Agent::start(&["usage.allowed_origins=https://dash.example"]);
    assert_eq!(status(&agent, "/usage", ""), 101);
    assert_eq!(status(&agent, "/usage", "Origin: https://dash.example\r\n"), 101);
    assert_eq!(status(&agent, "/usage", "Origin: https://evil.example\r\n"), 403);
    agent.stop();
    let open = Agent::start(&[]);
    assert_eq!(status(&open, "/usage", "Origin: https://evil.example\r\n"), 101);
    open.stop();
}

#[test]
fn rejects_browser_after_dns_rebinding() {
    // After DNS rebinding the request is of the same origin, so it has no Origin.
    let page = "Connection: close\r\nUser-Agent: Mozilla/5.0\r\nAccept-Language: en\r\nHost: evil.example:33931\r\n";
    let agent = Agent::start(&["usage.allowed_origins=https://dash.example"]);
    for path in ["/snapshot", "/metrics"] {
        let (status, answer) = agent.http(path, page);
        assert_eq!(status, 403, "{answer}");
        assert!(answer.contains("see usage.allowed_origins"), "{answer}");
        for name in ["dash.example", "127.0.0.1:33931", "localhost:33931"] {
            assert_eq!(
                agent.http(path, &page.replace("evil.example:33931", name)).0,
                200,
                "{name}"
            );
        }
        assert_eq!(
            agent.http(path, "Connection: close\r\nHost: evil.example\r\n").0,
            200,
            "a program"
        );
    }
    assert_eq!(agent.http("/-/healthy", page).0, 200);
    agent.stop();
    let secret = Agent::start(&["usage.allowed_origins=https://dash.example", "usage.token=x"]);
    assert_eq!(secret.http("/snapshot", page).0, 401);
    assert_eq!(secret.http("/snapshot?token=x", page).0, 200);
    secret.stop();
    let open = Agent::start(&[]);
    assert_eq!(open.http("/snapshot", page).0, 200);
    open.stop();
}

#[test]
fn connection_over_limit_gets_503_until_one_closes() {
    let agent = Agent::start(&["usage.max_connections=2"]);
    let (_, first) = upgrade(&agent, "/usage", "");
    let (_, _second) = upgrade(&agent, "/usage", "");
    let (code, answer) = agent.http("/usage", UPGRADE);
    assert_eq!(code, 503);
    let retry_after = answer.split("\r\nRetry-After: ").nth(1).unwrap().lines().next().unwrap();
    assert!((5..=15).contains(&retry_after.parse().unwrap()), "{answer}");
    drop(first);
    wait_until("a free connection", || (agent.http_status("/usage") == Some(426)).then_some(()));
    agent.stop();
}

#[test]
fn per_ip_limit_applies_to_clients_behind_trusted_proxy() {
    let agent = Agent::start(&["usage.max_connections_per_ip=1"]);
    let (code, _direct) = upgrade(&agent, "/usage", "");
    assert_eq!(code, 101);
    assert_eq!(status(&agent, "/usage", ""), 503);
    let (code, _a) = upgrade(&agent, "/usage", "X-Forwarded-For: 192.0.2.1\r\n");
    assert_eq!(code, 101);
    assert_eq!(status(&agent, "/usage", "X-Forwarded-For: 192.0.2.1\r\n"), 503);
    assert_eq!(status(&agent, "/usage", "X-Real-IP: 192.0.2.1\r\n"), 503);
    let (code, _b) = upgrade(&agent, "/usage", "X-Real-IP: 192.0.2.2\r\n");
    assert_eq!(code, 101);
    agent.stop();
    let strict = Agent::start(&["usage.max_connections_per_ip=1", "usage.trusted_proxies="]);
    let (code, _direct) = upgrade(&strict, "/usage", "X-Forwarded-For: 192.0.2.1\r\n");
    assert_eq!(code, 101);
    assert_eq!(strict.http("/usage", "X-Forwarded-For: 192.0.2.2\r\n").0, 503);
    strict.stop();
}

#[test]
fn snapshot_contains_host_agent_and_gpus() {
    let agent = Agent::start(&[]);
    let (status, answer) = agent.http("/snapshot", "Connection: close\r\n");
    assert_eq!(status, 200);
    assert!(answer.contains("\r\nContent-Type: application/json\r\n"), "{answer}");
    let found: serde_json::Value =
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(found["type"], "snapshot");
    assert_eq!(found["machine"]["agent"], env!("CARGO_PKG_VERSION"));
    assert!(found["memory_bytes"]["MemTotal"].as_u64().unwrap() > 0);
    assert!(found["process"]["resident_bytes"].as_u64().unwrap() > 100_000);
    assert!(found["sources"][0]["success"].as_bool().unwrap());
    assert_eq!(found["ports"][0]["name"], "usage");
    assert!(found["cpu_percent"].is_number() && found["gpus"].is_array());
    agent.stop();
}
