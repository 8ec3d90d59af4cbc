//! Queries.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio_postgres::{Client, Error, IsolationLevel, Row, Transaction};

use crate::hub::core::messages::ReceivedMetrics;
use crate::hub::credentials::StoredCredential;
use crate::hub::nodes::info::{NodeInfo, ReceivedStatus, StoredMetrics};
use crate::hub::store::StoreError;
use crate::hub::store::database::Reader;
use crate::hub::store::postgres::node_info::node_info;
use crate::hub::store::postgres::session::{PgSession, SESSION_STACK_BYTES};
use crate::hub::store::postgres::url::PostgresUrl;
use crate::hub::store::postgres::values::text;
use crate::hub::store::records::{
    CommandFilter, CommandRow, Mean, MetricCounts, MetricSummary, ModelName, Page, ResultRow,
    SLOT_MS, Selection, StoredCommand, StoredReport,
};
use crate::util::error::reason;
use crate::util::thread;

const TIMEOUT: Duration = Duration::from_secs(60);
/// More connections of a hub for queries are refused: the database has a hundred by default, for all hubs.
const MAX_READERS: usize = 12;
const METRIC_COLUMNS: &str = "m.id, m.at, m.cpu_usage, m.memory_usage, m.disk_usage, m.load_average, m.memory_total, m.memory_available, m.disk_total, m.disk_available, m.uptime";

pub(super) struct PostgresReader {
    session: PgSession,
    _place: Place,
}

/// A connection of those that PostgreSQL has for queries, until it is dropped.
pub(super) struct Place(Arc<AtomicUsize>);

impl Place {
    pub(super) fn take(open: &Arc<AtomicUsize>) -> Result<Self, StoreError> {
        let place = Self(open.clone());
        match open.fetch_add(1, Relaxed) < MAX_READERS {
            true => Ok(place),
            false => Err(StoreError("too many queries at a time".to_owned())),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl PostgresReader {
    pub(super) fn connect(url: &PostgresUrl, place: Place) -> Result<Self, StoreError> {
        on_large_stack(|| Ok(Self { session: PgSession::connect(url)?, _place: place }))
    }

    /// Queries of several statements see one state.
    fn query<R: Send>(
        &mut self,
        query: impl AsyncFnOnce(&Transaction<'_>) -> Result<R, Error> + Send,
    ) -> Result<R, StoreError> {
        on_large_stack(|| self.run(query))
    }

    fn run<R>(
        &mut self,
        query: impl AsyncFnOnce(&Transaction<'_>) -> Result<R, Error>,
    ) -> Result<R, StoreError> {
        self.session.run(TIMEOUT, async |client: &mut Client| {
            let transaction = client
                .build_transaction()
                .isolation_level(IsolationLevel::RepeatableRead)
                .read_only(true)
                .start()
                .await?;
            let result = query(&transaction).await?;
            transaction.commit().await?;
            Ok(result)
        })
    }
}

impl Reader for PostgresReader {
    fn nodes(&mut self) -> Result<Vec<(Arc<str>, NodeInfo)>, StoreError> {
        self.query(async |db| {
            let mut latest = latest_metrics(db).await?;
            let mut statuses = statuses(db).await?;
            let sql = "SELECT name, first_seen, hostname, ip_address, os_info, updated_at, agent, node_group, hook_online, id FROM node";
            let rows = db.query(sql, &[]).await?;
            let node = |row: &Row| {
                let (name, mut info) = node_info(row)?;
                let id: i64 = row.try_get(9)?;
                info.metrics = latest.remove(&id);
                info.last_heartbeat = info.metrics.as_ref().map(|metrics| metrics.at);
                info.status = statuses.remove(&id).map(Arc::new);
                Ok((name, info))
            };
            rows.iter().map(node).collect()
        })
    }

    fn is_connected(&mut self, node_id: &str) -> Result<Option<bool>, StoreError> {
        self.query(async |db| {
            let sql = "SELECT EXISTS (SELECT 1 FROM link l JOIN instance i ON i.id = l.instance
                   WHERE l.node = n.id AND i.renewed > now() - interval '20 s')
                 FROM node n WHERE n.name = $1";
            let row = db.query_opt(sql, &[&text(node_id)]).await?;
            row.map(|row| row.try_get(0)).transpose()
        })
    }

    fn credentials(&mut self) -> Result<Vec<StoredCredential>, StoreError> {
        self.query(async |db| {
            let sql = "SELECT name, credential, node_group FROM node WHERE credential IS NOT NULL";
            let rows = db.query(sql, &[]).await?;
            let mut credentials = Vec::new();
            for row in &rows {
                let (name, digest): (String, &[u8]) = (row.try_get(0)?, row.try_get(1)?);
                let group: Option<String> = row.try_get(2)?;
                // Of another length: nothing that a node could present.
                let Ok(digest) = digest.try_into() else { continue };
                credentials.push(StoredCredential {
                    node_id: name.into(),
                    digest,
                    group: group.map(Into::into),
                });
            }
            Ok(credentials)
        })
    }

    fn report_times(&mut self, selection: &Selection) -> Result<Vec<i64>, StoreError> {
        self.query(async |db| {
            let sql = "SELECT sent FROM hm_report WHERE node = (SELECT id FROM node WHERE name = $1) AND sent BETWEEN $2 AND $3 ORDER BY sent DESC LIMIT $4";
            let Selection { node_id, start, end, limit } = selection;
            let values = (text(node_id), i64::from(*limit));
            let rows = db.query(sql, &[&values.0, start, end, &values.1]).await?;
            rows.iter().map(|row| row.try_get(0)).collect()
        })
    }

    fn reports(&mut self, selection: &Selection) -> Result<Vec<StoredReport>, StoreError> {
        self.query(async |db| {
            let sql = "SELECT r.sent, r.adjusted, w.project, w.models, w.gpu_name, r.utilization, w.memory_total, r.memory_used
                 FROM hm_report r JOIN hm_workload w ON w.id = r.workload
                 WHERE r.node = (SELECT id FROM node WHERE name = $1) AND r.sent BETWEEN $2 AND $3
                 ORDER BY r.sent DESC LIMIT $4";
            let Selection { node_id, start, end, limit } = selection;
            let values = (text(node_id), i64::from(*limit));
            let rows = db.query(sql, &[&values.0, start, end, &values.1]).await?;
            rows.iter().map(stored_report).collect()
        })
    }

    fn means(&mut self, selection: &Selection) -> Result<Vec<Mean>, StoreError> {
        self.query(async |db| {
            let Selection { node_id, start, end, limit } = selection;
            // The slots that start within the selected time.
            let first = start.div_euclid(SLOT_MS) + i64::from(start.rem_euclid(SLOT_MS) > 0);
            let last = end.div_euclid(SLOT_MS);
            let from = first.saturating_mul(SLOT_MS);
            let to = last.saturating_mul(SLOT_MS).saturating_add(SLOT_MS - 1);
            let sql = "SELECT slot, sum(reports)::bigint, sum(utilization) / sum(reports), sum(memory_used) / sum(reports) FROM (
                   SELECT m.slot, m.reports, m.utilization, m.memory_used FROM hm_mean m, node n
                     WHERE n.name = $1 AND m.node = n.id AND m.slot BETWEEN $2 AND $3
                   UNION ALL
                   SELECT r.sent / $6, count(*), sum(r.utilization)::double precision, sum(r.memory_used)::double precision
                     FROM hm_report r, node n
                     WHERE n.name = $1 AND r.node = n.id AND r.sent BETWEEN $4 AND $5 GROUP BY 1) m
                 GROUP BY slot ORDER BY slot DESC LIMIT $7";
            let (name, limit) = (text(node_id), i64::from(*limit));
            let rows =
                db.query(sql, &[&name, &first, &last, &from, &to, &SLOT_MS, &limit]).await?;
            let mean = |row: &Row| {
                Ok(Mean {
                    timestamp: row.try_get::<_, i64>(0)? * SLOT_MS,
                    reports: row.try_get(1)?,
                    utilization_gpu: row.try_get(2)?,
                    memory_used: row.try_get(3)?,
                })
            };
            rows.iter().map(mean).collect()
        })
    }

    fn metrics(
        &mut self,
        node_id: &str,
        range: (i64, i64),
        page: Page,
    ) -> Result<(Vec<StoredMetrics>, u64), StoreError> {
        self.query(async |db| {
            let (name, (start, end)) = (text(node_id), range);
            let found = "FROM core_metric m WHERE m.node = (SELECT id FROM node WHERE name = $1) AND m.at BETWEEN $2 AND $3";
            let sql = format!("SELECT count(*) {found}");
            let total: i64 = db.query_one(&sql, &[&name, &start, &end]).await?.try_get(0)?;
            let sql = format!(
                "SELECT {METRIC_COLUMNS} {found} ORDER BY m.at DESC, m.id DESC LIMIT $4 OFFSET $5"
            );
            let (limit, offset) = (i64::from(page.limit), i64::from(page.offset));
            let rows = db.query(&sql, &[&name, &start, &end, &limit, &offset]).await?;
            let metrics = rows.iter().map(stored_metrics).collect::<Result<_, _>>()?;
            Ok((metrics, total as u64))
        })
    }

    fn metric_summary(
        &mut self,
        node_id: &str,
        (start, end): (i64, i64),
    ) -> Result<MetricSummary, StoreError> {
        self.query(async |db| {
            // Sums of numbers near the largest one overflow a double.
            let sql = "SELECT count(*),
                   avg(cpu_usage::numeric)::double precision, max(cpu_usage),
                   avg(memory_usage::numeric)::double precision, max(memory_usage),
                   avg(disk_usage::numeric)::double precision, max(disk_usage),
                   avg(load_average::numeric)::double precision, max(load_average)
                 FROM core_metric WHERE node = (SELECT id FROM node WHERE name = $1) AND at BETWEEN $2 AND $3";
            let row = db.query_one(sql, &[&text(node_id), &start, &end]).await?;
            let mut means_and_maxima = [None; 8];
            for (at, value) in means_and_maxima.iter_mut().enumerate() {
                *value = row.try_get(at + 1)?;
            }
            let count: i64 = row.try_get(0)?;
            Ok(MetricSummary { count: count as u64, means_and_maxima })
        })
    }

    fn metric_counts(&mut self, since: i64) -> Result<MetricCounts, StoreError> {
        self.query(async |db| {
            let sql = "SELECT count(*), min(at), max(at), count(*) FILTER (WHERE at >= $1) FROM core_metric";
            let row = db.query_one(sql, &[&since]).await?;
            let (total, since): (i64, i64) = (row.try_get(0)?, row.try_get(3)?);
            let (first, last) = (row.try_get(1)?, row.try_get(2)?);
            Ok(MetricCounts { total: total as u64, first, last, since: since as u64 })
        })
    }

    fn commands(
        &mut self,
        filter: CommandFilter<'_>,
        with_results: bool,
        page: Page,
    ) -> Result<(Vec<StoredCommand>, u64), StoreError> {
        self.query(async |db| {
            let value = |value: Option<&str>| value.map(|value| text(value).into_owned());
            let CommandFilter { command_id, node_id, status } = filter;
            let values = (value(command_id), value(node_id), value(status));
            let (limit, offset) = (i64::from(page.limit), i64::from(page.offset));
            let found = "FROM command c JOIN node n ON n.id = c.node LEFT JOIN command_result r ON r.command = c.id
                 WHERE ($1::text IS NULL OR c.command_id = $1) AND ($2::text IS NULL OR n.name = $2) AND ($3::text IS NULL OR c.status = $3)";
            let total: i64 = db
                .query_one(&format!("SELECT count(*) {found}"), &[&values.0, &values.1, &values.2])
                .await?
                .try_get(0)?;
            // Without results in lists: these may have megabytes each.
            let result = match with_results {
                true => "r.stdout, r.stderr",
                false => "NULL, NULL",
            };
            let sql = format!(
                "SELECT c.id, c.command_id, c.text, n.name, c.status, c.created_at, c.started_at, c.completed_at, {result}, r.exit_code, r.execution_time_ms, r.created_at
                   {found} ORDER BY c.id DESC LIMIT $4 OFFSET $5"
            );
            let rows =
                db.query(&sql, &[&values.0, &values.1, &values.2, &limit, &offset]).await?;
            let commands = rows.iter().map(stored_command).collect::<Result<_, _>>()?;
            Ok((commands, total as u64))
        })
    }

    fn command_counts(&mut self) -> Result<(u64, u64), StoreError> {
        self.query(async |db| {
            let sql = "SELECT count(*), count(*) FILTER (WHERE status = 'pending') FROM command";
            let row = db.query_one(sql, &[]).await?;
            let (all, pending): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            Ok((all as u64, pending as u64))
        })
    }
}

/// The threads of connections, which read, have a small stack.
fn on_large_stack<R: Send>(
    work: impl FnOnce() -> Result<R, StoreError> + Send,
) -> Result<R, StoreError> {
    let result = thread::run_with_stack("query", SESSION_STACK_BYTES, work);
    result.unwrap_or_else(|error| Err(StoreError(format!("start a thread: {}", reason(&error)))))
}

/// By the id of the node.
async fn latest_metrics(db: &Transaction<'_>) -> Result<HashMap<i64, StoredMetrics>, Error> {
    let sql = format!(
        "SELECT {METRIC_COLUMNS}, n.id FROM node n CROSS JOIN LATERAL (
           SELECT * FROM core_metric WHERE node = n.id ORDER BY at DESC, id DESC LIMIT 1) m"
    );
    let rows = db.query(&sql, &[]).await?;
    rows.iter().map(|row| Ok((row.try_get(11)?, stored_metrics(row)?))).collect()
}

/// By the id of the node.
async fn statuses(db: &Transaction<'_>) -> Result<HashMap<i64, ReceivedStatus>, Error> {
    let rows = db.query("SELECT node, at, status, snapshot, is_gzip FROM node_status", &[]).await?;
    let status = |row: &Row| {
        let (text, snapshot): (&str, &[u8]) = (row.try_get(2)?, row.try_get(3)?);
        // What another version has written and this one cannot read is sent again by the node.
        let status = serde_json::from_str(text).unwrap_or_default();
        let (at, is_gzip) = (row.try_get(1)?, row.try_get(4)?);
        let received = ReceivedStatus { status, snapshot: snapshot.into(), is_gzip, at };
        Ok((row.try_get(0)?, received))
    };
    rows.iter().map(status).collect()
}

fn stored_report(row: &Row) -> Result<StoredReport, Error> {
    let models: &str = row.try_get(3)?;
    let models: Vec<String> = serde_json::from_str(models).unwrap_or_default();
    Ok(StoredReport {
        timestamp: row.try_get(0)?,
        adjusted: row.try_get(1)?,
        project: row.try_get(2)?,
        models: models.into_iter().map(|model| ModelName { model }).collect(),
        gpu_name: row.try_get(4)?,
        utilization_gpu: row.try_get(5)?,
        memory_total: row.try_get(6)?,
        memory_used: row.try_get(7)?,
    })
}

fn stored_metrics(row: &Row) -> Result<StoredMetrics, Error> {
    let metrics = ReceivedMetrics {
        cpu_usage: row.try_get(2)?,
        memory_usage: row.try_get(3)?,
        disk_usage: row.try_get(4)?,
        load_average: row.try_get(5)?,
        memory_total: row.try_get(6)?,
        memory_available: row.try_get(7)?,
        disk_total: row.try_get(8)?,
        disk_available: row.try_get(9)?,
        uptime: row.try_get(10)?,
    };
    Ok(StoredMetrics { id: row.try_get(0)?, at: row.try_get(1)?, metrics })
}

fn stored_command(row: &Row) -> Result<StoredCommand, Error> {
    let result = match row.try_get::<_, Option<String>>(8)? {
        Some(stdout) => Some(ResultRow {
            stdout,
            stderr: row.try_get(9)?,
            exit_code: row.try_get(10)?,
            execution_time_ms: row.try_get(11)?,
            created_at: row.try_get(12)?,
        }),
        None => None,
    };
    let row = CommandRow {
        id: row.try_get(0)?,
        command_id: row.try_get(1)?,
        text: row.try_get(2)?,
        node_id: row.try_get(3)?,
        status: row.try_get(4)?,
        created_at: row.try_get(5)?,
        started_at: row.try_get(6)?,
        completed_at: row.try_get(7)?,
        result,
    };
    Ok(row.into())
}
