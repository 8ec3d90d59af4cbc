//! The exchange of a join token for a credential, and clients that do not have the credential of their node.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use crate::fleet_api::entry;
use crate::support::core_fixture::is_root;
use crate::support::hub::{Hub, Node, http, json_body};
use crate::support::{Agent, TempDir, wait_until};

const CREDENTIALS: &str = "hub-credentials.json";

/// A hub that clients of other machines could reach, so they must prove which node they are.
fn hub(state: &TempDir) -> Hub {
    let settings = [
        "nodes.admission=token".to_owned(),
        format!("nodes.tokens_file={}", state.0.join("nodes").display()),
        format!("operators.tokens_file={}", state.0.join("operators").display()),
        "hm.listen=0.0.0.0:0".to_owned(),
        "commands.enabled=true".to_owned(),
    ];
    let mut hub = Hub::start(state, &settings.iter().map(String::as_str).collect::<Vec<_>>());
    hub.address.set_ip([127, 0, 0, 1].into());
    hub
}

fn tokens(state: &TempDir) {
    state.write("nodes", "join group=blue\n");
    state.write("operators", "all command eve\n");
}

fn agent(hub: &Hub, state: &TempDir, settings: &[&str]) -> Agent {
    let own = [
        format!("hm.url=ws://{}/websocket", hub.address),
        format!("state_dir={}", state.0.display()),
        "node_id=a".to_owned(),
        "gpu.source=none".to_owned(),
        "hm.report_interval=1".to_owned(),
    ];
    Agent::start(&[&own.each_ref().map(String::as_str)[..], settings].concat())
}

fn credential(state: &TempDir) -> Option<String> {
    let text = fs::read_to_string(state.0.join(CREDENTIALS)).ok()?;
    let saved: Value = serde_json::from_str(&text).unwrap();
    Some(saved[0]["credential"].as_str().unwrap().to_owned())
}

fn api(hub: &Hub, method: &str, target: &str, body: &str) -> Value {
    let headers = format!("Authorization: Bearer all\r\nContent-Length: {}\r\n", body.len());
    json_body(&http(hub.web, method, target, &headers, body))
}

fn node(hub: &Hub) -> Value {
    entry(&api(hub, "GET", "/api/fleet", ""), "a").unwrap_or_default()
}

#[test]
fn credential_outlives_join_token_and_hub_restart() {
    let (state, agent_state) = (TempDir::new("hub"), TempDir::new("agent"));
    tokens(&state);
    let hub_run = hub(&state);
    let first = agent(&hub_run, &agent_state, &["hm.token=join"]);
    hub_run.wait_log("node a has a credential now");
    let kept = credential(&agent_state).unwrap();
    assert_eq!(fs::metadata(agent_state.0.join(CREDENTIALS)).unwrap().mode() & 0o777, 0o600);
    let logs = [first.log(), hub_run.log()].concat();
    assert!(logs.iter().all(|line| !line.contains(&kept)), "{logs:#?}");
    // The database contains digests only.
    for file in fs::read_dir(&state.0).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap_or_default();
        assert!(!bytes.windows(kept.len()).any(|part| part == kept.as_bytes()));
    }

    // The connection was opened with the join token, and has presented the credential since.
    state.write("nodes", "another\n");
    hub_run.signal("-HUP");
    hub_run.wait_log("configuration reloaded");
    assert!(Node::connect(hub_run.address, "join").is_err());
    let reported = node(&hub_run)["last_report"].clone();
    wait_until("a later report", || (node(&hub_run)["last_report"] != reported).then_some(()));
    assert_eq!(node(&hub_run)["state"], "online");
    assert_eq!(node(&hub_run)["group"], "blue");
    first.stop();
    let second = agent(&hub_run, &agent_state, &["hm.token=join"]);
    second.wait_log("online as a");
    second.stop();
    hub_run.stop();
    let hub_run = hub(&state);
    let third = agent(&hub_run, &agent_state, &[]);
    third.wait_log("online as a");
    assert_eq!(node(&hub_run).get("unauthenticated"), None);
    assert_eq!(credential(&agent_state).unwrap(), kept);
    third.stop();
}

#[test]
fn another_machine_with_the_join_token_is_refused_and_shown() {
    let (state, agent_state) = (TempDir::new("hub"), TempDir::new("agent"));
    tokens(&state);
    let hub = hub(&state);
    let owner = agent(&hub, &agent_state, &["hm.token=join"]);
    hub.wait_log("node a has a credential now");
    let kept = credential(&agent_state).unwrap();
    owner.stop();
    let mut copy = Node::connect(hub.address, "join").unwrap();
    assert_eq!(copy.online("a"), 4);
    assert_eq!(copy.online("b"), 0, "the token is still good for other nodes");
    let mut core = hub.core("/ws/node", "token=join&node_id=a");
    let register = json!({"node_id": "a", "hostname": "h", "ip_address": "i"});
    core.send("node_register", "1", &register);
    let refusal = core.until("error");
    assert_eq!(refusal["error_code"], "INVALID_TOKEN", "{refusal}");
    let problems = node(&hub)["problems"].to_string();
    assert!(problems.contains("client at 127.0.0.1"), "{problems}");
    // A stolen credential is good for its node only.
    let mut thief = Node::connect(hub.address, &kept).unwrap();
    assert_eq!(thief.online("c"), 4);
    assert_eq!(thief.online("a"), 0);
}

#[test]
fn forgotten_node_joins_again_with_its_token() {
    let (state, agent_state) = (TempDir::new("hub"), TempDir::new("agent"));
    tokens(&state);
    let hub = hub(&state);
    let first = agent(&hub, &agent_state, &["hm.token=join"]);
    hub.wait_log("node a has a credential now");
    let former = credential(&agent_state).unwrap();
    first.stop();
    wait_until("the end of the connection", || (node(&hub)["state"] != "online").then_some(()));
    assert_eq!(api(&hub, "DELETE", "/api/v1/nodes/a", "")["success"], true);
    assert!(Node::connect(hub.address, &former).is_err());
    let second = agent(&hub, &agent_state, &["hm.token=join"]);
    second.wait_log("does not accept the credential of this node");
    second.wait_log("online as a");
    wait_until("another credential", || {
        credential(&agent_state).filter(|credential| *credential != former)
    });
    second.stop();
}

#[test]
fn agent_without_a_writable_state_dir_uses_its_token() {
    let (state, agent_state) = (TempDir::new("hub"), TempDir::new("agent"));
    tokens(&state);
    let hub = hub(&state);
    let unusable = agent_state.write("file", "");
    let settings = ["hm.token=join", &format!("state_dir={unusable}/x")];
    for _ in 0..2 {
        let agent = agent(&hub, &agent_state, &settings);
        agent.wait_log("online as a");
        agent.wait_log("keeping the token");
        agent.stop();
        wait_until("the end of the connection", || (node(&hub)["state"] != "online").then_some(()));
    }
}

#[test]
fn both_connections_share_a_credential_and_get_commands() {
    let (state, agent_state) = (TempDir::new("hub"), TempDir::new("agent"));
    tokens(&state);
    let hub = hub(&state);
    let core = format!("core.url=ws://{}/api/v1/ws", hub.core);
    let run_as = if is_root() { "core.run_as=root" } else { "log_level=info" };
    let settings = [
        "hm.token=join",
        "core.token=join",
        &core,
        run_as,
        "core.commands=allow",
        "core.allow=[\"echo\"]",
        "core.heartbeat_interval=1",
    ];
    let agent = agent(&hub, &agent_state, &settings);
    hub.wait_log("node a has a credential now");
    wait_until("both connections", || {
        (node(&hub)["protocols"] == json!(["hm", "core"])).then_some(())
    });
    // The published client has the same token.
    let mut published = hub.core("/ws/node", "token=join&node_id=published");
    published.register("published");
    wait_until("the mark of the published client", || {
        let fleet = api(&hub, "GET", "/api/fleet", "");
        (entry(&fleet, "published")?["unauthenticated"] == true).then_some(())
    });
    assert_eq!(node(&hub).get("unauthenticated"), None);
    let command = |node_id: &str| {
        let target = format!("/api/v1/nodes/{node_id}/commands");
        api(&hub, "POST", &target, r#"{"command_text":"echo hello"}"#)
    };
    let refused = command("published");
    assert_eq!(refused["error_code"], "UNAUTHORIZED", "{refused}");
    let accepted = wait_until("a connection that gets commands", || {
        Some(command("a")).filter(|answer| answer["success"] == true)
    });
    let target = format!("/api/v1/commands/{}", accepted["data"]["command_id"].as_str().unwrap());
    wait_until("the result", || {
        let result = api(&hub, "GET", &target, "")["data"]["result"]["stdout"].clone();
        (result == "hello\n").then_some(())
    });
    agent.stop();
}

fn online_agent(hub: &Hub, state: &TempDir) -> Agent {
    let agent = agent(hub, state, &["hm.token=join"]);
    hub.wait_log("node a has a credential now");
    agent
}

#[test]
fn refused_core_client_cannot_act_as_the_node() {
    let (state, agent_state) = (TempDir::new("hub"), TempDir::new("agent"));
    tokens(&state);
    let hub = hub(&state);
    online_agent(&hub, &agent_state).stop();
    wait_until("the end of the connection", || (node(&hub)["state"] != "online").then_some(()));
    let before = node(&hub);
    let mut forger = hub.core("/ws/node", "token=join&node_id=a");
    // In one go: the hub must not act on what follows the refused message.
    let _ = forger.try_send("heartbeat", "1", &json!({"node_id": "a"}));
    for message in [
        "{\"extension\":\"node\",\"agent_version\":\"9\",\"hostname\":\"forged\"}\n".to_owned(),
        "{\"extension\":\"snapshot\",\"status\":{\"gpus\":[],\"problems\":[]}}\n".to_owned(),
    ] {
        let _ = forger.0.send(tungstenite::Message::binary(message));
    }
    let _ = forger.try_send("heartbeat", "2", &json!({"node_id": "a"}));
    while forger.0.read().is_ok() {}
    let after = node(&hub);
    for key in ["state", "hostname", "agent_version", "gpus", "last_report"] {
        assert_eq!(before[key], after[key], "{key}: {after}");
    }
}

#[test]
fn connection_from_before_the_credential_cannot_be_the_node() {
    let (state, agent_state) = (TempDir::new("hub"), TempDir::new("agent"));
    tokens(&state);
    let hub = hub(&state);
    let mut early = Node::connect(hub.address, "join").unwrap();
    // Of the same id over Core: it is offered a credential of its own, and does not present it.
    let mut squatter = hub.core("/ws/node", "token=join&node_id=a");
    let registered = squatter.register("a");
    let offered = registered["hub"]["credential"].as_str().unwrap().to_owned();
    let owner = online_agent(&hub, &agent_state);
    assert_ne!(credential(&agent_state).unwrap(), offered);
    // It ends, because the node has proved that it is another client.
    wait_until("the end of the squatter", || squatter.0.read().is_err().then_some(()));
    assert!(Node::connect(hub.address, &offered).is_err());
    owner.stop();
    assert_eq!(early.online("a"), 4);
}

#[test]
fn token_of_one_node_is_not_replaced_by_shared_one() {
    let state = TempDir::new("hub");
    tokens(&state);
    state.write("nodes", "join\nown node=a\n");
    let hub = hub(&state);
    let mut thief = Node::connect(hub.address, "join").unwrap();
    assert_eq!(thief.online("a"), 4);
    let mut owner = hub.core("/ws/node", "token=own&node_id=a");
    let registered = owner.register("a");
    assert_eq!(registered["hub"].get("credential"), None, "it needs none: {registered}");
    assert_eq!(node(&hub).get("unauthenticated"), None);
}

#[test]
fn connected_node_is_forgotten_by_force() {
    let (state, agent_state) = (TempDir::new("hub"), TempDir::new("agent"));
    tokens(&state);
    let hub = hub(&state);
    let stolen = online_agent(&hub, &agent_state);
    let kept = credential(&agent_state).unwrap();
    assert_eq!(api(&hub, "DELETE", "/api/v1/nodes/a", "")["error_code"], "VALIDATION_ERROR");
    state.write("nodes", "another\n");
    hub.signal("-HUP");
    hub.wait_log("configuration reloaded");
    assert_eq!(api(&hub, "DELETE", "/api/v1/nodes/a?force=true", "")["success"], true);
    stolen.wait_log("HTTP status 401");
    assert!(Node::connect(hub.address, &kept).is_err());
    assert_eq!(node(&hub), Value::Null);
    stolen.stop();
}
