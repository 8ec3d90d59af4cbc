//! `/monitor` with many hosts and clients.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::support::monitor::{Monitor, MonitorClient};
use crate::support::sshd::{CC, PASSWORD, Sshd, User};
use crate::support::wait_until;
use serde_json::Value;

/// Monitors hosts with several clients, for `time` and until each host was sampled twice. Compares what the clients receive
/// with each other, because a busy machine samples less often.
fn assert_all_clients_receive_every_sample(hosts: usize, clients: usize, time: Duration) {
    let names: Vec<String> = (0..hosts).map(|number| format!("user{number}")).collect();
    let users: Vec<User> = names.iter().map(|name| User { name, ..CC }).collect();
    let sshd = Sshd::start(&users);
    let monitor = Monitor::start(&[]);
    let requests: Vec<Value> = names.iter().map(|name| sshd.host(name, Some(PASSWORD))).collect();
    let mut clients: Vec<_> = (0..clients).map(|_| monitor.connect()).collect();
    clients.iter_mut().for_each(|client| client.start(&requests));
    assert_eq!(monitor.children("ssh").len(), hosts);
    clients.iter_mut().for_each(|client| drop(client.collect_events(Duration::from_millis(1))));
    let start = Instant::now();
    let mut samples = vec![BTreeMap::new(); clients.len()];
    let is_complete = |samples: &[BTreeMap<String, usize>]| {
        samples.iter().all(|each| each.len() == hosts && each.values().all(|count| *count >= 2))
    };
    while !is_complete(&samples) {
        assert!(start.elapsed() < 10 * time, "{samples:?}");
        std::thread::scope(|scope| {
            for (client, each) in clients.iter_mut().zip(&mut samples) {
                scope.spawn(move || count_samples(client, time, each));
            }
        });
    }
    let intervals = start.elapsed().as_secs() as usize / 2;
    for key in names.iter().map(|name| sshd.key(name)) {
        let counts: Vec<usize> = samples.iter().map(|each| each[&key]).collect();
        let (min, max) = (*counts.iter().min().unwrap(), *counts.iter().max().unwrap());
        assert!(
            max <= intervals + 2 && max - min <= 2,
            "{key}: {counts:?} in {intervals} intervals"
        );
    }
    drop(clients);
    wait_until("exit of ssh", || monitor.children("ssh").is_empty().then_some(()));
    wait_until("exit of the hosts' processes", || sshd.processes().is_empty().then_some(()));
}

fn count_samples(client: &mut MonitorClient, time: Duration, each: &mut BTreeMap<String, usize>) {
    for (_, event) in client.collect_events(time) {
        if event["event"] == "net_stat" {
            let key = event["message"]["ssh_key"].as_str().unwrap().to_owned();
            *each.entry(key).or_default() += 1;
        }
    }
}

#[test]
#[ignore = "needs root and sshd"]
fn all_clients_receive_every_sample_of_ten_hosts() {
    assert_all_clients_receive_every_sample(10, 3, Duration::from_secs(8));
}

/// Duration of a run, from `HM_MONITOR_SECONDS`.
fn seconds() -> u64 {
    std::env::var("HM_MONITOR_SECONDS").map_or(16, |text| text.parse().unwrap())
}

/// A hundred hosts need a machine of their own: `tests/soak/run monitor`.
#[test]
#[ignore = "needs root and sshd"]
fn all_clients_receive_every_sample_of_many_hosts() {
    let hosts = std::env::var("HM_MONITOR_HOSTS").map_or(40, |text| text.parse().unwrap());
    assert_all_clients_receive_every_sample(hosts, 10, Duration::from_secs(seconds()));
}
