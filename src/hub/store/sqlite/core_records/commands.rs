//! Commands and their results. A command is pending, then running, then success, failed or timeout.

use rusqlite::{Connection, Row, params};

use crate::hub::core::messages::ReceivedResult;
use crate::hub::store::records::{
    CommandFilter, CommandRow, NewCommand, Page, ResultRow, StoredCommand,
};
use crate::hub::store::{StoreError, Stored};

/// Commands of at most this many nodes time out at once.
const MAX_TIMEOUTS: usize = 10_000;

pub fn create(db: &Connection, node: i64, new: &NewCommand, now: i64) -> Result<(), StoreError> {
    let sql = "INSERT INTO command (command_id, node, text, timeout_s, status, created_at) VALUES (?, ?, ?, ?, 'pending', ?)";
    let NewCommand { command_id, text, timeout_s } = new;
    db.prepare_cached(sql)?.execute(params![command_id, node, text, timeout_s, now])?;
    Ok(())
}

/// Marks a pending command of the node as running.
pub fn start(db: &Connection, node: i64, command_id: &str, now: i64) -> Result<Stored, StoreError> {
    let sql = "UPDATE command SET status = 'running', started_at = ? WHERE command_id = ? AND node = ? AND status = 'pending'";
    db.prepare_cached(sql)?.execute(params![now, command_id, node])?;
    Ok(Stored::Done)
}

/// Stores the result of a command of the node. The first result counts; a node repeats one that was not confirmed. A result after the timeout is
/// kept, and the status becomes that of the result.
pub fn finish(
    db: &Connection,
    node: i64,
    result: &ReceivedResult,
    now: i64,
) -> Result<Stored, StoreError> {
    let ReceivedResult { command_id, exit_code, stdout, stderr, execution_time_ms } = result;
    let sql = "INSERT INTO command_result (command, stdout, stderr, exit_code, execution_time_ms, created_at) SELECT id, ?, ?, ?, ?, ? FROM command WHERE command_id = ? AND node = ? ON CONFLICT DO NOTHING";
    let values = params![
        stdout,
        stderr,
        exit_code,
        execution_time_ms.map(|time| i64::try_from(time).unwrap_or(i64::MAX)),
        now,
        command_id,
        node
    ];
    if db.prepare_cached(sql)?.execute(values)? > 0 {
        let status = if *exit_code == Some(0) { "success" } else { "failed" };
        let sql = "UPDATE command SET status = ?, started_at = coalesce(started_at, ?), completed_at = ? WHERE command_id = ?";
        db.prepare_cached(sql)?.execute(params![status, now, now, command_id])?;
    }
    Ok(Stored::Done)
}

/// Marks the commands whose time is over. `grace_ms` is for a result that is on its way. Returns their ids.
pub fn time_out(db: &Connection, now: i64, grace_ms: i64) -> Result<Vec<String>, StoreError> {
    let sql = format!(
        "UPDATE command SET status = 'timeout', completed_at = ?1 WHERE id IN (SELECT id FROM command WHERE status IN ('pending', 'running') AND created_at + timeout_s * 1000 + ?2 <= ?1 LIMIT {MAX_TIMEOUTS}) RETURNING command_id"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let ids = statement.query_map([now, grace_ms], |row| row.get(0))?;
    Ok(ids.collect::<Result<_, _>>()?)
}

/// The oldest pending commands of a node, at most 100.
pub fn pending(db: &Connection, node: i64) -> Result<Vec<NewCommand>, StoreError> {
    let sql = "SELECT command_id, text, timeout_s FROM command WHERE node = ? AND status = 'pending' ORDER BY id LIMIT 100";
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map([node], |row| {
        Ok(NewCommand { command_id: row.get(0)?, text: row.get(1)?, timeout_s: row.get(2)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

const RESULT_COLUMNS: &str = "r.stdout, r.stderr, r.exit_code, r.execution_time_ms, r.created_at";
/// For lists without results, which may have megabytes each.
const COMMAND_COLUMNS: &str = "NULL, NULL, NULL, NULL, NULL";

/// Commands, newest first, at most `limit` after the first `offset`, and how many there are in all.
pub fn query(
    db: &Connection,
    filter: CommandFilter<'_>,
    with_results: bool,
    Page { limit, offset }: Page,
) -> Result<(Vec<StoredCommand>, u64), StoreError> {
    let CommandFilter { command_id, node_id, status } = filter;
    // Without a condition on the id its index would not be used.
    let by_id = if command_id.is_some() { "c.command_id = ?1" } else { "?1 IS NULL" };
    let from = format!(
        "FROM command c JOIN node n ON n.id = c.node LEFT JOIN command_result r ON r.command = c.id WHERE {by_id} AND (?2 IS NULL OR n.name = ?2) AND (?3 IS NULL OR c.status = ?3)"
    );
    let total = db
        .prepare_cached(&format!("SELECT count(*) {from}"))?
        .query_row(params![command_id, node_id, status], |row| row.get(0))?;
    let columns = if with_results { RESULT_COLUMNS } else { COMMAND_COLUMNS };
    let columns = format!(
        "c.id, c.command_id, c.text, n.name, c.status, c.created_at, c.started_at, c.completed_at, {columns}"
    );
    let sql = format!("SELECT {columns} {from} ORDER BY c.id DESC LIMIT ?4 OFFSET ?5");
    let mut statement = db.prepare_cached(&sql)?;
    let rows =
        statement.query_map(params![command_id, node_id, status, limit, offset], stored_command)?;
    Ok((rows.collect::<Result<_, _>>()?, total))
}

fn stored_command(row: &Row<'_>) -> rusqlite::Result<StoredCommand> {
    let result = match row.get::<_, Option<String>>(8)? {
        Some(stdout) => Some(ResultRow {
            stdout,
            stderr: row.get(9)?,
            exit_code: row.get(10)?,
            execution_time_ms: row.get(11)?,
            created_at: row.get(12)?,
        }),
        None => None,
    };
    let row = CommandRow {
        id: row.get(0)?,
        command_id: row.get(1)?,
        text: row.get(2)?,
        node_id: row.get(3)?,
        status: row.get(4)?,
        created_at: row.get(5)?,
        started_at: row.get(6)?,
        completed_at: row.get(7)?,
        result,
    };
    Ok(row.into())
}

/// Number of commands, and of those that are pending.
pub fn counts(db: &Connection) -> Result<(u64, u64), StoreError> {
    let sql = "SELECT count(*), count(*) FILTER (WHERE status = 'pending') FROM command";
    Ok(db.prepare_cached(sql)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// Deletes the completed commands that were created before a time, with their results.
pub fn delete_old(db: &Connection, before: i64) -> Result<(), StoreError> {
    let old = "created_at < ? AND status NOT IN ('pending', 'running')";
    db.execute(
        &format!(
            "DELETE FROM command_result WHERE command IN (SELECT id FROM command WHERE {old})"
        ),
        [before],
    )?;
    db.execute(&format!("DELETE FROM command WHERE {old}"), [before])?;
    Ok(())
}

pub fn delete_of_node(db: &Connection, node: i64) -> Result<(), StoreError> {
    let of_node = "SELECT id FROM command WHERE node = ?";
    db.execute(&format!("DELETE FROM command_result WHERE command IN ({of_node})"), [node])?;
    db.execute("DELETE FROM command WHERE node = ?", [node])?;
    Ok(())
}
