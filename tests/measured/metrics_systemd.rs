//! The units of a real systemd, beside node_exporter on the same bus.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::UnixStream;

use crate::metrics_peers::{Server, get, series};
use crate::support::systemd_host::SystemdHost;
use crate::support::{Agent, wait_until};

const SERIES: &str = "node_systemd_";
const RESTARTS: &str = r#"node_systemd_service_restart_total ["name=\"restarting.service"]"#;
const ACCEPTED: &str =
    r#"node_systemd_socket_accepted_connections_total ["name=\"accepting.socket"]"#;

/// The series for a state of a unit; `service_type` is empty if it is no service.
fn state(unit: &str, service_type: &str, state: &str) -> String {
    let label = |name: &str, value: &str| format!("{name}=\"{value}");
    let mut labels = vec![label("name", unit), label("state", state)];
    if !service_type.is_empty() {
        labels.push(label("type", service_type));
    }
    format!("node_systemd_unit_state {labels:?}")
}

/// The series of a new agent, which asks systemd at its start.
fn ours(host: &SystemdHost) -> BTreeMap<String, f64> {
    let agent = Agent::start(&[&format!("path.root={}", host.root.0.display())]);
    let found = wait_until("the units", || {
        let found = series(&get(agent.address, "/metrics"));
        found.contains_key("node_systemd_system_running []").then_some(found)
    });
    agent.stop();
    found
}

#[test]
#[ignore = "needs root, systemd, dbus-daemon and node_exporter"]
fn units_of_real_systemd_equal_those_of_node_exporter() {
    let Some(host) = SystemdHost::new() else { return };
    let connections: Vec<UnixStream> =
        (0..2).map(|_| UnixStream::connect(host.path("accepting")).unwrap()).collect();
    let bus =
        format!("DBUS_SYSTEM_BUS_ADDRESS=unix:path={}", host.path("system_bus_socket").display());
    let arguments = [
        &bus,
        "prometheus-node-exporter",
        "--collector.disable-defaults",
        "--collector.systemd",
        "--collector.systemd.enable-restarts-metrics",
    ];
    let arguments = arguments.map(str::to_owned);
    let peer = Server::start("env", &arguments, "--web.listen-address");
    let theirs = || series(&get(peer.1, "/metrics"));
    wait_until("both connections", || (theirs().get(ACCEPTED) == Some(&2.0)).then_some(()));
    let failed = state("failing.service", "oneshot", "failed");
    wait_until("the failure", || (theirs().get(&failed) == Some(&1.0)).then_some(()));

    let mut settled = BTreeSet::new();
    let mut open = BTreeMap::new();
    let mut last = BTreeMap::new();
    for _ in 0..10 {
        let before = theirs();
        last = ours(&host);
        let after = theirs();
        open.clear();
        for (name, low) in before.iter().filter(|(name, _)| name.starts_with(SERIES)) {
            let Some(high) = after.get(name) else { continue };
            let equal = last.get(name).is_some_and(|our| (*low..=*high).contains(our));
            if equal {
                settled.insert(name.clone());
            } else if !settled.contains(name) {
                // A unit that restarts all the time may change between the three.
                open.insert(name.clone(), (last.get(name).copied(), *low, *high));
            }
        }
        if open.is_empty() {
            break;
        }
    }
    assert!(open.is_empty(), "{open:#?}");
    assert!(settled.len() > 100, "{}", settled.len());
    println!("{} series have node_exporter's values", settled.len());
    for expected in [
        failed,
        state("running.service", "simple", "active"),
        state("dbus.socket", "", "active"),
        state("accepting.socket", "", "active"),
    ] {
        assert_eq!(last.get(&expected), Some(&1.0), "{expected}");
    }
    assert_eq!(last.get("node_systemd_system_running []"), Some(&0.0), "a unit has failed");
    assert_eq!(last.get(ACCEPTED), Some(&2.0));
    let restarts = last[RESTARTS];
    wait_until("another restart", || (ours(&host)[RESTARTS] > restarts).then_some(()));
    drop(connections);
}
