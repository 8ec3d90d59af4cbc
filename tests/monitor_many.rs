//! `/monitor`: many hosts, many clients, and what that takes.
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

/// What processes take, with those that they have started and waited for.
struct Cost {
    own_kb: f64,
    seconds: f64,
}

impl Cost {
    fn of(processes: &[u32]) -> Self {
        let mut cost = Self { own_kb: 0.0, seconds: 0.0 };
        for number in processes {
            let read = |file: &str| {
                std::fs::read_to_string(format!("/proc/{number}/{file}")).unwrap_or_default()
            };
            let status = read("status");
            let own = status.lines().find(|line| line.starts_with("RssAnon:"));
            cost.own_kb += own.map_or(0.0, |line| {
                line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap()
            });
            // Its own, thread by thread, in nanoseconds; that of its children in hundredths.
            let threads = std::fs::read_dir(format!("/proc/{number}/task"));
            for thread in threads.into_iter().flatten().flatten() {
                let schedstat = std::fs::read_to_string(thread.path().join("schedstat"));
                let schedstat = schedstat.unwrap_or_default();
                cost.seconds += schedstat.split(' ').next().unwrap().parse().unwrap_or(0.0) / 1e9;
            }
            let stat = read("stat");
            let theirs = stat.rsplit(") ").next().unwrap().split(' ').skip(13).take(2);
            cost.seconds +=
                theirs.map(|ticks| ticks.parse::<f64>().unwrap_or(0.0) / 100.0).sum::<f64>();
        }
        cost
    }

    /// Percent of one processor since then.
    fn percent_since(&self, before: &Self, time: Duration) -> f64 {
        100.0 * (self.seconds - before.seconds) / time.as_secs_f64()
    }
}

/// Watches hosts with clients and prints what that takes; the fewest and the most looks that a client got of a host.
fn watch(run: &Run) -> (usize, usize) {
    let names: Vec<String> = (0..run.hosts).map(|number| format!("user{number}")).collect();
    let users: Vec<User> = names.iter().map(|name| User { name, ..CC }).collect();
    let sshd = Sshd::start(&users);
    let monitor = Monitor::start(&[]);
    // What only starting needs is given back after five seconds.
    std::thread::park_timeout(Duration::from_secs(6));
    let agent = [monitor.agent.pid()];
    let idle = Cost::of(&agent);
    let hosts: Vec<Value> = names.iter().map(|name| sshd.host(name, Some(PASSWORD))).collect();
    let start = Instant::now();
    let mut watchers: Vec<_> = (0..run.clients).map(|_| monitor.connect()).collect();
    watchers.iter_mut().for_each(|watcher| watcher.start(&hosts));
    let logged_in = start.elapsed();
    assert_eq!(monitor.children("ssh").len(), run.hosts);
    watchers.iter_mut().for_each(|watcher| drop(watcher.gather(Duration::from_millis(1))));
    let ssh = monitor.children("ssh");
    let numbers = || -> Vec<u32> {
        let number = |one: &String| one.split(' ').next().unwrap().parse().unwrap();
        sshd.processes().iter().map(number).collect()
    };
    let there: Vec<(u32, Cost)> =
        numbers().into_iter().map(|number| (number, Cost::of(&[number]))).collect();
    let before = [&agent[..], &ssh].map(Cost::of);
    let mut looks: Vec<usize> = Vec::new();
    std::thread::scope(|scope| {
        let gather = |mut watcher: support::monitor::Watcher| {
            let mut each: BTreeMap<String, usize> =
                names.iter().map(|name| (sshd.key(name), 0)).collect();
            for (_, event) in watcher.gather(run.time) {
                let key = event["message"]["ssh_key"].as_str().unwrap();
                *each.get_mut(key).unwrap() += usize::from(event["event"] == "net_stat");
            }
            each.into_values().collect::<Vec<_>>()
        };
        let threads: Vec<_> =
            watchers.drain(..).map(|watcher| scope.spawn(move || gather(watcher))).collect();
        looks.extend(threads.into_iter().flat_map(|thread| thread.join().unwrap()));
    });
    let after = [&agent[..], &ssh].map(Cost::of);
    let [agent_percent, ssh_percent] =
        std::array::from_fn(|at| after[at].percent_since(&before[at], run.time));
    // The number of one that has ended meanwhile may be somebody else's now.
    let still = numbers();
    let (mut there_percent, mut there_kb) = (0.0, 0.0);
    for (number, before) in there.iter().filter(|(number, _)| still.contains(number)) {
        let now = Cost::of(&[*number]);
        there_percent += now.percent_since(before, run.time);
        there_kb += now.own_kb;
    }
    let each = run.hosts as f64;
    assert_eq!(looks.len(), run.hosts * run.clients);
    let (fewest, most) =
        (looks.iter().copied().min().unwrap(), looks.iter().copied().max().unwrap());
    // For tests/bench, and for people.
    let found = json!({
        "hosts": run.hosts,
        "clients": run.clients,
        "seconds": run.time.as_secs_f64(),
        "login_seconds": logged_in.as_secs_f64(),
        "login_agent_cpu_seconds": before[0].seconds - idle.seconds,
        "missed": (run.time.as_secs() as usize / 2).saturating_sub(fewest + 1),
        "agent_percent": agent_percent,
        "agent_bytes_each": 1024.0 * (after[0].own_kb - idle.own_kb) / each,
        "threads": monitor.agent.status("Threads"),
        "files": monitor.agent.descriptors(),
        "ssh_percent_each": ssh_percent / each,
        "ssh_bytes_each": 1024.0 * after[1].own_kb / each,
        "there_percent_each": there_percent / each,
        "there_bytes_each": 1024.0 * there_kb / each,
    });
    println!("bench {found}");
    wait_until("all sessions' end", || monitor.children("ssh").is_empty().then_some(()));
    wait_until("the hosts' rest", || sshd.processes().is_empty().then_some(()));
    (fewest, most)
}

#[test]
fn ten_hosts_and_three_clients() {
    let (fewest, most) = watch(&Run { hosts: 10, clients: 3, time: Duration::from_secs(8) });
    assert!(fewest >= 2 && most <= 6, "{fewest} to {most} looks in 8 s");
}

/// Seconds that `HM_MONITOR_SECONDS` asks for.
fn seconds() -> u64 {
    std::env::var("HM_MONITOR_SECONDS").map_or(16, |text| text.parse().unwrap())
}

/// A minute is `HM_MONITOR_SECONDS=60 cargo test --release --test monitor_many -- --ignored --nocapture`.
#[test]
#[ignore = "takes a whole machine"]
fn a_hundred_hosts_and_ten_clients() {
    let time = Duration::from_secs(seconds());
    let (fewest, most) = watch(&Run { hosts: 100, clients: 10, time });
    let (seconds, looks) = (seconds() as usize, seconds() as usize / 2);
    assert!(fewest + 2 >= looks && most <= looks + 2, "{fewest} to {most} looks in {seconds} s");
}

/// For `tests/bench`, which says how many hosts: `HM_MONITOR_HOSTS=1,10,100`. One client.
#[test]
#[ignore = "is a part of tests/bench"]
fn what_hosts_cost() {
    let Ok(hosts) = std::env::var("HM_MONITOR_HOSTS") else { return };
    for hosts in hosts.split(',').map(|text| text.parse().unwrap()) {
        let run = Run { hosts, clients: 1, time: Duration::from_secs(seconds()) };
        let (fewest, most) = watch(&run);
        assert!(fewest >= 2 && most as u64 <= seconds() / 2 + 2, "{fewest} to {most} looks");
    }
}
