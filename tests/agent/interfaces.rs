//! Network interfaces that change while the agent runs, in a network namespace of their own.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Agent, wait_until};

/// A veth pair, and a `/sys` of the new network namespace.
const NETWORK: &str = "ip link set lo up && ip link add near type veth peer name far && ip link set near up \
    && ip link set far up && mount -t sysfs none /sys && exec \"$0\" \"$@\"";

/// Interfaces are listed once a minute; a change must be visible much earlier.
const MAX_DELAY: Duration = Duration::from_secs(20);

fn run_in_namespace(agent: &Agent, command: &str) -> String {
    let target = agent.pid().to_string();
    let mut nsenter = Command::new("nsenter");
    nsenter.args(["--target", &target, "--net", "sh", "-c", command]);
    let output = nsenter.output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs root, ip, unshare, nsenter and busybox"]
fn reports_interface_changes_with_the_next_sample() {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "sh", "-c", NETWORK, env!("CARGO_BIN_EXE_hm-agent")]);
    command.args(["-s", "usage.listen=127.0.0.1:0", "-s", "interval=1"]);
    let agent = Agent::spawn(command);
    let scrape = format!("busybox wget -qO- http://{}/metrics", agent.address);
    let scraped = |series: &str| run_in_namespace(&agent, &scrape).contains(series);
    let wait_for = |series: &str, present: bool| {
        let since = Instant::now();
        wait_until(series, || (scraped(series) == present).then_some(()));
        assert!(since.elapsed() < MAX_DELAY, "{series} after {:?}", since.elapsed());
    };
    wait_for("node_network_carrier{device=\"near\"} 1\n", true);
    wait_for("node_network_up{device=\"near\"} 1\n", true);
    let flap = "for i in 1 2 3 4 5 6 7 8 9; do ip link set far down; ip link set far up; done";
    run_in_namespace(&agent, flap);
    run_in_namespace(&agent, "ip link set far down");
    wait_for("node_network_carrier{device=\"near\"} 0\n", true);
    wait_for("node_network_up{device=\"near\"} 0\n", true);
    run_in_namespace(&agent, "ip link set far up");
    wait_for("node_network_carrier{device=\"near\"} 1\n", true);
    wait_for("node_network_up{device=\"near\"} 1\n", true);
    run_in_namespace(&agent, "ip link del near");
    wait_for("node_network_up{device=\"near\"}", false);
    agent.stop();
}
