//! Queries of stored reports.

use rusqlite::{Connection, params};

use crate::hub::store::StoreError;
use crate::hub::store::records::{Mean, ModelName, SLOT_MS, Selection, StoredReport};

/// Slots that a query of means visits: almost two years.
const MAX_SLOTS: i64 = 200_000;

/// Times of the selected reports, newest first.
pub fn times(db: &Connection, selection: &Selection) -> Result<Vec<i64>, StoreError> {
    let sql = "SELECT sent FROM (
           SELECT sent FROM hm_recent
             WHERE node = (SELECT id FROM node WHERE name = ?1) AND sent BETWEEN ?2 AND ?3
           UNION ALL
           SELECT r.sent FROM hm_segment s
             CROSS JOIN hm_report r ON r.segment = s.id
             WHERE s.last_sent >= ?2 AND s.first_sent <= ?3
               AND r.node = (SELECT id FROM node WHERE name = ?1) AND r.sent BETWEEN ?2 AND ?3)
         ORDER BY sent DESC LIMIT ?4";
    let Selection { node_id, start, end, limit } = selection;
    let mut statement = db.prepare_cached(sql)?;
    let times = statement.query_map(params![node_id, start, end, limit], |row| row.get(0))?;
    Ok(times.collect::<Result<_, _>>()?)
}

/// The selected reports, newest first.
pub fn reports(db: &Connection, selection: &Selection) -> Result<Vec<StoredReport>, StoreError> {
    let sql = "WITH found AS (
           SELECT sent, workload, utilization, memory_used, adjusted FROM hm_recent
             WHERE node = (SELECT id FROM node WHERE name = ?1) AND sent BETWEEN ?2 AND ?3
           UNION ALL
           SELECT r.sent, r.workload, r.utilization, r.memory_used, r.adjusted FROM hm_segment s
             CROSS JOIN hm_report r ON r.segment = s.id
             WHERE s.last_sent >= ?2 AND s.first_sent <= ?3
               AND r.node = (SELECT id FROM node WHERE name = ?1) AND r.sent BETWEEN ?2 AND ?3)
         SELECT sent, adjusted, project, models, gpu_name, utilization, memory_total, memory_used
           FROM found JOIN hm_workload w ON w.id = workload ORDER BY sent DESC LIMIT ?4";
    let Selection { node_id, start, end, limit } = selection;
    let mut statement = db.prepare_cached(sql)?;
    let reports = statement.query_map(params![node_id, start, end, limit], |row| {
        let models: String = row.get(3)?;
        let models: Vec<String> = serde_json::from_str(&models).unwrap_or_default();
        Ok(StoredReport {
            timestamp: row.get(0)?,
            adjusted: row.get(1)?,
            project: row.get(2)?,
            models: models.into_iter().map(|model| ModelName { model }).collect(),
            gpu_name: row.get(4)?,
            utilization_gpu: row.get(5)?,
            memory_total: row.get(6)?,
            memory_used: row.get(7)?,
        })
    })?;
    Ok(reports.collect::<Result<_, _>>()?)
}

/// Means of the five-minute slots that start in the selected time, newest first. They are kept for longer than reports.
pub fn means(db: &Connection, selection: &Selection) -> Result<Vec<Mean>, StoreError> {
    // Rows are ordered by slot and then by node: each slot that any node has is looked up for the node.
    let sql = "WITH RECURSIVE slots (slot) AS (
           SELECT max(slot) FROM hm_mean WHERE slot <= ?3 / ?5
           UNION ALL
           SELECT (SELECT max(slot) FROM hm_mean WHERE slot < slots.slot) FROM slots WHERE slot >= ?2 / ?5
           LIMIT ?6),
         sums AS (
           SELECT m.slot, m.reports, m.utilization, m.memory_used FROM slots
             CROSS JOIN hm_mean m ON m.slot = slots.slot
             WHERE m.node = (SELECT id FROM node WHERE name = ?1)
           UNION ALL
           SELECT sent / ?5, 1, utilization, memory_used FROM hm_recent
             WHERE node = (SELECT id FROM node WHERE name = ?1))
         SELECT slot, sum(reports), total(utilization) / sum(reports), total(memory_used) / sum(reports)
           FROM sums WHERE slot * ?5 BETWEEN ?2 AND ?3 GROUP BY slot ORDER BY slot DESC LIMIT ?4";
    let Selection { node_id, start, end, limit } = selection;
    let mut statement = db.prepare_cached(sql)?;
    let values = params![node_id, start, end, limit, SLOT_MS, MAX_SLOTS];
    let means = statement.query_map(values, |row| {
        Ok(Mean {
            timestamp: row.get::<_, i64>(0)? * SLOT_MS,
            reports: row.get(1)?,
            utilization_gpu: row.get(2)?,
            memory_used: row.get(3)?,
        })
    })?;
    Ok(means.collect::<Result<_, _>>()?)
}
