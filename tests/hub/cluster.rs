//! Two hubs that share a PostgreSQL database.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::cluster::Member;
use crate::support::hub::http;
use crate::support::postgres::Postgres;
use crate::support::{TempDir, sleep_for, wait_until};

pub fn pair(postgres: &Postgres, settings: &[&str]) -> [Member; 2] {
    pair_with_scheme("http", postgres, settings)
}

/// `scheme` is that of `hub.url`.
pub fn pair_with_scheme(scheme: &str, postgres: &Postgres, settings: &[&str]) -> [Member; 2] {
    let url = postgres.url();
    ["one", "two"].map(|name| Member::start_with_scheme(scheme, name, &url, settings))
}

pub fn wait_state(member: &Member, node_id: &str, state: &str) {
    wait_until(&format!("{node_id} to be {state}"), || {
        (member.state_of(node_id) == state).then_some(())
    });
}

#[test]
#[ignore = "needs PostgreSQL"]
fn each_hub_shows_and_stores_for_the_nodes_of_both() {
    let postgres = Postgres::start();
    let [one, two] = pair(&postgres, &[]);
    let (mut a, mut b) = (one.hub().node(), two.hub().node());
    assert_eq!((a.online("a"), b.online("b")), (0, 0));
    // The second one of time 1 is a repeat.
    assert_eq!([a.report(1), a.report(2), b.report(3), a.report(1)], [0; 4]);
    assert_eq!((postgres.stored("a"), postgres.stored("b")), (vec![1, 2], vec![3]));
    for member in [&one, &two] {
        wait_state(member, "a", "online");
        wait_state(member, "b", "online");
        let reports = member.hub().rest("GET", "nodes/a/reports", "");
        assert_eq!(reports["data"]["reports"].as_array().unwrap().len(), 2);
    }
    drop(b);
    wait_state(&one, "b", "lost");
    // It returns to the other hub.
    let mut b = one.hub().node();
    assert_eq!(b.online("b"), 0);
    wait_state(&two, "b", "online");
}

#[test]
#[ignore = "needs PostgreSQL"]
fn live_connection_keeps_its_node_and_silent_one_loses_it() {
    let postgres = Postgres::start();
    let [one, two] = pair(&postgres, &[]);
    let mut first = one.hub().node();
    assert_eq!(first.online("a"), 0);
    wait_state(&two, "a", "online");
    std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            let mut second = two.hub().node();
            second.online("a")
        });
        // Reading answers pings.
        first.0.get_ref().set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        while !second.is_finished() {
            let _ = first.0.read();
        }
        assert_eq!(second.join().unwrap(), 5, "another machine with this id");
    });
    // It does not answer a ping any more.
    let started = Instant::now();
    let mut second = two.hub().node();
    assert_eq!(second.online("a"), 0);
    assert!(started.elapsed() < Duration::from_secs(10));
    wait_state(&one, "a", "online");
    assert_eq!(second.report(1), 0);
}

#[test]
#[ignore = "needs PostgreSQL"]
fn nodes_of_a_killed_hub_are_lost_after_its_lease() {
    let postgres = Postgres::start();
    let [mut one, two] = pair(&postgres, &["nodes.offline_after=1"]);
    let mut node = one.hub().node();
    assert_eq!(node.online("a"), 0);
    wait_state(&two, "a", "online");
    let killed = Instant::now();
    one.kill();
    sleep_for(Duration::from_secs(5));
    assert_eq!(two.state_of("a"), "online", "the lease has not ended");
    wait_state(&two, "a", "lost");
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(40), "{took:?}");
    two.hub().wait_log("no count of hub one in the database for 20 s; its nodes are lost");
    let mut node = two.hub().node();
    assert_eq!(node.online("a"), 0);
    assert_eq!(node.report(1), 0);
    one.run();
    wait_state(&one, "a", "online");
    // A hub that stops says so.
    let stopped = Instant::now();
    drop(node);
    let mut node = one.hub().node();
    assert_eq!(node.online("b"), 0);
    wait_state(&two, "b", "online");
    one.stop();
    wait_state(&two, "b", "lost");
    assert!(stopped.elapsed() < Duration::from_secs(15));
    two.hub().wait_log("hub one has stopped; its nodes are lost");
}

#[test]
#[ignore = "needs PostgreSQL"]
fn node_of_a_hung_hub_is_accepted_at_first_attempt() {
    let postgres = Postgres::start();
    let [one, mut two] = pair(&postgres, &[]);
    let mut before = one.hub().node();
    assert_eq!(before.online("a"), 0);
    wait_state(&two, "a", "online");
    one.hub().signal("-STOP");
    let mut after = two.hub().node();
    assert_eq!(after.online("a"), 0);
    assert_eq!(after.report(1), 0);
    one.hub().signal("-CONT");
    // It lets go of the connection that another hub has taken over.
    assert_eq!(before.close_code(Duration::from_secs(30)), 1008);
    assert_eq!((one.state_of("a"), two.state_of("a")), ("online".into(), "online".into()));
    two.kill();
    let mut after = one.hub().node();
    assert_eq!(after.online("a"), 0, "before the lease of the killed hub has ended");
    assert_eq!(after.report(2), 0);
}

fn is_ready(member: &Member) -> bool {
    http(member.hub().web, "GET", "/-/ready", "", "").starts_with("HTTP/1.1 200 ")
}

#[test]
#[ignore = "needs PostgreSQL"]
fn idle_hub_notices_that_the_database_works_again() {
    let mut postgres = Postgres::start();
    let one = Member::start("one", &postgres.url(), &[]);
    let mut node = one.hub().node();
    assert_eq!((node.online("a"), node.report(1)), (0, 0));
    postgres.kill();
    assert_eq!(node.report(2), 4);
    assert!(!is_ready(&one));
    postgres.run();
    // Without another report.
    wait_until("the hub to be ready", || is_ready(&one).then_some(()));
    assert_eq!(postgres.stored("a"), [1]);
}

#[test]
#[ignore = "needs PostgreSQL"]
fn links_stay_and_reports_fail_while_the_database_is_away() {
    let mut postgres = Postgres::start();
    let [one, two] = pair(&postgres, &[]);
    let mut node = one.hub().node();
    assert_eq!((node.online("a"), node.report(1)), (0, 0));
    wait_state(&two, "a", "online");
    assert!(is_ready(&one));
    postgres.kill();
    assert_eq!(node.report(2), 4);
    assert!(!is_ready(&one));
    let fleet = http(one.hub().web, "GET", "/api/fleet", "", "");
    assert!(fleet.contains("the store cannot commit"), "{fleet}");
    assert_eq!(one.state_of("a"), "online");
    assert_eq!(two.state_of("a"), "online", "the database is away for both");
    postgres.run();
    wait_until("the store to recover", || (node.report(2) == 0).then_some(()));
    assert_eq!(postgres.stored("a"), [1, 2]);
    wait_until("the hubs to recover", || (is_ready(&one) && is_ready(&two)).then_some(()));
    // A database that is stopped reports no error.
    postgres.signal("-STOP");
    let started = Instant::now();
    assert_eq!(node.report(3), 4);
    let took = started.elapsed();
    assert!(took < Duration::from_secs(18), "an agent waits 20 s: {took:?}");
    postgres.signal("-CONT");
    wait_until("the store to recover", || (node.report(3) == 0).then_some(()));
    assert_eq!(postgres.stored("a"), [1, 2, 3]);
    assert_eq!((one.state_of("a"), two.state_of("a")), ("online".into(), "online".into()));
}

#[test]
#[ignore = "needs PostgreSQL"]
fn removed_node_is_disconnected_and_unknown_to_both_hubs() {
    let postgres = Postgres::start();
    let [one, two] = pair(&postgres, &[]);
    let mut node = one.hub().node();
    assert_eq!((node.online("a"), node.report(1)), (0, 0));
    wait_state(&two, "a", "online");
    let refused = two.hub().rest("DELETE", "nodes/a", "");
    assert_eq!(refused["success"], false, "it is connected to the other hub");
    assert_eq!(two.hub().rest("DELETE", "nodes/a?force=true", "")["success"], true);
    wait_until("the end of its connection", || node.0.read().is_err().then_some(()));
    for member in [&one, &two] {
        wait_until("both to forget it", || member.state_of("a").is_empty().then_some(()));
    }
    // Although it reports again before the other hub reads of its removal.
    let mut node = one.hub().node();
    assert_eq!((node.online("a"), node.report(2)), (0, 0));
    wait_state(&two, "a", "online");
    assert_eq!(two.hub().rest("DELETE", "nodes/a?force=true", "")["success"], true);
    let body = crate::support::hub::report();
    wait_until("the end of its connection", || {
        let has_ended = node.try_send(2, 1, 3, &body).is_err() || node.0.read().is_err();
        has_ended.then_some(())
    });
    wait_until("both not to show it as online", || {
        [&one, &two].iter().all(|member| member.state_of("a") != "online").then_some(())
    });
}

#[test]
#[ignore = "needs PostgreSQL"]
fn second_hub_with_a_name_does_not_start() {
    let postgres = Postgres::start();
    let one = Member::start("one", &postgres.url(), &[]);
    let output = one.command().output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("another hm-hub uses it"), "its state_dir: {text}");
    let other = TempDir::new("member");
    let output =
        one.command().args(["-s", &format!("state_dir={}", other.0.display())]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("another hm-hub with the name one uses this database"), "{text}");
    assert!(text.contains("hub.instance"), "{text}");
    assert_eq!(text.matches("until the database notices the end of hub one").count(), 1, "{text}");
}

#[test]
#[ignore = "needs PostgreSQL"]
fn change_hook_is_run_by_one_hub() {
    let postgres = Postgres::start();
    let directory = TempDir::new("hook");
    let output = directory.0.join("output").display().to_string();
    let script = directory.write("hook", &format!("cat >>{output}\n"));
    let hook = format!("fleet.on_change=[\"/bin/sh\", \"{script}\"]");
    let [one, two] = pair(&postgres, &[&hook]);
    let (mut a, mut b) = (one.hub().node(), two.hub().node());
    assert_eq!((a.online("a"), b.online("b")), (0, 0));
    let lines = || -> Vec<Value> {
        let text = std::fs::read_to_string(&output).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    wait_until("both nodes", || (lines().len() >= 2).then_some(()));
    sleep_for(Duration::from_secs(6));
    let mut ids: Vec<String> =
        lines().iter().map(|line| line["node_id"].as_str().unwrap().to_owned()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["a", "b"]);
}

#[test]
#[ignore = "needs PostgreSQL"]
fn hub_that_was_removed_from_the_database_joins_again() {
    let postgres = Postgres::start();
    let [one, two] = pair(&postgres, &[]);
    let mut node = one.hub().node();
    assert_eq!(node.online("a"), 0);
    wait_state(&two, "a", "online");
    // As a clean-up does after the clock of the database was set.
    postgres.query("DELETE FROM instance WHERE name = 'one'");
    wait_state(&two, "a", "lost");
    wait_state(&two, "a", "online");
    assert_eq!(node.report(1), 0);
}

#[test]
#[ignore = "needs PostgreSQL"]
fn report_does_not_read_all_nodes_of_a_grown_fleet() {
    let postgres = Postgres::with_settings("autovacuum = off");
    let one = Member::start("one", &postgres.url(), &[]);
    let mut a = one.hub().node();
    assert_eq!(a.online("a"), 0);
    // PostgreSQL may keep a plan after five executions.
    for time in 1..=10 {
        assert_eq!(a.report(time), 0);
    }
    const NODES: i64 = 20_000;
    postgres.query(&format!(
        "INSERT INTO node (name, first_seen) SELECT md5(n::text), 0 FROM generate_series(1, {NODES}) n"
    ));
    let statistics = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'node'";
    let before = postgres.count(statistics);
    for time in 11..=60 {
        assert_eq!(a.report(time), 0);
    }
    // The end of the connection passes on its statistics.
    one.hub().signal("-TERM");
    sleep_for(Duration::from_secs(2));
    let read = postgres.count(statistics) - before;
    assert!(read < 25 * NODES, "50 reports have read {read} rows of {NODES} nodes");
}
