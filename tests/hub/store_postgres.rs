//! What is different with PostgreSQL.

use std::time::{Duration, Instant};

use hm_agent::hub::core::messages::CommandStarted;
use hm_agent::hub::core::node_session::Content;
use hm_agent::hub::hm::messages::MachineInfo;
use hm_agent::hub::nodes::Presence;
use hm_agent::hub::store::postgres::PostgresDatabase;
use hm_agent::hub::store::postgres::url::PostgresUrl;
use hm_agent::hub::store::records::Page;
use hm_agent::hub::store::{Stored, Write};
use hm_agent::hub_extension::messages::AgentInfo;

use crate::support::postgres::Postgres;
use crate::support::store::{
    ALL, DAY_MS, RETENTION, command, core, metrics, now, open_postgres, registration, report,
    report_of, result, selection, start_postgres,
};
use crate::support::{sleep_for, wait_until};

#[test]
#[ignore = "needs PostgreSQL"]
fn texts_with_null_characters_are_stored_and_spoil_nothing() {
    let (_server, mut store) = start_postgres();
    let text = || "a\0b".to_owned();
    let info = MachineInfo {
        project: text(),
        models: vec![text()],
        gpu_name: text(),
        ..MachineInfo::default()
    };
    let agent = AgentInfo {
        agent_version: text(),
        hostname: text(),
        project: text(),
        gpu_models: vec![text()],
    };
    let group = Some("g\0".into());
    let done = store.commit(vec![
        report_of("a", 1, info),
        core("a", registration("h\0")),
        command("a", "c\0", 9),
        core("a", Content::CommandStarted(CommandStarted { command_id: text() })),
        result("a", "c", 0, "out\0"),
        Write::Agent { node_id: "a".into(), agent: agent.into(), group },
        report("b", 1, 1),
    ]);
    assert!(done.iter().all(|done| done.stored != Stored::Failed));
    assert_eq!((store.times("a"), store.times("b")), (vec![1], vec![1]));
    let reports = store.reader.reports(&selection("a", ALL.0, ALL.1, 1)).unwrap();
    assert_eq!((&*reports[0].project, &*reports[0].models[0].model), ("a\u{fffd}b", "a\0b"));
    let node = store.node("a").unwrap();
    assert_eq!(node.register.unwrap().hostname, "h\u{fffd}");
    assert_eq!(node.agent.unwrap().hostname, "a\0b", "JSON can express it");
}

#[test]
#[ignore = "needs PostgreSQL"]
fn reports_are_in_the_partition_of_their_day_once() {
    let (server, mut store) = start_postgres();
    let mut other = open_postgres(&server.url()).unwrap();
    let today = now();
    let days = [0, 1, 40, 365].map(|days| today - days * DAY_MS);
    let ancient = [today - 500 * DAY_MS, 0, i64::MIN, -1];
    let writes = days.iter().chain(&ancient).map(|sent| report("a", *sent, 5));
    store.commit(writes.clone().collect());
    other.commit(writes.clone().chain(writes).collect());
    assert_eq!(store.times("a").len(), days.len() + ancient.len());
    let partitions = "SELECT count(DISTINCT tableoid) FROM hm_report WHERE tableoid <> 'hm_report_other'::regclass";
    assert_eq!(server.count(partitions), days.len() as i64);
    assert_eq!(server.count("SELECT count(*) FROM hm_report_other"), ancient.len() as i64);
}

#[test]
#[ignore = "needs PostgreSQL"]
fn reports_of_a_dropped_partition_stay_in_the_means_once() {
    let (server, mut store) = start_postgres();
    let old = (now() / DAY_MS - 3) * DAY_MS + 1000;
    store.commit(vec![report("a", old, 10), report("a", old + 1, 30), report("a", now(), 7)]);
    store.commit(vec![core("a", Content::Metrics(metrics(1.0)))]);
    let means = |store: &mut crate::support::store::Store| {
        let found = store.reader.means(&selection("a", 0, ALL.1, 100)).unwrap();
        found.iter().map(|mean| (mean.reports, mean.memory_used)).collect::<Vec<_>>()
    };
    let before = means(&mut store);
    assert_eq!(before, [(1, 7.0), (2, 20.0)]);
    store.writer.maintain().unwrap();
    sleep_for(Duration::from_secs(1));
    assert_eq!(store.times("a").len(), 3, "they have just arrived");
    let late = now() - 2 * DAY_MS;
    server.query(&format!("UPDATE day_partition SET last_arrival = {late}"));
    store.writer.maintain().unwrap();
    let reports = || server.count("SELECT count(*) FROM hm_report");
    wait_until("the drop", || (reports() == 1).then_some(()));
    wait_until("the means", || (means(&mut store) == before).then_some(()));
    // A backlog for the day arrives after all.
    store.commit(vec![report("a", old + 2, 50)]);
    assert_eq!(means(&mut store), [(1, 7.0), (3, 30.0)]);
    // Metrics are kept by their own day.
    let page = Page { limit: 9, offset: 0 };
    assert_eq!(store.reader.metrics("a", ALL, page).unwrap().1, 1);
}

#[test]
#[ignore = "needs PostgreSQL"]
fn node_that_another_hub_has_deleted_is_created_again() {
    let (server, mut store) = start_postgres();
    let mut other = open_postgres(&server.url()).unwrap();
    let hook_state = || Write::HookState { node_id: "a".into(), state: Presence::Online };
    store.commit(vec![report("a", 1, 1), core("a", registration("h")), hook_state()]);
    other.commit(vec![Write::DeleteNode("a".into())]);
    assert!(store.node("a").is_none());
    let done = store.commit(vec![report("a", 2, 1), core("a", registration("h"))]);
    assert_eq!(done[1].stored, Stored::Registered);
    assert_eq!(store.times("a"), [2]);
    assert_eq!(store.node("a").unwrap().hook_state, None, "it is new");
}

#[test]
#[ignore = "needs PostgreSQL"]
fn two_hubs_that_meet_the_same_nodes_do_not_fail() {
    let (server, mut one) = start_postgres();
    let mut two = open_postgres(&server.url()).unwrap();
    std::thread::scope(|scope| {
        for (store, is_reversed) in [(&mut one, false), (&mut two, true)] {
            scope.spawn(move || {
                for round in 0..20 {
                    let mut numbers: Vec<i64> = (0..100).collect();
                    if is_reversed {
                        numbers.reverse();
                    }
                    let writes = numbers.iter().flat_map(|number| {
                        let node = format!("{round}-{number}");
                        let info = MachineInfo { memory_total: *number, ..MachineInfo::default() };
                        [report_of(&node, 1, info), core(&node, registration("h"))]
                    });
                    store.commit(writes.collect());
                }
            });
        }
    });
    assert_eq!(server.count("SELECT count(*) FROM hm_report"), 2000);
    assert_eq!(server.count("SELECT count(*) FROM node"), 2000);
}

#[test]
#[ignore = "needs PostgreSQL"]
fn databases_that_cannot_be_used_are_refused() {
    let (server, _) = start_postgres();
    server.query("UPDATE schema_version SET version = 99");
    let error = |url: &str| open_postgres(url).err().unwrap().0;
    let text = error(&server.url());
    assert!(text.contains("schema version 99"), "{text}");
    server.query("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0");
    let address = server.address;
    let text = error(&format!("postgres://hub@{address}/latin"));
    assert!(text.contains("encoding LATIN1"), "{text}");
    let text = error(&format!("postgres://hub@{address}/nonexistent"));
    assert!(text.contains("database \"nonexistent\" does not exist"), "{text}");
}

#[test]
#[ignore = "needs PostgreSQL"]
fn hubs_that_start_together_create_one_schema() {
    let server = Postgres::start();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| open_postgres(&server.url()).map(drop).unwrap());
        }
    });
    assert_eq!(server.count("SELECT version FROM schema_version"), 1);
}

#[test]
#[ignore = "needs PostgreSQL"]
fn records_without_a_partition_are_moved_when_it_is_created() {
    let (server, mut store) = start_postgres();
    let refuse = "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$;
        CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN tag IN ('CREATE TABLE') EXECUTE FUNCTION refuse()";
    server.query(refuse);
    let at = now();
    let heartbeat = || core("a", Content::Heartbeat(None));
    store.commit(vec![report("a", at, 1), heartbeat()]);
    let others =
        "SELECT (SELECT count(*) FROM hm_report_other) + (SELECT count(*) FROM core_metric_other)";
    assert_eq!(server.count(others), 2);
    server.query("DROP EVENT TRIGGER refuse");
    let mut other = open_postgres(&server.url()).unwrap();
    other.commit(vec![report("a", at, 1), report("a", at + 1, 1), heartbeat()]);
    assert_eq!(server.count(others), 0);
    assert_eq!(store.times("a"), [at + 1, at]);
}

#[test]
#[ignore = "needs PostgreSQL"]
fn reports_do_not_wait_for_locks_of_their_partition() {
    let (server, mut store) = start_postgres();
    let open = server.begin("LOCK TABLE hm_report IN SHARE UPDATE EXCLUSIVE MODE");
    let started = Instant::now();
    let times: Vec<i64> = (0..20).map(|day| now() - day * DAY_MS).collect();
    for time in &times {
        store.commit(vec![report("a", *time, 1)]);
    }
    // The lock timeout of a session is 5 s.
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    assert_eq!(store.times("a"), times);
    open.commit();
    let mut other = open_postgres(&server.url()).unwrap();
    other.commit(vec![report("a", times[0] + 1, 1)]);
    assert_eq!(server.count("SELECT count(*) FROM hm_report_other"), 19);
}

#[test]
#[ignore = "needs PostgreSQL"]
fn unused_workloads_are_deleted() {
    let (server, mut store) = start_postgres();
    let workloads = "SELECT count(*) FROM hm_workload";
    store.commit(vec![report("a", now(), 1)]);
    server.query(&format!("UPDATE hm_workload SET last_used = {}", now() - 5 * DAY_MS));
    store.commit(vec![report("a", now() + 1, 1)]);
    store.writer.maintain().unwrap();
    sleep_for(Duration::from_secs(1));
    assert_eq!(server.count(workloads), 1, "it was used again");
    server.query(&format!("UPDATE hm_workload SET last_used = {}", now() - 20 * DAY_MS));
    store.writer.maintain().unwrap();
    wait_until("the deletion", || (server.count(workloads) == 0).then_some(()));
    store.commit(vec![report("a", now() + 2, 1)]);
    let found = store.reader.reports(&selection("a", 0, ALL.1, 1)).unwrap();
    assert_eq!((found.len(), server.count(workloads)), (1, 1));
}

#[test]
#[ignore = "needs PostgreSQL"]
fn connections_for_queries_are_limited() {
    let server = Postgres::start();
    let url = PostgresUrl::parse(&server.url()).unwrap();
    let database = PostgresDatabase::open(&url, RETENTION).unwrap().database;
    let readers: Vec<_> = std::iter::from_fn(|| database.open_reader().ok()).take(100).collect();
    assert_eq!(readers.len(), 12);
    let error = database.open_reader().err().unwrap().0;
    assert!(error.contains("too many queries"), "{error}");
    drop(readers);
    assert!(database.open_reader().is_ok());
}

#[test]
#[ignore = "needs PostgreSQL"]
fn statement_that_takes_too_long_is_cancelled_at_the_server() {
    let (server, mut store) = start_postgres();
    server.query(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(600); RETURN NEW; END';
         CREATE TRIGGER wait BEFORE INSERT ON node FOR EACH ROW EXECUTE FUNCTION wait()",
    );
    let started = Instant::now();
    let error = store.try_commit(vec![report("a", 1, 1)]).unwrap_err().0;
    assert!(error.contains("does not answer within 8 s"), "{error}");
    assert!(store.writer.has_timed_out());
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    wait_until("the end of the statement", || (server.count(sleeping) == 0).then_some(()));
    // Its own timeout is 60 s.
    assert!(started.elapsed() < Duration::from_secs(50));
    server.query("DROP TRIGGER wait ON node");
    store.commit(vec![report("a", 1, 1)]);
    assert!(!store.writer.has_timed_out());
}

#[test]
#[ignore = "needs PostgreSQL"]
fn commit_that_waits_for_a_replica_is_not_cancelled() {
    let (server, mut store) = start_postgres();
    store.commit(vec![report("a", 1, 1)]);
    server.query("ALTER SYSTEM SET synchronous_standby_names = 'away'");
    server.query("SELECT pg_reload_conf()");
    wait_until("the setting", || {
        (server.query("SHOW synchronous_standby_names") == ["away"]).then_some(())
    });
    // A repeat waits for the first attempt, and must not be acknowledged before that is on a replica.
    for _ in 0..2 {
        store.try_commit(vec![report("a", 2, 1)]).unwrap_err();
        assert_eq!(store.times("a"), [1]);
    }
    let sql = "ALTER SYSTEM RESET synchronous_standby_names";
    server.query(sql);
    server.query("SELECT pg_reload_conf()");
    wait_until("the report", || store.try_commit(vec![report("a", 2, 1)]).ok());
    assert_eq!(store.times("a"), [2, 1]);
}
