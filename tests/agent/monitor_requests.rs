//! `/monitor`: valid and invalid requests, and their limits.

use crate::support;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::support::monitor::Monitor;
use crate::support::sshd::{CC, PASSWORD, Sshd};
use crate::support::wait_until;
use serde_json::{Value, json};

#[test]
#[ignore = "waits 25 s"]
fn sends_ping_after_25_s_of_silence() {
    let monitor = Monitor::start(&[]);
    let mut client = monitor.connect();
    client.socket.0.get_mut().set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    let start = Instant::now();
    assert_eq!(client.socket.0.read().unwrap(), tungstenite::Message::Ping(Vec::new().into()));
    assert!(start.elapsed() > Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn rejects_unauthorized_and_invalid_requests() {
    let monitor = Monitor::start(&["monitor.token=s3cret"]);
    let address = monitor.address();
    let http = |head: &str| {
        use std::io::{Read, Write};
        let mut socket = std::net::TcpStream::connect(address).unwrap();
        socket.write_all(head.as_bytes()).unwrap();
        let mut response = String::new();
        let _ = socket.read_to_string(&mut response);
        if let Some((head, text)) = response.split_once("\r\n\r\n")
            && response.starts_with("HTTP/1.1 401 ")
        {
            let is_wrong = text.starts_with("wrong token");
            assert_eq!(head.contains("error=\"invalid_token\""), is_wrong, "{response}");
            return if is_wrong { "401 wrong" } else { "401 missing" }.to_owned();
        }
        response.split(' ').nth(1).unwrap().to_owned()
    };
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert_eq!(http("GET /usage HTTP/1.1\r\nHost: a\r\n\r\n"), "404");
    assert_eq!(http(&format!("GET /monitor HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n")), "401 missing");
    let wrong = format!("GET /monitor?token=wrong HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n");
    assert_eq!(http(&wrong), "401 wrong");
    assert_eq!(http("GET /monitor?token=s3cret HTTP/1.1\r\nHost: a\r\n\r\n"), "426");
    let origin = format!(
        "GET /monitor?token=s3cret HTTP/1.1\r\nHost: a\r\n{upgrade}Origin: http://localhost:8080\r\n\r\n"
    );
    assert_eq!(http(&origin), "403", "origins must be allowed");
    drop(monitor);

    let monitor = Monitor::start(&[]);
    let mut client = monitor.connect();
    let mut error = |text: &str| {
        client.socket.send_text(text);
        let response = client.response();
        (response["id"].clone(), response["error"].as_str().unwrap().to_owned())
    };
    assert_eq!(error("{").0, Value::Null);
    assert_eq!(error(r#"{"id":7,"method":"ssh.format_disk","params":[]}"#).0, 7);
    assert_eq!(error(r#"{"id":"x","method":"ssh.start_monitor"}"#).0, "x");
    let (id, why) = error(
        r#"{"id":8,"method":"ssh.start_monitor","params":[{"host":"-oProxyCommand=touch /tmp/x","user":"a"},{"host":"a","user":"-lroot"},{"user":"a"}]}"#,
    );
    assert_eq!(id, 8);
    assert!(
        why.contains("params[0]") && why.contains("params[1]") && why.contains("params[2]"),
        "{why}"
    );
    assert_eq!(
        client.request("ssh.stop_monitor", json!([{"host": "never.seen", "user": "a"}])),
        Value::Null
    );
    assert_eq!(client.request("ssh.start_monitor", json!([])), Value::Null);
    for _ in 0..60 {
        client.socket.send_text("{");
    }
    assert_eq!(u16::from(client.socket.closed().code), 1008);
}

/// Crashed the agent once: the parser recursed 128 levels deep, and unoptimized code overflowed the stack of the connection.
#[test]
fn rejects_request_of_thousand_levels() {
    let monitor = Monitor::start(&[]);
    let mut client = monitor.connect();
    for text in ["[".repeat(1000), r#"{"id":"#.repeat(1000), r#"{"params":["#.repeat(1000)] {
        client.socket.send_text(&text);
        assert!(client.response()["error"].as_str().unwrap().contains("levels"));
    }
    monitor.stop();
}

#[test]
fn answers_every_id_exactly_once() {
    let monitor = Monitor::start(&[]);
    let mut client = monitor.connect();
    for id in [
        r#""text""#,
        r#""""#,
        "0",
        "-7",
        "1.5",
        "18446744073709551615",
        "true",
        "null",
        r#""text""#,
    ] {
        client
            .socket
            .send_text(&format!(r#"{{"id":{id},"method":"ssh.stop_monitor","params":[]}}"#));
        let response = client.response();
        assert_eq!(response.to_string(), format!(r#"{{"error":null,"id":{id},"result":null}}"#));
    }
    for text in [
        r#"{"id":{"a":1},"method":"ssh.stop_monitor","params":[]}"#,
        r#"{"id":[1],"method":"ssh.stop_monitor","params":[]}"#,
        r#"{"method":"ssh.stop_monitor","params":[]}"#,
    ] {
        client.socket.send_text(text);
        assert_eq!(client.response(), json!({"id": null, "result": null, "error": null}));
    }
    for text in [
        r#"[{"id":1,"method":"ssh.stop_monitor","params":[]}]"#,
        "[]",
        "7",
        "null",
        r#""ssh.start_monitor""#,
        "",
        r#"{"id":1,"method":"ssh.start_monitor","params":[{"host":"a","user":"b"}]"#,
    ] {
        client.socket.send_text(text);
        let response = client.response();
        assert!(response["id"].is_null() && response["error"].is_string(), "{text}: {response}");
    }
    for params in ["7", "null", r#""cc@a""#] {
        client
            .socket
            .send_text(&format!(r#"{{"id":"x","method":"ssh.start_monitor","params":{params}}}"#));
        let response = client.response();
        assert!(response["id"] == "x" && response["error"].is_string(), "{params}: {response}");
    }
    for host in [
        r#"{"host":"a","user":"b","port":0}"#,
        r#"{"host":"a","user":"b","port":70000}"#,
        r#"{"host":"a","user":"b","port":-22}"#,
        r#"{"host":"a","user":"b","port":22.5}"#,
        r#"{"host":"a","user":"b","port":"ssh"}"#,
        r#"{"host":"[::1","user":"b"}"#,
        r#"{"host":"a","user":"b c"}"#,
        r#"{"host":"a","user":""}"#,
        r#"{"host":null,"user":"b"}"#,
        r#"[]"#,
    ] {
        client
            .socket
            .send_text(&format!(r#"{{"id":"x","method":"ssh.start_monitor","params":[{host}]}}"#));
        let response = client.response();
        let error = response["error"].as_str().unwrap();
        assert!(error.starts_with("params[0]: "), "{host}: {error}");
    }
    assert!(monitor.children("ssh").is_empty());
    client.socket.0.send(tungstenite::Message::binary(b"{}".to_vec())).unwrap();
    assert_eq!(u16::from(client.socket.closed().code), 1003);
}

#[test]
#[ignore = "needs root and sshd"]
fn accepts_ipv6_addresses_as_hosts() {
    let sshd = Sshd::start_in(&[], "::1", &[CC]);
    let monitor = Monitor::start(&[]);
    let mut client = monitor.connect();
    let host =
        |name: &str| json!({"host": name, "port": sshd.port, "user": "cc", "passwd": PASSWORD});
    let key = format!("cc@[::1]:{}", sshd.port);
    for name in ["::1", "[::1]"] {
        client.start(&[host(name)]);
        client.wait_event("uptime", &key);
    }
    assert_eq!(monitor.children("ssh").len(), 1, "both names are the same host");
    assert_eq!(client.request("ssh.stop_monitor", json!([host("::1")])), Value::Null);
    wait_until("exit of ssh", || monitor.children("ssh").is_empty().then_some(()));
}

#[test]
fn limits_hosts_to_256_and_concurrent_logins_to_16() {
    // Accepts connections, and sends nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let monitor = Monitor::start(&[]);
    let threads =
        || std::fs::read_dir(format!("/proc/{}/task", monitor.agent.pid())).unwrap().count();
    let hosts = |numbers: std::ops::Range<u32>| -> Value {
        numbers.map(|number| json!({"host": "127.0.0.1", "port": port, "user": format!("u{number}"), "passwd": "x"})).collect()
    };
    let (mut first, mut second) = (monitor.connect(), monitor.connect());
    let error = first.request("ssh.start_monitor", hosts(0..300));
    assert_eq!(error, "\"params\" has more than 256 hosts");
    assert!(second.request("ssh.stop_monitor", json!([])).is_null());
    let before = threads();
    let start = |client: &mut support::monitor::MonitorClient, hosts: Value| {
        let request = json!({"id": "start", "method": "ssh.start_monitor", "params": hosts});
        client.socket.send_text(&request.to_string());
    };
    let started = Instant::now();
    start(&mut first, hosts(0..200));
    wait_until("the threads of 200 hosts", || (threads() >= before + 200).then_some(()));
    start(&mut second, hosts(200..300));
    wait_until("the threads of 256 hosts", || (threads() == before + 256).then_some(()));
    wait_until("16 logins", || (monitor.children("ssh").len() >= 16).then_some(()));
    // Those that take longer than 3 s no longer count.
    for _ in 0..20 {
        let logins = monitor.children("ssh").len();
        let limit = 16 * (1 + started.elapsed().as_secs() as usize / 3);
        assert!(logins <= limit, "{logins} concurrent logins");
        std::thread::sleep(Duration::from_millis(50));
    }
    second.socket.send_text(
        &json!({"id": "stop", "method": "ssh.stop_monitor", "params": hosts(200..300)}).to_string(),
    );
    let responses = [second.response(), second.response()];
    let error =
        |id: &str| responses.iter().find(|response| response["id"] == id).unwrap()["error"].clone();
    assert_eq!(error("stop"), Value::Null);
    let error = error("start");
    let count = |text: &str| error.as_str().unwrap().matches(text).count();
    assert_eq!(count("limit of 256 hosts reached"), 44);
    assert_eq!(count("stopped before the login completed"), 56, "{error}");
    drop((first, second));
    wait_until("exit of ssh", || monitor.children("ssh").is_empty().then_some(()));
    wait_until("end of the threads", || (threads() == before - 2).then_some(()));
}

#[test]
fn warns_when_port_is_open_without_token() {
    let text = "can log in to other hosts with the SSH keys of the agent's user; see monitor.token";
    Monitor::start(&["monitor.listen=0.0.0.0:0"]).agent.wait_log(text);
    for settings in [&[][..], &["monitor.listen=0.0.0.0:0", "monitor.token=s3cret"]] {
        let monitor = Monitor::start(settings);
        monitor.agent.wait_log("started");
        assert_eq!(monitor.stop().iter().filter(|line| line.contains(text)).count(), 0);
    }
}

#[test]
fn disabled_port_starts_no_thread() {
    let mut command = support::hm_agent();
    command.args(["-s", "usage.listen=127.0.0.1:0"]);
    let agent = support::Agent::spawn(command);
    agent.heartbeat();
    // A new thread has the name of its creator at first.
    let names = wait_until("the threads' names", || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap().flatten();
        let name = |path: std::path::PathBuf| std::fs::read_to_string(path.join("comm")).ok();
        let names: Vec<String> = tasks.filter_map(|task| name(task.path())).collect();
        let count = |wanted: &str| names.iter().filter(|name| name.trim() == wanted).count();
        (count("hm-agent") == 1 && count("heartbeat") == 1).then_some(names)
    });
    assert!(!names.iter().any(|name| name.trim() == "monitor"), "{names:?}");
    assert_eq!(agent.count_log("monitor"), 0);
}
