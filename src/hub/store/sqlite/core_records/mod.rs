//! Registrations and metrics of Core nodes in the database. Metrics are moved in segments as hm reports are.

pub mod commands;

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};

use crate::hub::core::messages::{ReceivedMetrics, Register};
use crate::hub::core::node_session::{Content, CoreNodeRequest};
use crate::hub::nodes::Presence;
use crate::hub::nodes::info::{NodeInfo, Registration, StoredMetrics};
use crate::hub::store::database::MetricSums;
use crate::hub::store::records::{MetricCounts, MetricSummary, Page};
use crate::hub::store::sqlite::node_ids::{self, NodeIds};
use crate::hub::store::sqlite::node_statuses;
use crate::hub::store::{StoreError, Stored};
use crate::hub_extension::messages::AgentInfo;

const COLUMNS: &str = "m.id, m.at, m.cpu_usage, m.memory_usage, m.disk_usage, m.load_average, c.memory_total, m.memory_available, c.disk_total, m.disk_available, m.uptime";

/// Metrics of node ?1 from ?2 to ?3.
const FOUND: &str = "SELECT * FROM (
           SELECT id, at, cpu_usage, memory_usage, disk_usage, load_average, capacity, memory_available, disk_available, uptime
             FROM core_recent WHERE node = ?1 AND at BETWEEN ?2 AND ?3
           UNION ALL
           SELECT r.id, r.at, r.cpu_usage, r.memory_usage, r.disk_usage, r.load_average, r.capacity, r.memory_available, r.disk_available, r.uptime
             FROM core_segment s CROSS JOIN core_metric r ON r.segment = s.id
             WHERE s.last_at >= ?2 AND s.first_at <= ?3 AND r.node = ?1 AND r.at BETWEEN ?2 AND ?3)";

/// Stores what a node has sent. `now` is in Unix milliseconds.
pub fn insert(
    db: &Connection,
    nodes: &mut NodeIds,
    request: &CoreNodeRequest,
    now: i64,
) -> Result<Stored, StoreError> {
    let node = nodes.get(db, &request.node_id, now)?;
    match &request.content {
        Content::Register(registration) => register(db, node, registration, now),
        Content::Heartbeat(metrics) => {
            insert_metrics(db, node, metrics.as_ref().unwrap_or(&ReceivedMetrics::default()), now)
        }
        Content::Metrics(metrics) => insert_metrics(db, node, metrics, now),
        Content::CommandStarted(started) => commands::start(db, node, &started.command_id, now),
        Content::CommandResult(result) => commands::finish(db, node, result, now),
    }
}

fn register(
    db: &Connection,
    node: i64,
    register: &Register,
    now: i64,
) -> Result<Stored, StoreError> {
    let is_new: bool = db
        .prepare_cached("SELECT hostname IS NULL FROM node WHERE id = ?")?
        .query_row([node], |row| row.get(0))?;
    let sql =
        "UPDATE node SET hostname = ?, ip_address = ?, os_info = ?, updated_at = ? WHERE id = ?";
    let Register { hostname, ip_address, os_info, .. } = register;
    db.prepare_cached(sql)?.execute(params![hostname, ip_address, os_info, now, node])?;
    Ok(if is_new { Stored::Registered } else { Stored::Done })
}

fn insert_metrics(
    db: &Connection,
    node: i64,
    metrics: &ReceivedMetrics,
    now: i64,
) -> Result<Stored, StoreError> {
    let capacity = capacity(db, metrics)?;
    let sql = "INSERT INTO core_recent (node, at, cpu_usage, memory_usage, disk_usage, load_average, capacity, memory_available, disk_available, uptime) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    db.prepare_cached(sql)?.execute(params![
        node,
        now,
        Compact(metrics.cpu_usage),
        Compact(metrics.memory_usage),
        Compact(metrics.disk_usage),
        Compact(metrics.load_average),
        capacity,
        Compact(metrics.memory_available),
        Compact(metrics.disk_available),
        Compact(metrics.uptime),
    ])?;
    Ok(Stored::Metrics { id: db.last_insert_rowid() })
}

/// Row of the totals, which rarely differ; `None`: there are none.
fn capacity(db: &Connection, metrics: &ReceivedMetrics) -> Result<Option<i64>, StoreError> {
    if metrics.memory_total.is_none() && metrics.disk_total.is_none() {
        return Ok(None);
    }
    let values = params![Compact(metrics.memory_total), Compact(metrics.disk_total)];
    let find = "SELECT id FROM core_capacity WHERE memory_total IS ? AND disk_total IS ?";
    let known = db.prepare_cached(find)?.query_row(values, |row| row.get(0)).optional()?;
    if known.is_some() {
        return Ok(known);
    }
    let insert = "INSERT INTO core_capacity (memory_total, disk_total, last_used) VALUES (?, ?, 0)";
    db.prepare_cached(insert)?.execute(values)?;
    Ok(Some(db.last_insert_rowid()))
}

/// Moves the recent metrics into a new segment.
pub fn compact(db: &Connection, now: i64) -> Result<(), StoreError> {
    let sql = "INSERT INTO core_segment (first_at, last_at, metrics) SELECT min(at), max(at), count(*) FROM core_recent HAVING count(*) > 0 RETURNING id";
    let segment: Option<i64> =
        db.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?;
    let Some(segment) = segment else { return Ok(()) };
    let columns = "node, at, id, cpu_usage, memory_usage, disk_usage, load_average, capacity, memory_available, disk_available, uptime";
    db.execute(
        &format!("INSERT INTO core_metric (segment, {columns}) SELECT ?, {columns} FROM core_recent ORDER BY node, at, id"),
        [segment],
    )?;
    db.execute(
        "UPDATE core_capacity SET last_used = ? WHERE id IN (SELECT DISTINCT capacity FROM core_recent)",
        [now],
    )?;
    db.execute("DELETE FROM core_recent", [])?;
    Ok(())
}

/// Deletes one segment that is older than the retention. Returns whether there was one.
pub fn delete_old_segment(db: &Connection, before: i64) -> Result<bool, StoreError> {
    let old = "SELECT id FROM core_segment WHERE last_at < ? ORDER BY id LIMIT 1";
    let old: Option<i64> = db.query_row(old, [before], |row| row.get(0)).optional()?;
    let Some(segment) = old else { return Ok(false) };
    db.execute("DELETE FROM core_metric WHERE segment = ?", [segment])?;
    db.execute("DELETE FROM core_segment WHERE id = ?", [segment])?;
    Ok(true)
}

/// Deletes the commands, and the capacities of deleted segments, that are older than the retention.
pub fn delete_old(
    db: &Connection,
    raw_before: i64,
    commands_before: i64,
) -> Result<(), StoreError> {
    db.execute(
        "DELETE FROM core_capacity WHERE last_used < ? AND id NOT IN (SELECT capacity FROM core_recent WHERE capacity IS NOT NULL)",
        [raw_before],
    )?;
    commands::delete_old(db, commands_before)
}

/// `since` counts whole segments.
pub fn metric_counts(db: &Connection, since: i64) -> Result<MetricCounts, StoreError> {
    let sql = "SELECT coalesce(sum(metrics), 0), min(first_at), max(last_at), coalesce(sum(metrics) FILTER (WHERE last_at >= ?1), 0) FROM (SELECT metrics, first_at, last_at FROM core_segment UNION ALL SELECT count(*), min(at), max(at) FROM core_recent)";
    let counts = |row: &Row<'_>| {
        let (total, first) = (row.get(0)?, row.get(1)?);
        Ok(MetricCounts { total, first, last: row.get(2)?, since: row.get(3)? })
    };
    Ok(db.prepare_cached(sql)?.query_row([since], counts)?)
}

pub fn has_metrics(db: &Connection) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM core_recent) OR EXISTS (SELECT 1 FROM core_metric)";
    Ok(db.query_row(sql, [], |row| row.get(0))?)
}

pub fn summary(
    db: &Connection,
    node_id: &str,
    range: (i64, i64),
) -> Result<MetricSummary, StoreError> {
    let mut sums = MetricSums::default();
    for_each_metric(db, node_id, range, |metrics| sums.add(metrics))?;
    Ok(sums.summary())
}

fn for_each_metric(
    db: &Connection,
    node_id: &str,
    (start, end): (i64, i64),
    mut each: impl FnMut(&ReceivedMetrics),
) -> Result<(), StoreError> {
    let Some(node) = node_ids::find(db, node_id)? else { return Ok(()) };
    let sql =
        format!("SELECT {COLUMNS} FROM ({FOUND}) m LEFT JOIN core_capacity c ON c.id = m.capacity");
    let mut statement = db.prepare_cached(&sql)?;
    for row in statement.query_map([node, start, end], stored_metrics)? {
        each(&row?.metrics);
    }
    Ok(())
}

/// Keeps the description that an hm-agent has sent of its node, and the group of its join token.
pub fn set_agent(
    db: &Connection,
    node: i64,
    agent: &AgentInfo,
    group: Option<&str>,
) -> Result<(), StoreError> {
    let agent = serde_json::to_string(agent).map_err(|error| StoreError(error.to_string()))?;
    let sql = "UPDATE node SET agent = ?, node_group = ? WHERE id = ?";
    db.prepare_cached(sql)?.execute(params![agent, group, node])?;
    Ok(())
}

/// Keeps the state that `fleet.on_change` was run for.
pub fn set_hook_state(db: &Connection, node: i64, state: Presence) -> Result<(), StoreError> {
    let sql = "UPDATE node SET hook_online = ? WHERE id = ?";
    db.prepare_cached(sql)?.execute(params![state == Presence::Online, node])?;
    Ok(())
}

/// Forgets a node with its metrics and commands.
pub fn delete_node(db: &Connection, name: &str) -> Result<(), StoreError> {
    let Some(node) = node_ids::find(db, name)? else { return Ok(()) };
    for table in ["core_recent", "hm_recent", "node_status"] {
        db.execute(&format!("DELETE FROM {table} WHERE node = ?"), [node])?;
    }
    // Segment by segment, which is how the rows are ordered.
    db.execute(
        "DELETE FROM core_metric WHERE node = ? AND segment IN (SELECT id FROM core_segment)",
        [node],
    )?;
    db.execute(
        "DELETE FROM hm_report WHERE node = ? AND segment IN (SELECT id FROM hm_segment)",
        [node],
    )?;
    commands::delete_of_node(db, node)?;
    db.execute("DELETE FROM node WHERE id = ?", [node])?;
    Ok(())
}

/// All nodes, each with its latest metrics.
pub fn nodes(db: &Connection) -> Result<Vec<(Arc<str>, NodeInfo)>, StoreError> {
    let mut latest = latest_metrics(db)?;
    let mut statuses = node_statuses::all(db)?;
    let mut statement = db.prepare(
        "SELECT id, name, first_seen, hostname, ip_address, os_info, updated_at, agent, node_group, hook_online FROM node",
    )?;
    let rows = statement.query_map([], |row| {
        let hostname: Option<String> = row.get(3)?;
        let register = match hostname {
            Some(hostname) => {
                Some(Registration { hostname, ip_address: row.get(4)?, os_info: row.get(5)? })
            }
            None => None,
        };
        let first_seen = row.get(2)?;
        let updated_at = row.get::<_, Option<i64>>(6)?.unwrap_or(first_seen);
        let metrics: Option<StoredMetrics> = latest.remove(&row.get(0)?);
        let status = statuses.remove(&row.get(0)?).map(Arc::new);
        let last_heartbeat = metrics.as_ref().map(|metrics| metrics.at);
        let name: String = row.get(1)?;
        let agent: Option<String> = row.get(7)?;
        let group: Option<String> = row.get(8)?;
        let info = NodeInfo {
            register,
            first_seen,
            updated_at,
            last_heartbeat,
            metrics,
            // What another version has written and this one cannot read is sent again by the node.
            agent: agent.and_then(|text| serde_json::from_str(&text).ok()).map(Arc::new),
            group: group.map(Arc::from),
            project: None,
            status,
            // A node of a database without this column was seen, so it was online.
            hook_state: Some(match row.get::<_, Option<bool>>(9)? {
                Some(false) => Presence::Offline,
                Some(true) | None => Presence::Online,
            }),
        };
        Ok((name.into(), info))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn latest_metrics(db: &Connection) -> Result<HashMap<i64, StoredMetrics>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS}, n.id FROM node n
           JOIN core_segment s ON s.id = (SELECT max(x.id) FROM core_segment x
             WHERE EXISTS (SELECT 1 FROM core_metric y WHERE y.segment = x.id AND y.node = n.id))
           JOIN core_metric m ON m.segment = s.id AND m.node = n.id AND (m.at, m.id) =
             (SELECT at, id FROM core_metric WHERE segment = s.id AND node = n.id ORDER BY at DESC, id DESC LIMIT 1)
           LEFT JOIN core_capacity c ON c.id = m.capacity
         UNION ALL
         SELECT {COLUMNS}, m.node FROM core_recent m LEFT JOIN core_capacity c ON c.id = m.capacity ORDER BY 1"
    );
    let mut statement = db.prepare(&sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(11)?, stored_metrics(row)?)))?;
    // Later ones replace earlier ones.
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Metrics of a node from `start` to `end`, newest first, and how many there are in all.
pub fn query_metrics(
    db: &Connection,
    node_id: &str,
    range: (i64, i64),
    Page { limit, offset }: Page,
) -> Result<(Vec<StoredMetrics>, u64), StoreError> {
    let Some(node) = node_ids::find(db, node_id)? else { return Ok((Vec::new(), 0)) };
    let (start, end) = range;
    let total = db
        .prepare_cached(&format!("SELECT count(*) FROM ({FOUND})"))?
        .query_row([node, start, end], |row| row.get(0))?;
    let mut statement = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM ({FOUND}) m LEFT JOIN core_capacity c ON c.id = m.capacity ORDER BY m.at DESC, m.id DESC LIMIT ?4 OFFSET ?5"
    ))?;
    let rows = statement.query_map(params![node, start, end, limit, offset], stored_metrics)?;
    Ok((rows.collect::<Result<_, _>>()?, total))
}

fn stored_metrics(row: &Row<'_>) -> rusqlite::Result<StoredMetrics> {
    let value = |at: usize| Ok::<_, rusqlite::Error>(expand(row.get_ref(at)?));
    let metrics = ReceivedMetrics {
        cpu_usage: value(2)?,
        memory_usage: value(3)?,
        disk_usage: value(4)?,
        load_average: value(5)?,
        memory_total: value(6)?,
        memory_available: value(7)?,
        disk_total: value(8)?,
        disk_available: value(9)?,
        uptime: value(10)?,
    };
    Ok(StoredMetrics { id: row.get(0)?, at: row.get(1)?, metrics })
}

/// A number that is stored as an integer of hundredths if that is exact.
struct Compact(Option<f64>);

impl ToSql for Compact {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let Some(number) = self.0 else { return Ok(ToSqlOutput::Owned(Value::Null)) };
        let hundredths = (number * 100.0).round();
        let is_exact = hundredths.abs() < 1e15 && hundredths / 100.0 == number;
        Ok(ToSqlOutput::Owned(match is_exact {
            true => Value::Integer(hundredths as i64),
            false => Value::Real(number),
        }))
    }
}

fn expand(value: ValueRef<'_>) -> Option<f64> {
    match value {
        ValueRef::Integer(hundredths) => Some(hundredths as f64 / 100.0),
        ValueRef::Real(number) => Some(number),
        ValueRef::Null | ValueRef::Text(_) | ValueRef::Blob(_) => None,
    }
}

#[cfg(test)]
mod tests;
