//! A hub on a PostgreSQL server: connections, and a crash of the hub. `store_postgres.rs` tests what is stored, `cluster.rs` several hubs.

use std::process::Output;

use crate::support::TempDir;
use crate::support::hub::{Hub, hm_hub};
use crate::support::postgres::Postgres;
use crate::support::tls_server::Authority;

fn run_until_it_fails(state: &TempDir, store: &str) -> Output {
    Hub::command(state, "127.0.0.1:0", &[&format!("store={store}")]).output().unwrap()
}

fn error(state: &TempDir, store: &str) -> String {
    let output = run_until_it_fails(state, store);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!text.contains("s3cret") && !text.contains("wr0ng"), "{text}");
    text
}

#[test]
#[ignore = "needs PostgreSQL"]
fn verifies_server_with_tls_and_never_shows_the_password() {
    let (scratch, authority, other) = (TempDir::new("tls"), Authority::new(), Authority::new());
    let (chain, key) = authority.files(&scratch, "db", &["localhost"]);
    let settings = "ssl = on
ssl_cert_file = 'DIRECTORY/db.pem'
ssl_key_file = 'DIRECTORY/db.key'
password_encryption = scram-sha-256";
    let server = Postgres::with_files(settings, &[("db.pem", &chain), ("db.key", &key)]);
    server.query("CREATE USER secured PASSWORD 's3cret'; GRANT ALL ON SCHEMA public TO secured");
    server.set_access("hostssl all secured all scram-sha-256");
    let port = server.address.port();
    let url = |password: &str, host: &str, parameters: &str| {
        format!("postgres://secured:{password}@{host}:{port}/hub?{parameters}")
    };
    let trusted = format!("sslmode=verify-full&sslrootcert={}", authority.file(&scratch));
    let state = TempDir::new("hub");
    let store = format!("store={}", url("s3cret", "localhost", &trusted));
    let hub = Hub::start(&state, &[&store]);
    let mut node = hub.node();
    assert_eq!((node.online("a"), node.report(1)), (0, 0));
    let sessions = "SELECT bool_and(ssl) FROM pg_stat_ssl s JOIN pg_stat_activity a ON a.pid = s.pid AND a.usename = 'secured'";
    assert_eq!(server.query(sessions), ["t"]);
    let log = hub.stop().join("\n");
    assert!(!log.contains("s3cret"), "{log}");
    let text = error(&state, &url("wr0ng", "localhost", &trusted));
    assert!(text.contains("password authentication failed for user \"secured\""), "{text}");
    let text = error(&state, &url("s3cret", "localhost", "sslmode=disable"));
    assert!(text.contains("no encryption"), "{text}");
    let scratch = TempDir::new("other");
    let untrusted = format!("sslmode=verify-full&sslrootcert={}", other.file(&scratch));
    let text = error(&state, &url("s3cret", "localhost", &untrusted));
    assert!(text.contains("certificate"), "{text}");
    let text = error(&state, &url("s3cret", "localhost", "sslmode=require"));
    assert!(text.contains("certificate"), "require verifies, too: {text}");
    let text = error(&state, &url("s3cret", "127.0.0.1", &trusted));
    assert!(text.contains("certificate"), "it has another name: {text}");
}

#[test]
#[ignore = "needs PostgreSQL"]
fn acknowledged_reports_survive_a_crash_of_the_hub() {
    let (server, state) = (Postgres::start(), TempDir::new("hub"));
    let store = format!("store={}", server.url());
    let mut sent = 0;
    for _ in 0..5 {
        let hub = Hub::start(&state, &[&store]);
        let mut node = hub.node();
        assert_eq!(node.online("a"), 0);
        for _ in 0..50 {
            sent += 1;
            assert_eq!(node.report(sent), 0);
        }
        hub.kill();
    }
    assert_eq!(server.stored("a"), (1..=sent).collect::<Vec<_>>());
}

#[test]
#[ignore = "needs PostgreSQL"]
fn backup_names_what_to_use_instead() {
    let (server, state) = (Postgres::start(), TempDir::new("hub"));
    let output = hm_hub()
        .args(["-s", &format!("state_dir={}", state.0.display())])
        .args(["-s", &format!("store={}", server.url()), "backup"])
        .arg(state.0.join("copy"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("pg_dump"), "{text}");
}

#[test]
fn settings_do_not_show_the_password() {
    let check = |store: &str| {
        let output = hm_hub().args(["check", "-s", &format!("store={store}")]).output().unwrap();
        let texts = [output.stdout, output.stderr].concat();
        String::from_utf8(texts).unwrap()
    };
    let text = check("postgres://hub:s3cret@localhost/hub");
    assert!(text.contains("# store is set and not shown"), "{text}");
    assert!(check("sqlite").contains("store = \"sqlite\""));
    for store in [
        "postgres://hub:s3cret@localhost/hub?sslmode=prefer",
        "postgres://hub:s3cret@localhost/hub?nonsense=1",
        "postgres://hub:s3cret@local host/hub",
        "mysql://hub:s3cret@localhost/hub",
    ] {
        let text = check(store);
        assert!(text.contains("store") && !text.contains("s3cret"), "{text}");
    }
}
