//! Hubs that share a database, and random faults of the hubs, the database and the connections between them. The invariants are checked
//! from the outside: each acknowledged report is stored once, each command has one result or timeout, and each node with a living
//! connection is online on each hub.

mod commands;
mod faults;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use commands::Commands;
use faults::Cluster;
use hm_agent::model::status::UpstreamStatus;
use hm_agent::sys;
use hm_agent::util::logger::unix_seconds;
use serde_json::Value;
use usage::Usages;

use crate::support::hm_clients::{HmClients, has_delivered};
use crate::support::hub::{http, json_body};
use crate::support::netns::taken;
use crate::support::rng::Rng;
use crate::support::{TempDir, sleep_for, wait_until};

/// A client may wait for an answer (20 s), and then for its next attempt (60 s).
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(180);
/// Longest time that a report of a backlog takes: the pause between two of them, and a commit on a busy machine.
const DELIVERY_TIME: Duration = Duration::from_millis(250);
/// Between two messages on what is not delivered.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(15);
const HUBS: usize = 3;
const CORE_NODES: usize = 4;
/// The number of commands that each hub is requested for.
const MAX_REQUESTED_COMMANDS: usize = 500;
/// From this time on, the trend of what the hubs use is judged.
const SOAK: Duration = Duration::from_secs(240);

/// The environment variable `name`; `default` is for a short test.
fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
#[ignore = "needs root and PostgreSQL; a minute, half an hour in tests/soak/run cluster"]
fn nothing_acknowledged_is_lost_or_doubled_whatever_happens() {
    sys::raise_descriptor_limit().unwrap();
    let nodes = variable("HM_HUB_NODES", 12) as usize;
    let time = Duration::from_secs(variable("HM_SOAK_SECONDS", 20));
    let is_soak = time >= SOAK;
    // Longer than a hub's lease, and than an agent waits for an answer.
    let longest = if is_soak { 45 } else { 12 };
    let rng = Rng::new();
    println!("{nodes} nodes, HM_SEED={}", rng.seed);
    let submitters = [1, 2, 3].map(|number| Rng::of(rng.seed + number));
    let mut cluster = Cluster::start(HUBS, rng);
    let state = TempDir::new("cluster-clients");
    let clients = HmClients::new(cluster.hm.address, nodes, Duration::from_secs(1), &state);
    let commands = Commands::new();
    let core_nodes: Vec<String> = (0..CORE_NODES).map(|number| format!("c{number}")).collect();
    let (hubs, core): (Vec<_>, _) =
        (cluster.members.iter().map(|member| member.core).collect(), cluster.core.address);
    let mut usages = Usages::default();
    let journals = Mutex::new(Journals { state: &state, taken: vec![BTreeSet::new(); nodes] });
    let end = Instant::now() + time;
    let delivered = std::thread::scope(|scope| {
        let _running = clients.start(scope);
        let _stop = StopOnDrop(&commands);
        for node_id in &core_nodes {
            scope.spawn(|| commands.run_node(core, node_id));
        }
        scope.spawn(|| {
            while !commands.stop.load(Ordering::Relaxed) {
                journals.lock().unwrap().read();
                sleep_for(Duration::from_secs(1));
            }
        });
        for rng in submitters {
            scope.spawn(|| commands.submit(&hubs, &core_nodes, end, rng));
        }
        while Instant::now() < end {
            let pause = cluster.random(Duration::from_secs(3));
            sleep_for(pause);
            cluster.end_due();
            cluster.begin(Duration::from_secs(longest), is_soak);
            usages.record(&cluster);
        }
        cluster.end_all();
        cluster.say("no more faults");
        let delivered = wait_delivery(&cluster, &clients, &journals);
        cluster.say("all reports are delivered");
        check_presence(&cluster, nodes, &core_nodes);
        check_commands(&cluster, &commands);
        delivered
    });
    check_reports(&cluster, &delivered, &mut journals.lock().unwrap());
    println!("faults: {:?}", cluster.counts);
    if is_soak {
        usages.judge();
    }
}

/// Waits until each client has delivered its reports, and returns those. Each for itself: of many clients that report every second, one
/// waits for an answer at any time. A client delivers some reports a second, so it takes as long as the faults have delayed.
fn wait_delivery(
    cluster: &Cluster,
    clients: &HmClients,
    journals: &Mutex<Journals<'_>>,
) -> Vec<BTreeSet<i64>> {
    let mut delivered = vec![None; clients.each.len()];
    let mut next_progress = Instant::now();
    let most_left = clients.each.iter().map(|client| client.status().backlog).max().unwrap();
    let deadline = Instant::now() + RECOVERY_TIMEOUT + DELIVERY_TIME * most_left as u32;
    loop {
        // What is in a journal now is stored when nothing is left to deliver afterwards.
        let taken = journals.lock().unwrap().read().to_vec();
        for ((client, taken), delivered) in clients.each.iter().zip(taken).zip(&mut delivered) {
            if delivered.is_none() && has_delivered(client) {
                *delivered = Some(taken);
            }
        }
        if let Some(delivered) = delivered.iter().cloned().collect() {
            return delivered;
        }
        if next_progress <= Instant::now() {
            next_progress += PROGRESS_INTERVAL;
            say_undelivered(cluster, clients, &delivered);
        }
        assert!(Instant::now() < deadline, "timeout; the most that a client had left: {most_left}");
        sleep_for(Duration::from_millis(100));
    }
}

/// Says what the clients do that have not delivered.
fn say_undelivered(cluster: &Cluster, clients: &HmClients, delivered: &[Option<BTreeSet<i64>>]) {
    let all = clients.each.iter().zip(delivered).enumerate();
    for (number, (client, _)) in all.filter(|(_, (_, delivered))| delivered.is_none()) {
        let UpstreamStatus { state, since_unix_seconds, backlog, last_disconnect_reason, .. } =
            client.status();
        let reason = last_disconnect_reason.unwrap_or_default();
        let seconds = unix_seconds().saturating_sub(since_unix_seconds);
        cluster.say(format_args!(
            "n{number}: {state} for {seconds} s, {backlog} reports left; last end: {reason}"
        ));
    }
}

struct StopOnDrop<'a>(&'a Commands);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// The reports that the clients have taken. An agent's journal keeps delivered ones for a few minutes only, so it is read all the time.
struct Journals<'a> {
    state: &'a TempDir,
    taken: Vec<BTreeSet<i64>>,
}

impl Journals<'_> {
    fn read(&mut self) -> &[BTreeSet<i64>] {
        for (number, known) in self.taken.iter_mut().enumerate() {
            let journal = taken(&self.state.0.join(number.to_string()));
            known.extend(journal.iter().map(|at| *at as i64));
        }
        &self.taken
    }
}

/// All nodes are connected, and soon online on each hub.
fn check_presence(cluster: &Cluster, nodes: usize, core_nodes: &[String]) {
    let hm_nodes = (0..nodes).map(|number| format!("n{number}"));
    let all: BTreeSet<String> = hm_nodes.chain(core_nodes.iter().cloned()).collect();
    for member in &cluster.members {
        let mut missing = BTreeSet::new();
        let start = Instant::now();
        while start.elapsed() < RECOVERY_TIMEOUT {
            let fleet = json_body(&http(member.hub().web, "GET", "/api/fleet", "", ""));
            let nodes = fleet["nodes"].as_array().unwrap();
            let online = nodes.iter().filter(|node| node["state"] == "online");
            let online = online.map(|node| node["node_id"].as_str().unwrap().to_owned()).collect();
            missing = all.difference(&online).cloned().collect();
            if missing.is_empty() {
                break;
            }
            sleep_for(Duration::from_millis(200));
        }
        assert!(missing.is_empty(), "{}: {missing:?} are not online", member.name);
        cluster.say(format_args!("{}: all nodes are online", member.name));
    }
}

/// Each command whose creation was acknowledged has one result, or has timed out, on each hub the same.
fn check_commands(cluster: &Cluster, commands: &Commands) {
    let open = "SELECT command_id FROM command WHERE status IN ('pending', 'running')";
    let start = Instant::now();
    loop {
        let left = cluster.postgres.query(open);
        if left.is_empty() {
            break;
        }
        assert!(start.elapsed() < RECOVERY_TIMEOUT, "commands without a result: {left:?}");
        sleep_for(Duration::from_millis(200));
    }
    cluster.say("all commands have a result, or have timed out");
    let sql = "SELECT c.command_id, c.status, coalesce(r.stdout, '') FROM command c \
               LEFT JOIN command_result r ON r.command = c.id";
    let rows = cluster.postgres.query(sql);
    let stored: BTreeMap<&str, &str> =
        rows.iter().map(|row| row.split_once('|').unwrap()).collect();
    let seen = commands.seen.lock().unwrap();
    let expected = |id: &str, is_answered| match is_answered {
        true => ("success", &*seen.outputs[id]),
        false => ("timeout", ""),
    };
    for (id, is_answered) in &seen.acknowledged {
        let (status, output) = expected(id, *is_answered);
        assert_eq!(stored.get(&**id), Some(&&*format!("{status}|{output}")), "{id}");
    }
    // All of them would take longer than the faults.
    let step = seen.acknowledged.len().div_ceil(MAX_REQUESTED_COMMANDS).max(1);
    for (id, is_answered) in seen.acknowledged.iter().step_by(step) {
        let (status, output) = expected(id, *is_answered);
        let output = if *is_answered { output.into() } else { Value::Null };
        for member in &cluster.members {
            let answer = member.hub().rest("GET", &format!("commands/{id}"), "");
            assert_eq!(answer["data"]["command"]["status"], status, "{}: {answer}", member.name);
            assert_eq!(answer["data"]["result"]["stdout"], output, "{}: {answer}", member.name);
        }
    }
    // A command whose creation was not acknowledged may have run.
    for id in &seen.confirmed {
        let output = stored[&**id].split_once('|').unwrap().1;
        assert_eq!(output, seen.outputs[id], "{id}");
    }
    assert_eq!(seen.repeated, [""; 0], "sent again over the same connection");
    let (acknowledged, confirmed) = (seen.acknowledged.len(), seen.confirmed.len());
    println!("{acknowledged} commands, {confirmed} results");
    assert!(confirmed > 0);
}

/// Each delivered report is stored once, and no other one; and each hub finds them.
fn check_reports(cluster: &Cluster, delivered: &[BTreeSet<i64>], journals: &mut Journals<'_>) {
    let mut count = 0;
    for (number, delivered) in delivered.iter().enumerate() {
        let node_id = format!("n{number}");
        let found = cluster.postgres.stored(&node_id);
        let once: BTreeSet<i64> = found.iter().copied().collect();
        assert_eq!(once.len(), found.len(), "{node_id}: a report is stored twice");
        let lost: Vec<_> = delivered.difference(&once).collect();
        assert!(lost.is_empty(), "{node_id}: {lost:?} are lost");
        // A report is sent without waiting for the journal.
        wait_until(&format!("the journal of {node_id} to have all that is stored"), || {
            once.is_subset(&journals.read()[number]).then_some(())
        });
        for member in &cluster.members {
            let target = format!("nodes/{node_id}/reports?limit=1000000");
            let answer = member.hub().rest("GET", &target, "");
            let reports = answer["data"]["reports"].as_array().unwrap();
            let times = reports.iter().map(|report| report["timestamp"].as_i64().unwrap());
            let times: Vec<i64> = times.rev().collect();
            assert!(times == found, "{}: other reports of {node_id}", member.name);
        }
        count += found.len();
    }
    println!("{count} reports");
    assert!(count > 0);
}
