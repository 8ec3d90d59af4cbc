//! The last status and snapshot of nodes that are not connected.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use crate::hub::nodes::info::ReceivedStatus;
use crate::hub::store::StoreError;

pub fn set(db: &Connection, node: i64, received: &ReceivedStatus) -> Result<(), StoreError> {
    let status =
        serde_json::to_string(&received.status).map_err(|error| StoreError(error.to_string()))?;
    let sql = "INSERT OR REPLACE INTO node_status (node, at, status, snapshot, is_gzip) VALUES (?, ?, ?, ?, ?)";
    let ReceivedStatus { at, snapshot, is_gzip, .. } = received;
    db.prepare_cached(sql)?.execute(params![node, at, status, &snapshot[..], is_gzip])?;
    Ok(())
}

/// By the id of the node.
pub fn all(db: &Connection) -> Result<HashMap<i64, ReceivedStatus>, StoreError> {
    let mut statement =
        db.prepare("SELECT node, at, status, snapshot, is_gzip FROM node_status")?;
    let rows = statement.query_map([], |row| {
        let (status, snapshot): (String, Vec<u8>) = (row.get(2)?, row.get(3)?);
        // What another version has written and this one cannot read is sent again by the node.
        let status = serde_json::from_str(&status).unwrap_or_default();
        let (at, snapshot, is_gzip) = (row.get(1)?, snapshot.into(), row.get(4)?);
        Ok((row.get(0)?, ReceivedStatus { status, snapshot, is_gzip, at }))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
