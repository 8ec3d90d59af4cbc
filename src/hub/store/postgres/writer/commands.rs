//! Commands and their results. A command is pending, then running, then success, failed or timeout.

use std::collections::HashMap;

use tokio_postgres::{Client, Error};

use crate::hub::core::messages::ReceivedResult;
use crate::hub::core::node_session::Content;
use crate::hub::store::postgres::values::text;
use crate::hub::store::postgres::writer::Batch;
use crate::hub::store::postgres::writer::node_rows::NodeRows;
use crate::hub::store::records::NewCommand;
use crate::hub::store::{Completed, Write};

/// Pending commands that a node gets when it registers.
const MAX_PENDING: i64 = 100;
/// Commands that time out at once.
const MAX_TIMEOUTS: i64 = 10_000;

/// Writes new commands, and what nodes send of theirs, in their order.
pub(super) async fn write(
    batch: &mut Batch<'_>,
    nodes: &NodeRows,
    writes: &[Completed],
) -> Result<(), Error> {
    for completed in writes {
        match &completed.pending.write {
            Write::Command { node_id, command } => {
                let Some(node) = nodes.id(node_id) else { continue };
                create(batch, node, command).await?;
            }
            Write::Core(request) => {
                let Some(node) = nodes.id(&request.node_id) else { continue };
                match &request.content {
                    Content::CommandStarted(started) => {
                        start(batch, node, &started.command_id).await?;
                    }
                    Content::CommandResult(result) => finish(batch, node, result).await?,
                    Content::Register(_) | Content::Heartbeat(_) | Content::Metrics(_) => {}
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Commands time out by the clock of the database: those of hubs may differ.
async fn create(batch: &mut Batch<'_>, node: i64, new: &NewCommand) -> Result<(), Error> {
    // A repeat after a commit whose result was lost.
    let sql = "INSERT INTO command (command_id, node, text, timeout_s, status, created_at) VALUES ($1, $2, $3, $4, 'pending', unix_ms()) ON CONFLICT (command_id) DO NOTHING";
    let insert = batch.statements.get(&batch.transaction, sql).await?;
    let NewCommand { command_id, text: command, timeout_s } = new;
    let (command_id, command) = (text(command_id), text(command));
    let timeout_s = i64::from(*timeout_s);
    batch.transaction.execute(&insert, &[&command_id, &node, &command, &timeout_s]).await.map(drop)
}

/// Marks a pending command of the node as running.
async fn start(batch: &mut Batch<'_>, node: i64, command_id: &str) -> Result<(), Error> {
    let sql = "UPDATE command SET status = 'running', started_at = $3 WHERE command_id = $1 AND node = $2 AND status = 'pending'";
    let update = batch.statements.get(&batch.transaction, sql).await?;
    batch.transaction.execute(&update, &[&text(command_id), &node, &batch.now]).await.map(drop)
}

/// Stores the result of a command of the node. The first result counts; a node repeats one that was not confirmed. A result after the timeout is
/// kept, and the status becomes that of the result.
async fn finish(batch: &mut Batch<'_>, node: i64, result: &ReceivedResult) -> Result<(), Error> {
    let ReceivedResult { command_id, exit_code, stdout, stderr, execution_time_ms } = result;
    let sql = "WITH finished AS (
           INSERT INTO command_result (command, stdout, stderr, exit_code, execution_time_ms, created_at)
             SELECT id, $3, $4, $5, $6, $7 FROM command WHERE command_id = $1 AND node = $2
             ON CONFLICT (command) DO NOTHING RETURNING command)
         UPDATE command SET status = $8, started_at = coalesce(started_at, $7), completed_at = $7
           WHERE id = (SELECT command FROM finished)";
    let update = batch.statements.get(&batch.transaction, sql).await?;
    let time = execution_time_ms.map(|time| i64::try_from(time).unwrap_or(i64::MAX));
    let status = if *exit_code == Some(0) { "success" } else { "failed" };
    batch
        .transaction
        .execute(
            &update,
            &[
                &text(command_id),
                &node,
                &text(stdout),
                &text(stderr),
                exit_code,
                &time,
                &batch.now,
                &status,
            ],
        )
        .await
        .map(drop)
}

/// The oldest pending commands of nodes that have registered: these may have been sent over an earlier connection, whose end has lost them.
pub(super) async fn claim_of_registered(
    batch: &mut Batch<'_>,
    nodes: &NodeRows,
    writes: &mut [Completed],
) -> Result<(), Error> {
    let (mut registered, mut later) = (HashMap::new(), Vec::new());
    for completed in writes.iter_mut() {
        match &completed.pending.write {
            Write::Core(request) => {
                if let Content::Register(_) = request.content
                    && let Some(node) = nodes.id(&request.node_id)
                {
                    registered.entry(node).or_insert_with(Vec::new).push(&mut completed.commands);
                }
            }
            // The notification of the database gets it sent.
            Write::Command { node_id, command } => {
                let is_registered =
                    nodes.id(node_id).is_some_and(|it| registered.contains_key(&it));
                later.extend(is_registered.then(|| text(&command.command_id)));
            }
            _ => {}
        }
    }
    if registered.is_empty() {
        return Ok(());
    }
    let mut ids: Vec<i64> = registered.keys().copied().collect();
    ids.sort_unstable();
    let sql = "UPDATE command SET claim = coalesce(claim, '') WHERE id IN (
           SELECT c.id FROM unnest($1::bigint[]) w (node) CROSS JOIN LATERAL (
             SELECT id FROM command WHERE node = w.node AND status = 'pending' AND command_id <> ALL ($3) ORDER BY id LIMIT $2) c)
         RETURNING node, command_id, text, timeout_s, id";
    let claim = batch.statements.get(&batch.transaction, sql).await?;
    let mut rows = batch.transaction.query(&claim, &[&ids, &MAX_PENDING, &later]).await?;
    rows.sort_by_key(|row| row.get::<_, i64>(4));
    for row in rows {
        let timeout_s: i64 = row.try_get(3)?;
        let command = NewCommand {
            command_id: row.try_get(1)?,
            text: row.try_get(2)?,
            timeout_s: u32::try_from(timeout_s).unwrap_or(u32::MAX),
        };
        let node: i64 = row.try_get(0)?;
        for commands in registered.get_mut(&node).into_iter().flatten() {
            commands.push(command.clone());
        }
    }
    Ok(())
}

/// Marks the commands whose time is over. `grace_ms` is for a result that is on its way. Returns their ids.
pub(super) async fn time_out(client: &Client, grace_ms: i64) -> Result<Vec<String>, Error> {
    let sql = "UPDATE command SET status = 'timeout', completed_at = unix_ms() WHERE id IN (
           SELECT id FROM command
             WHERE status IN ('pending', 'running') AND created_at + timeout_s * 1000 + $1 <= unix_ms()
             ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED)
         RETURNING command_id, id";
    let mut rows = client.query(sql, &[&grace_ms, &MAX_TIMEOUTS]).await?;
    rows.sort_by_key(|row| row.get::<_, i64>(1));
    rows.iter().map(|row| row.try_get(0)).collect()
}
