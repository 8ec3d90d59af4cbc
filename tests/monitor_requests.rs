//! `/monitor`: what clients ask for, rightly or wrongly, and how much of it.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::TcpListener;

use serde_json::{Value, json};
use support::monitor::Monitor;
use support::sshd::{CC, PASSWORD, Sshd};
use support::wait_until;

#[test]
fn requests_that_are_none_are_answered_with_their_id() {
    let monitor = Monitor::start(&["monitor.token=s3cret"]);
    let address = monitor.address();
    let http = |head: &str| {
        use std::io::{Read, Write};
        let mut socket = std::net::TcpStream::connect(address).unwrap();
        socket.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        let _ = socket.read_to_string(&mut answer);
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert_eq!(http("GET /usage HTTP/1.1\r\n\r\n"), "404");
    assert_eq!(http(&format!("GET /monitor HTTP/1.1\r\n{upgrade}\r\n")), "401");
    assert_eq!(http("GET /monitor?token=s3cret HTTP/1.1\r\n\r\n"), "426");
    let origin = format!(
        "GET /monitor?token=s3cret HTTP/1.1\r\n{upgrade}Origin: http://localhost:8080\r\n\r\n"
    );
    assert_eq!(http(&origin), "403", "no page, unless it is allowed");
    drop(monitor);

    let monitor = Monitor::start(&[]);
    let mut watcher = monitor.connect();
    let mut error = |text: &str| {
        watcher.client.say(text);
        let answer = watcher.answer();
        (answer["id"].clone(), answer["error"].as_str().unwrap().to_owned())
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
        watcher.ask("ssh.stop_monitor", json!([{"host": "never.seen", "user": "a"}])),
        Value::Null
    );
    assert_eq!(watcher.ask("ssh.start_monitor", json!([])), Value::Null);
    for _ in 0..60 {
        watcher.client.say("{");
    }
    assert_eq!(u16::from(watcher.client.closed().code), 1008);
}

/// It used to end the agent: the parser goes down 128 levels, and without optimisation a connection's stack is not so deep.
#[test]
fn a_request_of_a_thousand_levels_is_answered() {
    let monitor = Monitor::start(&[]);
    let mut watcher = monitor.connect();
    for text in ["[".repeat(1000), r#"{"id":"#.repeat(1000), r#"{"params":["#.repeat(1000)] {
        watcher.client.say(&text);
        assert!(watcher.answer()["error"].as_str().unwrap().contains("levels"));
    }
    monitor.stop();
}

#[test]
fn an_id_is_answered_once_whatever_it_is() {
    let monitor = Monitor::start(&[]);
    let mut watcher = monitor.connect();
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
        watcher.client.say(&format!(r#"{{"id":{id},"method":"ssh.stop_monitor","params":[]}}"#));
        let answer = watcher.answer();
        assert_eq!(answer.to_string(), format!(r#"{{"error":null,"id":{id},"result":null}}"#));
    }
    for text in [
        r#"{"id":{"a":1},"method":"ssh.stop_monitor","params":[]}"#,
        r#"{"id":[1],"method":"ssh.stop_monitor","params":[]}"#,
        r#"{"method":"ssh.stop_monitor","params":[]}"#,
    ] {
        watcher.client.say(text);
        assert_eq!(watcher.answer(), json!({"id": null, "result": null, "error": null}));
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
        watcher.client.say(text);
        let answer = watcher.answer();
        assert!(answer["id"].is_null() && answer["error"].is_string(), "{text}: {answer}");
    }
    for params in ["7", "null", r#""cc@a""#] {
        watcher
            .client
            .say(&format!(r#"{{"id":"x","method":"ssh.start_monitor","params":{params}}}"#));
        let answer = watcher.answer();
        assert!(answer["id"] == "x" && answer["error"].is_string(), "{params}: {answer}");
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
        watcher
            .client
            .say(&format!(r#"{{"id":"x","method":"ssh.start_monitor","params":[{host}]}}"#));
        let answer = watcher.answer();
        let error = answer["error"].as_str().unwrap();
        assert!(error.starts_with("params[0]: "), "{host}: {error}");
    }
    assert!(monitor.children("ssh").is_empty());
    watcher.client.0.send(tungstenite::Message::binary(b"{}".to_vec())).unwrap();
    assert_eq!(u16::from(watcher.client.closed().code), 1003);
}

#[test]
fn a_host_may_be_named_by_its_ipv6_address() {
    let sshd = Sshd::start_in(&[], "::1", &[CC]);
    let monitor = Monitor::start(&[]);
    let mut watcher = monitor.connect();
    let host =
        |name: &str| json!({"host": name, "port": sshd.port, "user": "cc", "passwd": PASSWORD});
    let key = format!("cc@[::1]:{}", sshd.port);
    for name in ["::1", "[::1]"] {
        watcher.start(&[host(name)]);
        watcher.event("uptime", &key);
    }
    assert_eq!(monitor.children("ssh").len(), 1, "it is the same host");
    assert_eq!(watcher.ask("ssh.stop_monitor", json!([host("::1")])), Value::Null);
    wait_until("the session's end", || monitor.children("ssh").is_empty().then_some(()));
}

#[test]
fn there_are_256_hosts_at_the_most_and_16_logins_at_a_time() {
    // It accepts connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let monitor = Monitor::start(&[]);
    let threads =
        || std::fs::read_dir(format!("/proc/{}/task", monitor.agent.pid())).unwrap().count();
    let hosts = |numbers: std::ops::Range<u32>| -> Value {
        numbers.map(|number| json!({"host": "127.0.0.1", "port": port, "user": format!("u{number}"), "passwd": "x"})).collect()
    };
    let (mut one, mut two) = (monitor.connect(), monitor.connect());
    let error = one.ask("ssh.start_monitor", hosts(0..300));
    assert_eq!(error, "\"params\" has over 256 hosts");
    assert!(two.ask("ssh.stop_monitor", json!([])).is_null());
    let before = threads();
    let start = |watcher: &mut support::monitor::Watcher, hosts: Value| {
        let request = json!({"id": "start", "method": "ssh.start_monitor", "params": hosts});
        watcher.client.say(&request.to_string());
    };
    start(&mut one, hosts(0..200));
    wait_until("the first hosts", || (threads() >= before + 200).then_some(()));
    start(&mut two, hosts(200..300));
    wait_until("as many as there may be", || (threads() == before + 256).then_some(()));
    wait_until("16 logins", || (monitor.children("ssh").len() == 16).then_some(()));
    for _ in 0..20 {
        let logins = monitor.children("ssh").len();
        assert!(logins <= 16, "{logins} at a time");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    two.client.say(
        &json!({"id": "stop", "method": "ssh.stop_monitor", "params": hosts(200..300)}).to_string(),
    );
    let answers = [two.answer(), two.answer()];
    let answer = |id: &str| answers.iter().find(|one| one["id"] == id).unwrap()["error"].clone();
    assert_eq!(answer("stop"), Value::Null);
    let error = answer("start");
    let count = |text: &str| error.as_str().unwrap().matches(text).count();
    assert_eq!(count("there are 256 hosts already, the most that may be"), 44);
    assert_eq!(count("stopped before it was logged in"), 56, "{error}");
    drop((one, two));
    wait_until("the end of all", || monitor.children("ssh").is_empty().then_some(()));
    wait_until("the end of their threads", || (threads() == before - 2).then_some(()));
}

#[test]
fn a_port_that_is_open_to_all_is_warned_of() {
    let text = "can log in anywhere with the keys of the agent's user; see monitor.token";
    Monitor::start(&["monitor.listen=0.0.0.0:0"]).agent.wait_log(text);
    for settings in [&[][..], &["monitor.listen=0.0.0.0:0", "monitor.token=s3cret"]] {
        let monitor = Monitor::start(settings);
        monitor.agent.wait_log("started");
        assert_eq!(monitor.stop().iter().filter(|line| line.contains(text)).count(), 0);
    }
}

#[test]
fn what_is_off_takes_nothing() {
    let mut command = support::hm_agent();
    command.args(["-s", "usage.listen=127.0.0.1:0"]);
    let agent = support::Agent::spawn(command);
    agent.heartbeat();
    // A thread has its creator's name first.
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
