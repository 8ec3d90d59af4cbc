//! Every error code and example of the Core document, unexpected messages, and invalid settings.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::Message;

use crate::core_client::sleep_for;
use crate::support::core::Core;
use crate::support::core_wire::{TOKEN, error, fresh_id, message};
use crate::support::{Agent, TempDir, core_fixture, hm_agent, wait_until};

fn agent(core: &Core, state: &TempDir, settings: &[&str]) -> Agent {
    Agent::spawn(core_fixture::command(&core.setting(), state, settings))
}

/// Waits for two more heartbeats.
fn wait_two_heartbeats(core: &Core) {
    core.wait("heartbeat", core.seen("heartbeat").len() + 2);
}

#[test]
fn registers_again_on_same_connection_when_node_not_found() {
    let (core, state) = (Core::start(), TempDir::new("errors"));
    let agent = agent(&core, &state, &[]);
    core.wait("heartbeat", 2);
    core.error("heartbeat", "NODE_NOT_FOUND");
    let registers = core.wait("node_register", 2);
    assert_eq!(registers[0].data, registers[1].data);
    assert_ne!(registers[0].id, registers[1].id);
    wait_two_heartbeats(&core);
    assert_eq!((core.seen("node_register").len(), core.connections()), (2, 1));
    agent.wait_log("NODE_NOT_FOUND");
    agent.stop();
}

/// Core answers every heartbeat with NODE_NOT_FOUND.
#[test]
fn backs_off_when_node_is_never_found() {
    let (core, state) = (Core::start(), TempDir::new("errors"));
    core.ignore_kinds(&["command_result"]);
    for _ in 0..50 {
        core.error("heartbeat", "NODE_NOT_FOUND");
    }
    let agent = agent(&core, &state, &[]);
    core.wait("node_register", 2);
    sleep_for(Duration::from_secs(8));
    let count = core.seen("node_register").len();
    assert!(count <= 10, "{count} in 8 s");
    assert!(agent.count_log("NODE_NOT_FOUND") <= 5, "{:#?}", agent.log());
    agent.stop();
}

#[test]
fn retries_rejected_registration_with_delay() {
    let rejected = json!({"success": false, "message": "数据库错误", "node_id": "n1"});
    for code in
        ["INVALID_REGISTER_DATA", "CREATE_NODE_FAILED", "UPDATE_NODE_FAILED", "DATABASE_ERROR", ""]
    {
        let (core, state) = (Core::start(), TempDir::new("errors"));
        let start = Instant::now();
        if code.is_empty() {
            core.respond_once("node_register", &message("register_response", "$ID", &rejected));
        } else {
            core.error("node_register", code);
        }
        let agent = agent(&core, &state, &[]);
        let text = if code.is_empty() { "数据库错误" } else { code };
        let line = agent.wait_log(text);
        assert!(line.contains(" warn core: "), "{line}");
        agent.wait_log(" registered as n1");
        let registers = core.seen("node_register");
        assert_eq!(registers.len(), 2, "{code}: {registers:#?}");
        assert!(registers[1].at - registers[0].at > Duration::from_millis(200), "{code}");
        core.wait("heartbeat", 1);
        println!("{code}: {:.1?}", start.elapsed());
        agent.stop();
    }
}

#[test]
fn other_errors_do_not_end_the_session() {
    let (core, state) = (Core::start(), TempDir::new("errors"));
    let agent = agent(&core, &state, &[]);
    core.wait("heartbeat", 1);
    let codes = [
        "UNKNOWN_MESSAGE_TYPE",
        "DATABASE_ERROR",
        "COMMAND_TIMEOUT",
        "SOMETHING_NEW",
        "",
        "A\nB \u{1b}[31m",
    ];
    for code in codes {
        core.error("heartbeat", code);
        core.push(error(code).to_string());
        wait_two_heartbeats(&core);
    }
    agent.wait_log("SOMETHING_NEW");
    assert_eq!((core.seen("node_register").len(), core.connections()), (1, 1));
    let log = agent.stop();
    assert!(!log.iter().any(|line| line.contains('\u{1b}') || line.starts_with("B ")), "{log:#?}");
}

#[test]
fn reconnects_after_parse_error() {
    let (core, state) = (Core::start(), TempDir::new("errors"));
    let agent = agent(&core, &state, &[]);
    core.wait("heartbeat", 2);
    core.error("heartbeat", "PARSE_ERROR"); // and Core closes the connection
    agent.wait_log("PARSE_ERROR");
    wait_until("another connection", || (core.connections() == 2).then_some(()));
    wait_two_heartbeats(&core);
    agent.stop();
}

#[test]
fn survives_unexpected_messages() {
    let (core, state) = (Core::start(), TempDir::new("errors"));
    let agent = agent(&core, &state, &["log_level=debug"]);
    core.wait("heartbeat", 1);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let long = "x".repeat(100_000);
    let texts = [
        "".to_owned(),
        "null".to_owned(),
        "not JSON".to_owned(),
        "{}".to_owned(),
        "[1, 2]".to_owned(),
        deep,
        r#"{"type": 7, "id": {}, "timestamp": [], "data": "x"}"#.to_owned(),
        r#"{"type": "error"}"#.to_owned(),
        r#"{"type": "error", "id": "", "timestamp": "", "data": {"error_code": 5}}"#.to_owned(),
        message("something_new", "x", &json!({"a": [1, 2]})).to_string(),
        message(&long, &long, &json!({long.as_str(): long})).to_string(),
        message("heartbeat_ack", "of nothing", &json!({"received": true})).to_string(),
        message("heartbeat_ack", "x", &json!([])).to_string(),
        message("register_response", "x", &json!({"success": "yes"})).to_string(),
        message("command_received", "of nothing", &json!({})).to_string(),
        message("welcome", "x", &json!("again")).to_string(),
        message("execute_command", "x", &json!({})).to_string(),
        message("execute_command", "x", &json!({"command_id": 5, "command_text": ["ls"]}))
            .to_string(),
        message("execute_command", "x", &json!({"command_id": "c", "timeout": "never"}))
            .to_string(),
    ];
    for text in texts {
        core.push(text);
    }
    core.push(Message::binary(vec![0xff; 1000]));
    core.push(Message::Ping(vec![7; 100].into()));
    core.push(Message::Pong(vec![7; 100].into()));
    core.push(message("last_one", "x", &json!({})).to_string());
    agent.wait_log("last_one");
    wait_two_heartbeats(&core);
    assert_eq!(core.connections(), 1, "{:#?}", agent.log());
    for line in agent.stop() {
        assert!(line.len() < 2000, "{line}");
    }
}

/// The same keys, and values of the same types.
fn assert_same_shape(actual: &Value, example: &Value, at: &str) {
    match (actual, example) {
        (Value::Object(actual), Value::Object(example)) => {
            let keys =
                |map: &serde_json::Map<String, Value>| map.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(actual), keys(example), "{at}");
            for (key, value) in actual {
                assert_same_shape(value, &example[key], &format!("{at}.{key}"));
            }
        }
        _ => assert_eq!(
            std::mem::discriminant(actual),
            std::mem::discriminant(example),
            "{at}: {actual}, {example}"
        ),
    }
}

/// The examples of the document, in its order.
fn examples() -> Vec<Value> {
    let text = include_str!("../../fixtures/core/examples.jsonl");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn accepts_every_example_and_sends_messages_of_their_shape() {
    let (core, state) = (Core::start(), TempDir::new("errors"));
    let user = core_fixture::User::new();
    let agent = core_fixture::start(&core, &user, &state, &[]);
    let from_core = [
        "register_response",
        "heartbeat_ack",
        "execute_command",
        "command_received",
        "error",
        "welcome",
    ];
    for example in examples() {
        let is_from_core = from_core.iter().any(|kind| example["type"] == *kind);
        // INVALID_TOKEN ends the connection; it is sent at the end.
        if is_from_core && example["data"]["error_code"] != "INVALID_TOKEN" {
            core.push(example.to_string());
        }
    }
    let result = core.result("cmd-001");
    assert_eq!(result.data["exit_code"], 0, "{:#?}", result.data);
    assert!(result.data["stdout"].as_str().unwrap().starts_with("total "), "{:#?}", result.data);
    assert_eq!(core.wait("command_started", 1)[0].id, "323e4567-e89b-12d3-a456-426614174002");
    wait_two_heartbeats(&core);
    assert_eq!(core.connections(), 1);
    for kind in ["node_register", "heartbeat", "command_started", "command_result"] {
        let example = examples().into_iter().find(|example| example["type"] == kind).unwrap();
        for seen in core.seen(kind) {
            assert_same_shape(&seen.message, &example, kind);
        }
    }
    let wrong =
        examples().into_iter().find(|example| example["data"]["error_code"] == "INVALID_TOKEN");
    core.push(wrong.unwrap().to_string());
    agent.wait_log(
        "node rejected: INVALID_TOKEN: 认证令牌无效: Token已过期或格式错误; next attempt in ",
    );
    agent.stop();
}

/// The test server accepts the document's examples and rejects incomplete messages.
#[test]
fn test_server_behaves_as_documented() {
    let core = Core::start();
    let token: String = TOKEN.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let connect =
        |query: &str| tungstenite::connect(format!("ws://{}/api/v1/ws{query}", core.address));
    for query in ["", "?node_id=a", "?token=wrong"] {
        assert!(connect(query).unwrap_err().to_string().contains("200"), "{query}");
    }
    let (mut socket, _) = connect(&format!("?token={token}")).unwrap();
    let mut read =
        || -> Value { serde_json::from_str(socket.read().unwrap().to_text().unwrap()).unwrap() };
    assert_eq!(read()["type"], "welcome");
    let responses = ["register_response", "heartbeat_ack", "error", "command_received"];
    let kinds = ["node_register", "heartbeat", "command_started", "command_result"];
    for (kind, response) in kinds.iter().zip(responses) {
        let example = examples().into_iter().find(|example| example["type"] == *kind).unwrap();
        socket.send(Message::text(example.to_string())).unwrap();
        let received: Value =
            serde_json::from_str(socket.read().unwrap().to_text().unwrap()).unwrap();
        assert_eq!(received["type"], response);
        assert_eq!(received["id"] == example["id"], response != "error");
    }
    let short = json!({"type": "heartbeat", "id": fresh_id(), "data": {}});
    socket.send(Message::text(short.to_string())).unwrap();
    assert!(socket.read().unwrap().to_text().unwrap().contains("PARSE_ERROR"));
    wait_until("the end", || socket.read().is_err().then_some(()));
}

/// By `check` and by `run`.
#[test]
fn rejects_commands_as_root_without_run_as() {
    let is_root = core_fixture::is_root();
    let run = |subcommand: &str, settings: &[&str]| {
        let mut command = hm_agent();
        let state = TempDir::new("rejected");
        command.arg(subcommand).args(["-s", "core.url=ws://127.0.0.1:1/", "-s", "gpu.source=none"]);
        command.args(["-s", "usage.listen=127.0.0.1:0"]).env("HM_AGENT_STATE_DIR", &state.0);
        for setting in settings {
            command.args(["-s", setting]);
        }
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let mut rejected = vec![
        vec!["core.commands=any", "core.run_as=no-such-user"],
        vec!["core.commands=sometimes"],
    ];
    if is_root {
        rejected.push(vec!["core.commands=any"]);
        rejected.push(vec!["core.commands=allow", "core.allow=true"]);
    } else {
        rejected.push(vec!["core.commands=any", "core.run_as=root"]);
    }
    for settings in &rejected {
        let (code, stderr) = run("run", settings);
        assert_eq!(code, Some(2), "{settings:?}: {stderr}");
        let key = if settings.len() == 1 && !is_root || settings[0].ends_with("sometimes") {
            "core.commands"
        } else {
            "core.run_as"
        };
        let last = stderr.trim_end().lines().last().unwrap();
        assert!(last.starts_with("hm-agent: ") && last.contains(key), "{settings:?}: {stderr}");
    }
    if is_root {
        let named = ["core.commands=any", "core.run_as=root"];
        assert_eq!(run("check", &named).0, Some(0));
    }
    assert_eq!(run("check", &["core.commands=off"]).0, Some(0));
}

/// The agent disconnects, reconnects, and continues.
#[test]
#[ignore = "waits 30 s, the retry delay after a protocol error"]
fn survives_message_that_exceeds_size_limit() {
    let (core, user, state) = (Core::start(), core_fixture::User::new(), TempDir::new("errors"));
    let agent = core_fixture::start(&core, &user, &state, &[]);
    core.wait("heartbeat", 1);
    let size = agent.status("VmRSS");
    core.execute("large", &"x".repeat(30 << 20), 5);
    let heartbeats = core.seen("heartbeat").len();
    wait_until("more heartbeats", || (core.seen("heartbeat").len() > heartbeats + 2).then_some(()));
    // With room for a busy machine.
    core.execute("small", "echo a", 30);
    let result = core.result("small");
    assert_eq!(result.data["stdout"], "a\n", "{:?}", result.data);
    assert!(agent.status("VmRSS") < size + 8192, "{size} kB, {} kB", agent.status("VmRSS"));
    agent.stop();
}
