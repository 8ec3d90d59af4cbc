//! `/monitor`: many hosts, many clients, and what that takes.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;
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
    rss_kb: f64,
    seconds: f64,
}

impl Cost {
    fn of(processes: &Vec<u32>) -> Self {
        let mut cost = Self { own_kb: 0.0, rss_kb: 0.0, seconds: 0.0 };
        for number in processes {
            let read = |file: &str| {
                std::fs::read_to_string(format!("/proc/{number}/{file}")).unwrap_or_default()
            };
            let status = read("status");
            let kb = |name: &str| -> f64 {
                let line = status.lines().find(|line| line.starts_with(name));
                line.map_or(0.0, |line| line.split_whitespace().nth(1).unwrap().parse().unwrap())
            };
            cost.own_kb += kb("RssAnon:");
            cost.rss_kb += kb("VmRSS:");
            // Its own in nanoseconds, that of its children in hundredths.
            let schedstat = read("schedstat");
            let own = schedstat.split(' ').next().unwrap().parse().unwrap_or(0.0) / 1e9;
            let stat = read("stat");
            let theirs = stat.rsplit(") ").next().unwrap().split(' ').skip(13).take(2);
            cost.seconds +=
                own + theirs.map(|ticks| ticks.parse::<f64>().unwrap_or(0.0) / 100.0).sum::<f64>();
        }
        cost
    }
}

/// Watches hosts with clients; the fewest and the most looks that a client got of a host.
fn watch(run: &Run) -> (usize, usize) {
    let names: Vec<String> = (0..run.hosts).map(|number| format!("user{number}")).collect();
    let users: Vec<User> = names.iter().map(|name| User { name, ..CC }).collect();
    let sshd = Sshd::start(&users);
    let monitor = Monitor::start(&[]);
    let (rss, cpu) = (monitor.agent.status("VmRSS"), monitor.agent.cpu_seconds());
    let hosts: Vec<Value> = names.iter().map(|name| sshd.host(name, Some(PASSWORD))).collect();
    let start = Instant::now();
    let mut watchers: Vec<_> = (0..run.clients).map(|_| monitor.connect()).collect();
    watchers.iter_mut().for_each(|watcher| watcher.start(&hosts));
    let logged_in = start.elapsed();
    assert_eq!(monitor.children("ssh").len(), run.hosts);
    watchers.iter_mut().for_each(|watcher| drop(watcher.gather(Duration::from_millis(1))));
    let before = monitor.agent.cpu_seconds();
    let (ssh, there) = (monitor.children("ssh"), sshd.processes());
    // The number comes first.
    let there = there.iter().map(|one| one.split(' ').next().unwrap().parse().unwrap()).collect();
    let (ssh_before, there_before) = (Cost::of(&ssh), Cost::of(&there));
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
    let used = monitor.agent.cpu_seconds() - before;
    let (ssh, there) = (Cost::of(&ssh), Cost::of(&there));
    let memory = monitor.agent.status("VmRSS").saturating_sub(rss);
    println!(
        "{} hosts, {} clients: logged in within {logged_in:.1?} ({:.2} s of a processor before); {memory} kB more; {:.2} % of a processor in {:?}",
        run.hosts,
        run.clients,
        before - cpu,
        100.0 * used / run.time.as_secs_f64(),
        run.time,
    );
    for (whose, now, before) in
        [("its ssh", ssh, ssh_before), ("its processes there", there, there_before)]
    {
        println!(
            "of each host {whose}: {:.0} kB of their own, {:.0} kB (RSS), {:.3} % of a processor",
            now.own_kb / run.hosts as f64,
            now.rss_kb / run.hosts as f64,
            100.0 * (now.seconds - before.seconds) / run.time.as_secs_f64() / run.hosts as f64,
        );
    }
    wait_until("all sessions' end", || monitor.children("ssh").is_empty().then_some(()));
    wait_until("the hosts' rest", || sshd.processes().is_empty().then_some(()));
    assert_eq!(looks.len(), run.hosts * run.clients);
    (looks.iter().copied().min().unwrap(), looks.iter().copied().max().unwrap())
}

#[test]
fn ten_hosts_and_three_clients() {
    let (fewest, most) = watch(&Run { hosts: 10, clients: 3, time: Duration::from_secs(8) });
    assert!(fewest >= 2 && most <= 6, "{fewest} to {most} looks in 8 s");
}

/// A minute is `HM_MONITOR_SECONDS=60 cargo test --release --test monitor_many -- --ignored --nocapture`.
#[test]
#[ignore = "takes a whole machine"]
fn a_hundred_hosts_and_ten_clients() {
    let seconds = std::env::var("HM_MONITOR_SECONDS").map_or(16, |text| text.parse().unwrap());
    let time = Duration::from_secs(seconds);
    let (fewest, most) = watch(&Run { hosts: 100, clients: 10, time });
    let looks = seconds as usize / 2;
    assert!(fewest + 2 >= looks && most <= looks + 2, "{fewest} to {most} looks in {seconds} s");
}
