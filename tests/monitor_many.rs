//! `/monitor`: memory and processor time with many hosts and clients.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::monitor::Monitor;
use support::sshd::{CC, PASSWORD, Sshd, User};
use support::wait_until;

struct Run {
    hosts: usize,
    clients: usize,
    time: Duration,
}

/// Memory and processor time of processes, including their reaped children.
struct Cost {
    anonymous_kb: f64,
    seconds: f64,
}

impl Cost {
    fn of(processes: &[u32]) -> Self {
        let mut cost = Self { anonymous_kb: 0.0, seconds: 0.0 };
        for pid in processes {
            let read = |file: &str| {
                std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
            };
            let status = read("status");
            let own = status.lines().find(|line| line.starts_with("RssAnon:"));
            cost.anonymous_kb += own.map_or(0.0, |line| {
                line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap()
            });
            // Its threads in nanoseconds, its reaped children in ticks of 10 ms.
            let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
            for thread in threads.into_iter().flatten().flatten() {
                let schedstat = std::fs::read_to_string(thread.path().join("schedstat"));
                let schedstat = schedstat.unwrap_or_default();
                cost.seconds += schedstat.split(' ').next().unwrap().parse().unwrap_or(0.0) / 1e9;
            }
            let stat = read("stat");
            let children = stat.rsplit(") ").next().unwrap().split(' ').skip(13).take(2);
            cost.seconds +=
                children.map(|ticks| ticks.parse::<f64>().unwrap_or(0.0) / 100.0).sum::<f64>();
        }
        cost
    }

    /// Processor time since `before`, in percent of one processor.
    fn percent_since(&self, before: &Self, time: Duration) -> f64 {
        100.0 * (self.seconds - before.seconds) / time.as_secs_f64()
    }
}

/// Monitors hosts with clients and prints the cost. Returns the minimum and maximum of samples that a client received of a
/// host.
fn monitor_hosts(run: &Run) -> (usize, usize) {
    let names: Vec<String> = (0..run.hosts).map(|number| format!("user{number}")).collect();
    let users: Vec<User> = names.iter().map(|name| User { name, ..CC }).collect();
    let sshd = Sshd::start(&users);
    let monitor = Monitor::start(&[]);
    // Lets the memory settle after the start.
    std::thread::park_timeout(Duration::from_secs(6));
    let agent = [monitor.agent.pid()];
    let idle = Cost::of(&agent);
    let hosts: Vec<Value> = names.iter().map(|name| sshd.host(name, Some(PASSWORD))).collect();
    let start = Instant::now();
    let mut clients: Vec<_> = (0..run.clients).map(|_| monitor.connect()).collect();
    clients.iter_mut().for_each(|client| client.start(&hosts));
    let logged_in = start.elapsed();
    assert_eq!(monitor.children("ssh").len(), run.hosts);
    clients.iter_mut().for_each(|client| drop(client.collect_events(Duration::from_millis(1))));
    let ssh = monitor.children("ssh");
    let remote_pids = || -> Vec<u32> {
        let pid = |process: &String| process.split(' ').next().unwrap().parse().unwrap();
        sshd.processes().iter().map(pid).collect()
    };
    let remote: Vec<(u32, Cost)> =
        remote_pids().into_iter().map(|pid| (pid, Cost::of(&[pid]))).collect();
    let before = [&agent[..], &ssh].map(Cost::of);
    let mut samples: Vec<usize> = Vec::new();
    std::thread::scope(|scope| {
        let gather = |mut client: support::monitor::MonitorClient| {
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
    let after = [&agent[..], &ssh].map(Cost::of);
    let [agent_percent, ssh_percent] =
        std::array::from_fn(|at| after[at].percent_since(&before[at], run.time));
    // The PID of a process that has exited may belong to another process now.
    let running = remote_pids();
    let (mut remote_percent, mut remote_kb) = (0.0, 0.0);
    for (pid, before) in remote.iter().filter(|(pid, _)| running.contains(pid)) {
        let now = Cost::of(&[*pid]);
        remote_percent += now.percent_since(before, run.time);
        remote_kb += now.anonymous_kb;
    }
    let each = run.hosts as f64;
    assert_eq!(samples.len(), run.hosts * run.clients);
    let (min, max) =
        (samples.iter().copied().min().unwrap(), samples.iter().copied().max().unwrap());
    // Read by tests/bench.
    let found = json!({
        "hosts": run.hosts,
        "clients": run.clients,
        "seconds": run.time.as_secs_f64(),
        "login_seconds": logged_in.as_secs_f64(),
        "login_agent_cpu_seconds": before[0].seconds - idle.seconds,
        "missed": (run.time.as_secs() as usize / 2).saturating_sub(min + 1),
        "agent_percent": agent_percent,
        "agent_bytes_each": 1024.0 * (after[0].anonymous_kb - idle.anonymous_kb) / each,
        "threads": monitor.agent.status("Threads"),
        "files": monitor.agent.descriptors(),
        "ssh_percent_each": ssh_percent / each,
        "ssh_bytes_each": 1024.0 * after[1].anonymous_kb / each,
        "there_percent_each": remote_percent / each,
        "there_bytes_each": 1024.0 * remote_kb / each,
    });
    println!("bench {found}");
    wait_until("exit of ssh", || monitor.children("ssh").is_empty().then_some(()));
    wait_until("exit of the hosts' processes", || sshd.processes().is_empty().then_some(()));
    (min, max)
}

#[test]
#[ignore = "needs root and sshd"]
fn three_clients_monitor_ten_hosts() {
    let (min, max) = monitor_hosts(&Run { hosts: 10, clients: 3, time: Duration::from_secs(8) });
    assert!(min >= 2 && max <= 6, "{min} to {max} samples in 8 s");
}

/// Duration of a run, from `HM_MONITOR_SECONDS`.
fn seconds() -> u64 {
    std::env::var("HM_MONITOR_SECONDS").map_or(16, |text| text.parse().unwrap())
}

/// For a minute: `HM_MONITOR_SECONDS=60 cargo test --release --test monitor_many -- --ignored --nocapture`.
#[test]
#[ignore = "needs root, sshd and an idle machine"]
fn ten_clients_monitor_hundred_hosts() {
    let time = Duration::from_secs(seconds());
    let (min, max) = monitor_hosts(&Run { hosts: 100, clients: 10, time });
    let (seconds, expected) = (seconds() as usize, seconds() as usize / 2);
    assert!(min + 2 >= expected && max <= expected + 2, "{min} to {max} samples in {seconds} s");
}

/// Run by `tests/bench`, with the numbers of hosts in `HM_MONITOR_HOSTS=1,10,100`. One client.
#[test]
#[ignore = "part of tests/bench"]
fn measures_cost_of_hosts() {
    let Ok(hosts) = std::env::var("HM_MONITOR_HOSTS") else { return };
    for hosts in hosts.split(',').map(|text| text.parse().unwrap()) {
        let run = Run { hosts, clients: 1, time: Duration::from_secs(seconds()) };
        let (min, max) = monitor_hosts(&run);
        assert!(min >= 2 && max as u64 <= seconds() / 2 + 2, "{min} to {max} samples");
    }
}
