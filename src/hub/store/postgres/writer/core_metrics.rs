//! Metrics of Core nodes.

use std::pin::pin;

use tokio_postgres::Error;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::Type;

use crate::hub::core::messages::ReceivedMetrics;
use crate::hub::core::node_session::Content;
use crate::hub::store::postgres::writer::Batch;
use crate::hub::store::postgres::writer::node_rows::NodeRows;
use crate::hub::store::{Completed, Stored, Write};

pub(super) async fn insert(
    batch: &mut Batch<'_>,
    nodes: &NodeRows,
    writes: &mut [Completed],
) -> Result<(), Error> {
    let none = ReceivedMetrics::default();
    let mut rows = Vec::new();
    for completed in writes.iter_mut() {
        let Write::Core(request) = &completed.pending.write else { continue };
        let metrics = match &request.content {
            Content::Heartbeat(metrics) => metrics.as_ref().unwrap_or(&none),
            Content::Metrics(metrics) => metrics,
            Content::Register(_) | Content::CommandStarted(_) | Content::CommandResult(_) => {
                continue;
            }
        };
        let Some(node) = nodes.id(&request.node_id) else { continue };
        rows.push((node, metrics, &mut completed.stored));
    }
    if rows.is_empty() {
        return Ok(());
    }
    let sql = "SELECT nextval('core_metric_id') FROM generate_series(1, $1)";
    let reserve = batch.statements.get(&batch.transaction, sql).await?;
    let ids = batch.transaction.query(&reserve, &[&(rows.len() as i32)]).await?;
    let sql = "COPY core_metric (id, node, at, cpu_usage, memory_usage, disk_usage, load_average, memory_total, memory_available, disk_total, disk_available, uptime) FROM STDIN BINARY";
    let copy = batch.statements.get(&batch.transaction, sql).await?;
    let sink = batch.transaction.copy_in(&copy).await?;
    let types = [vec![Type::INT8; 3], vec![Type::FLOAT8; 9]].concat();
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &types));
    for ((node, metrics, stored), id) in rows.into_iter().zip(ids) {
        let id: i64 = id.try_get(0)?;
        let ReceivedMetrics {
            cpu_usage,
            memory_usage,
            disk_usage,
            load_average,
            memory_total,
            memory_available,
            disk_total,
            disk_available,
            uptime,
        } = metrics;
        writer
            .as_mut()
            .write(&[
                &id,
                &node,
                &batch.now,
                cpu_usage,
                memory_usage,
                disk_usage,
                load_average,
                memory_total,
                memory_available,
                disk_total,
                disk_available,
                uptime,
            ])
            .await?;
        *stored = Stored::Metrics { id };
    }
    writer.finish().await?;
    Ok(())
}
