//! Digests of the credentials of nodes.

use rusqlite::{Connection, params};

use crate::hub::credentials::{Digest, StoredCredential};
use crate::hub::store::StoreError;

/// Keeps a credential with the group of its join token.
pub fn set(
    db: &Connection,
    node: i64,
    digest: &Digest,
    group: Option<&str>,
) -> Result<(), StoreError> {
    let sql = "UPDATE node SET credential = ?, node_group = ? WHERE id = ?";
    db.prepare_cached(sql)?.execute(params![digest, group, node])?;
    Ok(())
}

pub fn all(db: &Connection) -> Result<Vec<StoredCredential>, StoreError> {
    let sql = "SELECT name, credential, node_group FROM node WHERE credential IS NOT NULL";
    let mut statement = db.prepare(sql)?;
    let rows = statement.query_map([], |row| {
        let (name, group): (String, Option<String>) = (row.get(0)?, row.get(2)?);
        Ok(StoredCredential {
            node_id: name.into(),
            digest: row.get(1)?,
            group: group.map(Into::into),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
