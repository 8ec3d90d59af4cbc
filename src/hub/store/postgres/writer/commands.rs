//! Commands and their results. A command is pending, then running, then success, failed or timeout.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

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

/// Writes new commands, and what nodes send of theirs. Each kind is one statement: a client that sends many messages must not make the
/// transaction long.
pub(super) async fn write(
    batch: &mut Batch<'_>,
    nodes: &NodeRows,
    writes: &[Completed],
) -> Result<(), Error> {
    let (mut created, mut started, mut results) = (Vec::new(), Vec::new(), Vec::new());
    for completed in writes {
        match &completed.pending.write {
            Write::Command { node_id, command, is_taken } => {
                created.extend(nodes.id(node_id).map(|node| (node, command, *is_taken)));
            }
            Write::Core(request) => {
                let Some(node) = nodes.id(&request.node_id) else { continue };
                match &request.content {
                    Content::CommandStarted(it) => started.push((node, text(&it.command_id))),
                    Content::CommandResult(result) => results.push((node, result)),
                    Content::Register(_) | Content::Heartbeat(_) | Content::Metrics(_) => {}
                }
            }
            _ => {}
        }
    }
    create(batch, &created).await?;
    start(batch, &started).await?;
    finish(batch, &results).await
}

/// Commands time out by the clock of the database: those of hubs may differ.
async fn create(batch: &mut Batch<'_>, created: &[(i64, &NewCommand, bool)]) -> Result<(), Error> {
    if created.is_empty() {
        return Ok(());
    }
    let nodes: Vec<i64> = created.iter().map(|(node, ..)| *node).collect();
    let ids: Vec<_> = created.iter().map(|(_, command, _)| text(&command.command_id)).collect();
    let texts: Vec<_> = created.iter().map(|(_, command, _)| text(&command.text)).collect();
    let timeouts: Vec<_> = created.iter().map(|(_, it, _)| i64::from(it.timeout_s)).collect();
    let taken_by: Vec<Option<&str>> =
        created.iter().map(|(.., is_taken)| is_taken.then_some("")).collect();
    // A repeat after a commit whose result was lost.
    let sql = "INSERT INTO command (command_id, node, text, timeout_s, taken_by, status, created_at)
         SELECT command_id, node, text, timeout_s, taken_by, 'pending', unix_ms()
           FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::text[]) WITH ORDINALITY
             w (command_id, node, text, timeout_s, taken_by, ordinal)
           ORDER BY ordinal
         ON CONFLICT (command_id) DO NOTHING";
    let insert = batch.statements.get(&batch.transaction, sql).await?;
    batch
        .transaction
        .execute(&insert, &[&ids, &nodes, &texts, &timeouts, &taken_by])
        .await
        .map(drop)
}

/// Marks pending commands of nodes as running.
async fn start(batch: &mut Batch<'_>, started: &[(i64, Cow<'_, str>)]) -> Result<(), Error> {
    if started.is_empty() {
        return Ok(());
    }
    let (nodes, ids): (Vec<i64>, Vec<&str>) =
        started.iter().map(|(node, id)| (*node, &**id)).unzip();
    let sql = "UPDATE command SET status = 'running', started_at = $3 WHERE status = 'pending' AND id IN (
           SELECT c.id FROM unnest($1::text[], $2::bigint[]) w (command_id, node)
             JOIN command c ON c.command_id = w.command_id AND c.node = w.node
             WHERE c.status = 'pending' ORDER BY c.id FOR UPDATE OF c)";
    let update = batch.statements.get(&batch.transaction, sql).await?;
    batch.transaction.execute(&update, &[&ids, &nodes, &batch.now]).await.map(drop)
}

/// Stores results of commands of nodes. The first result counts; a node repeats one that was not confirmed. A result after the timeout is
/// kept, and the status becomes that of the result.
async fn finish(batch: &mut Batch<'_>, results: &[(i64, &ReceivedResult)]) -> Result<(), Error> {
    let mut seen = HashSet::new();
    let is_first = |(node, result): &&(i64, &ReceivedResult)| {
        seen.insert((*node, text(&result.command_id).into_owned()))
    };
    let results: Vec<_> = results.iter().filter(is_first).collect();
    if results.is_empty() {
        return Ok(());
    }
    let nodes: Vec<i64> = results.iter().map(|(node, _)| *node).collect();
    let ids: Vec<_> = results.iter().map(|(_, it)| text(&it.command_id)).collect();
    let stdout: Vec<_> = results.iter().map(|(_, it)| text(&it.stdout)).collect();
    let stderr: Vec<_> = results.iter().map(|(_, it)| text(&it.stderr)).collect();
    let codes: Vec<Option<i64>> = results.iter().map(|(_, it)| it.exit_code).collect();
    let milliseconds = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
    let times: Vec<Option<i64>> =
        results.iter().map(|(_, it)| it.execution_time_ms.map(milliseconds)).collect();
    let sql = "WITH finished AS (
           INSERT INTO command_result (command, stdout, stderr, exit_code, execution_time_ms, created_at)
             SELECT c.id, w.stdout, w.stderr, w.exit_code, w.execution_time_ms, $7
               FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::bigint[])
                 w (command_id, node, stdout, stderr, exit_code, execution_time_ms)
               JOIN command c ON c.command_id = w.command_id AND c.node = w.node
               ORDER BY c.id
             ON CONFLICT (command) DO NOTHING RETURNING command, exit_code)
         UPDATE command SET status = CASE f.exit_code WHEN 0 THEN 'success' ELSE 'failed' END,
             started_at = coalesce(started_at, $7), completed_at = $7
           FROM finished f WHERE id = f.command";
    let update = batch.statements.get(&batch.transaction, sql).await?;
    batch
        .transaction
        .execute(&update, &[&ids, &nodes, &stdout, &stderr, &codes, &times, &batch.now])
        .await
        .map(drop)
}

/// The oldest pending commands of nodes that have registered: these may have been sent over an earlier connection, whose end has lost them.
pub(super) async fn take_of_registered(
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
            // It is sent after the commit, by this hub or by one that the database notifies.
            Write::Command { node_id, command, .. } => {
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
    let sql = "UPDATE command SET taken_by = coalesce(taken_by, '') WHERE id IN (
           SELECT c.id FROM unnest($1::bigint[]) w (node) CROSS JOIN LATERAL (
             SELECT id FROM command WHERE node = w.node AND status = 'pending' AND command_id <> ALL ($3) ORDER BY id LIMIT $2) c)
         RETURNING node, command_id, text, timeout_s, id";
    let take = batch.statements.get(&batch.transaction, sql).await?;
    let mut rows = batch.transaction.query(&take, &[&ids, &MAX_PENDING, &later]).await?;
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
