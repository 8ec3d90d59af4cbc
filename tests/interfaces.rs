//! Network interfaces that change while the agent runs, in a network namespace.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use support::{Agent, wait_until};

/// A veth pair, and a `/sys` of the namespace.
const NETWORK: &str = "ip link set lo up && ip link add near type veth peer name far && ip link set near up \
    && ip link set far up && mount -t sysfs none /sys && exec \"$0\" \"$@\"";

/// The agent lists interfaces once a minute; a change must show long before.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(20);

fn run_in_namespace(agent: &Agent, command: &str) -> String {
    let target = agent.pid().to_string();
    let mut entered = Command::new("nsenter");
    entered.args(["--target", &target, "--net", "sh", "-c", command]);
    let output = entered.output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs root, ip, unshare, nsenter and busybox"]
fn next_sample_shows_changed_and_removed_interfaces() {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "sh", "-c", NETWORK, env!("CARGO_BIN_EXE_hm-agent")]);
    command.args(["-s", "usage.listen=127.0.0.1:0", "-s", "interval=1"]);
    let agent = Agent::spawn(command);
    let scrape = format!("busybox wget -qO- http://{}/metrics", agent.address);
    let shows = |series: &str| {
        let since = Instant::now();
        wait_until(series, || run_in_namespace(&agent, &scrape).contains(series).then_some(()));
        assert!(since.elapsed() < CHANGE_TIMEOUT, "{series} after {:?}", since.elapsed());
    };
    shows("node_network_carrier{device=\"near\"} 1\n");
    shows("node_network_up{device=\"near\"} 1\n");
    // More changes at once than the kernel queues for a netlink socket.
    run_in_namespace(
        &agent,
        "for i in 1 2 3 4 5 6 7 8 9; do ip link set far down; ip link set far up; done",
    );
    run_in_namespace(&agent, "ip link set far down");
    shows("node_network_carrier{device=\"near\"} 0\n");
    shows("node_network_up{device=\"near\"} 0\n");
    run_in_namespace(&agent, "ip link set far up");
    shows("node_network_carrier{device=\"near\"} 1\n");
    shows("node_network_up{device=\"near\"} 1\n");
    run_in_namespace(&agent, "ip link del near");
    let gone = || {
        (!run_in_namespace(&agent, &scrape).contains("node_network_up{device=\"near\"}"))
            .then_some(())
    };
    let since = Instant::now();
    wait_until("removal of the interface", gone);
    assert!(since.elapsed() < CHANGE_TIMEOUT);
    agent.stop();
}
