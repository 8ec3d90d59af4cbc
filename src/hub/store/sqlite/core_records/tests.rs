use super::*;
use crate::hub::core::messages::ReceivedResult;
use crate::hub::store::records::{CommandFilter, NewCommand, Page};
use crate::hub::store::sqlite::schema;
use crate::hub::store::sqlite::temp_db::TempDb;

const NOW: i64 = 1_718_000_000_000;

fn metrics(cpu_usage: f64) -> ReceivedMetrics {
    ReceivedMetrics {
        cpu_usage: Some(cpu_usage),
        memory_usage: Some(1.0 / 3.0),
        disk_total: Some(1e15),
        ..Default::default()
    }
}

fn store(db: &Connection, node_id: &str, content: Content, at: i64) -> Stored {
    let request = CoreNodeRequest { id: "1".into(), node_id: node_id.into(), content };
    insert(db, &mut NodeIds::default(), &request, at).unwrap()
}

fn found(db: &Connection, node_id: &str) -> Vec<(i64, ReceivedMetrics)> {
    let (found, total) =
        query_metrics(db, node_id, (i64::MIN, i64::MAX), Page { limit: 100, offset: 0 }).unwrap();
    assert_eq!(found.len() as u64, total);
    found.into_iter().map(|found| (found.at, found.metrics)).collect()
}

fn registration() -> Register {
    Register { hostname: "h".into(), ip_address: "i".into(), node_id: None, os_info: None }
}

#[test]
fn metrics_are_returned_as_sent_before_and_after_compaction() {
    let temp = TempDb::new("core-metrics");
    let db = schema::open(&temp.path).unwrap();
    for (at, cpu) in [(1, 45.2), (2, 100.0), (3, -0.07)] {
        store(&db, "a", Content::Metrics(metrics(cpu)), at);
    }
    store(&db, "a", Content::Heartbeat(None), 4);
    store(&db, "b", Content::Metrics(metrics(1.0)), 2);
    let expected = [
        (4, ReceivedMetrics::default()),
        (3, metrics(-0.07)),
        (2, metrics(100.0)),
        (1, metrics(45.2)),
    ];
    for _ in 0..2 {
        assert_eq!(found(&db, "a"), expected);
        let (page, total) = query_metrics(&db, "a", (2, 3), Page { limit: 1, offset: 1 }).unwrap();
        assert_eq!((page[0].at, total), (2, 2));
        compact(&db, NOW).unwrap();
    }
    // Ids are unique over compactions.
    let stored = store(&db, "a", Content::Metrics(metrics(1.0)), 9);
    assert_eq!(stored, Stored::Metrics { id: 6 });
}

#[test]
fn nodes_have_their_registration_and_latest_metrics() {
    let temp = TempDb::new("core-nodes");
    let db = schema::open(&temp.path).unwrap();
    assert_eq!(store(&db, "a", Content::Register(registration()), NOW), Stored::Registered);
    let again = store(&db, "a", Content::Register(registration()), NOW + 1);
    assert_eq!(again, Stored::Done);
    store(&db, "b", Content::Metrics(metrics(1.0)), 1);
    for at in [1, 2] {
        store(&db, "a", Content::Metrics(metrics(1.0)), at);
        compact(&db, NOW).unwrap();
    }
    store(&db, "b", Content::Metrics(metrics(2.0)), 5);
    let mut nodes = nodes(&db).unwrap();
    nodes.sort_by(|a, b| a.0.cmp(&b.0));
    let latest = |at: usize| nodes[at].1.metrics.as_ref().map(|metrics| metrics.at);
    assert_eq!((nodes.len(), latest(0), latest(1)), (2, Some(2), Some(5)));
    assert_eq!(nodes[0].1.register.as_ref().map(|register| &*register.hostname), Some("h"));
    assert_eq!((nodes[0].1.first_seen, nodes[0].1.updated_at), (NOW, NOW + 1));
    assert!(nodes[1].1.register.is_none());
}

#[test]
fn old_metrics_and_deleted_nodes_leave_nothing() {
    let temp = TempDb::new("core-old");
    let db = schema::open(&temp.path).unwrap();
    store(&db, "a", Content::Metrics(metrics(1.0)), NOW);
    compact(&db, NOW).unwrap();
    assert!(!delete_old_segment(&db, NOW).unwrap());
    assert_eq!(found(&db, "a").len(), 1);
    assert_eq!(
        metric_counts(&db, NOW).unwrap(),
        MetricCounts { total: 1, first: Some(NOW), last: Some(NOW), since: 1 }
    );
    assert!(delete_old_segment(&db, NOW + 1).unwrap());
    delete_old(&db, NOW + 1, NOW).unwrap();
    assert_eq!(found(&db, "a").len(), 0);
    assert_eq!(
        metric_counts(&db, NOW).unwrap(),
        MetricCounts { total: 0, first: None, last: None, since: 0 }
    );
    store(&db, "a", Content::Metrics(metrics(1.0)), NOW);
    compact(&db, NOW).unwrap();
    store(&db, "a", Content::Metrics(metrics(1.0)), NOW);
    delete_node(&db, "a").unwrap();
    delete_node(&db, "a").unwrap();
    assert!(nodes(&db).unwrap().is_empty());
    for table in ["core_recent", "core_metric"] {
        let count = format!("SELECT count(*) FROM {table}");
        let rows: i64 = db.query_row(&count, [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}

fn status(db: &Connection, command_id: &str) -> String {
    let filter = CommandFilter { command_id: Some(command_id), ..CommandFilter::default() };
    let (found, _) = commands::query(db, filter, true, Page { limit: 1, offset: 0 }).unwrap();
    found[0].command["status"].as_str().unwrap().to_owned()
}

fn result(command_id: &str, exit_code: Option<i64>) -> ReceivedResult {
    let (stdout, stderr) = ("out".to_owned(), String::new());
    ReceivedResult {
        command_id: command_id.into(),
        exit_code,
        stdout,
        stderr,
        execution_time_ms: Some(5),
    }
}

#[test]
fn commands_run_through_their_statuses() {
    let temp = TempDb::new("core-commands");
    let db = schema::open(&temp.path).unwrap();
    let (a, b) = {
        let mut nodes = NodeIds::default();
        (nodes.get(&db, &"a".into(), 1).unwrap(), nodes.get(&db, &"b".into(), 1).unwrap())
    };
    for id in ["ok", "bad", "late", "lost"] {
        let command = NewCommand { command_id: id.into(), text: "ls".into(), timeout_s: 30 };
        commands::create(&db, a, &command, 1000).unwrap();
    }
    assert_eq!(commands::pending(&db, a).unwrap().len(), 4);
    commands::start(&db, a, "ok", 1001).unwrap();
    commands::start(&db, b, "bad", 1001).unwrap();
    assert_eq!((status(&db, "ok"), status(&db, "bad")), ("running".into(), "pending".into()));
    commands::finish(&db, a, &result("ok", Some(0)), 1002).unwrap();
    commands::finish(&db, a, &result("ok", Some(1)), 1003).unwrap();
    commands::finish(&db, b, &result("bad", Some(0)), 1003).unwrap();
    commands::finish(&db, a, &result("bad", Some(3)), 1003).unwrap();
    commands::finish(&db, a, &result("unknown", Some(3)), 1003).unwrap();
    assert_eq!((status(&db, "ok"), status(&db, "bad")), ("success".into(), "failed".into()));
    assert!(commands::time_out(&db, 31_004, 5).unwrap().is_empty());
    assert_eq!(commands::time_out(&db, 31_005, 5).unwrap(), ["late", "lost"]);
    assert_eq!(status(&db, "lost"), "timeout");
    commands::finish(&db, a, &result("late", Some(0)), 40_000).unwrap();
    assert_eq!(status(&db, "late"), "success");
    let filter =
        CommandFilter { node_id: Some("a"), status: Some("success"), ..CommandFilter::default() };
    let (found, total) = commands::query(&db, filter, true, Page { limit: 1, offset: 1 }).unwrap();
    assert_eq!((found.len(), total), (1, 2));
    assert_eq!(found[0].result.as_ref().unwrap()["stdout"], "out");
    assert_eq!(commands::counts(&db).unwrap(), (4, 0));
    commands::delete_old(&db, 2000).unwrap();
    assert_eq!(commands::counts(&db).unwrap(), (0, 0));
}
