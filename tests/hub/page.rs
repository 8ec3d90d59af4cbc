//! The fleet page and the page of a node in Chromium, with a real agent. tests/peers/fleet_page.mjs has the checks.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;
use tungstenite::Message;

use crate::support::core_fixture::is_root;
use crate::support::hub::Hub;
use crate::support::{Agent, TempDir};

const NODE: &str = "gpu/1 ?#é";

/// An agent that runs commands, connected over both protocols.
fn start_agent(hub: &Hub) -> Agent {
    let run_as = if is_root() { "core.run_as=root" } else { "log_level=info" };
    let settings = [
        format!("node_id={NODE}"),
        format!("hm.url=ws://{}/websocket", hub.address),
        format!("core.url=ws://{}/api/v1/ws", hub.core),
    ];
    let mut settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    settings.extend(["core.commands=any", run_as, "interval=1", "gpu.source=none"]);
    Agent::start(&settings)
}

#[test]
#[ignore = "needs Chromium and playwright-core"]
fn operator_finds_nodes_and_problems_in_a_browser() {
    let state = TempDir::new("hub");
    let operators = state.write("operators", "secret command eve\n");
    let operators = format!("operators.tokens_file={operators}");
    let hub = Hub::start(&state, &[&operators, "commands.enabled=true"]);
    let agent = start_agent(&hub);
    let mut markup = hub.node();
    assert_eq!(markup.online("<b>markup</b>"), 0);
    let description = "{\"extension\":\"node\",\"agent_version\":\"<i>0</i>\",\"hostname\":\"<img src=x onerror=alert(1)>\"}\n";
    markup.0.send(Message::binary(description)).unwrap();

    let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../page");
    std::fs::create_dir_all(&shots).unwrap();
    let parameters = json!({"token": "secret", "operator": "eve", "node": NODE,
        "markup": "<b>markup</b>", "shots": shots});
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/fleet_page.mjs");
    let mut command = Command::new("node");
    command.arg(script).arg(format!("http://{}", hub.web)).arg(parameters.to_string());
    let mut checks = command.stdout(Stdio::piped()).spawn().unwrap();
    let (mut agent, mut hub) = (Some(agent), Some(hub));
    for line in BufReader::new(checks.stdout.take().unwrap()).lines() {
        match line.unwrap().as_str() {
            "stop hub" => drop(hub.take().map(Hub::stop)),
            line if line.starts_with("stop ") => drop(agent.take().map(Agent::stop)),
            line => println!("{line}"),
        }
    }
    assert!(checks.wait().unwrap().success());
}
