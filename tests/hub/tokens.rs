//! Tokens that are revoked or changed while their users are connected.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::Message;

use crate::support::hub::{CoreLink, Hub, Node, hm_hub, http, json_body};
use crate::support::{Agent, SLACK, TempDir, wait_until};

const TARGET_HEADERS: &str = "Authorization: Bearer reader-2\r\n";

fn hub(state: &TempDir) -> Hub {
    let settings = [
        "nodes.admission=token".to_owned(),
        format!("nodes.tokens_file={}", state.0.join("nodes").display()),
        format!("operators.tokens_file={}", state.0.join("operators").display()),
    ];
    Hub::start(state, &settings.iter().map(String::as_str).collect::<Vec<_>>())
}

fn monitor(hub: &Hub, token: &str) -> CoreLink {
    let mut monitor = hub.core("/ws/client", &format!("type=monitor&token={token}"));
    monitor.until("welcome");
    monitor
}

fn assert_ended(what: &str, mut is_open: impl FnMut() -> bool) {
    wait_until(what, || (!is_open()).then_some(()));
}

#[test]
fn connections_end_when_their_token_is_revoked() {
    let state = TempDir::new("hub");
    state.write("nodes", "revoked\nrebound\nkept group=blue\nbound node=c\n");
    state.write("operators", "reader-1 read ann\nreader-2 read bob\n");
    let hub = hub(&state);
    let mut revoked = Node::connect(hub.address, "revoked").unwrap();
    let mut kept = Node::connect(hub.address, "kept").unwrap();
    let mut rebound = Node::connect(hub.address, "bound").unwrap();
    assert_eq!((revoked.online("a"), kept.online("b"), rebound.online("c")), (0, 0, 0));
    let message = "{\"extension\":\"node\",\"agent_version\":\"0\",\"hostname\":\"h\"}\n";
    kept.0.send(Message::binary(message)).unwrap();
    let mut core = hub.core("/ws/node", "token=revoked&node_id=d");
    core.register("d");
    // Not bound to a node yet.
    let mut unbound = hub.core("/ws/node", "token=rebound&node_id=e");
    unbound.until("welcome");
    let (mut reader, mut other_reader) = (monitor(&hub, "reader-1"), monitor(&hub, "reader-2"));
    let group = || {
        let response = http(hub.web, "GET", "/sd", TARGET_HEADERS, "");
        json_body(&response)[0]["labels"]["group"].clone()
    };
    wait_until("the group", || (group() == json!("blue")).then_some(()));

    state.write("nodes", "rebound node=x\nkept group=green\nbound node=other\n");
    state.write("operators", "reader-2 read bob\n");
    let start = Instant::now();
    hub.signal("-HUP");
    assert_ended("a revoked token", || revoked.0.read().is_ok());
    assert_ended("a token of another node", || rebound.0.read().is_ok());
    assert_ended("a revoked token of a Core node", || core.0.read().is_ok());
    assert_ended("a revoked token of an operator", || reader.0.read().is_ok());
    assert!(start.elapsed() < Duration::from_secs(1) + SLACK, "{:?}", start.elapsed());
    unbound.send("heartbeat", "h", &json!({"node_id": "e"}));
    assert_eq!(unbound.until("error")["error_code"], "INVALID_TOKEN");
    assert_eq!(kept.report(1), 0);
    other_reader.send("ping", "p", &json!({}));
    other_reader.until("pong");
    wait_until("the new group", || (group() == json!("green")).then_some(()));
    hub.wait_log("node a is lost");
    assert!(Node::connect(hub.address, "revoked").is_err());
}

#[test]
fn broken_tokens_file_changes_nothing() {
    let state = TempDir::new("hub");
    state.write("nodes", "kept\n");
    state.write("operators", "reader-2 read bob\n");
    let hub = hub(&state);
    let mut node = Node::connect(hub.address, "kept").unwrap();
    assert_eq!(node.online("a"), 0);
    let failure = "configuration reload failed, keeping previous";
    for (number, broken) in (1..).zip(["", "kept x\n", "kept\nkept\n"]) {
        state.write("nodes", broken);
        hub.signal("-HUP");
        wait_until("a failed reload", || {
            let failures = hub.log().iter().filter(|line| line.contains(failure)).count();
            (failures == number).then_some(())
        });
    }
    std::fs::remove_file(Path::new(&state.0).join("nodes")).unwrap();
    hub.signal("-HUP");
    hub.wait_log("cannot read");
    assert_eq!(node.report(1), 0);
    assert!(Node::connect(hub.address, "kept").is_ok());
    let ready = http(hub.web, "GET", "/-/ready", "", "");
    assert!(ready.starts_with("HTTP/1.1 200 "), "{ready}");
    let targets = http(hub.web, "GET", "/sd", TARGET_HEADERS, "");
    assert_eq!(json_body(&targets), Value::Array(Vec::new()));
}

#[test]
fn agent_sends_its_token_over_hm() {
    let state = TempDir::new("hub");
    state.write("nodes", "s3cret-of-a node=a\n");
    state.write("operators", "reader read bob\n");
    let hub = hub(&state);
    let token_file = format!("hm.token_file={}", state.write("token", "s3cret-of-a\n"));
    let url = format!("hm.url=ws://{}/websocket", hub.address);
    let agent = |token: &str| {
        Agent::start(&[&url, token, "node_id=a", "hm.report_interval=1", "gpu.source=none"])
    };
    let admitted = agent(&token_file);
    admitted.wait_log("online as a");
    hub.wait_log("node a is online");
    admitted.stop();
    let refused = agent("hm.token=wrong-token");
    let line = refused.wait_log("HTTP status 401");
    assert!(!line.contains("wrong-token"), "{line}");
    refused.stop();
}

/// With an open admission, every client could pose as a node and get its commands.
#[test]
fn admission_cannot_be_opened_while_commands_are_enabled() {
    let state = TempDir::new("hub");
    state.write("nodes", "kept\n");
    state.write("operators", "reader read bob\n");
    let file = |admission: &str, commands: bool| {
        let (directory, exposed) = (state.0.display(), "0.0.0.0:0");
        state.write(
            "hm-hub.toml",
            &format!(
                "state_dir = \"{directory}/hub\"\n[hm]\nlisten = \"{exposed}\"\n[core]\nlisten = \"127.0.0.1:0\"\n[web]\nlisten = \"127.0.0.1:0\"\n[commands]\nenabled = {commands}\n[nodes]\n{admission}\n"
            ),
        )
    };
    let tokens = format!("admission = \"token\"\ntokens_file = \"{}/nodes\"", state.0.display());
    let path = file(&tokens, true);
    let mut command = hm_hub();
    command.args(["-c", &path]);
    let hub = Hub::spawn(command);
    file("admission = \"open\"", false);
    hub.signal("-HUP");
    hub.wait_log("configuration reload failed, keeping previous");
    assert!(Node::connect(hub.address, "").is_err());
}
