//! Row ids of nodes.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use crate::hub::store::StoreError;

/// Caches the row ids of nodes.
#[derive(Default)]
pub struct NodeIds(HashMap<Arc<str>, i64>);

impl NodeIds {
    /// The row of a node, which is created if it does not exist. `now` is in Unix milliseconds.
    pub fn get(&mut self, db: &Connection, name: &Arc<str>, now: i64) -> Result<i64, StoreError> {
        if let Some(id) = self.0.get(name) {
            return Ok(*id);
        }
        let id = match find(db, name)? {
            Some(id) => id,
            None => {
                db.prepare_cached("INSERT INTO node (name, first_seen) VALUES (?, ?)")?
                    .execute(params![&**name, now])?;
                db.last_insert_rowid()
            }
        };
        self.0.insert(name.clone(), id);
        Ok(id)
    }

    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }
}

pub fn find(db: &Connection, name: &str) -> Result<Option<i64>, StoreError> {
    let mut statement = db.prepare_cached("SELECT id FROM node WHERE name = ?")?;
    Ok(statement.query_row([name], |row| row.get(0)).optional()?)
}
