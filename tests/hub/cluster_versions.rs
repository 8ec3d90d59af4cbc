//! Versions of hm-hub with different schemas.

use hm_agent::hub::store::postgres::schema::{SCHEMA_VERSION, migrate_by};
use hm_agent::hub::store::postgres::session::PgSession;
use hm_agent::hub::store::postgres::url::PostgresUrl;

use crate::support::cluster::Member;
use crate::support::hub::http;
use crate::support::postgres::Postgres;
use crate::support::wait_until;

/// What a later version of hm-hub does when it starts.
fn migrate(postgres: &Postgres) -> Result<(), String> {
    let url = PostgresUrl::parse(&postgres.url()).unwrap();
    let mut migrations = vec![""; SCHEMA_VERSION as usize];
    migrations.push("CREATE TABLE later (id bigint)");
    migrate_by(&mut PgSession::connect(&url).unwrap(), &migrations)
        .map_err(|error| error.to_string())
}

#[test]
#[ignore = "needs PostgreSQL"]
fn hubs_of_different_schemas_do_not_run_together() {
    let postgres = Postgres::start();
    let mut hub = Member::start("one", &postgres.url(), &[]);
    let error = migrate(&postgres).unwrap_err();
    assert!(error.contains("hub one is running and supports the schema up to version"), "{error}");
    assert_eq!(postgres.count("SELECT version FROM schema_version"), i64::from(SCHEMA_VERSION));
    // One that has stopped, or whose lease has ended, does not hinder it.
    hub.stop();
    migrate(&postgres).unwrap();
    let output = hub.command().output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let later = SCHEMA_VERSION + 1;
    assert!(text.contains(&format!("the database has schema version {later}")), "{text}");
    assert!(text.contains("a later version of hm-hub uses it"), "{text}");
}

#[test]
#[ignore = "needs PostgreSQL"]
fn hub_that_missed_a_migration_stores_nothing_any_more() {
    let postgres = Postgres::start();
    let hub = Member::start("one", &postgres.url(), &[]);
    let mut node = hub.hub().node();
    assert_eq!((node.online("a"), node.report(1)), (0, 0));
    hub.hub().signal("-STOP");
    // As after the time of its lease.
    wait_until("a migration", || {
        // The database may still execute what the hub has sent before it was stopped.
        postgres.query("UPDATE instance SET renewed = now() - interval '1 minute'");
        migrate(&postgres).ok()
    });
    hub.hub().signal("-CONT");
    assert_eq!([node.report(2), node.report(2)], [4; 2]);
    // The first failure was the end of its session.
    wait_until("the reason", || {
        let ready = http(hub.hub().web, "GET", "/-/ready", "", "");
        ready.contains("a later version of hm-hub uses it").then_some(())
    });
    assert_eq!(hub.state_of("a"), "online");
    assert_eq!(postgres.stored("a"), [1]);
}
