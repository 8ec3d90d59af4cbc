//! A thousand subscribers: each gets every update, and nothing is left when they have gone.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use support::{Agent, SLACK, hm_agent, wait_until};

const SUBSCRIBERS: usize = 1000;
const UPDATES: usize = 3;

#[test]
fn each_of_a_thousand_gets_every_update_and_leaves_nothing_behind() {
    let mut command = hm_agent();
    // glibc gives threads heaps of their own and keeps what is free in them, as it comes.
    command.env("MALLOC_ARENA_MAX", "1");
    let limits = ["usage.max_connections=0", "usage.max_connections_per_ip=0", "interval=2"];
    for setting in limits.into_iter().chain(["usage.listen=127.0.0.1:0"]) {
        command.args(["-s", setting]);
    }
    let agent = Agent::spawn(command);
    // Once, so that what the first crowd needs for ever is not counted against it.
    come_and_go(&agent);
    let before = Footprint::of(&agent);
    come_and_go(&agent);
    wait_until("as little as before", || {
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
            // Its own; how much of its program is in memory changes as the kernel likes.
            memory_kb: agent.status("RssAnon"),
        }
    }
}

fn come_and_go(agent: &Agent) {
    // The thread that asks file systems may still be starting, and an earlier client's ending.
    agent.subscribe().json();
    let threads = wait_until("rest", || {
        let threads = agent.status("Threads");
        std::thread::park_timeout(Duration::from_millis(300));
        (agent.status("Threads") == threads).then_some(threads)
    });
    let mut clients: Vec<_> = (0..SUBSCRIBERS).map(|_| agent.subscribe()).collect();
    assert_eq!(agent.status("Threads"), threads + SUBSCRIBERS as u64);
    // Ticks that came while the crowd was still arriving are drained; from here on all see the same.
    for client in &mut clients {
        client.0.get_ref().set_nonblocking(true).unwrap();
        while client.0.read().is_ok() {}
        client.0.get_ref().set_nonblocking(false).unwrap();
    }
    let start = Instant::now();
    let stamps: Vec<Vec<u64>> = clients
        .iter_mut()
        .map(|client| (0..UPDATES).map(|_| client.json()["timestamp"].as_u64().unwrap()).collect())
        .collect();
    let took = start.elapsed();
    assert!(took < Duration::from_secs(2 * UPDATES as u64) + SLACK, "{took:?}");
    // A busy machine may put an update off, or leave it out, for all of them; but what one got all got.
    let all: BTreeSet<u64> = stamps.iter().flatten().copied().collect();
    for each in &stamps {
        let got: Vec<u64> = all.range(each[0]..=each[UPDATES - 1]).copied().collect();
        assert_eq!(*each, got, "of {all:?}");
    }
    for mut client in clients {
        client.0.close(None).unwrap();
        while client.0.read().is_ok() {}
    }
    wait_until("the last one's end", || (agent.status("Threads") == threads).then_some(()));
}
