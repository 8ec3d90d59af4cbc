//! The statements with which hubs that share a database learn of each other. See `schema_1.sql`.

pub mod changes;

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::{Client, Row};

use crate::hub::cluster::database::changes::{Changes, Parsed, Position};
use crate::hub::nodes::shared::{InstanceId, Publication, Release, UnsharedState};
use crate::hub::store::StoreError;
use crate::hub::store::postgres::conflict::is_conflict;
use crate::hub::store::postgres::locks;
use crate::hub::store::postgres::schema::{self, SCHEMA_VERSION};
use crate::hub::store::postgres::session::PgSession;
use crate::hub::store::records::NewCommand;

/// For the statements of one step.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long removals of nodes are kept at least for hubs that have not read of them.
pub const REMOVALS_KEPT: Duration = Duration::from_secs(86_400);

/// This hub in the table of hubs.
pub struct Identity {
    pub name: String,
    pub url: Option<String>,
    pub secret: String,
}

/// The connection of this hub's cluster thread.
pub struct ClusterDatabase {
    session: PgSession,
    id: InstanceId,
}

impl ClusterDatabase {
    /// Joins the hubs of the database. `None`: another hub has the same name. With `is_start`, the connections of an earlier run of this hub
    /// have ended.
    pub fn join(
        mut session: PgSession,
        identity: &Identity,
        is_start: bool,
    ) -> Result<Option<Self>, StoreError> {
        let id = session.run(TIMEOUT, async |client| join(client, identity, is_start).await)?;
        // After the row of this hub is there: a migration either finds it or has ended.
        schema::check(&mut session)?;
        Ok(id.map(|id| Self { session, id }))
    }

    pub fn id(&self) -> InstanceId {
        self.id
    }

    /// Runs statements, once more if those of another hub were in their way.
    fn run<R>(
        &mut self,
        work: impl AsyncFn(&mut Client) -> Result<R, tokio_postgres::Error>,
    ) -> Result<R, StoreError> {
        self.session.run(TIMEOUT, async |client| match work(client).await {
            Err(error) if is_conflict(&error) => work(client).await,
            result => result,
        })
    }

    /// A message for this hub, if one arrives in time. One that this version does not know is none.
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<Message>, StoreError> {
        let notification = self.session.wait_notification(timeout)?;
        Ok(notification.and_then(|notification| Message::parse(&notification.payload)))
    }

    /// Shows the other hubs that this one runs.
    pub fn renew(&mut self) -> Result<(), StoreError> {
        let id = self.id;
        match self.run(async |client| {
            let sql = "UPDATE instance SET renewals = renewals + 1, renewed = now() WHERE id = $1";
            client.execute(sql, &[&id]).await
        })? {
            // A clean-up has removed this hub, e.g. after the clock of the database was set.
            0 => Err(StoreError("this hub is missing in the table of hubs".to_owned())),
            _ => Ok(()),
        }
    }

    /// Tries to become the hub that does what only one may do. It stays so until its session ends.
    pub fn lead(&mut self) -> Result<bool, StoreError> {
        self.run(async |client| {
            let row =
                client.query_one("SELECT pg_try_advisory_lock($1)", &[&locks::LEADER]).await?;
            row.try_get(0)
        })
    }

    /// Names this hub as the owner of the connections. Returns their epochs, each with the index of its connection. A node that was removed
    /// meanwhile has none.
    pub fn publish(
        &mut self,
        links: &[Publication],
        now: i64,
    ) -> Result<Vec<(usize, i64)>, StoreError> {
        let names: Vec<&str> = links.iter().map(|link| &*link.node_id).collect();
        let protocols: Vec<i16> = links.iter().map(|link| link.protocol.code()).collect();
        let id = self.id;
        self.run(async |client| {
            let transaction = client.transaction().await?;
            transaction
                .execute(
                    "INSERT INTO node (name, first_seen) SELECT DISTINCT name, $2::bigint FROM unnest($1::text[]) name
                       WHERE NOT EXISTS (SELECT 1 FROM node known WHERE known.name = name.name) ORDER BY name
                       ON CONFLICT (name) DO NOTHING",
                    &[&names, &now],
                )
                .await?;
            let rows = transaction
                .query(
                    "WITH wanted AS (
                         SELECT n.id, w.protocol, w.ordinal
                           FROM unnest($1::text[], $2::smallint[]) WITH ORDINALITY w (name, protocol, ordinal)
                           JOIN node n ON n.name = w.name),
                       published AS (
                         INSERT INTO link (node, protocol, instance, epoch)
                           SELECT id, protocol, $3, 1 FROM wanted ORDER BY id, protocol
                           ON CONFLICT (node, protocol) DO UPDATE
                             SET instance = excluded.instance, epoch = link.epoch + 1, changed = pg_current_xact_id()
                           RETURNING node, protocol, epoch)
                     SELECT w.ordinal, p.epoch FROM wanted w JOIN published p ON p.node = w.id AND p.protocol = w.protocol",
                    &[&names, &protocols, &id],
                )
                .await?;
            transaction.commit().await?;
            let epoch = |row: &Row| {
                let ordinal: i64 = row.try_get(0)?;
                Ok((usize::try_from(ordinal - 1).unwrap_or_default(), row.try_get(1)?))
            };
            rows.iter().map(epoch).collect()
        })
    }

    /// The connections have ended. Where another hub is the owner by now, it stays.
    pub fn release(&mut self, links: &[Release]) -> Result<(), StoreError> {
        let names: Vec<&str> = links.iter().map(|link| &*link.node_id).collect();
        let protocols: Vec<i16> = links.iter().map(|link| link.protocol.code()).collect();
        let epochs: Vec<i64> = links.iter().map(|link| link.epoch).collect();
        let id = self.id;
        self.run(async |client| {
            let sql = "UPDATE link SET instance = NULL, changed = pg_current_xact_id()
                 FROM unnest($1::text[], $2::smallint[], $3::bigint[]) w (name, protocol, epoch)
                 JOIN node n ON n.name = w.name
                 WHERE link.node = n.id AND link.protocol = w.protocol AND link.epoch = w.epoch AND link.instance = $4";
            client.execute(sql, &[&names, &protocols, &epochs, &id]).await.map(drop)
        })
    }

    /// Passes on the states of nodes of this hub.
    pub fn share(&mut self, states: &[UnsharedState]) -> Result<(), StoreError> {
        let names: Vec<&str> = states.iter().map(|state| &*state.node_id).collect();
        let texts = states.iter().map(|state| serde_json::to_string(&state.state));
        let texts: Vec<String> =
            texts.collect::<Result<_, _>>().map_err(|error| StoreError(error.to_string()))?;
        let id = self.id;
        self.run(async |client| {
            let sql = "INSERT INTO node_state (node, instance, state)
                 SELECT n.id, $3, w.state FROM unnest($1::text[], $2::text[]) w (name, state)
                   JOIN node n ON n.name = w.name ORDER BY n.id
                 ON CONFLICT (node, instance) DO UPDATE SET state = excluded.state, changed = pg_current_xact_id()";
            client.execute(sql, &[&names, &texts, &id]).await.map(drop)
        })
    }

    /// What has changed since the position, and the position after it.
    pub fn changes(&mut self, since: &Position) -> Result<(Changes, Position), StoreError> {
        let id = self.id;
        self.run(async |client| changes::read(client, id, since).await)
    }

    /// Takes the pending commands of nodes whose Core connection this hub has. Each is taken once, unless it is given back, or this attempt is
    /// undone. `attempt` is a new id.
    pub fn take_commands(
        &mut self,
        attempt: &str,
    ) -> Result<Vec<(Arc<str>, NewCommand)>, StoreError> {
        let id = self.id;
        self.run(async |client| {
            let sql = "UPDATE command c SET taken_by = $2 FROM link l JOIN node n ON n.id = l.node
                 WHERE l.node = c.node AND l.protocol = 2 AND l.instance = $1
                   AND c.status = 'pending' AND c.taken_by IS NULL
                 RETURNING c.id, n.name, c.command_id, c.text, c.timeout_s";
            let rows = client.query(sql, &[&id, &attempt]).await?;
            let mut commands: Vec<(i64, Arc<str>, NewCommand)> =
                rows.iter().map(command).collect::<Result<_, _>>()?;
            commands.sort_unstable_by_key(|(id, ..)| *id);
            Ok(commands.into_iter().map(|(_, node, command)| (node, command)).collect())
        })
    }

    /// The commands could not be sent, and wait to be taken again.
    pub fn give_back(&mut self, command_ids: &[String]) -> Result<(), StoreError> {
        self.run(async |client| {
            let sql = "UPDATE command SET taken_by = NULL WHERE command_id = ANY ($1) AND status = 'pending'";
            client.execute(sql, &[&command_ids]).await.map(drop)
        })
    }

    /// Undoes an attempt of an earlier session of this hub, whose result is unknown. That session has ended: it had the lock of the name.
    pub fn undo_taking(&mut self, attempt: &str) -> Result<(), StoreError> {
        self.run(async |client| {
            let sql =
                "UPDATE command SET taken_by = NULL WHERE taken_by = $1 AND status = 'pending'";
            client.execute(sql, &[&attempt]).await.map(drop)
        })
    }

    /// Notifies another hub.
    pub fn notify(&mut self, to: InstanceId, messages: &[Message]) -> Result<(), StoreError> {
        let (channel, id) = (channel(to), self.id);
        let payloads: Vec<String> = messages.iter().map(|message| message.to_payload(id)).collect();
        self.run(async |client| {
            let sql = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) payload";
            client.execute(sql, &[&channel, &payloads]).await.map(drop)
        })
    }

    /// Deletes what no hub reads any more.
    pub fn clean_up(&mut self) -> Result<(), StoreError> {
        let kept = REMOVALS_KEPT.as_secs();
        let sql = format!(
            "DELETE FROM forgotten_node WHERE forgotten < now() - interval '{kept} s' AND is_purged;
             DELETE FROM instance WHERE renewed < now() - interval '1 day';
             DELETE FROM node_state WHERE instance NOT IN (SELECT id FROM instance)
               OR NOT EXISTS (SELECT 1 FROM node WHERE id = node_state.node);"
        );
        self.run(async |client| client.batch_execute(&sql).await)
    }

    /// Ends the connections of this hub for the others, which learn that it has stopped.
    pub fn leave(&mut self) -> Result<(), StoreError> {
        let id = self.id;
        self.run(async |client| {
            let transaction = client.transaction().await?;
            end_links(&transaction, id).await?;
            transaction.execute("DELETE FROM node_state WHERE instance = $1", &[&id]).await?;
            transaction.execute("DELETE FROM instance WHERE id = $1", &[&id]).await?;
            transaction.commit().await
        })
    }
}

/// A notification for one hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Commands may be pending.
    Command,
    /// Another hub has a client that wants to be the node: is this hub's hm connection of it alive?
    Probe { from: InstanceId, node_id: Arc<str> },
    /// The answer: it is.
    Held { node_id: Arc<str> },
}

impl Message {
    fn to_payload(&self, from: InstanceId) -> String {
        match self {
            Self::Command => "command".to_owned(),
            Self::Probe { node_id, .. } => format!("probe {from} {node_id}"),
            Self::Held { node_id } => format!("held {node_id}"),
        }
    }

    fn parse(payload: &str) -> Option<Self> {
        match payload.split_once(' ') {
            None if payload == "command" => Some(Self::Command),
            Some(("probe", rest)) => {
                let (from, node_id) = rest.split_once(' ')?;
                Some(Self::Probe { from: from.parse().ok()?, node_id: node_id.into() })
            }
            Some(("held", node_id)) => Some(Self::Held { node_id: node_id.into() }),
            _ => None,
        }
    }
}

fn channel(instance: InstanceId) -> String {
    format!("hm_hub_{instance}")
}

async fn end_links(
    client: &tokio_postgres::Transaction<'_>,
    id: InstanceId,
) -> Result<(), tokio_postgres::Error> {
    let sql = "UPDATE link SET instance = NULL, changed = pg_current_xact_id() WHERE instance = $1";
    client.execute(sql, &[&id]).await.map(drop)
}

async fn join(
    client: &mut Client,
    identity: &Identity,
    is_start: bool,
) -> Result<Option<InstanceId>, tokio_postgres::Error> {
    // The database learns in time that this machine is gone, and gives the locks to others.
    client
        .batch_execute("SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 3; SET tcp_keepalives_count = 3;")
        .await?;
    let Identity { name, url, secret } = identity;
    let sql = "SELECT pg_try_advisory_lock($1, hashtext($2))";
    let has_name: bool = client.query_one(sql, &[&locks::NAME, name]).await?.try_get(0)?;
    if !has_name {
        return Ok(None);
    }
    let transaction = client.transaction().await?;
    // A restored database has ids of transactions of another server, which would be read again and again.
    transaction
        .batch_execute(
            "UPDATE node SET first_seen = first_seen WHERE changed > pg_current_xact_id();
             UPDATE link SET changed = pg_current_xact_id() WHERE changed > pg_current_xact_id();
             DELETE FROM node_state WHERE changed > pg_current_xact_id();
             DELETE FROM forgotten_node WHERE changed > pg_current_xact_id() AND is_purged;
             UPDATE forgotten_node SET changed = pg_current_xact_id() WHERE changed > pg_current_xact_id();",
        )
        .await?;
    let version = env!("CARGO_PKG_VERSION");
    let row = transaction
        .query_one(
            "INSERT INTO instance (name, url, version, schema_version, secret, renewals) VALUES ($1, $2, $3, $4, $5, 0)
               ON CONFLICT (name) DO UPDATE SET url = excluded.url, version = excluded.version,
                 schema_version = excluded.schema_version, secret = excluded.secret,
                 renewals = instance.renewals + 1, renewed = now()
               RETURNING id",
            &[name, url, &version, &SCHEMA_VERSION, secret],
        )
        .await?;
    let id: InstanceId = row.try_get(0)?;
    if is_start {
        end_links(&transaction, id).await?;
    }
    transaction.commit().await?;
    client.batch_execute(&format!("LISTEN {}", channel(id))).await?;
    Ok(Some(id))
}

fn command(row: &Row) -> Parsed<(i64, Arc<str>, NewCommand)> {
    let timeout_s: i64 = row.try_get(4)?;
    let command = NewCommand {
        command_id: row.try_get(2)?,
        text: row.try_get(3)?,
        timeout_s: u32::try_from(timeout_s).unwrap_or(u32::MAX),
    };
    let node_id: String = row.try_get(1)?;
    Ok((row.try_get(0)?, node_id.into(), command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_read_as_they_are_written() {
        for message in [
            Message::Command,
            Message::Probe { from: 7, node_id: "a b".into() },
            Message::Held { node_id: "held x".into() },
        ] {
            assert_eq!(Message::parse(&message.to_payload(7)), Some(message));
        }
        for payload in ["", "probe", "probe x", "probe x y", "later"] {
            assert_eq!(Message::parse(payload), None, "{payload}");
        }
    }
}
