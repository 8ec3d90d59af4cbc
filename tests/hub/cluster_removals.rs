//! Nodes that operators remove, of which other hubs learn by the database.

use std::time::Duration;

use serde_json::Value;

use crate::support::cluster::Member;
use crate::support::postgres::Postgres;
use crate::support::tcp_proxy::{ProxyMode, TcpProxy};
use crate::support::wait_until;

fn remove(member: &Member, target: &str) -> Value {
    member.hub().rest("DELETE", &format!("nodes/{target}"), "")
}

/// Waits until a hub has read all that was committed before.
fn wait_for_read(postgres: &Postgres, member: &Member) {
    postgres.query("INSERT INTO node (name, first_seen) VALUES ('marker', 1)");
    wait_until("a read of the hub", || (!member.state_of("marker").is_empty()).then_some(()));
}

#[test]
#[ignore = "needs PostgreSQL"]
fn node_that_only_the_database_has_can_be_removed() {
    let postgres = Postgres::start();
    let one = Member::start("one", &postgres.url(), &[]);
    wait_for_read(&postgres, &one);
    // Changes of transactions before that of the last reading are not read.
    postgres.query(
        "INSERT INTO node (name, first_seen, changed) VALUES ('a', 1, '3'), ('b', 1, '3');
         INSERT INTO link (node, protocol, instance, epoch, changed)
           SELECT n.id, 1, i.id, 1, '3' FROM node n, instance i WHERE n.name = 'b'",
    );
    assert_eq!(one.state_of("a"), "", "this hub has not read of it");
    assert_eq!(remove(&one, "a")["success"], true);
    assert_eq!(remove(&one, "a")["error_code"], "NODE_NOT_FOUND");
    let refused = remove(&one, "b");
    assert_eq!(refused["error_code"], "VALIDATION_ERROR", "it is connected: {refused}");
    assert_eq!(remove(&one, "b?force=true")["success"], true);
    assert_eq!(postgres.query("SELECT name FROM node"), ["marker"]);
}

#[test]
#[ignore = "needs PostgreSQL"]
fn node_that_returns_after_its_removal_stays_connected() {
    let postgres = Postgres::start();
    let one = Member::start("one", &postgres.url(), &[]);
    let mut node = one.hub().node();
    assert_eq!((node.online("a"), node.report(1)), (0, 0));
    wait_for_read(&postgres, &one);
    assert_eq!(remove(&one, "a?force=true")["success"], true);
    let mut node = one.hub().node();
    assert_eq!((node.online("a"), node.report(2)), (0, 0));
    postgres.query("DELETE FROM node WHERE name = 'marker'");
    wait_until("its removal", || one.state_of("marker").is_empty().then_some(()));
    assert_eq!(node.report(3), 0, "the hub has read of both removals");
}

#[test]
#[ignore = "needs PostgreSQL"]
fn removal_is_noticed_after_its_record_was_deleted() {
    let postgres = Postgres::start();
    let proxy = TcpProxy::to(postgres.address, None);
    let one = Member::start("one", &postgres.url_at(proxy.address), &[]);
    let [mut a, mut b, mut c] = ["a", "b", "c"].map(|node_id| {
        let mut node = one.hub().node();
        assert_eq!((node.online(node_id), node.report(1)), (0, 0));
        node
    });
    drop(a.0.close(None));
    wait_for_read(&postgres, &one);
    proxy.set_mode(ProxyMode::Cut);
    let mut new = one.hub().node();
    assert_eq!(new.online("new"), 0);
    // As after two days.
    postgres.query(
        "DELETE FROM node WHERE name IN ('a', 'b');
         DELETE FROM forgotten_node;
         CREATE OR REPLACE FUNCTION unix_ms() RETURNS bigint LANGUAGE sql STABLE AS
           'SELECT floor(extract(epoch FROM now() + interval ''2 days'') * 1000)::bigint'",
    );
    proxy.set_mode(ProxyMode::Forward);
    wait_until("the hub to forget it", || one.state_of("a").is_empty().then_some(()));
    assert_eq!(b.close_code(Duration::from_secs(30)), 1008, "it was removed, too");
    wait_until("reports", || (c.report(2) == 0 && new.report(2) == 0).then_some(()));
    assert_eq!((one.state_of("c"), one.state_of("new")), ("online".into(), "online".into()));
}

#[test]
#[ignore = "needs PostgreSQL"]
fn node_that_is_removed_while_a_hub_starts_is_unknown() {
    let postgres = Postgres::start();
    let mut one = Member::start("one", &postgres.url(), &[]);
    let mut node = one.hub().node();
    assert_eq!((node.online("a"), node.report(1)), (0, 0));
    one.stop();
    let mut open = postgres.begin("LOCK TABLE instance");
    std::thread::scope(|scope| {
        let start = scope.spawn(|| one.run());
        // It has loaded the nodes then.
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        wait_until("the hub to join", || (postgres.count(waiting) > 0).then_some(()));
        open.execute("DELETE FROM node WHERE name = 'a'");
        open.commit();
        start.join().unwrap();
    });
    wait_until("the hub to forget it", || one.state_of("a").is_empty().then_some(()));
}
