//! Subcommands that an operator runs beside the hub.

use std::process::Output;

use serde_json::Value;

use crate::support::core_fixture::is_root;
use crate::support::hub::{Hub, Node, hm_hub};
use crate::support::{Agent, TempDir, wait_until};

/// A hub that requires tokens, and what its operators run.
struct Fleet {
    hub: Hub,
    state: TempDir,
}

impl Fleet {
    fn start() -> Self {
        let state = TempDir::new("hub");
        state.write("nodes", "blue-token group=blue\nred-token group=red\n");
        state.write("operators", "all command eve\nsee read adam\n");
        let settings = Self::settings(&state);
        let hub = Hub::start(&state, &settings.iter().map(String::as_str).collect::<Vec<_>>());
        Self { hub, state }
    }

    fn settings(state: &TempDir) -> [String; 4] {
        [
            "commands.enabled=true".to_owned(),
            "nodes.admission=token".to_owned(),
            format!("nodes.tokens_file={}", state.0.join("nodes").display()),
            format!("operators.tokens_file={}", state.0.join("operators").display()),
        ]
    }

    /// An agent that runs `echo` for the hub.
    fn agent(&self, node_id: &str, token: &str) -> Agent {
        let url = format!("core.url=ws://{}/api/v1/ws", self.hub.core);
        let (node_id, token) = (format!("node_id={node_id}"), format!("core.token={token}"));
        let run_as = if is_root() { "core.run_as=root" } else { "log_level=info" };
        let commands = ["core.commands=allow", "core.allow=[\"echo\"]", "gpu.source=none"];
        Agent::start(&[&[url.as_str(), &node_id, &token, run_as][..], &commands].concat())
    }

    fn run(&self, token: &str, arguments: &[&str]) -> Output {
        let mut command = hm_hub();
        command.arg("-s").arg(format!("core.listen={}", self.hub.core));
        for setting in Self::settings(&self.state) {
            command.arg("-s").arg(setting);
        }
        command.env("HM_HUB_TOKEN", token).args(arguments).output().unwrap()
    }

    /// Standard output of a subcommand that succeeds.
    fn output(&self, arguments: &[&str]) -> String {
        let output = self.run("all", arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn nodes_are_listed_commanded_and_forgotten() {
    let fleet = Fleet::start();
    let agents = [
        fleet.agent("b1", "blue-token"),
        fleet.agent("b2", "blue-token"),
        fleet.agent("r1", "red-token"),
    ];
    let listed = wait_until("the agents", || {
        let listed = fleet.output(&["node", "list"]);
        (listed.matches(env!("CARGO_PKG_VERSION")).count() == 3).then_some(listed)
    });
    let lines: Vec<Vec<&str>> =
        listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NODE", "STATUS", "HOSTNAME", "GROUP", "AGENT", "GPUS"]);
    assert_eq!((lines[1][0], lines[1][1], lines[1][3]), ("b1", "online", "blue"));
    assert_eq!((lines[3][0], lines[3][3]), ("r1", "red"));
    let shown: Value = serde_json::from_str(&fleet.output(&["node", "show", "b1"])).unwrap();
    assert_eq!((&shown["group"], &shown["status"]), (&"blue".into(), &"online".into()));

    let echoed = fleet.output(&["command", "r1", "--", "echo", "two  words", "$HOME"]);
    assert_eq!(echoed, "r1: success (exit code 0)\n  two  words $HOME\n");
    let of_group = fleet.output(&["command", "--group", "blue", "--", "echo", "x"]);
    let expected = "b1: success (exit code 0)\n  x\nb2: success (exit code 0)\n  x\n2 of 2 nodes succeeded, 0 are not online\n";
    assert_eq!(of_group, expected);
    let refused = fleet.run("all", &["command", "--group", "red", "--", "id"]);
    let report = String::from_utf8_lossy(&refused.stdout);
    assert!(refused.status.code() == Some(1) && report.starts_with("r1: failed"), "{refused:?}");
    let unknown = fleet.run("all", &["command", "--group", "green", "--", "echo"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no node has the group"));
    assert_eq!(unknown.status.code(), Some(2));
    let unknown = fleet.run("all", &["command", "r9", "--", "echo"]);
    let report = String::from_utf8_lossy(&unknown.stdout);
    assert!(unknown.status.code() == Some(1) && report.contains("NODE_NOT_FOUND"), "{unknown:?}");
    let forbidden = fleet.run("see", &["command", "r1", "--", "echo"]);
    let report = String::from_utf8_lossy(&forbidden.stdout);
    assert!(report.contains("the role of this token does not permit it"), "{forbidden:?}");
    assert_eq!(forbidden.status.code(), Some(1));

    let connected = fleet.run("all", &["node", "forget", "r1"]);
    assert!(String::from_utf8_lossy(&connected.stderr).contains("the node is connected"));
    let anonymous = fleet.run("wrong", &["node", "list"]);
    assert!(String::from_utf8_lossy(&anonymous.stderr).contains("set HM_HUB_TOKEN"));
    let [first, second, third] = agents;
    third.stop();
    wait_until("an offline node", || {
        let command = fleet.run("all", &["command", "--group", "red", "--", "echo"]);
        let report = String::from_utf8_lossy(&command.stdout).into_owned();
        (report == "0 of 0 nodes succeeded, 1 are not online\n").then_some(())
    });
    wait_until("the end of its connection", || {
        fleet.run("all", &["node", "forget", "r1"]).status.success().then_some(())
    });
    assert!(!fleet.output(&["node", "list"]).contains("r1"));
    first.stop();
    second.stop();
}

#[test]
fn created_token_admits_a_node_until_it_is_revoked() {
    let fleet = Fleet::start();
    let token = fleet.output(&["token", "new", "node=a", "group=green"]).trim().to_owned();
    fleet.hub.signal("-HUP");
    fleet.hub.wait_log("configuration reloaded");
    let mut node = Node::connect(fleet.hub.address, &token).unwrap();
    assert_eq!(node.online("a"), 0);
    let listed = fleet.output(&["token", "list"]);
    assert!(!listed.contains(&token), "{listed}");
    let (id, fields) = listed.lines().last().unwrap().split_once(' ').unwrap();
    assert_eq!(fields, "node=a group=green");
    fleet.output(&["token", "revoke", id]);
    fleet.hub.signal("-HUP");
    wait_until("end of the connection", || node.0.read().is_err().then_some(()));
    let unknown = fleet.run("all", &["token", "revoke", id]);
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
}

#[test]
fn hub_that_does_not_run_is_an_error() {
    let output = hm_hub().args(["-s", "core.listen=127.0.0.1:1", "node", "list"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("GET /api/v1/nodes") && text.contains("127.0.0.1:1"), "{text}");
    assert_eq!(output.status.code(), Some(1));
}
