//! Deletes what is older than the retention. One hub at a time does so.

use std::time::Duration;

use tokio_postgres::{Client, Error};

use crate::hub::store::postgres::locks;
use crate::hub::store::postgres::partitions::{DAY_MS, Parent, create, partition_name};
use crate::hub::store::postgres::session::PgSession;
use crate::hub::store::postgres::url::PostgresUrl;
use crate::hub::store::records::SLOT_MS;
use crate::hub::store::{Retention, StoreError};

/// For the sums of a day: ten thousand nodes send 29 million reports.
const TIMEOUT: Duration = Duration::from_secs(900);
/// Workloads are kept for longer than reports, whose partition may be kept for a day more, and for late ones of its day.
const WORKLOAD_MARGIN_MS: i64 = 8 * DAY_MS;
const MEANS: &str = "hm_mean";
/// Slots of a day.
const DAY_SLOTS: i64 = DAY_MS / SLOT_MS;
/// Beginning of the name of a partition that is not one of `hm_report` any more, and whose sums are missing.
const DETACHED: &str = "detached_hm_report_";

/// Times before which records are deleted, in Unix milliseconds.
struct Limits {
    now: i64,
    raw: i64,
    means: i64,
}

pub(super) fn run(url: &PostgresUrl, retention: Retention) -> Result<(), StoreError> {
    let mut session = PgSession::connect(url)?;
    session.run(TIMEOUT, async |client| {
        // Others wait behind a lock that this waits for: a partition that a query uses is dropped in the next run.
        client.batch_execute("SET statement_timeout = 0; SET lock_timeout = '2s'").await?;
        let row =
            client.query_one("SELECT pg_try_advisory_lock($1)", &[&locks::MAINTENANCE]).await?;
        if !row.try_get::<_, bool>(0)? {
            return Ok(());
        }
        // By the clock of the database: one hub with a wrong clock must not delete what all have stored.
        let now: i64 = client.query_one("SELECT unix_ms()", &[]).await?.try_get(0)?;
        let before =
            |age: Duration| now.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        let limits = Limits { now, raw: before(retention.raw), means: before(retention.means) };
        // Tomorrow's, so that no hub has to create it while reports wait.
        let tomorrow = now.div_euclid(DAY_MS) + 1;
        for parent in [Parent::HmReport, Parent::CoreMetric] {
            create(client, parent.name(), tomorrow, DAY_MS).await?;
        }
        detach_reports(client, &limits).await?;
        sum_up(client).await?;
        drop_partitions(client, Parent::CoreMetric.name(), DAY_MS, limits.raw).await?;
        drop_partitions(client, MEANS, DAY_SLOTS, limits.means / SLOT_MS).await?;
        delete_rows(client, &limits).await
    })
}

/// Detaches the partitions of reports in which nothing has arrived within the retention. Backlogs arrive late: the time of arrival counts,
/// so that they can be read for as long as any report.
async fn detach_reports(client: &mut Client, limits: &Limits) -> Result<(), Error> {
    let today = limits.now.div_euclid(DAY_MS) as i32;
    let parent = Parent::HmReport.name();
    loop {
        let transaction = client.transaction().await?;
        transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&locks::PARTITIONS]).await?;
        let sql = "DELETE FROM day_partition WHERE (parent, day) IN (
               SELECT parent, day FROM day_partition WHERE parent = $1 AND last_arrival < $2 AND day < $3 ORDER BY day LIMIT 1)
             RETURNING day";
        let old = transaction.query_opt(sql, &[&parent, &limits.raw, &today]).await?;
        let Some(row) = old else { return Ok(()) };
        let day: i32 = row.try_get(0)?;
        let name = partition_name(parent, day.into());
        // Another detached one of this day may wait for its sums.
        let detached = format!("{DETACHED}{day}_{}", limits.now);
        transaction
            .batch_execute(&format!(
                "ALTER TABLE {parent} DETACH PARTITION {name}; ALTER TABLE {name} RENAME TO {detached};"
            ))
            .await?;
        transaction.commit().await?;
    }
}

/// Adds the reports of detached partitions to the means, and drops them.
async fn sum_up(client: &mut Client) -> Result<(), Error> {
    let sql = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND starts_with(tablename, $1) ORDER BY 1";
    for row in client.query(sql, &[&DETACHED]).await? {
        let name: String = row.try_get(0)?;
        let day = name.strip_prefix(DETACHED).and_then(|rest| rest.split('_').next());
        let Some(day) = day.and_then(|day| day.parse::<i64>().ok()) else { continue };
        create(client, MEANS, day, DAY_SLOTS).await?;
        let transaction = client.transaction().await?;
        transaction
            .batch_execute(&format!(
                "INSERT INTO {MEANS} (node, slot, reports, utilization, memory_used)
                   SELECT node, sent / {SLOT_MS}, count(*), sum(utilization), sum(memory_used) FROM {name} GROUP BY 1, 2
                   ON CONFLICT (node, slot) DO UPDATE SET reports = {MEANS}.reports + excluded.reports,
                     utilization = {MEANS}.utilization + excluded.utilization,
                     memory_used = {MEANS}.memory_used + excluded.memory_used;
                 DROP TABLE {name};"
            ))
            .await?;
        transaction.commit().await?;
        log::info!("store: dropped the reports of day {day}, and kept their means");
    }
    Ok(())
}

/// Drops the partitions of days that end before a time, both in the unit of the partition's key.
async fn drop_partitions(
    client: &mut Client,
    parent: &str,
    unit: i64,
    before: i64,
) -> Result<(), Error> {
    loop {
        let transaction = client.transaction().await?;
        transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&locks::PARTITIONS]).await?;
        let sql = "DELETE FROM day_partition WHERE (parent, day) IN (
               SELECT parent, day FROM day_partition WHERE parent = $1 AND (day + 1) * $2::bigint <= $3 ORDER BY day LIMIT 1)
             RETURNING day";
        let old = transaction.query_opt(sql, &[&parent, &unit, &before]).await?;
        let Some(row) = old else { return Ok(()) };
        let name = partition_name(parent, row.try_get::<_, i32>(0)?.into());
        transaction.batch_execute(&format!("DROP TABLE {name}")).await?;
        transaction.commit().await?;
    }
}

/// Deletes old rows of tables without partitions of days.
async fn delete_rows(client: &mut Client, limits: &Limits) -> Result<(), Error> {
    client.execute("DELETE FROM hm_report_other WHERE arrived < $1", &[&limits.raw]).await?;
    client.execute("DELETE FROM core_metric_other WHERE at < $1", &[&limits.raw]).await?;
    for row in client.query("SELECT node FROM forgotten_node WHERE NOT is_purged", &[]).await? {
        let node: i64 = row.try_get(0)?;
        for table in ["hm_report", MEANS, "core_metric"] {
            client.execute(&format!("DELETE FROM {table} WHERE node = $1"), &[&node]).await?;
        }
        let sql = "UPDATE forgotten_node SET is_purged = true WHERE node = $1";
        client.execute(sql, &[&node]).await?;
    }
    let sql = "DELETE FROM hm_workload WHERE last_used < $1";
    client.execute(sql, &[&limits.raw.saturating_sub(WORKLOAD_MARGIN_MS)]).await?;
    let sql = "DELETE FROM command WHERE created_at < $1 AND status NOT IN ('pending', 'running')";
    client.execute(sql, &[&limits.means]).await?;
    Ok(())
}
