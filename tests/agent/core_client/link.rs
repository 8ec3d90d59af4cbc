//! The Core protocol: registration, heartbeats, the token, against a server that behaves as the published one. Commands are in
//! `commands.rs`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::core_client::{SLACK, sleep_for};
use crate::support::core::{Core, Seen};
use crate::support::core_wire::{TOKEN, message, query};
use crate::support::{Agent, TempDir, core_fixture, hm_agent, wait_until};

/// A registered agent with a heartbeat every second.
fn agent(core: &Core, state: &TempDir, settings: &[&str]) -> Agent {
    let agent = Agent::spawn(core_fixture::command(&core.setting(), state, settings));
    agent.wait_log("registered as n1");
    agent
}

/// The delay before the next attempt, from a log line, in seconds.
fn retry_delay(line: &str) -> f64 {
    let (_, rest) = line.split_once("next attempt in ").unwrap_or_else(|| panic!("{line}"));
    rest.split(' ').next().unwrap().parse().unwrap()
}

fn assert_uuid_v4(id: &str) {
    let is_right = id.char_indices().all(|(at, letter)| match at {
        8 | 13 | 18 | 23 => letter == '-',
        14 => letter == '4',
        19 => "89ab".contains(letter),
        _ => letter.is_ascii_digit() || ('a'..='f').contains(&letter),
    });
    assert!(is_right && id.len() == 36, "{id}");
}

/// As `2025-01-21T10:00:00Z`, perhaps with a fraction, and within 30 s of now. GNU date parses it.
fn assert_now(timestamp: &str) {
    assert!(timestamp.ends_with('Z') && timestamp.as_bytes()[10] == b'T', "{timestamp}");
    let output = Command::new("date").args(["-u", "-d", timestamp, "+%s"]).output().unwrap();
    let then: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - then).abs() < 30.0, "{timestamp} at {now}");
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn registers_and_sends_heartbeats_as_documented() {
    let (core, state) = (Core::start(), TempDir::new("core"));
    let agent = agent(&core, &state, &[]);
    let heartbeats = core.wait("heartbeat", 4);
    let (target, _) = &core.requests()[0];
    assert!(target.starts_with("/api/v1/ws?"), "{target}");
    assert_eq!(query(target, "token").as_deref(), Some(TOKEN));
    assert_eq!(query(target, "node_id").as_deref(), Some("n1"));
    let seen = core.seen("");
    let register = &seen[0];
    let release = std::fs::read_to_string("/etc/os-release").unwrap();
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap();
    let expected = json!({"node_id": "n1", "hostname": output("uname", &["-n"]),
        "ip_address": "127.0.0.1", "os_info": name.trim_matches('"')});
    assert_eq!((register.kind.as_str(), &register.data), ("node_register", &expected));
    let delay = heartbeats[0].at - register.at;
    assert!(delay < Duration::from_secs(4), "the first after {delay:?}");
    for pair in heartbeats.windows(2) {
        let apart = pair[1].at - pair[0].at;
        assert!((500..2500).contains(&apart.as_millis()), "{apart:?}");
    }
    let mut ids: Vec<&str> = seen.iter().map(|seen| seen.id.as_str()).collect();
    ids.iter().for_each(|id| assert_uuid_v4(id));
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), seen.len(), "unique ids");
    for Seen { message, .. } in &seen {
        assert_eq!(keys(message), ["data", "id", "timestamp", "type"]);
        assert_now(message["timestamp"].as_str().unwrap());
    }
    assert!(seen.iter().skip(1).all(|seen| seen.kind == "heartbeat"), "{seen:#?}");
    let log = agent.stop();
    assert!(!log.iter().any(|line| line.contains(" warn ")), "{log:#?}");
    let closed = wait_until("a close frame", || core.close_frames().first().copied());
    assert_eq!((closed, core.connections()), (0, 1));
}

#[test]
fn metrics_match_the_machine() {
    let (core, state) = (Core::start(), TempDir::new("core"));
    let agent = agent(&core, &state, &[]);
    let data = core.wait("heartbeat", 2).pop().unwrap().data;
    assert_eq!((&data["node_id"], &data["status"]), (&json!("n1"), &json!("online")));
    let metrics = &data["metrics"];
    assert_eq!(keys(&data), ["metrics", "node_id", "status"]);
    assert_eq!(keys(metrics), ["cpu_usage", "disk_usage", "load_average", "memory_usage"]);
    let value = |name: &str| metrics[name].as_f64().unwrap();
    for name in ["cpu_usage", "memory_usage", "disk_usage"] {
        assert!((0.0..=100.0).contains(&value(name)), "{metrics}");
        assert_eq!((value(name) * 10.0).round() / 10.0, value(name), "one decimal: {metrics}");
    }
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let kilobytes = |name: &str| -> f64 {
        let line = meminfo.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let memory = 100.0 - kilobytes("MemAvailable:") / kilobytes("MemTotal:") * 100.0;
    assert!((value("memory_usage") - memory).abs() < 15.0, "{memory} {metrics}");
    // df rounds up.
    let disk = output("df", &["--output=pcent", "/"]);
    let disk: f64 = disk.rsplit('\n').next().unwrap().trim().trim_end_matches('%').parse().unwrap();
    assert!((disk - value("disk_usage") - 0.5).abs() < 3.0, "{disk} {metrics}");
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    let load: f64 = load.split(' ').next().unwrap().parse().unwrap();
    assert!((value("load_average") - load).abs() < 3.0, "{load} {metrics}");
    agent.stop();
}

#[test]
fn registers_without_welcome_after_3_s() {
    let (core, state) = (Core::start(), TempDir::new("core"));
    core.skip_welcome();
    let agent = agent(&core, &state, &[]);
    let waited = core.seen("node_register")[0].at - core.requests()[0].1;
    let expected = Duration::from_millis(2500)..Duration::from_secs(3) + SLACK;
    assert!(expected.contains(&waited), "{waited:?}");
    core.wait("heartbeat", 1);
    agent.stop();
}

#[test]
fn keeps_query_of_url_and_encodes_node_id() {
    let (core, state) = (Core::start(), TempDir::new("core"));
    let url = format!("{}?site=a%20b", core.setting());
    let odd = "node_id=n 1&token=x#ü%";
    let agent = Agent::spawn(core_fixture::command(&url, &state, &[odd]));
    agent.wait_log(" registered as n 1&token=x#");
    let (target, _) = &core.requests()[0];
    assert!(target.starts_with("/api/v1/ws?site=a%20b&"), "{target}");
    assert_eq!(query(target, "token").as_deref(), Some(TOKEN));
    assert_eq!(query(target, "node_id").as_deref(), Some("n 1&token=x#ü%"));
    assert_eq!(core.seen("node_register")[0].data["node_id"], "n 1&token=x#ü%");
    agent.stop();
}

#[test]
fn wrong_token_is_logged_and_retried_after_30_s() {
    let (core, state) = (Core::start(), TempDir::new("core"));
    let agent =
        Agent::spawn(core_fixture::command(&core.setting(), &state, &["core.token=wrong-one"]));
    let line = agent.wait_log("HTTP status 200 instead of a WebSocket upgrade: Invalid token");
    assert!(line.contains(&format!(" warn core: ws://{}/api/v1/ws HTTP status", core.address)));
    assert!((30.0..=120.0).contains(&retry_delay(&line)), "{line}");
    sleep_for(Duration::from_secs(3));
    let log = agent.stop();
    assert!(!log.iter().any(|line| line.contains("wrong-one")), "{log:#?}");
    assert_eq!((core.requests().len(), core.connections()), (1, 0));
}

#[test]
fn invalid_token_error_disconnects_and_retries_after_30_s() {
    for kind in ["node_register", "heartbeat"] {
        let (core, state) = (Core::start(), TempDir::new("core"));
        core.error(kind, "INVALID_TOKEN");
        let agent = Agent::spawn(core_fixture::command(&core.setting(), &state, &[]));
        let line = agent.wait_log("INVALID_TOKEN");
        assert!((30.0..=120.0).contains(&retry_delay(&line)), "{line}");
        wait_until("the disconnect", || (core.ended() == 1).then_some(()));
        sleep_for(Duration::from_secs(2));
        assert_eq!(core.requests().len(), 1);
        let log = agent.stop();
        assert!(
            !log.iter().any(|line| line.contains('\u{1b}') || line.starts_with("test")),
            "{log:#?}"
        );
    }
}

/// Answers one request with `response` and closes.
fn respond_once(listener: &TcpListener, response: &str) {
    let (mut socket, _) = listener.accept().unwrap();
    let read = socket.read(&mut [0; 4096]).unwrap();
    assert!(read > 0);
    socket.write_all(response.as_bytes()).unwrap();
}

#[test]
fn redacts_token_that_server_sends_back() {
    // Plain, and as encoded in the URL.
    let encoded = |core: &Core| {
        let (target, _) = core.requests().remove(0);
        let (_, rest) = target.split_once("token=").unwrap();
        rest.split('&').next().unwrap().to_owned()
    };
    let (core, state) = (Core::start(), TempDir::new("core"));
    let agent = agent(&core, &state, &["log_level=trace"]);
    let encoded = encoded(&core);
    assert_ne!(encoded, TOKEN);
    let details = format!("?token={encoded}&");
    let data = json!({"error_code": "ODD", "message": TOKEN, "details": details});
    core.push(message("error", "x", &data).to_string());
    core.push(message(TOKEN, &encoded, &json!({})).to_string());
    // Cut at any position.
    for before in 0..60 {
        core.push(format!("{} {encoded}", "-".repeat(before)));
        core.push(format!("{} {TOKEN}", "-".repeat(before)));
    }
    core.execute("c", &format!("echo {TOKEN}"), 5);
    core.result("c");
    agent.wait_log("ODD");
    core.wait("heartbeat", core.seen("heartbeat").len() + 2);
    let mut log = agent.stop();
    drop(core);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("core.url=ws://{}/", listener.local_addr().unwrap());
    let body = format!("Invalid token {TOKEN} {encoded}");
    let response = format!(
        "HTTP/1.1 200 {body}\r\nLocation: /?token={encoded}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    std::thread::scope(|scope| {
        scope.spawn(|| respond_once(&listener, &response));
        let agent = Agent::spawn(core_fixture::command(&url, &state, &["log_level=trace"]));
        agent.wait_log("HTTP status 200 instead of a WebSocket upgrade: Invalid token");
        log.extend(agent.stop());
    });
    // No part of six characters may appear.
    for secret in [TOKEN, &encoded] {
        for at in 0..secret.len() - 6 {
            let part = &secret[at..at + 6];
            let leak = log.iter().find(|line| line.contains(part));
            assert!(leak.is_none(), "{part} in {leak:?}");
        }
    }
}

#[test]
fn ps_and_check_do_not_show_the_token() {
    let (core, state) = (Core::start(), TempDir::new("core"));
    let file = state.write("token", &format!("{TOKEN}\n"));
    let settings = [core.setting(), format!("core.token_file={file}"), "node_id=n1".to_owned()];
    let mut command = hm_agent();
    for setting in &settings {
        command.args(["-s", setting]);
    }
    command.args(["-s", "usage.listen=127.0.0.1:0", "-s", "gpu.source=none"]);
    let agent = Agent::spawn(command);
    agent.wait_log("registered as n1");
    // Arguments and environment.
    let list = output("ps", &["ewwp", &agent.pid().to_string()]);
    assert!(list.contains(&file) && !list.contains(TOKEN), "{list}");
    agent.stop();
    for more in [format!("core.token={TOKEN}"), settings[1].clone()] {
        let mut command = hm_agent();
        command.args(["check", "-s", &settings[0], "-s", &more]);
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains(&settings[0][9..]), "{text}");
        assert!(!text.contains(TOKEN), "{text}");
    }
}

#[test]
fn shows_upstream_in_usage_and_sample() {
    let (core, state) = (Core::start(), TempDir::new("core"));
    let agent = agent(&core, &state, &[]);
    core.wait("heartbeat", 2);
    core.ignore_kinds(&["command_result"]);
    for id in ["a", "b"] {
        core.execute(id, "true", 5); // rejected; rejections are results, too
        core.result(id);
    }
    let mut client = agent.connect();
    client.send_text("subscribe:detail");
    let upstream = wait_until("an upstream that is online", || {
        let update = client.json();
        let upstreams = update["links"].as_array()?.clone();
        upstreams.into_iter().find(|upstream| {
            let has_response = upstream["last_answer_unix_seconds"].is_u64();
            upstream["name"] == "core" && upstream["backlog"] == 2 && has_response
        })
    });
    assert_eq!(
        (&upstream["state"], &upstream["dropped"]),
        (&json!("online"), &json!(0)),
        "{upstream}"
    );
    let listen = format!("usage.listen={}", agent.address);
    let mut command = hm_agent();
    let settings = ["-s", &listen, "-s", &core.setting(), "-s", "gpu.source=none"];
    command.arg("sample").args(settings).args(["-s", "heartbeat.enabled=false"]);
    let output = command.output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("core       online"), "{table}");
    agent.stop();
}

#[test]
fn reconnects_and_logs_each_failure_once() {
    let (core, state) = (Core::start(), TempDir::new("core"));
    let agent = agent(&core, &state, &[]);
    let address: SocketAddr = core.address;
    core.shut_down();
    let line = agent.wait_log("closed by server (1001: back soon)");
    assert!(line.contains(&format!(" warn core: ws://{address}/api/v1/ws closed")), "{line}");
    agent.wait_log("connect failed: ");
    let core = Core::on(address);
    core.wait("heartbeat", 2);
    let lines = [" closed by server", " connect failed", " registered as n1"];
    let counts = lines.map(|text| agent.count_log(text));
    assert_eq!(counts, [1, 1, 2], "{:#?}", agent.log());
    agent.stop();
}

#[test]
#[ignore = "waits for the response timeout of 20 s"]
fn response_timeout_reconnects() {
    std::thread::scope(|scope| {
        for kind in ["heartbeat", "node_register"] {
            scope.spawn(move || assert_reconnects_without_response(kind));
        }
    });
}

fn assert_reconnects_without_response(kind: &str) {
    let (core, state) = (Core::start(), TempDir::new("core"));
    core.ignore_kinds(&[kind]);
    let interval = "core.heartbeat_interval=5";
    let agent = Agent::spawn(core_fixture::command(&core.setting(), &state, &[interval]));
    let sent = core.wait(kind, 1)[0].at;
    while core.connections() == 1 {
        assert!(sent.elapsed() < Duration::from_secs(20) + SLACK * 2, "{:#?}", agent.log());
        std::thread::park_timeout(Duration::from_millis(20));
    }
    assert!(sent.elapsed() > Duration::from_secs(18), "{kind} {:?}", sent.elapsed());
    agent.wait_log("response timeout (20 s)");
    assert!(core.pings() >= 1, "pings continue");
    core.ignore_kinds(&[]);
    let registrations = if kind == "heartbeat" { 2 } else { 1 };
    wait_until("a registration", || {
        (agent.count_log(" registered as n1") >= registrations).then_some(())
    });
    agent.stop();
}
