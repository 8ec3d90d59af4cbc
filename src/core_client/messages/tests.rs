use super::*;
use crate::model::{Cpu, Memory};
use crate::procfs::loadavg::LoadAvg;
use serde_json::{Value, json};

const ENVELOPE: Envelope<'_> = Envelope { id: "i", timestamp: "2025-01-21T10:00:00Z" };

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn parse(kind: &str, data: Value) -> Result<CoreMessage, String> {
    let all = json!({"type": kind, "id": "i", "timestamp": "t", "data": data});
    CoreMessage::parse(&all.to_string())
}

#[test]
fn sent_messages_match_the_specification() {
    let node = Node {
        node_id: "node-001".into(),
        hostname: "server-01".into(),
        ip_address: "192.168.1.100".into(),
        os_info: Some("Ubuntu 22.04 LTS".into()),
    };
    assert_eq!(
        value(&register(ENVELOPE, &node)),
        json!({"type": "node_register", "id": "i", "timestamp": "2025-01-21T10:00:00Z", "data": {
            "node_id": "node-001", "hostname": "server-01", "ip_address": "192.168.1.100",
            "os_info": "Ubuntu 22.04 LTS"}})
    );
    let result = CommandResult {
        command_id: "cmd-001".into(),
        exit_code: 0,
        stdout: "a\nb".into(),
        stderr: String::new(),
        execution_time_ms: 125,
    };
    assert_eq!(
        value(&command_result(ENVELOPE, &result))["data"],
        json!({"command_id": "cmd-001", "exit_code": 0, "stdout": "a\nb", "stderr": "",
            "execution_time_ms": 125})
    );
    let started = value(&command_started(ENVELOPE, "cmd-001"));
    assert_eq!(started["data"], json!({"command_id": "cmd-001"}));
}

#[test]
fn heartbeat_omits_unknown_metrics() {
    let snapshot = Snapshot {
        cpu: Some(Cpu { percent: 45.16, each_percent: Vec::new() }),
        memory: Some(Memory {
            total_bytes: 1000,
            used_bytes: Some(685),
            swap_total_bytes: None,
            swap_used_bytes: None,
        }),
        load: Some(LoadAvg {
            one: 1.23,
            five: 0.0,
            fifteen: 0.0,
            running: 1,
            threads: 1,
            last_pid: 1,
        }),
        file_systems: vec![FileSystem {
            mount_point: "/".into(),
            device: "/dev/vda".into(),
            fs_type: "ext4".into(),
            device_number: None,
            read_only: false,
            total_bytes: 1000,
            free_bytes: 659,
            available_bytes: 659,
            files: 10,
            files_free: 9,
        }],
        ..Default::default()
    };
    assert_eq!(
        value(&heartbeat(ENVELOPE, "node-001", &snapshot))["data"],
        json!({"node_id": "node-001", "status": "online", "metrics": {
            "cpu_usage": 45.2, "memory_usage": 68.5, "disk_usage": 34.1, "load_average": 1.23}})
    );
    let unknown = value(&heartbeat(ENVELOPE, "n", &Snapshot::default()));
    assert_eq!(unknown["data"]["metrics"], json!({}));
}

#[test]
fn parses_messages_from_core() {
    assert_eq!(parse("welcome", json!({"message": "…", "node_id": "n"})), Ok(CoreMessage::Welcome));
    assert_eq!(
        parse("register_response", json!({"success": true, "action": "created"})),
        Ok(CoreMessage::Registered { id: "i".into(), rejected: None, hub: None })
    );
    let other = parse("register_response", json!({"success": true, "hub": [{"version": 1}]}));
    assert_eq!(other, Ok(CoreMessage::Registered { id: "i".into(), rejected: None, hub: None }));
    let hub = json!({"version": "1", "extensions": ["get"]});
    let info = HubInfo { version: "1".into(), extensions: vec!["get".into()], credential: None };
    assert_eq!(
        parse("register_response", json!({"success": true, "hub": hub})),
        Ok(CoreMessage::Registered { id: "i".into(), rejected: None, hub: Some(info) })
    );
    assert_eq!(
        parse("register_response", json!({"success": false, "message": "no"})),
        Ok(CoreMessage::Registered { id: "i".into(), rejected: Some("no".into()), hub: None })
    );
    let request = json!({"command_id": "c", "command_text": "ls", "timeout": 30});
    assert_eq!(
        parse("execute_command", request),
        Ok(CoreMessage::Execute(CommandRequest {
            message_id: "i".into(),
            command_id: "c".into(),
            text: Ok("ls".into()),
            timeout_seconds: Some(30)
        }))
    );
    assert_eq!(
        parse("error", json!({"error_code": "X", "message": "m", "details": "d"})),
        Ok(CoreMessage::Error { id: "i".into(), code: "X".into(), text: "m: d".into() })
    );
    assert_eq!(parse("unknown\n", json!(null)), Ok(CoreMessage::Unknown("unknown\n".into())));
    for (data, text, seconds) in [
        (json!({"command_id": "c"}), Err("command_text is missing"), None),
        (json!({"command_id": "c", "command_text": 7}), Err("command_text is missing"), None),
        (json!({"command_id": "c", "command_text": "ls", "timeout": "2.5"}), Ok("ls"), Some(3)),
        (json!({"command_id": "c", "command_text": "ls", "timeout": null}), Ok("ls"), None),
        (
            json!({"command_id": "c", "command_text": "ls", "timeout": [1]}),
            Err("timeout is not a number"),
            None,
        ),
    ] {
        let Ok(CoreMessage::Execute(request)) = parse("execute_command", data) else { panic!() };
        let expected = (text.map(str::to_owned), seconds);
        assert_eq!((request.text, request.timeout_seconds), expected);
    }
    assert!(parse("execute_command", json!({"command_text": "ls"})).is_err());
    assert!(parse("execute_command", json!({"command_id": 1})).is_err());
    assert!(CoreMessage::parse("{").is_err());
    assert_eq!(CoreMessage::parse(r#"{"type":"welcome"}"#), Ok(CoreMessage::Welcome));
}

#[test]
fn rejects_ids_and_commands_over_their_limits() {
    let parse = |message_id: usize, command_id: usize, text: usize| {
        let (id, command_id, text) =
            ("i".repeat(message_id), "c".repeat(command_id), "t".repeat(text));
        let data = json!({"command_id": command_id, "command_text": text});
        let all = json!({"type": "execute_command", "id": id, "timestamp": "t", "data": data});
        match CoreMessage::parse(&all.to_string()) {
            Ok(CoreMessage::Execute(request)) => request.text.map(|_| ()).map_err(str::to_owned),
            Ok(other) => panic!("{other:?}"),
            Err(why) => Err(why),
        }
    };
    assert_eq!(parse(MAX_ID_BYTES, MAX_ID_BYTES, MAX_COMMAND_BYTES), Ok(()));
    for (message_id, command_id, text, why) in [
        (MAX_ID_BYTES + 1, 1, 1, "execute_command with an id longer than 1 KiB"),
        (1, MAX_ID_BYTES + 1, 1, "execute_command with an id longer than 1 KiB"),
        (1, 1, MAX_COMMAND_BYTES + 1, "command_text is longer than 1 MiB"),
    ] {
        assert_eq!(parse(message_id, command_id, text), Err(why.to_owned()));
    }
}

#[test]
fn fields_of_the_wrong_type_are_skipped_or_rejected() {
    for (field, why) in [
        (json!(7), "command_text is missing"),
        (json!(true), "command_text is missing"),
        (json!(-1.5), "command_text is missing"),
        (json!([[0, {"a": [1]}], "x"]), "command_text is missing"),
        (json!({"a": {"b": []}}), "command_text is missing"),
    ] {
        let data = json!({"command_id": "c", "command_text": field, "timeout": 1});
        let Ok(CoreMessage::Execute(request)) = parse("execute_command", data) else { panic!() };
        assert_eq!(request.text, Err(why));
    }
}
