//! Kills at random moments under load: what the hub has acknowledged is there afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::Message;

use crate::support::hub::{CoreLink, Hub, report, stored, try_http};
use crate::support::rng::Rng;
use crate::support::{TempDir, sleep_for, wait_until};

const HM_NODES: usize = 8;

type Thread = std::thread::JoinHandle<()>;

/// What was acknowledged.
#[derive(Clone, Default)]
struct Acknowledged {
    /// Number of the node and time of the report.
    reports: BTreeSet<(usize, i64)>,
    /// Ids.
    commands: BTreeSet<String>,
    results: BTreeSet<String>,
    /// What each command that has run has printed: as an agent, the node repeats a result instead of running it again.
    outputs: BTreeMap<String, String>,
}

/// Sends reports with the times `first`, `first + 1` and so on until the hub is killed.
fn send_reports(hub: &Hub, number: usize, first: i64, seen: &Arc<Mutex<Acknowledged>>) -> Thread {
    let (mut node, seen) = (hub.node(), seen.clone());
    assert_eq!(node.online(&format!("node-{number}")), 0);
    std::thread::spawn(move || {
        for at in first.. {
            if node.try_send(2, 1, at, &report()).is_err() {
                break;
            }
            let Ok(Message::Text(text)) = node.0.read() else { break };
            assert!(text.contains("\"code\":0,"), "{text}");
            seen.lock().unwrap().reports.insert((number, at));
        }
    })
}

/// Creates commands until the hub is killed.
fn create_commands(core: SocketAddr, seen: &Arc<Mutex<Acknowledged>>) -> Thread {
    let seen = seen.clone();
    std::thread::spawn(move || {
        let body = json!({"command_text": "true", "timeout": 3600}).to_string();
        let length = format!("Content-Length: {}\r\n", body.len());
        while let Ok(response) =
            try_http(core, "POST", "/api/v1/nodes/worker/commands", &length, &body)
        {
            // A killed hub may have sent a part of its response.
            let answer =
                response.split_once("\r\n\r\n").map(|(_, body)| serde_json::from_str(body));
            let Some(Ok::<Value, _>(answer)) = answer else { break };
            if answer["error_code"] == "DATABASE_ERROR" {
                // On a busy machine, the store may take longer than the hub waits for it. The command was not acknowledged.
                continue;
            }
            assert_eq!(answer["success"], true, "{answer}");
            let id = answer["data"]["command_id"].as_str().unwrap().to_owned();
            seen.lock().unwrap().commands.insert(id);
        }
    })
}

/// Answers commands until the hub is killed.
fn run_commands(mut node: CoreLink, seen: &Arc<Mutex<Acknowledged>>) -> Thread {
    let seen = seen.clone();
    std::thread::spawn(move || {
        while let Ok(Message::Text(text)) = node.0.read() {
            let message: Value = serde_json::from_str(&text).unwrap();
            // The id of a result's message is that of its command.
            if message["type"] == "command_received" {
                let id = message["id"].as_str().unwrap().to_owned();
                seen.lock().unwrap().results.insert(id);
            }
            if message["type"] == "execute_command" {
                let id = message["data"]["command_id"].as_str().unwrap().to_owned();
                let output = {
                    let mut seen = seen.lock().unwrap();
                    let number = seen.outputs.len();
                    seen.outputs.entry(id.clone()).or_insert(format!("output {number}")).clone()
                };
                let result = json!({"command_id": id, "exit_code": 0, "stdout": output});
                if node.try_send("command_result", &id, &result).is_err() {
                    break;
                }
            }
        }
    })
}

#[test]
fn what_is_acknowledged_survives_kills() {
    let kills = std::env::var("HM_KILLS").map_or(10, |text| text.parse().unwrap());
    let (state, mut rng) = (TempDir::new("hub"), Rng::new());
    println!("{kills} kills, HM_SEED={}", rng.seed);
    let seen: Arc<Mutex<Acknowledged>> = Arc::default();
    let start = || Hub::start(&state, &["commands.enabled=true"]);
    let worker = |hub: &Hub| {
        let mut worker = hub.core("/ws/node", "token=default-token&node_id=worker");
        worker.register("worker");
        worker
    };
    for kill in 0..kills {
        let hub = start();
        let mut threads = vec![run_commands(worker(&hub), &seen), create_commands(hub.core, &seen)];
        let reports =
            (0..HM_NODES).map(|number| send_reports(&hub, number, kill * 1_000_000, &seen));
        threads.extend(reports);
        sleep_for(Duration::from_millis(50 + rng.below(300)));
        hub.kill();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
    let hub = start();
    let Acknowledged { reports, commands, results, outputs } = seen.lock().unwrap().clone();
    println!(
        "acknowledged: {} reports, {} commands, {} results",
        reports.len(),
        commands.len(),
        results.len()
    );
    assert!(reports.len() > 10 * kills as usize && results.len() > kills as usize);
    // Before the node connects and repeats results. A command whose creation was not acknowledged may have been stored and run, and
    // its result acknowledged.
    for id in &results {
        let command = hub.rest("GET", &format!("commands/{id}"), "");
        assert_eq!(command["data"]["result"]["stdout"], outputs[id].as_str(), "{command}");
    }
    let thread = run_commands(worker(&hub), &seen);
    for id in &commands {
        let command = wait_until("a result", || {
            let command = hub.rest("GET", &format!("commands/{id}"), "")["data"].take();
            (!command["result"].is_null()).then_some(command)
        });
        assert_eq!(command["command"]["status"], "success", "{command}");
        assert_eq!(command["result"]["stdout"], seen.lock().unwrap().outputs[id].as_str());
    }
    hub.stop();
    thread.join().unwrap();
    for number in 0..HM_NODES {
        let found: BTreeSet<i64> = stored(&state, &format!("node-{number}")).into_iter().collect();
        let of_node = reports.iter().filter(|(node, _)| *node == number);
        let lost: Vec<_> = of_node.filter(|(_, at)| !found.contains(at)).collect();
        assert!(lost.is_empty(), "{lost:?}");
    }
}
