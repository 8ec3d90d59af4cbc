use super::*;
use crate::hub::store::records::{NewCommand, Page};
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

#[test]
fn commands_time_out_and_are_deleted_by_their_times() {
    let temp = TempDb::new("core-commands");
    let db = schema::open(&temp.path).unwrap();
    let node = NodeIds::default().get(&db, &"a".into(), 1).unwrap();
    let command = NewCommand { command_id: "late".into(), text: "ls".into(), timeout_s: 30 };
    commands::create(&db, node, &command, 1000).unwrap();
    assert!(commands::time_out(&db, 31_004, 5).unwrap().is_empty());
    assert_eq!(commands::time_out(&db, 31_005, 5).unwrap(), ["late"]);
    for (before, left) in [(1000, 1), (1001, 0)] {
        commands::delete_old(&db, before).unwrap();
        assert_eq!(commands::counts(&db).unwrap(), (left, 0));
    }
}
