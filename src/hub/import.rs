//! Takes over the data of the published servers.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, Row};
use serde_json::Value;

use crate::hub::core::messages::ReceivedMetrics;
use crate::hub::core::messages::Register;
use crate::hub::core::node_session::{Content, CoreNodeRequest};
use crate::hub::hm::messages::MachineInfo;
use crate::hub::hm::session::HmReport;
use crate::hub::store::database::Writer;
use crate::hub::store::{Completed, QueuedWrite, StoreError, Stored, Write, WriteOrigin};

/// A longer line is an error.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// Rows in one transaction.
const BATCH: usize = 10_000;

/// Imports the collection `device_info` of hm: JSON lines as mongoexport writes them. Returns the number of reports. Reports that are
/// stored already are skipped, so an import can be repeated.
pub fn hm(writer: &mut dyn Writer, path: &Path) -> Result<usize, StoreError> {
    let fail = |why: String| StoreError(format!("{}: {why}", path.display()));
    let file = File::open(path).map_err(|error| fail(error.to_string()))?;
    let mut lines = BufReader::new(file);
    let (mut batch, mut count) = (Vec::new(), 0);
    for number in 1.. {
        let mut line = Vec::new();
        let read = (&mut lines).take(MAX_LINE_BYTES).read_until(b'\n', &mut line);
        let is_end = read.map_err(|error| fail(error.to_string()))? == 0;
        if !line.trim_ascii().is_empty() {
            let report =
                parse_report(&line).map_err(|why| fail(format!("line {number}: {why}")))?;
            let write = Write::Report { report, request_id: 0 };
            let pending = QueuedWrite { write, origin: WriteOrigin::Hub };
            batch.push(Completed { pending, stored: Stored::Failed, commands: Vec::new() });
            count += 1;
        }
        if is_end || batch.len() >= BATCH {
            writer.commit(&mut batch)?;
            batch.clear();
        }
        if is_end || writer.needs_maintenance() {
            writer.maintain()?;
        }
        if is_end {
            break;
        }
    }
    Ok(count)
}

/// A document of `device_info`. Numbers and dates may have the forms of extended JSON.
fn parse_report(line: &[u8]) -> Result<HmReport, String> {
    let document: Value = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let device = &document["device"];
    let text = |value: &Value, name: &str| {
        value.as_str().map(str::to_owned).ok_or_else(|| format!("{name} is not a text"))
    };
    let models = device["models"].as_array().cloned().unwrap_or_default();
    let models = models.iter().map(|model| text(&model["model"], "device.models.model"));
    let info = MachineInfo {
        project: text(&device["project"], "device.project")?,
        models: models.collect::<Result<_, _>>()?,
        gpu_name: text(&device["gpu_name"], "device.gpu_name")?,
        utilization_gpu: integer(&document["utilization_gpu"], "utilization_gpu")?,
        memory_total: integer(&document["memory_total"], "memory_total")?,
        memory_used: integer(&document["memory_used"], "memory_used")?,
    };
    let node_id = text(&device["device_id"], "device.device_id")?.into();
    let sent = date(&document["timestamp"])?;
    Ok(HmReport { node_id, sent, adjusted: false, info: Arc::new(info) })
}

/// `5`, `{"$numberLong": "5"}` or `{"$numberInt": "5"}`.
fn integer(value: &Value, name: &str) -> Result<i64, String> {
    let extended = value.get("$numberLong").or_else(|| value.get("$numberInt"));
    let number = match extended.and_then(Value::as_str) {
        Some(text) => text.parse().ok(),
        None => value.as_i64(),
    };
    number.ok_or_else(|| format!("{name} is not a whole number"))
}

/// `{"$date": "2024-06-10T06:13:20.123Z"}` or `{"$date": {"$numberLong": "1718000000123"}}`, in Unix milliseconds.
fn date(value: &Value) -> Result<i64, String> {
    let date = value.get("$date").unwrap_or(value);
    match date.as_str() {
        Some(text) => crate::hub::core::messages::parse_time(text)
            .ok_or_else(|| "timestamp is not a date".to_owned()),
        None => integer(date, "timestamp"),
    }
}

/// Imports nodes and metrics of Core's SQLite file. Returns the number of metrics. A repeated import would store metrics twice, so it
/// needs a database without metrics.
pub fn core(writer: &mut dyn Writer, path: &Path) -> Result<usize, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(path, flags)?;
    let mut nodes = source.prepare(
        "SELECT node_id, hostname, ip_address, os_info, CAST(strftime('%s', registered_at) AS INTEGER) * 1000 FROM nodes",
    )?;
    let mut metrics = source.prepare(
        "SELECT node_id, CAST(strftime('%s', metric_time) AS INTEGER) * 1000, cpu_usage, memory_usage, disk_usage, load_average, memory_total, memory_available, disk_total, disk_available, uptime FROM node_metrics ORDER BY metric_time, id",
    )?;
    let nodes = nodes.query_map([], registration)?;
    let metrics = metrics.query_map([], measurement)?;
    writer.import_core(&mut nodes.chain(metrics).map(|request| Ok(request?)))
}

fn registration(row: &Row<'_>) -> rusqlite::Result<(CoreNodeRequest, i64)> {
    let node_id: String = row.get(0)?;
    let register = Register {
        hostname: row.get(1)?,
        ip_address: row.get(2)?,
        node_id: None,
        os_info: row.get(3)?,
    };
    let content = Content::Register(register);
    Ok((CoreNodeRequest { id: String::new(), node_id: node_id.into(), content }, row.get(4)?))
}

fn measurement(row: &Row<'_>) -> rusqlite::Result<(CoreNodeRequest, i64)> {
    let node_id: String = row.get(0)?;
    let metrics = ReceivedMetrics {
        cpu_usage: row.get(2)?,
        memory_usage: row.get(3)?,
        disk_usage: row.get(4)?,
        load_average: row.get(5)?,
        memory_total: row.get(6)?,
        memory_available: row.get(7)?,
        disk_total: row.get(8)?,
        disk_available: row.get(9)?,
        uptime: row.get(10)?,
    };
    let content = Content::Metrics(metrics);
    Ok((CoreNodeRequest { id: String::new(), node_id: node_id.into(), content }, row.get(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::store::Retention;
    use crate::hub::store::database::{Database, Reader};
    use crate::hub::store::records::Selection;
    use crate::hub::store::sqlite::temp_db::TempDb;
    use crate::hub::store::sqlite::{SqliteDatabase, SqliteWriter};
    use std::time::Duration;

    fn open(temp: &TempDb) -> (Box<dyn Reader>, SqliteWriter) {
        let age = Duration::from_secs(86_400);
        let (db, writer) =
            SqliteDatabase::open(&temp.path, Retention { raw: age, means: age }).unwrap();
        (db.open_reader().unwrap(), writer)
    }

    #[test]
    fn reads_the_forms_of_mongoexport() {
        let line = |timestamp: &str, used: &str| {
            format!(
                r#"{{"_id":{{"$oid":"x"}},"timestamp":{timestamp},"device":{{"device_id":"a","project":"P","models":[{{"model":"m"}}],"gpu_name":"g"}},"utilization_gpu":30,"memory_total":24564,"memory_used":{used}}}"#
            )
        };
        for (timestamp, used) in [
            (r#"{"$date":"2024-06-10T06:13:20.123Z"}"#, "22128"),
            (r#"{"$date":{"$numberLong":"1718000000123"}}"#, r#"{"$numberLong":"22128"}"#),
        ] {
            let report = parse_report(line(timestamp, used).as_bytes()).unwrap();
            assert_eq!((report.sent, report.info.memory_used), (1_718_000_000_123, 22_128));
            assert_eq!((&*report.node_id, &*report.info.models), ("a", &["m".to_owned()][..]));
        }
        assert!(parse_report(line("5", "1.5").as_bytes()).is_err());
        assert!(parse_report(b"{}").is_err() && parse_report(b"x").is_err());
        let temp = TempDb::new("import-hm");
        let (mut db, mut writer) = open(&temp);
        let file = temp.path.with_extension("json");
        std::fs::write(&file, format!("{}\n\n{}", line("1", "1"), line("2", "1"))).unwrap();
        for _ in 0..2 {
            assert_eq!(hm(&mut writer, &file).unwrap(), 2);
            let all = Selection { node_id: "a".into(), start: 0, end: 9, limit: 9 };
            let found = db.reports(&all).unwrap();
            assert_eq!(found.len(), 2, "also after a repeated import");
        }
        std::fs::write(&file, "{}\nx").unwrap();
        assert!(hm(&mut writer, &file).unwrap_err().0.contains("line 1: device.project"));
    }

    #[test]
    fn imports_nodes_and_metrics_of_core() {
        let temp = TempDb::new("import-core");
        let (mut db, mut writer) = open(&temp);
        let file = temp.path.with_extension("core");
        Connection::open(&file)
            .unwrap()
            .execute_batch(
                "CREATE TABLE nodes (node_id TEXT, hostname TEXT, ip_address TEXT, os_info TEXT, registered_at TIMESTAMP);
                 CREATE TABLE node_metrics (id INTEGER, node_id TEXT, metric_time TIMESTAMP, cpu_usage REAL, memory_usage REAL, disk_usage REAL, load_average REAL, memory_total INTEGER, memory_available INTEGER, disk_total INTEGER, disk_available INTEGER, uptime INTEGER);
                 INSERT INTO nodes VALUES ('a', 'h', 'i', NULL, '2025-09-10 06:31:00');
                 INSERT INTO node_metrics VALUES (1, 'a', '2025-09-10 06:31:00', 45.2, NULL, NULL, NULL, 5, NULL, NULL, NULL, NULL);",
            )
            .unwrap();
        assert_eq!(core(&mut writer, &file).unwrap(), 1);
        let nodes = db.nodes().unwrap();
        let info = &nodes[0].1;
        assert_eq!(info.register.as_ref().map(|register| &*register.hostname), Some("h"));
        let metrics = info.metrics.as_ref().unwrap();
        assert_eq!((metrics.at, metrics.metrics.cpu_usage), (1_757_485_860_000, Some(45.2)));
        assert_eq!(metrics.metrics.memory_total, Some(5.0));
        assert!(core(&mut writer, &file).unwrap_err().0.contains("has metrics already"));
    }
}
