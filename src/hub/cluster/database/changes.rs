//! Reading what other hubs have changed.

use std::sync::Arc;

use tokio_postgres::{Client, Row};

use crate::hub::credentials::StoredCredential;
use crate::hub::nodes::info::NodeInfo;
use crate::hub::nodes::shared::{InstanceId, LinkProtocol, SharedState};
use crate::hub::store::postgres::node_info::node_info;

/// Another hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRow {
    pub id: InstanceId,
    pub name: String,
    pub url: Option<String>,
    pub secret: String,
    pub renewals: i64,
}

/// The owner of a connection as stored, alive or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLink {
    pub node_id: Arc<str>,
    pub protocol: LinkProtocol,
    pub instance: Option<InstanceId>,
    pub epoch: i64,
}

/// What has changed since a [`Position`].
#[derive(Default)]
pub struct Changes {
    /// Unix milliseconds by the clock of the database.
    pub time: i64,
    pub instances: Vec<InstanceRow>,
    /// Each with the id of its removal.
    pub forgotten: Vec<(Arc<str>, i64)>,
    pub nodes: Vec<(Arc<str>, NodeInfo)>,
    pub credentials: Vec<StoredCredential>,
    pub links: Vec<StoredLink>,
    pub states: Vec<StateRow>,
}

/// The state of a node as a hub with a connection of it has passed it on.
#[derive(Debug, Clone, PartialEq)]
pub struct StateRow {
    pub node_id: Arc<str>,
    pub instance: InstanceId,
    pub state: SharedState,
}

/// Which transactions were not finished at the last reading, so that each change is read once: those that ran, of which one may go on for
/// days, and all later ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    running: Vec<String>,
    later: String,
}

impl Position {
    pub fn start() -> Self {
        Self { running: Vec::new(), later: "0".to_owned() }
    }
}

/// What other transactions have changed since the position, and the position after it.
pub(super) async fn read(
    client: &mut Client,
    id: InstanceId,
    since: &Position,
) -> Result<(Changes, Position), tokio_postgres::Error> {
    let transaction = client
        .build_transaction()
        .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await?;
    let sql = "SELECT ARRAY (SELECT id::text FROM pg_snapshot_xip(s) id), pg_snapshot_xmax(s)::text, unix_ms()
         FROM pg_current_snapshot() s";
    let row = transaction.query_one(sql, &[]).await?;
    let position = Position { running: row.try_get(0)?, later: row.try_get(1)? };
    let time = row.try_get(2)?;
    let Position { running, later } = since;
    let sql = "SELECT id, name, url, secret, renewals FROM instance WHERE id <> $1";
    let instances = transaction.query(sql, &[&id]).await?;
    let sql = "SELECT name, id FROM forgotten_node
         WHERE changed >= $1::text::xid8 OR changed = ANY ($2::text[]::xid8[])";
    let forgotten = transaction.query(sql, &[later, running]).await?;
    let sql = "SELECT name, first_seen, hostname, ip_address, os_info, updated_at, agent, node_group, hook_online, credential
         FROM node WHERE changed >= $1::text::xid8 OR changed = ANY ($2::text[]::xid8[])";
    let nodes = transaction.query(sql, &[later, running]).await?;
    let sql =
        "SELECT n.name, l.protocol, l.instance, l.epoch FROM link l JOIN node n ON n.id = l.node
         WHERE l.changed >= $1::text::xid8 OR l.changed = ANY ($2::text[]::xid8[])";
    let links = transaction.query(sql, &[later, running]).await?;
    let sql = "SELECT n.name, s.state, s.instance FROM node_state s JOIN node n ON n.id = s.node
         WHERE (s.changed >= $1::text::xid8 OR s.changed = ANY ($2::text[]::xid8[])) AND s.instance <> $3";
    let states = transaction.query(sql, &[later, running, &id]).await?;
    transaction.commit().await?;
    let credential = |row: &Row| {
        let Some(credential) = row.try_get::<_, Option<Vec<u8>>>(9)? else { return Ok(None) };
        // Of another length: nothing that a node could present.
        let Ok(digest) = credential.try_into() else { return Ok(None) };
        let group: Option<String> = row.try_get(7)?;
        Ok(Some(StoredCredential { node_id: name(row)?, digest, group: group.map(Arc::from) }))
    };
    let changes = Changes {
        time,
        instances: instances.iter().map(instance).collect::<Result<_, _>>()?,
        forgotten: forgotten
            .iter()
            .map(|row| Ok((name(row)?, row.try_get(1)?)))
            .collect::<Parsed<_>>()?,
        credentials: nodes
            .iter()
            .filter_map(|row| credential(row).transpose())
            .collect::<Result<_, _>>()?,
        nodes: nodes.iter().map(node_info).collect::<Result<_, _>>()?,
        links: links.iter().filter_map(|row| link(row).transpose()).collect::<Result<_, _>>()?,
        states: states.iter().filter_map(|row| state(row).transpose()).collect::<Result<_, _>>()?,
    };
    Ok((changes, position))
}

pub(super) type Parsed<T> = Result<T, tokio_postgres::Error>;

/// The name of a node, in the first column.
fn name(row: &Row) -> Parsed<Arc<str>> {
    row.try_get::<_, String>(0).map(Arc::from)
}

fn instance(row: &Row) -> Parsed<InstanceRow> {
    Ok(InstanceRow {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        url: row.try_get(2)?,
        secret: row.try_get(3)?,
        renewals: row.try_get(4)?,
    })
}

/// `None`: of a protocol that this version does not know.
fn link(row: &Row) -> Parsed<Option<StoredLink>> {
    let Some(protocol) = LinkProtocol::from_code(row.try_get(1)?) else { return Ok(None) };
    let (instance, epoch) = (row.try_get(2)?, row.try_get(3)?);
    Ok(Some(StoredLink { node_id: name(row)?, protocol, instance, epoch }))
}

/// `None`: another version has written it, and this one cannot read it.
fn state(row: &Row) -> Parsed<Option<StateRow>> {
    let text: String = row.try_get(1)?;
    let Ok(state) = serde_json::from_str(&text) else { return Ok(None) };
    Ok(Some(StateRow { node_id: name(row)?, instance: row.try_get(2)?, state }))
}
