//! Operation of hm-hub: configuration, admission, backup, state directory.

use crate::support::full_disk::FullDisk;
use crate::support::hub::{Hub, Node, backup_command, hm_hub, http, stored};
use crate::support::{TempDir, wait_until};

#[test]
fn refuses_to_listen_beyond_loopback_without_admission() {
    let state = TempDir::new("hub");
    let output = Hub::command(&state, "0.0.0.0:0", &[]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("nodes.admission: must be set"), "{error}");
}

#[test]
fn token_admission_refuses_other_nodes() {
    let state = TempDir::new("hub");
    let tokens = state.write("tokens", "join\nbound node=b\n");
    let file = format!("nodes.tokens_file={tokens}");
    let hub = Hub::start(&state, &["nodes.admission=token", &file]);
    for token in ["", "joi", "bound2"] {
        let error = Node::connect(hub.address, token).err().unwrap();
        assert!(error.contains("401"), "{error}");
    }
    let mut node = Node::connect(hub.address, "join").unwrap();
    assert_eq!(node.online("a"), 0);
    let mut bound = Node::connect(hub.address, "bound").unwrap();
    assert_eq!(bound.online("c"), 4);
    assert_eq!(bound.online("b"), 0);
    state.write("tokens", "new\n");
    hub.signal("-HUP");
    hub.wait_log("configuration reloaded");
    assert!(Node::connect(hub.address, "join").is_err());
    assert!(Node::connect(hub.address, "new").is_ok());
}

#[test]
fn original_configuration_starts_the_hub() {
    let state = TempDir::new("hub");
    let file = state.write(
        "config.json",
        r#"{"Addr": "127.0.0.1:0", "LogLevel": "debug", "LogFile": "./x.log",
            "MongoDB": {"URI": "mongodb://127.0.0.1/", "Database": "d", "ExpireTime": 60}}"#,
    );
    let mut command = hm_hub();
    command.args(["-config", &file, "-s"]).arg(format!("state_dir={}", state.0.display()));
    let hub = Hub::spawn(command);
    assert_eq!(hub.node().online("a"), 0);
    let log = hub.stop().join("\n");
    for note in ["LogFile of the configuration", "MongoDB.URI", "MongoDB.Database"] {
        assert!(log.contains(note), "{note}: {log}");
    }
}

#[test]
fn backup_of_a_running_hub_is_complete() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let mut node = hub.node();
    assert_eq!(node.online("a"), 0);
    assert_eq!(node.report(7), 0);
    let copy = TempDir::new("hub-copy");
    let output = backup_command(&state, &copy).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(stored(&copy, "a"), [7]);
    let again = backup_command(&state, &copy).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("file exists"), "{again:?}");
}

#[test]
fn second_hub_of_a_state_directory_does_not_start() {
    let state = TempDir::new("hub");
    let _hub = Hub::start(&state, &[]);
    let output = Hub::command(&state, "127.0.0.1:0", &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("another hm-hub uses it"), "{error}");
}

#[test]
#[ignore = "needs root"]
fn full_disk_refuses_reports_until_there_is_space() {
    let disk = FullDisk::new();
    let state = TempDir(disk.directory.0.join("state"));
    let hub = Hub::spawn(disk.run_inside(&Hub::command(&state, "127.0.0.1:0", &[])));
    let mut node = hub.node();
    assert_eq!(node.online("a"), 0);
    assert_eq!(node.report(0), 0);
    disk.fill();
    let refused = (1..100_000).find(|sent| node.report(*sent) == 4).expect("a refused report");
    hub.wait_log("store: cannot commit, refusing reports");
    let not_ready = http(hub.web, "GET", "/-/ready", "", "");
    assert!(not_ready.starts_with("HTTP/1.1 503 "), "{not_ready}");
    disk.empty();
    wait_until("space", || (node.report(refused) == 0).then_some(()));
    hub.wait_log("store: recovered");
    // SQLite resolves the link in the path through which other files on the disk are read.
    let copy = TempDir::new("hub-copy");
    let backup = disk.run_inside(&backup_command(&state, &copy)).output().unwrap();
    assert!(backup.status.success(), "{backup:?}");
    assert_eq!(stored(&copy, "a"), (0..=refused).collect::<Vec<_>>());
}

/// Behind a proxy of this machine every client has a loopback address.
#[test]
fn refuses_requests_of_proxies_until_tokens_are_set() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (address, target, setting) in [
        (hub.address, "/websocket", "nodes.admission"),
        (hub.core, "/ws/node?token=default-token", "nodes.admission"),
        (hub.core, "/ws/client?type=monitor&token=default-token", "operators.tokens_file"),
        (hub.core, "/api/v1/nodes", "operators.tokens_file"),
        (hub.web, "/metrics", "operators.tokens_file"),
    ] {
        let headers = format!("X-Forwarded-For: 192.0.2.1\r\n{upgrade}");
        let response = http(address, "GET", target, &headers, "");
        assert!(response.starts_with("HTTP/1.1 403 "), "{target}: {response}");
        assert!(response.contains(&format!("set {setting} of the hub")), "{target}: {response}");
    }
}

#[test]
fn commands_beyond_loopback_need_admission_by_token() {
    let state = TempDir::new("hub");
    let tokens = state.write("operators", "all command eve\n");
    let file = format!("operators.tokens_file={tokens}");
    let settings = ["nodes.admission=open", &file, "commands.enabled=true"];
    let mut command = Hub::command(&state, "0.0.0.0:0", &settings);
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("commands.enabled"), "{error}");
}

#[test]
fn operator_tokens_limit_what_clients_may_do() {
    let state = TempDir::new("hub");
    let tokens = state.write("operators", "see read ann\nall command eve\n");
    let file = format!("operators.tokens_file={tokens}");
    let hub = Hub::start(&state, &[&file, "commands.enabled=true"]);
    let status = |method: &str, target: &str, token: &str| {
        let token = match token {
            "" => String::new(),
            token => format!("Authorization: Bearer {token}\r\n"),
        };
        let response = http(hub.core, method, target, &token, "");
        response.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    for (method, token, expected) in [
        ("GET", "", "401"),
        ("GET", "wrong", "401"),
        ("GET", "see", "200"),
        ("GET", "all", "200"),
        ("DELETE", "see", "403"),
        ("DELETE", "all", "200"),
    ] {
        assert_eq!(status(method, "/api/v1/nodes/a", token), expected, "{method} {token}");
    }
    assert_eq!(status("POST", "/api/v1/nodes/a/commands", "see"), "403");
    let metrics = http(hub.web, "GET", "/metrics", "", "");
    assert!(metrics.starts_with("HTTP/1.1 401 "), "{metrics}");
    assert!(http(hub.web, "GET", "/-/ready", "", "").starts_with("HTTP/1.1 200 "));
    hub.wait_log("operator eve: forget for node a refused: unknown node");
}

#[test]
fn status_and_metrics_show_the_fleet() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let mut node = hub.node();
    assert_eq!((node.online("a"), node.report(1)), (0, 0));
    let status = || {
        let web = format!("web.listen={}", hub.web);
        let output = hm_hub().args(["-s", &web, "status"]).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.code())
    };
    let online = "OK - 1 online, 0 lost, 0 offline | online=1 lost=0 offline=0\n";
    assert_eq!(status(), (online.to_owned(), Some(0)));
    let metrics = http(hub.web, "GET", "/metrics", "", "");
    for line in ["hm_hub_nodes{state=\"online\"} 1", "hm_hub_writes_total{result=\"stored\"} 1"] {
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
    }
    drop(node);
    hub.wait_log("node a is lost");
    assert_eq!(status().1, Some(1));
    let web = hub.web;
    hub.stop();
    let output = hm_hub().args(["-s", &format!("web.listen={web}"), "status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn import_needs_a_stopped_hub_and_adds_reports() {
    let state = TempDir::new("hub");
    let line = r#"{"timestamp":{"$date":"2024-06-10T06:13:20Z"},"device":{"device_id":"a","project":"P","models":null,"gpu_name":"g"},"utilization_gpu":1,"memory_total":2,"memory_used":3}"#;
    let file = state.write("export.json", line);
    let import = || {
        let mut command = hm_hub();
        command.arg("-s").arg(format!("state_dir={}", state.0.display()));
        command.args(["import", "hm", &file]).output().unwrap()
    };
    let hub = Hub::start(&state, &[]);
    let refused = import();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    hub.stop();
    let imported = import();
    assert_eq!(String::from_utf8_lossy(&imported.stdout), "1 records imported\n", "{imported:?}");
    assert_eq!(stored(&state, "a"), [1_718_000_000_000]);
}
