//! The program of `fleet.on_change`.

use std::fs;

use serde_json::Value;

use crate::support::hub::Hub;
use crate::support::{TempDir, wait_until};

#[test]
fn program_runs_once_for_new_nodes_despite_a_restart() {
    let state = TempDir::new("hub");
    let output = state.0.join("runs");
    let script = format!(
        "cat >>{0}; echo \"end $FLEET_ONLINE $FLEET_OFFLINE ${{HM_HUB_TOKEN-unset}}\" >>{0}",
        output.display()
    );
    let hook = format!("fleet.on_change=[\"sh\", \"-c\", {}]", Value::from(script));
    let runs = || fs::read_to_string(&output).unwrap_or_default();
    let mut command = Hub::command(&state, "127.0.0.1:0", &[&hook]);
    command.env("HM_HUB_TOKEN", "s3cret");
    let hub = Hub::spawn(command);
    let mut nodes: Vec<_> = (0..3).map(|_| hub.node()).collect();
    for (number, node) in nodes.iter_mut().enumerate() {
        assert_eq!(node.online(&format!("n{number}")), 0);
    }
    wait_until("all nodes", || (runs().matches("\"node_id\"").count() == 3).then_some(()));
    wait_until("the end of the program", || runs().ends_with(" unset\n").then_some(()));
    let text = runs();
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["node_id"], &first["from"], &first["to"]),
        (&"n0".into(), &Value::Null, &"online".into())
    );
    // The three connected at about the same time: one run, or two if it was between them.
    assert!((1..=2).contains(&text.matches("end ").count()), "{text}");
    assert!(!state.0.join("changes.json").exists());

    drop(nodes);
    hub.stop();
    let hub = Hub::start(&state, &[&hook]);
    let (mut known, mut new) = (hub.node(), hub.node());
    assert_eq!((known.online("n0"), new.online("n3")), (0, 0));
    wait_until("the new node", || runs().contains("\"n3\"").then_some(()));
    assert_eq!(runs().matches("\"n0\"").count(), 1, "{}", runs());
}

#[test]
fn program_that_fails_is_logged() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &["fleet.on_change=[\"/nonexistent/program\"]"]);
    let mut node = hub.node();
    assert_eq!(node.online("a"), 0);
    hub.wait_log("fleet.on_change: run /nonexistent/program: no such file or directory");
    let other_state = TempDir::new("hub");
    let failing = Hub::start(&other_state, &["fleet.on_change=[\"false\"]"]);
    let mut node = failing.node();
    assert_eq!(node.online("a"), 0);
    failing.wait_log("fleet.on_change: false: exit status: 1");
}
