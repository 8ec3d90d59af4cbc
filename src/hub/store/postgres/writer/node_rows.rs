//! Rows of nodes, and what is known of each.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use tokio_postgres::Error;
use tokio_postgres::types::ToSql;

use crate::hub::core::messages::Register;
use crate::hub::core::node_session::Content;
use crate::hub::credentials::Digest;
use crate::hub::nodes::Presence;
use crate::hub::nodes::info::ReceivedStatus;
use crate::hub::store::postgres::values::{optional_text, text};
use crate::hub::store::postgres::writer::Batch;
use crate::hub::store::{Completed, Stored, Write};

/// The rows of the nodes of a batch.
#[derive(Default)]
pub(super) struct NodeRows {
    /// With whether the node has registered over Core.
    by_name: HashMap<Arc<str>, (i64, bool)>,
}

impl NodeRows {
    /// Looks up the nodes, and creates those that do not exist. They are looked up for each batch: another hub may delete some.
    pub(super) async fn resolve(
        batch: &mut Batch<'_>,
        writes: &[Completed],
    ) -> Result<Self, Error> {
        let mut names: BTreeSet<&Arc<str>> = BTreeSet::new();
        let mut created: BTreeSet<&Arc<str>> = BTreeSet::new();
        for completed in writes {
            let write = &completed.pending.write;
            let Some(name) = write.node_id() else { continue };
            names.insert(name);
            // A node that was forgotten meanwhile stays so.
            if !matches!(write, Write::Status { .. }) {
                created.insert(name);
            }
        }
        let mut rows = Self::default();
        if names.is_empty() {
            return Ok(rows);
        }
        rows.find(batch, &names).await?;
        let missing: Vec<&Arc<str>> =
            created.into_iter().filter(|name| !rows.by_name.contains_key(*name)).collect();
        if !missing.is_empty() {
            // Sorted, so that two hubs lock in the same order.
            let texts: Vec<_> = missing.iter().map(|name| text(name)).collect();
            let sql = "INSERT INTO node (name, first_seen) SELECT name, $2 FROM unnest($1::text[]) name ON CONFLICT (name) DO NOTHING";
            let insert = batch.statements.get(&batch.transaction, sql).await?;
            batch.transaction.execute(&insert, &[&texts, &batch.now]).await?;
            rows.find(batch, &missing.into_iter().collect()).await?;
        }
        Ok(rows)
    }

    async fn find(
        &mut self,
        batch: &mut Batch<'_>,
        names: &BTreeSet<&Arc<str>>,
    ) -> Result<(), Error> {
        let texts: Vec<_> = names.iter().map(|name| text(name)).collect();
        let sql = "SELECT w.ordinal, n.id, n.hostname IS NOT NULL FROM unnest($1::text[]) WITH ORDINALITY w (name, ordinal) JOIN node n ON n.name = w.name";
        let find = batch.statements.get(&batch.transaction, sql).await?;
        let names: Vec<&Arc<str>> = names.iter().copied().collect();
        for row in batch.transaction.query(&find, &[&texts]).await? {
            let ordinal: i64 = row.try_get(0)?;
            let name = names[ordinal as usize - 1].clone();
            self.by_name.insert(name, (row.try_get(1)?, row.try_get(2)?));
        }
        Ok(())
    }

    pub(super) fn id(&self, name: &str) -> Option<i64> {
        self.by_name.get(name).map(|(id, _)| *id)
    }

    fn has_registered(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|(_, has_registered)| *has_registered)
    }
}

/// Of several writes of one kind and node, the last one counts.
struct LastOf<T>(HashMap<i64, T>);

impl<T> Default for LastOf<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> LastOf<T> {
    /// Sorted by node, so that two hubs lock in the same order.
    fn sorted(self) -> (Vec<i64>, Vec<T>) {
        let mut rows: Vec<_> = self.0.into_iter().collect();
        rows.sort_unstable_by_key(|(node, _)| *node);
        rows.into_iter().unzip()
    }
}

/// What the writes of a batch tell of nodes.
#[derive(Default)]
struct Changes<'a> {
    registrations: LastOf<&'a Register>,
    /// JSON, and the group.
    agents: LastOf<(String, Option<&'a str>)>,
    statuses: LastOf<&'a ReceivedStatus>,
    /// Whether `fleet.on_change` was run for the node being online.
    hook_states: LastOf<bool>,
    credentials: LastOf<(&'a Digest, Option<&'a str>)>,
    /// Indexes of the writes that register a node for the first time.
    first_registrations: Vec<usize>,
}

impl<'a> Changes<'a> {
    fn new(nodes: &NodeRows, writes: &'a [Completed]) -> Self {
        let (mut changes, mut registered) = (Self::default(), HashSet::new());
        for (at, completed) in writes.iter().enumerate() {
            if let Write::Core(request) = &completed.pending.write
                && let Content::Register(_) = &request.content
                && !nodes.has_registered(&request.node_id)
                && registered.insert(&request.node_id)
            {
                changes.first_registrations.push(at);
            }
            changes.add(nodes, &completed.pending.write);
        }
        changes
    }

    fn add(&mut self, nodes: &NodeRows, write: &'a Write) {
        let Some(node) = write.node_id().and_then(|node_id| nodes.id(node_id)) else { return };
        match write {
            Write::Core(request) => {
                if let Content::Register(register) = &request.content {
                    self.registrations.0.insert(node, register);
                }
            }
            Write::Agent { agent, group, .. } => {
                let agent = serde_json::to_string(&**agent).unwrap_or_default();
                self.agents.0.insert(node, (agent, group.as_deref()));
            }
            Write::Status { status, .. } => {
                self.statuses.0.insert(node, &**status);
            }
            Write::HookState { state, .. } => {
                self.hook_states.0.insert(node, *state == Presence::Online);
            }
            Write::Credential { digest, group, .. } => {
                self.credentials.0.entry(node).or_insert((digest, group.as_deref()));
                if let Some((_, known)) = self.agents.0.get_mut(&node) {
                    // Descriptions are written last, with the group that is known last.
                    *known = group.as_deref();
                }
            }
            Write::Report { .. } | Write::Command { .. } | Write::DeleteNode(_) => {}
        }
    }
}

/// Writes what nodes have sent of themselves. Sets the results.
pub(super) async fn update(
    batch: &mut Batch<'_>,
    nodes: &NodeRows,
    writes: &mut [Completed],
) -> Result<(), Error> {
    let changes = Changes::new(nodes, writes);
    let mut results: Vec<(usize, Stored)> =
        changes.first_registrations.iter().map(|at| (*at, Stored::Registered)).collect();
    if !changes.credentials.0.is_empty() {
        let refused = set_credentials(batch, changes.credentials).await?;
        for (at, completed) in writes.iter().enumerate() {
            if let Write::Credential { node_id, digest, .. } = &completed.pending.write
                && nodes.id(node_id).is_some_and(|node| refused(node, digest))
            {
                results.push((at, Stored::Failed));
            }
        }
    }
    set_registrations(batch, changes.registrations).await?;
    set_agents(batch, changes.agents).await?;
    set_statuses(batch, changes.statuses).await?;
    set_hook_states(batch, changes.hook_states).await?;
    for (at, stored) in results {
        writes[at].stored = stored;
    }
    Ok(())
}

async fn set_registrations(
    batch: &mut Batch<'_>,
    registrations: LastOf<&Register>,
) -> Result<(), Error> {
    if registrations.0.is_empty() {
        return Ok(());
    }
    let (ids, registrations) = registrations.sorted();
    let hostnames: Vec<_> = registrations.iter().map(|it| text(&it.hostname)).collect();
    let addresses: Vec<_> = registrations.iter().map(|it| text(&it.ip_address)).collect();
    let systems: Vec<_> =
        registrations.iter().map(|it| optional_text(it.os_info.as_deref())).collect();
    let sql = "UPDATE node SET hostname = w.hostname, ip_address = w.ip_address, os_info = w.os_info, updated_at = $5 FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) w (id, hostname, ip_address, os_info) WHERE node.id = w.id";
    let update = batch.statements.get(&batch.transaction, sql).await?;
    let values: [&(dyn ToSql + Sync); 5] = [&ids, &hostnames, &addresses, &systems, &batch.now];
    batch.transaction.execute(&update, &values).await.map(drop)
}

async fn set_agents(
    batch: &mut Batch<'_>,
    agents: LastOf<(String, Option<&str>)>,
) -> Result<(), Error> {
    if agents.0.is_empty() {
        return Ok(());
    }
    let (ids, agents) = agents.sorted();
    let (texts, groups): (Vec<_>, Vec<_>) =
        agents.iter().map(|(agent, group)| (text(agent), optional_text(*group))).unzip();
    let sql = "UPDATE node SET agent = w.agent, node_group = w.node_group FROM unnest($1::bigint[], $2::text[], $3::text[]) w (id, agent, node_group) WHERE node.id = w.id";
    let update = batch.statements.get(&batch.transaction, sql).await?;
    batch.transaction.execute(&update, &[&ids, &texts, &groups]).await.map(drop)
}

async fn set_statuses(
    batch: &mut Batch<'_>,
    statuses: LastOf<&ReceivedStatus>,
) -> Result<(), Error> {
    if statuses.0.is_empty() {
        return Ok(());
    }
    let (ids, statuses) = statuses.sorted();
    let times: Vec<i64> = statuses.iter().map(|it| it.at).collect();
    let texts = statuses.iter().map(|it| serde_json::to_string(&it.status).unwrap_or_default());
    let texts: Vec<String> = texts.map(|it| text(&it).into_owned()).collect();
    let snapshots: Vec<&[u8]> = statuses.iter().map(|it| &it.snapshot[..]).collect();
    let is_gzip: Vec<bool> = statuses.iter().map(|it| it.is_gzip).collect();
    let sql = "INSERT INTO node_status (node, at, status, snapshot, is_gzip) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bytea[], $5::boolean[]) ON CONFLICT (node) DO UPDATE SET at = excluded.at, status = excluded.status, snapshot = excluded.snapshot, is_gzip = excluded.is_gzip WHERE node_status.at <= excluded.at";
    let insert = batch.statements.get(&batch.transaction, sql).await?;
    let values: [&(dyn ToSql + Sync); 5] = [&ids, &times, &texts, &snapshots, &is_gzip];
    batch.transaction.execute(&insert, &values).await.map(drop)
}

async fn set_hook_states(batch: &mut Batch<'_>, states: LastOf<bool>) -> Result<(), Error> {
    if states.0.is_empty() {
        return Ok(());
    }
    let (ids, states) = states.sorted();
    let sql = "UPDATE node SET hook_online = w.state FROM unnest($1::bigint[], $2::boolean[]) w (id, state) WHERE node.id = w.id";
    let update = batch.statements.get(&batch.transaction, sql).await?;
    batch.transaction.execute(&update, &[&ids, &states]).await.map(drop)
}

/// Stores the first credential of each node, at whichever hub it was presented. Returns which were refused.
async fn set_credentials(
    batch: &mut Batch<'_>,
    credentials: LastOf<(&Digest, Option<&str>)>,
) -> Result<impl Fn(i64, &Digest) -> bool, Error> {
    let (ids, credentials) = credentials.sorted();
    let digests: Vec<&[u8]> = credentials.iter().map(|(digest, _)| &digest[..]).collect();
    let groups: Vec<_> = credentials.iter().map(|(_, group)| optional_text(*group)).collect();
    let sql = "UPDATE node SET credential = w.credential, node_group = w.node_group
         FROM unnest($1::bigint[], $2::bytea[], $3::text[]) w (id, credential, node_group)
         WHERE node.id = w.id AND (node.credential IS NULL OR node.credential = w.credential)
         RETURNING node.id";
    let update = batch.statements.get(&batch.transaction, sql).await?;
    let rows = batch.transaction.query(&update, &[&ids, &digests, &groups]).await?;
    let updated: HashSet<i64> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    let stored: HashMap<i64, Digest> = ids
        .into_iter()
        .zip(credentials)
        .filter(|(id, _)| updated.contains(id))
        .map(|(id, (digest, _))| (id, *digest))
        .collect();
    Ok(move |node, digest: &Digest| stored.get(&node) != Some(digest))
}

/// Forgets a node with its commands. Maintenance deletes its reports and metrics, which may be many.
pub(super) async fn delete(batch: &mut Batch<'_>, node_id: &str) -> Result<Stored, Error> {
    let db = &batch.transaction;
    if db.execute("DELETE FROM node WHERE name = $1", &[&text(node_id)]).await? == 0 {
        return Ok(Stored::Done);
    }
    // A trigger has written its row.
    let sql = "SELECT max(id) FROM forgotten_node WHERE changed = pg_current_xact_id()";
    Ok(Stored::Removed { removal: db.query_one(sql, &[]).await?.try_get(0)? })
}
