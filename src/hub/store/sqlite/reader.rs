//! Queries.

use std::sync::Arc;

use rusqlite::Connection;

use crate::hub::credentials::StoredCredential;
use crate::hub::nodes::info::{NodeInfo, StoredMetrics};
use crate::hub::store::StoreError;
use crate::hub::store::database::Reader;
use crate::hub::store::records::{
    CommandFilter, Mean, MetricCounts, MetricSummary, Page, Selection, StoredCommand, StoredReport,
};
use crate::hub::store::sqlite::core_records::{self, commands};
use crate::hub::store::sqlite::hm_reports::query;
use crate::hub::store::sqlite::{node_credentials, node_ids};

pub struct SqliteReader(pub(super) Connection);

impl SqliteReader {
    /// Queries of several statements see one state.
    fn query<R>(
        &mut self,
        query: impl FnOnce(&Connection) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        let transaction = self.0.transaction()?;
        let result = query(&transaction)?;
        transaction.finish()?;
        Ok(result)
    }
}

impl Reader for SqliteReader {
    fn nodes(&mut self) -> Result<Vec<(Arc<str>, NodeInfo)>, StoreError> {
        self.query(core_records::nodes)
    }

    /// The hub itself knows which nodes are connected.
    fn is_connected(&mut self, node_id: &str) -> Result<Option<bool>, StoreError> {
        self.query(|db| Ok(node_ids::find(db, node_id)?.map(|_| false)))
    }

    fn credentials(&mut self) -> Result<Vec<StoredCredential>, StoreError> {
        self.query(node_credentials::all)
    }

    fn report_times(&mut self, selection: &Selection) -> Result<Vec<i64>, StoreError> {
        self.query(|db| query::times(db, selection))
    }

    fn reports(&mut self, selection: &Selection) -> Result<Vec<StoredReport>, StoreError> {
        self.query(|db| query::reports(db, selection))
    }

    fn means(&mut self, selection: &Selection) -> Result<Vec<Mean>, StoreError> {
        self.query(|db| query::means(db, selection))
    }

    fn metrics(
        &mut self,
        node_id: &str,
        range: (i64, i64),
        page: Page,
    ) -> Result<(Vec<StoredMetrics>, u64), StoreError> {
        self.query(|db| core_records::query_metrics(db, node_id, range, page))
    }

    fn metric_summary(
        &mut self,
        node_id: &str,
        range: (i64, i64),
    ) -> Result<MetricSummary, StoreError> {
        self.query(|db| core_records::summary(db, node_id, range))
    }

    fn metric_counts(&mut self, since: i64) -> Result<MetricCounts, StoreError> {
        self.query(|db| core_records::metric_counts(db, since))
    }

    fn commands(
        &mut self,
        filter: CommandFilter<'_>,
        with_results: bool,
        page: Page,
    ) -> Result<(Vec<StoredCommand>, u64), StoreError> {
        self.query(|db| commands::query(db, filter, with_results, page))
    }

    fn command_counts(&mut self) -> Result<(u64, u64), StoreError> {
        self.query(commands::counts)
    }
}
