//! What Core and those who set up the agent can get wrong: every error code and example of the document, messages that
//! nobody expects, settings that cannot be.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::Message;

use crate::pass;
use crate::support::core::Core;
use crate::support::core_wire::{TOKEN, error, fresh_id, message};
use crate::support::{Agent, Scratch, hm_agent, node, wait_until};

fn agent(core: &Core, state: &Scratch, settings: &[&str]) -> Agent {
    Agent::spawn(node::command(&core.setting(), state, settings))
}

/// Two more than there were.
fn more_beats(core: &Core) {
    core.wait("heartbeat", core.seen("heartbeat").len() + 2);
}

#[test]
fn a_node_that_is_not_found_registers_again_on_the_same_connection() {
    let (core, state) = (Core::start(), Scratch::new("errors"));
    let agent = agent(&core, &state, &[]);
    core.wait("heartbeat", 2);
    core.error("heartbeat", "NODE_NOT_FOUND");
    let registers = core.wait("node_register", 2);
    assert_eq!(registers[0].data, registers[1].data);
    assert_ne!(registers[0].id, registers[1].id);
    more_beats(&core);
    assert_eq!((core.seen("node_register").len(), core.connections()), (2, 1));
    agent.wait_log("NODE_NOT_FOUND");
    agent.stop();
}

/// A Core that has forgotten a node and does not want it back either.
#[test]
fn a_node_that_is_never_found_does_not_flood() {
    let (core, state) = (Core::start(), Scratch::new("errors"));
    core.withhold(&["command_result"]);
    for _ in 0..50 {
        core.error("heartbeat", "NODE_NOT_FOUND");
    }
    let agent = agent(&core, &state, &[]);
    core.wait("node_register", 2);
    pass(Duration::from_secs(8));
    let count = core.seen("node_register").len();
    assert!(count <= 10, "{count} in 8 s");
    assert!(agent.count_log("NODE_NOT_FOUND") <= 5, "{:#?}", agent.log());
    agent.stop();
}

#[test]
fn a_registration_that_is_refused_is_tried_again_later() {
    let refused = json!({"success": false, "message": "数据库错误", "node_id": "n1"});
    for code in
        ["INVALID_REGISTER_DATA", "CREATE_NODE_FAILED", "UPDATE_NODE_FAILED", "DATABASE_ERROR", ""]
    {
        let (core, state) = (Core::start(), Scratch::new("errors"));
        let start = Instant::now();
        if code.is_empty() {
            core.instead("node_register", &message("register_response", "$ID", &refused));
        } else {
            core.error("node_register", code);
        }
        let agent = agent(&core, &state, &[]);
        let said = if code.is_empty() { "数据库错误" } else { code };
        let line = agent.wait_log(said);
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
fn errors_that_ask_for_nothing_change_nothing() {
    let (core, state) = (Core::start(), Scratch::new("errors"));
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
        more_beats(&core);
    }
    agent.wait_log("SOMETHING_NEW");
    assert_eq!((core.seen("node_register").len(), core.connections()), (1, 1));
    let log = agent.stop();
    assert!(!log.iter().any(|line| line.contains('\u{1b}') || line.starts_with("B ")), "{log:#?}");
}

#[test]
fn after_a_parse_error_it_comes_back() {
    let (core, state) = (Core::start(), Scratch::new("errors"));
    let agent = agent(&core, &state, &[]);
    core.wait("heartbeat", 2);
    core.error("heartbeat", "PARSE_ERROR"); // and Core hangs up
    agent.wait_log("PARSE_ERROR");
    wait_until("another connection", || (core.connections() == 2).then_some(()));
    more_beats(&core);
    agent.stop();
}

#[test]
fn messages_that_nobody_expects_are_survived() {
    let (core, state) = (Core::start(), Scratch::new("errors"));
    let agent = agent(&core, &state, &["log_level=debug"]);
    core.wait("heartbeat", 1);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let long = "x".repeat(100_000);
    let texts = [
        "".to_owned(),
        "null".to_owned(),
        "no JSON".to_owned(),
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
    more_beats(&core);
    assert_eq!(core.connections(), 1, "{:#?}", agent.log());
    for line in agent.stop() {
        assert!(line.len() < 2000, "{line}");
    }
}

/// The same keys, and values of the same types.
fn assert_same_shape(ours: &Value, example: &Value, at: &str) {
    match (ours, example) {
        (Value::Object(ours), Value::Object(example)) => {
            let keys =
                |map: &serde_json::Map<String, Value>| map.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(ours), keys(example), "{at}");
            for (key, value) in ours {
                assert_same_shape(value, &example[key], &format!("{at}.{key}"));
            }
        }
        _ => assert_eq!(
            std::mem::discriminant(ours),
            std::mem::discriminant(example),
            "{at}: {ours}, {example}"
        ),
    }
}

/// What the document has, in its order.
fn examples() -> Vec<Value> {
    let text = include_str!("../fixtures/core/examples.jsonl");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_example_of_the_document_is_understood_and_every_message_is_like_one() {
    let (core, state) = (Core::start(), Scratch::new("errors"));
    let user = node::User::new();
    let agent = node::start(&core, &user, &state, &[]);
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
        // One of them ends the connection, and another one would be too late for this test.
        if is_from_core && example["data"]["error_code"] != "INVALID_TOKEN" {
            core.push(example.to_string());
        }
    }
    let result = core.result("cmd-001");
    assert_eq!(result.data["exit_code"], 0, "{:#?}", result.data);
    assert!(result.data["stdout"].as_str().unwrap().starts_with("total "), "{:#?}", result.data);
    assert_eq!(core.wait("command_started", 1)[0].id, "323e4567-e89b-12d3-a456-426614174002");
    more_beats(&core);
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
        "refuses this node: INVALID_TOKEN: 认证令牌无效: Token已过期或格式错误; next try in ",
    );
    agent.stop();
}

/// The Core of these tests takes what the document's node says, and nothing less.
#[test]
fn this_core_is_the_documents() {
    let core = Core::start();
    let token: String = TOKEN.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let connect =
        |query: &str| tungstenite::connect(format!("ws://{}/api/v1/ws{query}", core.address));
    for query in ["", "?node_id=a", "?token=wrong"] {
        assert!(connect(query).unwrap_err().to_string().contains("200"), "{query}");
    }
    let (mut socket, _) = connect(&format!("?token={token}")).unwrap();
    let mut hear =
        || -> Value { serde_json::from_str(socket.read().unwrap().to_text().unwrap()).unwrap() };
    assert_eq!(hear()["type"], "welcome");
    let answers = ["register_response", "heartbeat_ack", "error", "command_received"];
    let kinds = ["node_register", "heartbeat", "command_started", "command_result"];
    for (kind, answer) in kinds.iter().zip(answers) {
        let example = examples().into_iter().find(|example| example["type"] == *kind).unwrap();
        socket.send(Message::text(example.to_string())).unwrap();
        let heard: Value = serde_json::from_str(socket.read().unwrap().to_text().unwrap()).unwrap();
        assert_eq!(heard["type"], answer);
        assert_eq!(heard["id"] == example["id"], answer != "error");
    }
    let short = json!({"type": "heartbeat", "id": fresh_id(), "data": {}});
    socket.send(Message::text(short.to_string())).unwrap();
    assert!(socket.read().unwrap().to_text().unwrap().contains("PARSE_ERROR"));
    wait_until("the end", || socket.read().is_err().then_some(()));
}

/// `check` and `run` refuse them alike.
#[test]
fn commands_as_root_need_to_be_named() {
    let is_root = node::User::new().is_own();
    let run = |verb: &str, settings: &[&str]| {
        let mut command = hm_agent();
        let state = Scratch::new("refused");
        command.arg(verb).args(["-s", "core.url=ws://127.0.0.1:1/", "-s", "gpu.source=none"]);
        command.args(["-s", "usage.listen=127.0.0.1:0"]).env("HM_AGENT_STATE_DIR", &state.0);
        for setting in settings {
            command.args(["-s", setting]);
        }
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let mut refused = vec![
        vec!["core.commands=any", "core.run_as=nobody-has-this-name"],
        vec!["core.commands=sometimes"],
    ];
    if is_root {
        refused.push(vec!["core.commands=any"]);
        refused.push(vec!["core.commands=allow", "core.allow=true"]);
    } else {
        refused.push(vec!["core.commands=any", "core.run_as=root"]);
    }
    for settings in &refused {
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

/// What nobody may send makes nobody suffer: Core is told nothing of it, and the agent goes on.
#[test]
#[ignore = "waits for half a minute, as after all that is no protocol"]
fn a_message_that_is_too_large_is_survived() {
    let (core, user, state) = (Core::start(), node::User::new(), Scratch::new("errors"));
    let agent = node::start(&core, &user, &state, &[]);
    core.wait("heartbeat", 1);
    let size = agent.status("VmRSS");
    core.execute("large", &"x".repeat(30 << 20), 5);
    let beats = core.seen("heartbeat").len();
    wait_until("more beats", || (core.seen("heartbeat").len() > beats + 2).then_some(()));
    core.execute("small", "echo a", 5);
    assert_eq!(core.result("small").data["stdout"], "a\n");
    assert!(agent.status("VmRSS") < size + 8192, "{size} kB, {} kB", agent.status("VmRSS"));
    agent.stop();
}
