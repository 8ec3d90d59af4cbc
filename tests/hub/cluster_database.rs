//! What hubs read of each other in the database, and when.

use std::time::{Duration, Instant};

use hm_agent::hub::cluster::database::changes::{Changes, Position};
use hm_agent::hub::cluster::database::{ClusterDatabase, Identity};
use hm_agent::hub::store::postgres::locks;
use hm_agent::hub::store::postgres::session::PgSession;
use hm_agent::hub::store::postgres::url::PostgresUrl;

use crate::support::cluster::Member;
use crate::support::hub::{http, json_body};
use crate::support::postgres::Postgres;
use crate::support::store::{report, start_postgres};
use crate::support::wait_until;

/// A hub that reads without waiting takes a fraction of it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(15);

fn join(server: &Postgres) -> ClusterDatabase {
    let session = PgSession::connect(&PostgresUrl::parse(&server.url()).unwrap()).unwrap();
    let identity = Identity { name: "test".into(), url: None, secret: "s".into() };
    ClusterDatabase::join(session, &identity, true).unwrap().unwrap()
}

fn names(changes: &Changes) -> Vec<&str> {
    changes.nodes.iter().map(|(node_id, _)| &**node_id).collect()
}

/// The revision of the fleet, and the nodes that have changed since an earlier one.
fn changed(member: &Member, after: &str) -> (String, Vec<String>) {
    let target = format!("/api/fleet?after={after}");
    let fleet = json_body(&http(member.hub().web, "GET", &target, "", ""));
    let nodes = fleet["nodes"].as_array().unwrap().iter();
    let names = nodes.map(|node| node["node_id"].as_str().unwrap().to_owned()).collect();
    (fleet["revision"].as_str().unwrap().to_owned(), names)
}

/// Waits until a hub has read all that was committed before: a node, whose row this writes.
fn wait_for_read(postgres: &Postgres, member: &Member, node_id: &str) {
    postgres.query(&format!("INSERT INTO node (name, first_seen) VALUES ('{node_id}', 1)"));
    wait_until("a read of the hub", || (!member.state_of(node_id).is_empty()).then_some(()));
}

#[test]
#[ignore = "needs PostgreSQL"]
fn each_change_is_read_once_while_a_transaction_is_open() {
    let (server, mut store) = start_postgres();
    let mut database = join(&server);
    store.commit(vec![report("a", 1, 1)]);
    let (changes, position) = database.changes(&Position::start()).unwrap();
    assert_eq!(names(&changes), ["a"]);
    let open = server.begin("INSERT INTO node (name, first_seen) VALUES ('late', 1)");
    store.commit(vec![report("b", 1, 1)]);
    let (changes, position) = database.changes(&position).unwrap();
    assert_eq!(names(&changes), ["b"]);
    let (changes, position) = database.changes(&position).unwrap();
    assert_eq!(names(&changes), [""; 0]);
    open.commit();
    let (changes, position) = database.changes(&position).unwrap();
    assert_eq!(names(&changes), ["late"]);
    assert_eq!(names(&database.changes(&position).unwrap().0), [""; 0]);
}

#[test]
#[ignore = "needs PostgreSQL"]
fn restored_database_is_read_once() {
    let (server, mut store) = start_postgres();
    store.commit(vec![report("a", 1, 1)]);
    // Ids of transactions of another server, of which this one has had fewer.
    server.query(
        "SET session_replication_role = replica;
         UPDATE node SET changed = '99999999';
         INSERT INTO link (node, protocol, instance, epoch, changed) SELECT id, 1, NULL, 1, '99999999' FROM node;
         INSERT INTO node_state (node, instance, state, changed) SELECT id, 99, '{}', '99999999' FROM node;
         INSERT INTO forgotten_node (node, name, changed) VALUES (99, 'b', '99999999')",
    );
    let mut database = join(&server);
    let (changes, position) = database.changes(&Position::start()).unwrap();
    assert_eq!((names(&changes), changes.links.len()), (vec!["a"], 1));
    let (changes, _) = database.changes(&position).unwrap();
    assert_eq!((names(&changes), changes.links.len()), (vec![], 0));
    assert_eq!((changes.states.len(), changes.forgotten.len()), (0, 0));
}

#[test]
#[ignore = "needs PostgreSQL"]
fn pages_get_no_changes_of_nodes_that_are_the_same() {
    let postgres = Postgres::start();
    let one = Member::start("one", &postgres.url_of("first"), &[]);
    let two = Member::start("two", &postgres.url(), &[]);
    let _open = postgres.begin("SELECT pg_current_xact_id()");
    let (mut a, mut b) = (one.hub().node(), two.hub().node());
    assert_eq!((a.online("a"), b.online("b")), (0, 0));
    wait_until("the other's node", || (one.state_of("b") == "online").then_some(()));
    let mut number = 0;
    wait_until("the end of changes", || {
        let (before, _) = changed(&one, "");
        number += 1;
        let marker = format!("marker-{number}");
        wait_for_read(&postgres, &one, &marker);
        (changed(&one, &before).1 == [marker]).then_some(())
    });
    // In a new session, the hub reads all again.
    let end_sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'first' AND state = 'idle'";
    let (before, _) = changed(&one, "");
    wait_until("the end of its session", || {
        postgres.query(end_sessions);
        let log = one.hub().log();
        log.iter().any(|line| line.contains("the database is not reached")).then_some(())
    });
    one.hub().wait_log("cluster: recovered");
    wait_for_read(&postgres, &one, "last");
    assert_eq!(changed(&one, &before).1, ["last"], "{:#?}", one.hub().log());
}

#[test]
#[ignore = "needs PostgreSQL"]
fn conflict_with_another_transaction_does_not_end_the_session() {
    let postgres = Postgres::start();
    let [one, two] = ["one", "two"].map(|name| Member::start(name, &postgres.url(), &[]));
    postgres.query(
        "CREATE SEQUENCE attempts;
         CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF nextval('attempts') = 1 THEN RAISE 'conflict' USING ERRCODE = 'deadlock_detected'; END IF;
           RETURN NEW;
         END $$;
         CREATE TRIGGER conflict BEFORE INSERT ON link FOR EACH ROW EXECUTE FUNCTION conflict()",
    );
    let mut node = one.hub().node();
    assert_eq!(node.online("a"), 0);
    wait_until("the node", || (two.state_of("a") == "online").then_some(()));
    assert!(postgres.count("SELECT last_value FROM attempts") > 1);
    let log = one.hub().log().join("\n");
    assert!(!log.contains("the database is not reached"), "{log}");
}

#[test]
#[ignore = "needs PostgreSQL"]
fn states_of_nodes_that_do_not_exist_are_deleted() {
    let postgres = Postgres::start();
    let mut one = Member::start("one", &postgres.url(), &[]);
    one.stop();
    // As from a hub that has passed it on while the node was removed.
    postgres.query(
        "INSERT INTO instance (name, version, schema_version, secret, renewals) VALUES ('other', '0', 1, '', 0);
         INSERT INTO node_state (node, instance, state) SELECT 99, id, '{}' FROM instance",
    );
    one.run();
    let sql = "SELECT count(*) FROM node_state WHERE node = 99";
    wait_until("the deletion", || (postgres.count(sql) == 0).then_some(()));
}

#[test]
#[ignore = "needs PostgreSQL"]
fn hub_that_gets_the_lock_reads_again_before_it_leads() {
    // On a busy machine its first reading may time out before the test goes on.
    assert!((0..3).any(|_| reads_again_before_it_leads()));
}

/// False if the hub has not got the lock in time.
fn reads_again_before_it_leads() -> bool {
    let postgres = Postgres::start();
    let number = locks::LEADER;
    let other_leader = postgres.begin(&format!("SELECT pg_advisory_lock({number})"));
    let leaders = format!("SELECT count(*) FROM pg_locks WHERE objid = {number} AND granted");
    let waiting = |user: &str| {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        postgres.count(&format!("{sql} AND usename = '{user}'")) > 0
    };
    let one = Member::start("one", &postgres.url_of("first"), &[]);
    let first = postgres.begin("LOCK TABLE link");
    wait_until("a reading", || waiting("first").then_some(()));
    // What the other leader stores now is not in this reading.
    drop(other_leader);
    wait_until("the end of its lock", || (postgres.count(&leaders) == 0).then_some(()));
    let has_lock = std::thread::scope(|scope| {
        let second = scope.spawn(|| postgres.begin("LOCK TABLE link"));
        wait_until("the second lock", || waiting("hub").then_some(()));
        // The reading goes on, and the second lock follows.
        first.commit();
        let second = second.join().unwrap();
        let start = Instant::now();
        while postgres.count(&leaders) != 1 {
            if start.elapsed() > LOCK_TIMEOUT {
                return false;
            }
        }
        wait_until("its next reading", || waiting("first").then_some(()));
        let metrics = http(one.hub().web, "GET", "/metrics", "", "");
        assert!(metrics.contains("\nhm_hub_leader 0\n"), "{metrics}");
        second.commit();
        true
    });
    if has_lock {
        one.hub().wait_log("cluster: this hub leads");
    }
    has_lock
}
