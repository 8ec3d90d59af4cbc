use std::sync::Arc;

use super::*;
use crate::hub::store::records::{Selection, StoredReport};
use crate::hub::store::sqlite::schema;
use crate::hub::store::sqlite::temp_db::TempDb;

const NOW: i64 = 1_718_000_000_000;

fn report(node_id: &str, sent: i64, memory_used: i64) -> HmReport {
    let info = MachineInfo {
        project: "DecentralGPT".into(),
        models: vec!["Codestral-22B-v0.1".into()],
        gpu_name: "NVIDIA RTX A5000".into(),
        utilization_gpu: 30,
        memory_total: 24_564,
        memory_used,
    };
    HmReport { node_id: node_id.into(), sent, adjusted: false, info: Arc::new(info) }
}

fn reports(db: &Connection, node_id: &str, start: i64, end: i64, limit: u32) -> Vec<StoredReport> {
    query::reports(db, &Selection { node_id: node_id.into(), start, end, limit }).unwrap()
}

fn times(db: &Connection, node_id: &str) -> Vec<i64> {
    reports(db, node_id, i64::MIN, i64::MAX, 1000).iter().map(|report| report.timestamp).collect()
}

#[test]
fn stores_a_repeat_once_wherever_the_first_one_is() {
    let temp = TempDb::new("repeat");
    let db = schema::open(&temp.path).unwrap();
    let (mut reports, mut nodes) = (HmReports::default(), NodeIds::default());
    let mut insert = |reports: &mut HmReports, sent| {
        reports.insert(&db, &mut nodes, &report("a", sent, 0), NOW).unwrap();
    };
    insert(&mut reports, 1);
    insert(&mut reports, 2);
    insert(&mut reports, 1);
    reports.clear_caches();
    insert(&mut reports, 2);
    assert_eq!(times(&db, "a"), [2, 1]);
    reports.compact(&db, NOW).unwrap();
    insert(&mut reports, 1);
    insert(&mut reports, 3);
    reports.clear_caches();
    insert(&mut reports, 2);
    insert(&mut reports, 3);
    assert_eq!(times(&db, "a"), [3, 2, 1]);
}

#[test]
fn means_include_every_report_once() {
    let temp = TempDb::new("means");
    let db = schema::open(&temp.path).unwrap();
    let (mut reports, mut nodes) = (HmReports::default(), NodeIds::default());
    for (sent, memory) in [(0, 10), (299_999, 20), (300_000, 50)] {
        reports.insert(&db, &mut nodes, &report("a", sent, memory), NOW).unwrap();
    }
    reports.compact(&db, NOW).unwrap();
    reports.insert(&db, &mut nodes, &report("a", 1, 30), NOW).unwrap();
    reports.compact(&db, NOW).unwrap();
    reports.compact(&db, NOW).unwrap();
    let mut statement = db.prepare("SELECT slot, reports, memory_used FROM hm_mean").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    let rows: Vec<(i64, i64, i64)> = rows.collect::<Result<_, _>>().unwrap();
    assert_eq!(rows, [(0, 3, 60), (1, 1, 50)]);
}

#[test]
fn deletes_what_is_older_than_the_retention() {
    let temp = TempDb::new("retention");
    let db = schema::open(&temp.path).unwrap();
    let (mut reports, mut nodes) = (HmReports::default(), NodeIds::default());
    let count = |table: &str| -> i64 {
        db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    };
    let day: i64 = 86_400_000;
    let sent = NOW;
    reports.insert(&db, &mut nodes, &report("a", sent, 0), NOW).unwrap();
    reports.compact(&db, NOW).unwrap();
    for (age, expected) in [(day, [1, 1, 1, 1]), (day + 1, [0, 0, 1, 0]), (31 * day, [0, 0, 0, 0])]
    {
        let now = NOW + age;
        while reports.delete_old_segment(&db, now - day).unwrap() {}
        reports.delete_old(&db, now - day, now - 30 * day).unwrap();
        let found = ["hm_report", "hm_segment", "hm_mean", "hm_workload"].map(count);
        assert_eq!(found, expected, "after {age} ms");
    }
    // The workload's row is gone: its cached id must be, too.
    reports.insert(&db, &mut nodes, &report("a", sent, 0), NOW).unwrap();
    assert_eq!(times(&db, "a"), [sent]);
}

#[test]
fn report_needs_at_most_30_bytes() {
    const NODES: i64 = 500;
    const REPORTS: i64 = 200;
    let temp = TempDb::new("size");
    let mut db = schema::open(&temp.path).unwrap();
    let (mut reports, mut nodes) = (HmReports::default(), NodeIds::default());
    let mut sent = NOW;
    for _ in 0..REPORTS / 20 {
        let transaction = db.transaction().unwrap();
        for _ in 0..20 {
            sent += 30_000;
            for node in 0..NODES {
                // Nodes report at times of their own, and memory usage varies.
                let report = report(&format!("node-{node}"), sent + node * 59, 22_128 - node);
                reports.insert(&transaction, &mut nodes, &report, NOW).unwrap();
            }
        }
        reports.compact(&transaction, NOW).unwrap();
        transaction.commit().unwrap();
    }
    db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let pages = |table: &str| -> i64 {
        let sql = "SELECT sum(pgsize) FROM dbstat WHERE name = ?";
        db.query_row(sql, [table], |row| row.get(0)).unwrap()
    };
    let per_report = pages("hm_report") as f64 / (NODES * REPORTS) as f64;
    assert!(per_report <= 30.0, "{per_report} bytes");
    assert!(per_report > 10.0, "{per_report} bytes: not everything was counted");
}

#[test]
fn repeats_of_old_reports_are_not_counted_as_recent() {
    let temp = TempDb::new("old-repeats");
    let db = schema::open(&temp.path).unwrap();
    let (mut reports, mut nodes) = (HmReports::default(), NodeIds::default());
    reports.insert(&db, &mut nodes, &report("a", 1, 0), NOW).unwrap();
    reports.compact(&db, NOW).unwrap();
    reports.insert(&db, &mut nodes, &report("a", 1, 0), NOW).unwrap();
    assert_eq!(reports.uncompacted(), 0);
}
