//! `/monitor` with many hosts and clients.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use support::monitor::{Monitor, MonitorClient};
use support::sshd::{CC, PASSWORD, Sshd, User};
use support::wait_until;

struct Run {
    hosts: usize,
    clients: usize,
    time: Duration,
}

/// Monitors hosts with clients. Returns the minimum and maximum of samples that a client received of a host.
fn monitor_hosts(run: &Run) -> (usize, usize) {
    let names: Vec<String> = (0..run.hosts).map(|number| format!("user{number}")).collect();
    let users: Vec<User> = names.iter().map(|name| User { name, ..CC }).collect();
    let sshd = Sshd::start(&users);
    let monitor = Monitor::start(&[]);
    let hosts: Vec<Value> = names.iter().map(|name| sshd.host(name, Some(PASSWORD))).collect();
    let mut clients: Vec<_> = (0..run.clients).map(|_| monitor.connect()).collect();
    clients.iter_mut().for_each(|client| client.start(&hosts));
    assert_eq!(monitor.children("ssh").len(), run.hosts);
    clients.iter_mut().for_each(|client| drop(client.collect_events(Duration::from_millis(1))));
    let mut samples: Vec<usize> = Vec::new();
    std::thread::scope(|scope| {
        let gather = |mut client: MonitorClient| {
            let mut each: BTreeMap<String, usize> =
                names.iter().map(|name| (sshd.key(name), 0)).collect();
            for (_, event) in client.collect_events(run.time) {
                let key = event["message"]["ssh_key"].as_str().unwrap();
                *each.get_mut(key).unwrap() += usize::from(event["event"] == "net_stat");
            }
            each.into_values().collect::<Vec<_>>()
        };
        let threads: Vec<_> =
            clients.drain(..).map(|client| scope.spawn(move || gather(client))).collect();
        samples.extend(threads.into_iter().flat_map(|thread| thread.join().unwrap()));
    });
    assert_eq!(samples.len(), run.hosts * run.clients);
    wait_until("exit of ssh", || monitor.children("ssh").is_empty().then_some(()));
    wait_until("exit of the hosts' processes", || sshd.processes().is_empty().then_some(()));
    (samples.iter().copied().min().unwrap(), samples.iter().copied().max().unwrap())
}

#[test]
#[ignore = "needs root and sshd"]
fn all_clients_receive_every_sample_of_ten_hosts() {
    let (min, max) = monitor_hosts(&Run { hosts: 10, clients: 3, time: Duration::from_secs(8) });
    assert!(min >= 2 && max <= 6, "{min} to {max} samples in 8 s");
}

/// Duration of a run, from `HM_MONITOR_SECONDS`.
fn seconds() -> u64 {
    std::env::var("HM_MONITOR_SECONDS").map_or(16, |text| text.parse().unwrap())
}

/// For a minute: `HM_MONITOR_SECONDS=60 cargo test --release --test monitor_many -- --ignored`.
#[test]
#[ignore = "needs root, sshd and an idle machine"]
fn all_clients_receive_every_sample_of_hundred_hosts() {
    let time = Duration::from_secs(seconds());
    let (min, max) = monitor_hosts(&Run { hosts: 100, clients: 10, time });
    let (seconds, expected) = (seconds() as usize, seconds() as usize / 2);
    assert!(min + 2 >= expected && max <= expected + 2, "{min} to {max} samples in {seconds} s");
}
