//! Nodes that operators remove, of which other hubs learn by the database.

use serde_json::Value;

use crate::support::cluster::Member;
use crate::support::postgres::Postgres;
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
    // Hubs do not read changes of so long ago.
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
