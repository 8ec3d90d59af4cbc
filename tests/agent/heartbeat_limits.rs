//! A local user fills the heartbeat table with 10 000 ids of 256 bytes, each of which is escaped with six, and makes clients
//! request what depends on it. Memory and messages stay small, and other applications are served at once.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::heartbeat::HttpConnection;
use crate::support::slowdown::assert_in_time;
use crate::support::{Agent, hm_agent, wait_until};
use serde_json::Value;

const APPS: usize = 9_990;
/// One list has 15 MB.
const UNREAD_CLIENTS: usize = 100;
const MAX_GROWTH_KB: u64 = 64 << 10;
const MAX_MESSAGE_BYTES: usize = 1 << 20;

fn start() -> Agent {
    let mut command = hm_agent();
    // glibc gives each thread a heap of its own and keeps what is free in it.
    command.env("MALLOC_ARENA_MAX", "1");
    command.args(["-s", "usage.listen=127.0.0.1:0", "-s", "interval=1", "-s", "gpu.source=none"]);
    Agent::spawn(command)
}

/// Registers applications whose ids consist of control characters.
fn fill(agent: &Agent) {
    let mut line = HttpConnection::open(agent);
    for hundred in 0..APPS / 100 + 1 {
        let numbers = hundred * 100..APPS.min(hundred * 100 + 100);
        let beats = numbers.clone().map(|number| {
            let id = format!("{number:05}{}", "%7f".repeat(251));
            format!("GET /hb_ping?604800000&appid={id} HTTP/1.1\r\nHost: a\r\n\r\n")
        });
        line.send(beats.collect::<String>());
        numbers.for_each(|_| assert_eq!(line.read().status, 200));
    }
}

/// A client that sends a request and does not read the response.
fn unread(agent: &Agent, target: &str) -> TcpStream {
    let mut socket = TcpStream::connect(agent.heartbeat()).unwrap();
    write!(socket, "GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    socket
}

#[test]
fn unread_lists_take_little_memory_and_delay_no_heartbeat() {
    let agent = start();
    let mut application = HttpConnection::open(&agent);
    assert_eq!(application.get("/hb_ping?60000&appid=bystander").status, 200);
    fill(&agent);
    let before = agent.status("VmRSS");
    let mut lists = Vec::new();
    for (round, target) in ["/list", "/list", "/status"].into_iter().enumerate() {
        // In the second round every client has a different list.
        let changes = round == 1;
        assert_in_time(Duration::from_secs(1), || {
            lists.clear();
            for number in 0..UNREAD_CLIENTS {
                lists.push(unread(&agent, target));
                if changes {
                    let command = ["hb_ping", "hb_done"][number % 2];
                    application.get(&format!("/{command}?60000&appid=changes"));
                }
            }
            let start = Instant::now();
            assert_eq!(application.get("/hb_ping?60000&appid=bystander").body, "61000");
            start.elapsed()
        });
        let grown = agent.status("VmHWM").saturating_sub(before);
        println!("{target}, round {round}: {grown} kB more than {before} kB");
        assert!(grown < MAX_GROWTH_KB, "{target}, round {round}: {grown} kB more than {before} kB");
    }
    drop(lists);
    agent.stop();
}

#[test]
fn list_of_escaped_ids_is_complete_and_has_its_length() {
    let agent = start();
    fill(&agent);
    let mut line = HttpConnection::open(&agent);
    line.send("HEAD /list HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = line.next(false).unwrap();
    let list = line.get("/list");
    assert_eq!(head.header("Content-Length"), list.header("Content-Length"));
    let lines: Vec<&str> = list.body.lines().collect();
    assert_eq!(lines.len(), APPS);
    for (number, line) in lines.into_iter().enumerate() {
        assert_eq!(line, format!("{number:05}{}", r"\u{7f}".repeat(251)));
    }
    assert_eq!(line.get("/hb_done?0&appid=x").status, 200, "the connection continues");
    agent.stop();
}

#[test]
fn snapshot_and_detail_are_bounded_and_count_what_they_omit() {
    let agent = start();
    fill(&agent);
    let snapshot = wait_until("all applications", || {
        let body = agent.http("/snapshot", "Connection: close\r\n").1;
        let body = body.split_once("\r\n\r\n").unwrap().1.to_owned();
        let snapshot: Value = serde_json::from_str(&body).unwrap();
        let shown = snapshot["heartbeats"].as_array().unwrap().len() as u64;
        let all = shown + snapshot["heartbeats_truncated"].as_u64().unwrap_or_default();
        (all == APPS as u64).then_some((shown, body.len()))
    });
    assert!(snapshot.0 == 200 && snapshot.1 < MAX_MESSAGE_BYTES, "{snapshot:?}");
    let mut client = agent.connect();
    client.send_text("subscribe:detail");
    let update = loop {
        let message = client.json();
        if message["type"] == "usage_update" {
            break message;
        }
    };
    assert_eq!(update["heartbeats"].as_array().unwrap().len(), 200);
    assert_eq!(update["heartbeats_truncated"], APPS - 200);
    assert!(update.to_string().len() < MAX_MESSAGE_BYTES);
    let metrics = agent.http("/metrics", "Connection: close\r\n").1;
    assert!(metrics.contains(&format!("\nhm_agent_heartbeat_apps{{state=\"ok\"}} {APPS}\n")));
    let truncated = format!("hm_agent_metrics_truncated{{kind=\"heartbeat_apps\"}} {}", APPS - 200);
    assert!(metrics.contains(&truncated) && metrics.len() < MAX_MESSAGE_BYTES, "{}", metrics.len());
    agent.stop();
}

#[test]
fn dropped_application_stays_visible_but_is_not_listed() {
    let agent = start();
    agent.get_ok("/hb_init?0&appid=gone");
    agent.get_ok("/hb_init?600000&appid=fine");
    agent.wait_log("app [gone] dropped");
    let app = |name: &str| {
        let body = agent.http("/snapshot", "Connection: close\r\n").1;
        let snapshot: Value = serde_json::from_str(body.split_once("\r\n\r\n").unwrap().1).unwrap();
        let apps = snapshot["heartbeats"].as_array().unwrap().clone();
        apps.into_iter().find(|app| app["app_id"] == name)
    };
    wait_until("the dropped application", || app("gone").filter(|app| app["state"] == "DROPPED"));
    let metrics = agent.http("/metrics", "Connection: close\r\n").1;
    for line in [
        "hm_agent_heartbeat_apps{state=\"ok\"} 1",
        "hm_agent_heartbeat_apps{state=\"dropped\"} 1",
        "hm_agent_heartbeat_app_state{app_id=\"gone\",state=\"dropped\"} 1",
        "hm_agent_heartbeat_app_state{app_id=\"gone\",state=\"critical\"} 0",
        "hm_agent_heartbeat_app_state{app_id=\"fine\",state=\"dropped\"} 0",
    ] {
        assert!(metrics.contains(&format!("\n{line}\n")), "{line} in {metrics}");
    }
    // As the released server answers.
    assert_eq!(agent.list(), ["fine"]);
    assert!(agent.get_ok("/status").starts_with("OK - fine application [fine]|"));
    let line = "CRITICAL - no application record for queried ID: [gone]";
    assert_eq!(agent.get_ok("/status?0&appid=gone"), line);
    agent.get_ok("/hb_ping?600000&appid=gone");
    wait_until("the recovery", || app("gone").filter(|app| app["state"] == "OK"));
    agent.stop();
}
