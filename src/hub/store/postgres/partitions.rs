//! The partitions of days.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio_postgres::{Client, Error};

use crate::hub::store::postgres::connection::Connection;
use crate::hub::store::postgres::locks;

pub(super) const DAY_MS: i64 = 86_400_000;
/// Records of days before that have no partition of their own.
const MAX_AGE_DAYS: i64 = 366;
/// The last arrival in a partition is noted this often at most.
const NOTE_INTERVAL_MS: i64 = 600_000;
/// After a failure, partitions are not created for this long.
const RETRY_INTERVAL_MS: i64 = 60_000;
const TIMEOUT: Duration = Duration::from_secs(10);

/// A table with a partition for each day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Parent {
    HmReport,
    CoreMetric,
}

impl Parent {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::HmReport => "hm_report",
            Self::CoreMetric => "core_metric",
        }
    }
}

/// Name of the partition of a day after 1970-01-01.
pub(super) fn partition_name(parent: &str, day: i64) -> String {
    let date = time::OffsetDateTime::UNIX_EPOCH + time::Duration::days(day);
    format!("{parent}_{:04}{:02}{:02}", date.year(), u8::from(date.month()), date.day())
}

/// The partitions that this hub knows of.
#[derive(Default)]
pub(super) struct KnownPartitions {
    /// When the last arrival was noted.
    noted: HashMap<(Parent, i64), i64>,
    /// When a partition could not be created.
    failed_at: Option<i64>,
}

impl KnownPartitions {
    /// Another hub may have dropped some.
    pub(super) fn clear(&mut self) {
        self.noted.clear();
    }

    /// Creates the partitions for records of these times, and notes that some arrive. Without a partition, records go to the table of other
    /// days, so a failure is only logged.
    pub(super) fn prepare(
        &mut self,
        connection: &mut Connection,
        now: i64,
        times: impl Iterator<Item = (Parent, i64)>,
    ) {
        let today = now.div_euclid(DAY_MS);
        let days: BTreeSet<(Parent, i64)> = times
            .map(|(parent, time)| (parent, time.div_euclid(DAY_MS)))
            .filter(|(_, day)| (today - MAX_AGE_DAYS..=today + 1).contains(day))
            .filter(|key| self.noted.get(key).is_none_or(|at| now - at >= NOTE_INTERVAL_MS))
            .collect();
        if self.failed_at.is_some_and(|at| now - at < RETRY_INTERVAL_MS) {
            return;
        }
        for (parent, day) in days {
            let created = connection
                .run(TIMEOUT, async |client, _| create(client, parent.name(), day, DAY_MS).await);
            if let Err(error) = created {
                let parent = parent.name();
                log::warn!("store: cannot create the partition of {parent} for a day: {error}");
                // Reports wait for this. The next attempt moves the records.
                self.failed_at = Some(now);
                return;
            }
            self.failed_at = None;
            self.noted.insert((parent, day), now);
        }
    }
}

/// Creates a partition if it does not exist, and notes that records arrive in it. `unit` is the length of a day in the unit of its key.
pub(super) async fn create(
    client: &mut Client,
    parent: &str,
    day: i64,
    unit: i64,
) -> Result<(), Error> {
    let transaction = client.transaction().await?;
    // Others wait behind a lock that this waits for, and reports wait for this.
    transaction.batch_execute("SET LOCAL lock_timeout = '500ms'").await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&locks::PARTITIONS]).await?;
    let sql = "UPDATE day_partition SET last_arrival = greatest(last_arrival, unix_ms()) WHERE parent = $1 AND day = $2";
    let number = day as i32;
    if transaction.execute(sql, &[&parent, &number]).await? == 0 {
        let (from, to) = (day * unit, (day + 1) * unit);
        let name = partition_name(parent, day);
        // When a partition could not be created, records of its day went to the table of other days.
        let others = match parent {
            "hm_report" => Some(("hm_report_other", "sent")),
            "core_metric" => Some(("core_metric_other", "at")),
            _ => None,
        };
        let moved = others.map(|(others, key)| {
            format!(
                "WITH moved AS (DELETE FROM {others} WHERE {key} >= {from} AND {key} < {to} RETURNING *)
                   INSERT INTO {name} SELECT * FROM moved;"
            )
        });
        let moved = moved.unwrap_or_default();
        transaction
            .batch_execute(&format!(
                "CREATE TABLE {name} (LIKE {parent} INCLUDING ALL); {moved}
                 ALTER TABLE {parent} ATTACH PARTITION {name} FOR VALUES FROM ({from}) TO ({to});"
            ))
            .await?;
        let sql =
            "INSERT INTO day_partition (parent, day, last_arrival) VALUES ($1, $2, unix_ms())";
        transaction.execute(sql, &[&parent, &number]).await?;
    }
    transaction.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_named_by_date() {
        assert_eq!(partition_name("hm_report", 0), "hm_report_19700101");
        assert_eq!(partition_name("hm_mean", 20_788), "hm_mean_20261201");
    }
}
