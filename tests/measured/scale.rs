//! A thousand subscribers: each gets every update, and the agent releases everything when they leave.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::support::slowdown::Control;
use crate::support::{Agent, SLACK, hm_agent, wait_until};

const SUBSCRIBERS: usize = 1000;
const UPDATES: usize = 3;

#[test]
fn delivers_every_update_to_a_thousand_subscribers_without_leaks() {
    let mut command = hm_agent();
    // glibc gives each thread a heap of its own and keeps what is free in it.
    command.env("MALLOC_ARENA_MAX", "1");
    let limits = ["usage.max_connections=0", "usage.max_connections_per_ip=0", "interval=2"];
    for setting in limits.into_iter().chain(["usage.listen=127.0.0.1:0"]) {
        command.args(["-s", setting]);
    }
    let agent = Agent::spawn(command);
    // The first round allocates what the agent keeps.
    subscribe_and_leave(&agent);
    let before = Footprint::of(&agent);
    subscribe_and_leave(&agent);
    wait_until("release of threads and descriptors", || {
        let now = Footprint::of(&agent);
        (now.threads == before.threads && now.descriptors == before.descriptors).then_some(())
    });
    let (before, after) = (before.memory_kb, Footprint::of(&agent).memory_kb);
    println!("{before} kB before, {after} kB after");
    assert!(after <= before + 200, "{before} kB before, {after} kB after");
    agent.stop();
}

struct Footprint {
    threads: u64,
    descriptors: usize,
    memory_kb: u64,
}

impl Footprint {
    fn of(agent: &Agent) -> Self {
        Self {
            threads: agent.status("Threads"),
            descriptors: agent.descriptors(),
            // Without the pages of the program's file, which the kernel loads and drops.
            memory_kb: agent.status("RssAnon"),
        }
    }
}

fn subscribe_and_leave(agent: &Agent) {
    // The blocking-io thread may still start, and the thread of an earlier client end.
    agent.subscribe().json();
    let threads = wait_until("a stable number of threads", || {
        let threads = agent.status("Threads");
        std::thread::park_timeout(Duration::from_millis(300));
        (agent.status("Threads") == threads).then_some(threads)
    });
    let mut clients: Vec<_> = (0..SUBSCRIBERS).map(|_| agent.subscribe()).collect();
    assert_eq!(agent.status("Threads"), threads + SUBSCRIBERS as u64);
    // Drain updates that arrived while clients were still connecting. From here on all receive the same.
    for client in &mut clients {
        client.0.get_ref().set_nonblocking(true).unwrap();
        while client.0.read().is_ok() {}
        client.0.get_ref().set_nonblocking(false).unwrap();
    }
    let (start, control) = (Instant::now(), Control::start());
    let stamps: Vec<Vec<u64>> = clients
        .iter_mut()
        .map(|client| (0..UPDATES).map(|_| client.json()["timestamp"].as_u64().unwrap()).collect())
        .collect();
    let took = start.elapsed();
    let slowdown = control.slowdown_since(start);
    let limit = (Duration::from_secs(2 * UPDATES as u64) + SLACK).mul_f64(slowdown);
    assert!(took < limit, "{took:?}, slowdown {slowdown:.1}");
    // On a busy machine an update may be late or skipped, but then for all subscribers.
    let all: BTreeSet<u64> = stamps.iter().flatten().copied().collect();
    for each in &stamps {
        let got: Vec<u64> = all.range(each[0]..=each[UPDATES - 1]).copied().collect();
        assert_eq!(*each, got, "of {all:?}");
    }
    for mut client in clients {
        client.0.close(None).unwrap();
        while client.0.read().is_ok() {}
    }
    wait_until("the end of all client threads", || {
        (agent.status("Threads") == threads).then_some(())
    });
}
