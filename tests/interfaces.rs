//! Network interfaces that change while the agent runs, in a network of its own.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use support::{Agent, wait_until};

/// Two ends of a cable, and a `/sys` that knows them.
const NETWORK: &str = "ip link set lo up && ip link add near type veth peer name far && ip link set near up \
    && ip link set far up && mount -t sysfs none /sys && exec \"$0\" \"$@\"";

/// Interfaces are listed once a minute; a change must be seen long before.
const SOON: Duration = Duration::from_secs(20);

fn inside(agent: &Agent, command: &str) -> String {
    let target = agent.pid().to_string();
    let mut entered = Command::new("nsenter");
    entered.args(["--target", &target, "--net", "sh", "-c", command]);
    let output = entered.output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs root, ip, unshare, nsenter and busybox"]
fn what_happens_to_an_interface_is_seen_with_the_next_sample() {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "sh", "-c", NETWORK, env!("CARGO_BIN_EXE_hm-agent")]);
    command.args(["-s", "usage.listen=127.0.0.1:0", "-s", "interval=1"]);
    let agent = Agent::spawn(command);
    let scrape = format!("busybox wget -qO- http://{}/metrics", agent.address);
    let shows = |series: &str| {
        let since = Instant::now();
        wait_until(series, || inside(&agent, &scrape).contains(series).then_some(()));
        assert!(since.elapsed() < SOON, "{series} after {:?}", since.elapsed());
    };
    shows("node_network_carrier{device=\"near\"} 1\n");
    shows("node_network_up{device=\"near\"} 1\n");
    // Many changes at once, more than the kernel keeps for who listens.
    inside(&agent, "for i in 1 2 3 4 5 6 7 8 9; do ip link set far down; ip link set far up; done");
    inside(&agent, "ip link set far down");
    shows("node_network_carrier{device=\"near\"} 0\n");
    shows("node_network_up{device=\"near\"} 0\n");
    inside(&agent, "ip link set far up");
    shows("node_network_carrier{device=\"near\"} 1\n");
    shows("node_network_up{device=\"near\"} 1\n");
    inside(&agent, "ip link del near");
    let gone =
        || (!inside(&agent, &scrape).contains("node_network_up{device=\"near\"}")).then_some(());
    let since = Instant::now();
    wait_until("an interface that is gone", gone);
    assert!(since.elapsed() < SOON);
    agent.stop();
}
