use super::*;
use crate::model::{Cpu, Memory};
use crate::procfs::loadavg::LoadAvg;
use serde_json::{Value, json};

const ENVELOPE: Envelope<'_> = Envelope { id: "i", timestamp: "2025-01-21T10:00:00Z" };

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn incoming(kind: &str, data: Value) -> Result<Incoming, String> {
    let all = json!({"type": kind, "id": "i", "timestamp": "t", "data": data});
    Incoming::parse(&all.to_string())
}

#[test]
fn what_is_sent_is_what_the_document_has() {
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
fn a_heartbeat_has_what_is_known() {
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
    let nothing = value(&heartbeat(ENVELOPE, "n", &Snapshot::default()));
    assert_eq!(nothing["data"]["metrics"], json!({}));
}

#[test]
fn what_core_says_is_understood() {
    assert_eq!(incoming("welcome", json!({"message": "…", "node_id": "n"})), Ok(Incoming::Welcome));
    assert_eq!(
        incoming("register_response", json!({"success": true, "action": "created"})),
        Ok(Incoming::Registered { id: "i".into(), refused: None })
    );
    assert_eq!(
        incoming("register_response", json!({"success": false, "message": "no"})),
        Ok(Incoming::Registered { id: "i".into(), refused: Some("no".into()) })
    );
    let order = json!({"command_id": "c", "command_text": "ls", "timeout": 30});
    assert_eq!(
        incoming("execute_command", order),
        Ok(Incoming::Execute(Order {
            message_id: "i".into(),
            command_id: "c".into(),
            text: Ok("ls".into()),
            timeout_seconds: Some(30)
        }))
    );
    assert_eq!(
        incoming("error", json!({"error_code": "X", "message": "m", "details": "d"})),
        Ok(Incoming::Error { id: "i".into(), code: "X".into(), text: "m: d".into() })
    );
    assert_eq!(incoming("news\n", json!(null)), Ok(Incoming::Unknown("news\n".into())));
    for (data, text, seconds) in [
        (json!({"command_id": "c"}), Err("it has no command_text"), None),
        (json!({"command_id": "c", "command_text": 7}), Err("it has no command_text"), None),
        (json!({"command_id": "c", "command_text": "ls", "timeout": "2.5"}), Ok("ls"), Some(3)),
        (json!({"command_id": "c", "command_text": "ls", "timeout": null}), Ok("ls"), None),
        (
            json!({"command_id": "c", "command_text": "ls", "timeout": [1]}),
            Err("its timeout is no number"),
            None,
        ),
    ] {
        let Ok(Incoming::Execute(order)) = incoming("execute_command", data) else { panic!() };
        let expected = (text.map(str::to_owned), seconds);
        assert_eq!((order.text, order.timeout_seconds), expected);
    }
    assert!(incoming("execute_command", json!({"command_text": "ls"})).is_err());
    assert!(incoming("execute_command", json!({"command_id": 1})).is_err());
    assert!(Incoming::parse("{").is_err());
    assert_eq!(Incoming::parse(r#"{"type":"welcome"}"#), Ok(Incoming::Welcome));
}

#[test]
fn a_uuid_says_its_version() {
    assert_eq!(uuid_v4([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    assert_eq!(uuid_v4([0; 16]), "00000000-0000-4000-8000-000000000000");
}
