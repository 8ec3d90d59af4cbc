//! Reports of hm nodes in the database.
//!
//! A report needs less than 30 bytes: project, models, GPU name and total memory are in a row of their own, which reports refer
//! to. Reports are appended in the order of arrival to `hm_recent` and moved from there in segments, see `schema_1.sql`.

pub mod query;

use std::collections::{BTreeSet, HashMap};

use rusqlite::{Connection, OptionalExtension, params};

use crate::hub::hm::messages::MachineInfo;
use crate::hub::hm::session::HmReport;
use crate::hub::store::StoreError;
use crate::hub::store::records::SLOT_MS;
use crate::hub::store::sqlite::node_ids::NodeIds;

/// Entries of the workload cache. A node that changes its models in each report must not fill the memory.
const MAX_CACHED_WORKLOADS: usize = 10_000;

/// Writes reports. Caches what it needs to know of earlier ones.
#[derive(Default)]
pub struct HmReports {
    /// Latest time of the reports of each node; a later one cannot be a repeat.
    last_sent: HashMap<i64, i64>,
    workloads: HashMap<Workload, i64>,
    /// `None`: not read yet.
    recent: Option<Recent>,
}

/// The rows of `hm_recent`, which has no index.
#[derive(Default)]
struct Recent {
    /// Times of the reports of each node.
    times: HashMap<i64, BTreeSet<i64>>,
    count: usize,
}

impl Recent {
    fn read(db: &Connection) -> Result<Self, StoreError> {
        let mut recent = Self::default();
        let mut statement = db.prepare("SELECT node, sent FROM hm_recent")?;
        for row in statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))? {
            let (node, sent) = row?;
            recent.insert(node, sent);
        }
        Ok(recent)
    }

    /// Returns whether it is new.
    fn insert(&mut self, node: i64, sent: i64) -> bool {
        let is_new = self.times.entry(node).or_default().insert(sent);
        self.count += usize::from(is_new);
        is_new
    }

    fn last_sent(&self, node: i64) -> Option<i64> {
        self.times.get(&node)?.last().copied()
    }
}

/// A workload with a longer list of models is not cached.
const MAX_CACHED_MODELS_BYTES: usize = 1 << 10;

#[derive(PartialEq, Eq, Hash)]
struct Workload {
    project: String,
    models: Vec<String>,
    gpu_name: String,
    memory_total: i64,
}

impl HmReports {
    /// Number of reports that are not in a segment; 0 until they have been read.
    pub fn uncompacted(&self) -> usize {
        self.recent.as_ref().map_or(0, |recent| recent.count)
    }

    pub fn clear_caches(&mut self) {
        *self = Self::default();
    }

    /// Stores a report, unless one of the same node and time is stored.
    pub fn insert(
        &mut self,
        db: &Connection,
        nodes: &mut NodeIds,
        report: &HmReport,
        now: i64,
    ) -> Result<(), StoreError> {
        let node = nodes.get(db, &report.node_id, now)?;
        let last_sent = self.last_sent(db, node)?;
        let is_late = report.sent <= last_sent;
        if (is_late && is_in_segment(db, node, report.sent)?)
            || !self.recent_rows(db)?.insert(node, report.sent)
        {
            return Ok(());
        }
        let workload = self.workload(db, &report.info)?;
        let info = &report.info;
        db.prepare_cached(
            "INSERT INTO hm_recent (node, sent, workload, utilization, memory_used, adjusted) VALUES (?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            node,
            report.sent,
            workload,
            info.utilization_gpu,
            info.memory_used,
            report.adjusted
        ])?;
        self.last_sent.insert(node, last_sent.max(report.sent));
        Ok(())
    }

    fn recent_rows(&mut self, db: &Connection) -> Result<&mut Recent, StoreError> {
        if self.recent.is_none() {
            self.recent = Some(Recent::read(db)?);
        }
        Ok(self.recent.get_or_insert_default())
    }

    fn last_sent(&mut self, db: &Connection, node: i64) -> Result<i64, StoreError> {
        if let Some(last_sent) = self.last_sent.get(&node) {
            return Ok(*last_sent);
        }
        let recent = self.recent_rows(db)?.last_sent(node);
        let last_sent = recent.max(last_sent_in_segments(db, node)?).unwrap_or(i64::MIN);
        self.last_sent.insert(node, last_sent);
        Ok(last_sent)
    }

    fn workload(&mut self, db: &Connection, info: &MachineInfo) -> Result<i64, StoreError> {
        let MachineInfo { project, models, gpu_name, memory_total, .. } = info.clone();
        let workload = Workload { project, models, gpu_name, memory_total };
        if let Some(id) = self.workloads.get(&workload) {
            return Ok(*id);
        }
        let models = serde_json::to_string(&workload.models).unwrap_or_default();
        let values = params![workload.project, models, workload.gpu_name, memory_total];
        db.prepare_cached(
            "INSERT INTO hm_workload (project, models, gpu_name, memory_total, last_used) VALUES (?, ?, ?, ?, 0) ON CONFLICT DO NOTHING",
        )?
        .execute(values)?;
        let id = db
            .prepare_cached("SELECT id FROM hm_workload WHERE project = ? AND models = ? AND gpu_name = ? AND memory_total = ?")?
            .query_row(values, |row| row.get(0))?;
        if models.len() > MAX_CACHED_MODELS_BYTES {
            return Ok(id);
        }
        if self.workloads.len() >= MAX_CACHED_WORKLOADS {
            self.workloads.clear();
        }
        self.workloads.insert(workload, id);
        Ok(id)
    }

    /// Moves the recent reports into a new segment and adds them to the means.
    pub fn compact(&mut self, db: &Connection, now: i64) -> Result<(), StoreError> {
        let segment: Option<i64> = db
            .prepare_cached(
                "INSERT INTO hm_segment (first_sent, last_sent, created) SELECT min(sent), max(sent), max(?, (SELECT coalesce(max(created), 0) FROM hm_segment)) FROM hm_recent HAVING count(*) > 0 RETURNING id",
            )?
            .query_row([now], |row| row.get(0))
            .optional()?;
        let Some(segment) = segment else {
            // Repeats of reports in segments may have been counted.
            self.recent = None;
            return Ok(());
        };
        db.execute(
            "INSERT INTO hm_report (segment, node, sent, workload, utilization, memory_used, adjusted) SELECT ?, node, sent, workload, utilization, memory_used, adjusted FROM hm_recent ORDER BY node, sent",
            [segment],
        )?;
        db.execute(
            "INSERT INTO hm_mean (slot, node, reports, utilization, memory_used) SELECT sent / ?1, node, count(*), total(utilization), total(memory_used) FROM hm_recent GROUP BY 1, 2 ON CONFLICT DO UPDATE SET reports = reports + excluded.reports, utilization = utilization + excluded.utilization, memory_used = memory_used + excluded.memory_used",
            [SLOT_MS],
        )?;
        db.execute(
            "UPDATE hm_workload SET last_used = ? WHERE id IN (SELECT DISTINCT workload FROM hm_recent)",
            [now],
        )?;
        db.execute("DELETE FROM hm_recent", [])?;
        self.recent = None;
        Ok(())
    }

    /// Deletes one segment that is older than the retention. Returns whether there was one.
    pub fn delete_old_segment(&self, db: &Connection, before: i64) -> Result<bool, StoreError> {
        // Backlogs arrive late: the time of arrival counts, so that they can be read for as long as any report.
        let old = "SELECT id FROM hm_segment WHERE created < ? ORDER BY id LIMIT 1";
        let old: Option<i64> = db.query_row(old, [before], |row| row.get(0)).optional()?;
        let Some(segment) = old else { return Ok(false) };
        db.execute("DELETE FROM hm_report WHERE segment = ?", [segment])?;
        db.execute("DELETE FROM hm_segment WHERE id = ?", [segment])?;
        Ok(true)
    }

    /// Deletes the means, and the workloads of deleted segments, that are older than the retention.
    pub fn delete_old(
        &mut self,
        db: &Connection,
        raw_before: i64,
        means_before: i64,
    ) -> Result<(), StoreError> {
        db.execute("DELETE FROM hm_mean WHERE slot < ?", [means_before / SLOT_MS])?;
        let deleted = db.execute(
            "DELETE FROM hm_workload WHERE last_used < ? AND id NOT IN (SELECT workload FROM hm_recent)",
            [raw_before],
        )?;
        if deleted > 0 {
            self.workloads.clear();
        }
        Ok(())
    }
}

fn is_in_segment(db: &Connection, node: i64, sent: i64) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM hm_segment s CROSS JOIN hm_report r ON r.segment = s.id WHERE r.node = ?1 AND r.sent = ?2 AND ?2 BETWEEN s.first_sent AND s.last_sent";
    Ok(db.prepare_cached(sql)?.exists([node, sent])?)
}

/// Latest time of the node's reports in segments.
fn last_sent_in_segments(db: &Connection, node: i64) -> Result<Option<i64>, StoreError> {
    let sql = "SELECT max((SELECT max(sent) FROM hm_report WHERE segment = s.id AND node = ?)) FROM hm_segment s";
    Ok(db.prepare_cached(sql)?.query_row([node], |row| row.get(0))?)
}

#[cfg(test)]
mod tests;
