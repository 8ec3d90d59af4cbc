//! What the hub needs of a database.

use std::sync::Arc;

use crate::hub::core::messages::ReceivedMetrics;
use crate::hub::core::node_session::CoreNodeRequest;
use crate::hub::credentials::StoredCredential;
use crate::hub::nodes::info::{NodeInfo, StoredMetrics};
use crate::hub::store::records::{
    CommandFilter, Mean, MetricCounts, MetricSummary, Page, Selection, StoredCommand, StoredReport,
};
use crate::hub::store::{Completed, StoreError};

/// A database that can be opened for queries any number of times.
pub trait Database: Send + Sync {
    fn open_reader(&self) -> Result<Box<dyn Reader>, StoreError>;
}

/// A database that was opened.
pub struct OpenDatabase {
    pub database: Box<dyn Database>,
    pub writer: Box<dyn Writer>,
}

/// The connection of the thread that writes. After an error, nothing of the call is kept.
pub trait Writer: Send {
    /// Commits the writes in one transaction, which is durable then, and sets their results.
    fn commit(&mut self, writes: &mut [Completed]) -> Result<(), StoreError>;

    /// Whether the last commit has failed because it took too long. One of fewer writes may succeed.
    fn has_timed_out(&self) -> bool;

    /// Whether commits succeed again, as far as a small one shows.
    fn probe(&mut self) -> Result<bool, StoreError>;

    /// Marks the commands whose time is over. Returns their ids.
    fn time_out_commands(&mut self) -> Result<Vec<String>, StoreError>;

    /// Whether maintenance should not wait for its interval.
    fn needs_maintenance(&self) -> bool;

    /// Deletes what is older than the retention, and what else is due from time to time.
    fn maintain(&mut self) -> Result<(), StoreError>;

    /// Stores what a Core node has once sent to another server, with the times of its arrival in Unix milliseconds. Returns
    /// the number of metrics. Fails if the database has metrics.
    fn import_core(
        &mut self,
        requests: &mut dyn Iterator<Item = Result<(CoreNodeRequest, i64), StoreError>>,
    ) -> Result<usize, StoreError>;
}

/// A connection for queries. Each call sees one state of the database. Times are Unix milliseconds, and both ends of ranges are included.
pub trait Reader: Send {
    /// All nodes, each with its latest metrics.
    fn nodes(&mut self) -> Result<Vec<(Arc<str>, NodeInfo)>, StoreError>;

    /// Whether the node is connected to a hub that runs, as far as the database knows; `None`: it does not have the node.
    fn is_connected(&mut self, node_id: &str) -> Result<Option<bool>, StoreError>;

    fn credentials(&mut self) -> Result<Vec<StoredCredential>, StoreError>;

    /// Times of the selected hm reports, newest first.
    fn report_times(&mut self, selection: &Selection) -> Result<Vec<i64>, StoreError>;

    /// The selected hm reports, newest first.
    fn reports(&mut self, selection: &Selection) -> Result<Vec<StoredReport>, StoreError>;

    /// Means of the slots that start in the selected time, newest first. They are kept for longer than reports.
    fn means(&mut self, selection: &Selection) -> Result<Vec<Mean>, StoreError>;

    /// Metrics of a Core node, newest first, and how many there are in the range.
    fn metrics(
        &mut self,
        node_id: &str,
        range: (i64, i64),
        page: Page,
    ) -> Result<(Vec<StoredMetrics>, u64), StoreError>;

    fn metric_summary(
        &mut self,
        node_id: &str,
        range: (i64, i64),
    ) -> Result<MetricSummary, StoreError>;

    fn metric_counts(&mut self, since: i64) -> Result<MetricCounts, StoreError>;

    /// Commands, newest first, and how many the filter matches.
    fn commands(
        &mut self,
        filter: CommandFilter<'_>,
        with_results: bool,
        page: Page,
    ) -> Result<(Vec<StoredCommand>, u64), StoreError>;

    /// Number of commands, and of those that are pending.
    fn command_counts(&mut self) -> Result<(u64, u64), StoreError>;
}

/// Sums up metrics one after the other.
#[derive(Default)]
pub struct MetricSums {
    count: u64,
    /// Number, sum and maximum of each value.
    values: [(u64, f64, f64); 4],
}

impl MetricSums {
    pub fn add(&mut self, metrics: &ReceivedMetrics) {
        self.count += 1;
        let values =
            [metrics.cpu_usage, metrics.memory_usage, metrics.disk_usage, metrics.load_average];
        for ((count, sum, max), value) in self.values.iter_mut().zip(values) {
            if let Some(value) = value {
                *max = if *count == 0 { value } else { max.max(value) };
                *count += 1;
                *sum += value;
            }
        }
    }

    pub fn summary(&self) -> MetricSummary {
        let value = |at: usize| {
            let (count, sum, max) = self.values[at / 2];
            (count > 0).then(|| if at.is_multiple_of(2) { sum / count as f64 } else { max })
        };
        MetricSummary { count: self.count, means_and_maxima: std::array::from_fn(value) }
    }
}
