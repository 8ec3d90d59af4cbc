//! The thread that reads what other hubs have changed in the database, and writes what has changed here.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use crate::hub::Hub;
use crate::hub::cluster::database::changes::{
    Changes, InstanceRow, Position, StateRow, StoredLink,
};
use crate::hub::cluster::database::{ClusterDatabase, Message};
use crate::hub::cluster::leases::{Leases, RENEWAL_INTERVAL};
use crate::hub::cluster::peer::Peer;
use crate::hub::cluster::{Cluster, send_claim_result};
use crate::hub::core::messages::{self, unix_ms};
use crate::hub::core::monitor;
use crate::hub::event_loop::mailbox::LoopMessage;
use crate::hub::nodes::shared::{InstanceId, LinkOwner, LinkProtocol, LinkRow, RowAction};
use crate::hub::store::StoreError;
use crate::hub::store::postgres::session::PgSession;
use crate::util::sync::lock;

/// Time between two readings of what has changed.
const READ_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two readings while a connection waits for the answer of another hub.
const PROBE_READ_INTERVAL: Duration = Duration::from_millis(250);
/// Longest wait for a notification, after which this hub's own requests are looked at.
const WAIT: Duration = Duration::from_millis(100);
/// Commands are taken this often without a notification, which the database may lose.
const COMMAND_INTERVAL: Duration = Duration::from_secs(5);
const CLEAN_UP_INTERVAL: Duration = Duration::from_secs(3600);
/// Connections, and states, that one statement writes.
const BATCH: usize = 5000;

/// The state of the thread.
pub(super) struct ClusterThread<'a> {
    cluster: &'a Cluster,
    database: Option<ClusterDatabase>,
    leases: Leases,
    position: Position,
    next_read: Instant,
    next_renewal: Instant,
    next_commands: Instant,
    /// An attempt to take commands without a result yet.
    open_attempt: Option<String>,
    /// Ids of commands that were taken and could not be sent.
    unsent: Vec<String>,
    next_clean_up: Instant,
    /// Removals of nodes that were applied.
    removals: HashSet<i64>,
    is_first_read: bool,
}

impl<'a> ClusterThread<'a> {
    pub(super) fn new(cluster: &'a Cluster, database: ClusterDatabase) -> Self {
        let now = Instant::now();
        Self {
            cluster,
            database: Some(database),
            leases: Leases::default(),
            position: Position::start(),
            next_read: now,
            next_renewal: now,
            next_commands: now,
            open_attempt: None,
            unsent: Vec::new(),
            next_clean_up: now,
            removals: HashSet::new(),
            is_first_read: true,
        }
    }

    /// Waits for a notification for a short time, and does what is due.
    pub(super) fn step(&mut self, hub: &Hub) -> Result<(), StoreError> {
        let result = self.try_step(hub);
        if result.is_err() {
            // What the last statements have done is unknown: the next session begins anew.
            self.database = None;
        }
        result
    }

    fn try_step(&mut self, hub: &Hub) -> Result<(), StoreError> {
        if self.database.is_none() {
            let session = PgSession::connect(&self.cluster.url)?;
            let joined = ClusterDatabase::join(session, &self.cluster.identity, false)?;
            let why = || StoreError("another hm-hub has the name of this one".to_owned());
            self.database = Some(joined.ok_or_else(why)?);
            self.position = Position::start();
            self.next_read = Instant::now();
            self.next_renewal = Instant::now();
            self.next_commands = Instant::now();
        }
        let Some(database) = &mut self.database else { return Ok(()) };
        let mut message = database.wait(WAIT)?;
        while let Some(received) = message {
            match received {
                Message::Command => self.next_commands = Instant::now(),
                Message::Probe { from, node_id } => self.cluster.probe(hub, from, node_id),
                Message::Held { node_id } => self.cluster.refuse_claims(hub, &node_id),
            }
            message = database.wait(Duration::ZERO)?;
        }
        let now = Instant::now();
        if self.next_renewal <= now {
            database.renew()?;
            self.next_renewal = now + RENEWAL_INTERVAL;
        }
        for (instance, messages) in self.cluster.take_messages() {
            database.notify(instance, &messages)?;
        }
        if self.next_read <= now {
            self.read(hub)?;
            self.lead()?;
            self.write(hub)?;
            self.answer_claims(hub);
            let is_waiting = !lock(&self.cluster.claims).is_empty();
            self.next_read = now + if is_waiting { PROBE_READ_INTERVAL } else { READ_INTERVAL };
        }
        if self.next_commands <= now {
            self.next_commands = now + COMMAND_INTERVAL;
            self.send_commands(hub)?;
        }
        if self.next_clean_up <= now && self.cluster.is_leader() {
            self.next_clean_up = now + CLEAN_UP_INTERVAL;
            self.database.as_mut().map_or(Ok(()), ClusterDatabase::clean_up)?;
        }
        Ok(())
    }

    /// Applies what other hubs have changed.
    fn read(&mut self, hub: &Hub) -> Result<(), StoreError> {
        let Some(database) = &mut self.database else { return Ok(()) };
        let is_whole = self.position == Position::start();
        let (changes, position) = database.changes(&self.position)?;
        let this_hub = database.id();
        self.position = position;
        let has_returned = self.observe(hub, &changes.instances);
        self.apply_nodes(hub, &changes);
        let actions = self.apply_links(hub, this_hub, &changes.links);
        if is_whole {
            let key = |link: &StoredLink| (link.node_id.clone(), link.protocol, link.epoch);
            let own = changes.links.iter().filter(|link| link.instance == Some(this_hub));
            let named: HashSet<_> = own.map(key).collect();
            lock(&hub.nodes).confirm_published(|node_id, protocol, epoch| {
                named.contains(&(node_id.into(), protocol, epoch))
            });
        }
        apply_states(hub, changes.states);
        let mut releases = Vec::new();
        for action in actions {
            match action {
                RowAction::Nothing => {}
                RowAction::End(link) => {
                    let why = "the node has connected to another hub";
                    hub.send(link.event_loop, LoopMessage::End { link: link.number, why });
                }
                RowAction::Release(release) => releases.push(release),
            }
        }
        if has_returned {
            // Its connections were ignored while it was dead.
            self.position = Position::start();
        }
        match (releases.is_empty(), &mut self.database) {
            (false, Some(database)) => database.release(&releases),
            _ => Ok(()),
        }
    }

    /// Tries to become the leader. What the former one has stored was read before.
    fn lead(&mut self) -> Result<(), StoreError> {
        let Some(database) = self.database.as_mut().filter(|_| !self.cluster.is_leader()) else {
            return Ok(());
        };
        if database.lead()? {
            self.cluster.is_leader.store(true, Relaxed);
            log::info!("cluster: this hub leads");
        }
        Ok(())
    }

    /// Returns whether a hub that was dead is alive again.
    fn observe(&mut self, hub: &Hub, instances: &[InstanceRow]) -> bool {
        let counts: Vec<_> = instances.iter().map(|row| (row.id, row.renewals)).collect();
        let now = Instant::now();
        let changes = self.leases.observe(now, &counts);
        let mut peers = lock(&self.cluster.peers);
        let name = |instance: &InstanceId| {
            let peer = peers.get(instance).map(|peer| peer.row.name.as_str());
            peer.unwrap_or("unknown").to_owned()
        };
        for instance in &changes.returned {
            log::info!("cluster: hub {} is alive again", name(instance));
        }
        for instance in &changes.died {
            log::warn!("cluster: hub {} has stopped; its nodes are lost", name(instance));
        }
        let known = |row: &InstanceRow| peers.get(&row.id).filter(|peer| peer.row.is_same(row));
        let new = instances.iter().map(|row| {
            let peer = known(row).cloned().unwrap_or_else(|| Arc::new(Peer::new(row.clone())));
            (row.id, peer)
        });
        *peers = new.collect();
        drop(peers);
        for instance in changes.died {
            hub.update_nodes(|nodes| nodes.end_instance(now, instance));
        }
        !changes.returned.is_empty()
    }

    fn apply_nodes(&mut self, hub: &Hub, changes: &Changes) {
        let now = Instant::now();
        let access = hub.access();
        // Each removal once: a node may return at once. Of those before the first read, it is unknown whether the nodes have returned since,
        // unless they do not exist.
        let stored: HashSet<&str> = changes.nodes.iter().map(|(id, _)| &**id).collect();
        for (node_id, removal) in &changes.forgotten {
            let is_own = lock(&self.cluster.own_removals).remove(removal);
            let is_new = self.removals.insert(*removal) && !is_own;
            if is_new && !(self.is_first_read && stored.contains(&**node_id)) {
                hub.forget(node_id);
            }
        }
        self.is_first_read = false;
        for credential in &changes.credentials {
            access.credentials.learn(now, credential);
        }
        let is_leader = self.cluster.is_leader();
        hub.update_nodes(|nodes| {
            for (node_id, info) in &changes.nodes {
                nodes.apply_stored_info(now, node_id, info.clone(), is_leader);
            }
        });
    }

    fn apply_links(&self, hub: &Hub, this_hub: InstanceId, links: &[StoredLink]) -> Vec<RowAction> {
        let owner = |instance: InstanceId| match instance == this_hub {
            true => Some(LinkOwner::ThisHub),
            false if self.leases.is_alive(instance) => Some(LinkOwner::Other(instance)),
            false => None,
        };
        let row = |link: &StoredLink| LinkRow {
            node_id: link.node_id.clone(),
            protocol: link.protocol,
            owner: link.instance.and_then(owner),
            epoch: link.epoch,
        };
        let now = Instant::now();
        hub.update_nodes(|nodes| {
            links.iter().map(|link| nodes.apply_link_row(now, &row(link))).collect()
        })
    }

    /// Tells the other hubs what has changed here.
    fn write(&mut self, hub: &Hub) -> Result<(), StoreError> {
        let Some(database) = &mut self.database else { return Ok(()) };
        let unix_ms = unix_ms(SystemTime::now());
        loop {
            let now = Instant::now();
            let publications = lock(&hub.nodes).unpublished(now, BATCH);
            if !publications.is_empty() {
                let epochs = database.publish(&publications, unix_ms)?;
                let mut nodes = lock(&hub.nodes);
                for (at, epoch) in epochs {
                    nodes.set_published(&publications[at], epoch);
                }
            }
            let releases = lock(&hub.nodes).unreleased(now, BATCH);
            if !releases.is_empty() {
                database.release(&releases)?;
                let mut nodes = lock(&hub.nodes);
                releases.iter().for_each(|release| nodes.set_released(release));
            }
            let states = lock(&hub.nodes).unshared_states(now, unix_ms, BATCH);
            if let Err(error) = match states.is_empty() {
                true => Ok(()),
                false => database.share(&states),
            } {
                lock(&hub.nodes).set_unshared(&states);
                return Err(error);
            }
            let longest = publications.len().max(releases.len()).max(states.len());
            if longest < BATCH {
                return Ok(());
            }
        }
    }

    /// Grants the claims whose owner is gone, or has not answered in time.
    fn answer_claims(&self, hub: &Hub) {
        let now = Instant::now();
        let mut claims = lock(&self.cluster.claims);
        claims.retain(|claim| {
            let mut nodes = lock(&hub.nodes);
            let is_held = nodes.remote_owner_over(&claim.node_id, LinkProtocol::Hm).is_some();
            if is_held && now < claim.deadline {
                return true;
            }
            // The owner does not answer. It ends its connection when it reads that this hub has one.
            nodes.disown(&claim.node_id);
            send_claim_result(hub, claim.link, false);
            false
        });
    }

    fn send_commands(&mut self, hub: &Hub) -> Result<(), StoreError> {
        let Some(database) = &mut self.database else { return Ok(()) };
        if let Some(attempt) = &self.open_attempt {
            database.undo_taking(attempt)?;
        }
        let attempt = messages::new_id();
        self.open_attempt = Some(attempt.clone());
        let commands = database.take_commands(&attempt)?;
        self.open_attempt = None;
        for (node_id, command) in commands {
            let link = lock(&hub.nodes).command_link(&node_id);
            match link {
                Some(link) => {
                    let text = messages::execute_command(&command, SystemTime::now());
                    hub.send(link.event_loop, LoopMessage::Send { link: link.number, text });
                }
                None => self.unsent.push(command.command_id),
            }
        }
        if !self.unsent.is_empty() {
            database.give_back(&self.unsent)?;
            self.unsent.clear();
        }
        Ok(())
    }

    pub(super) fn leave(&mut self) -> Result<(), StoreError> {
        self.database.as_mut().map_or(Ok(()), ClusterDatabase::leave)
    }
}

fn apply_states(hub: &Hub, states: Vec<StateRow>) {
    let now = Instant::now();
    let (time, mut metrics) = (SystemTime::now(), Vec::new());
    hub.update_nodes(|nodes| {
        for StateRow { node_id, instance, state } in states {
            if nodes.apply_shared_state(now, unix_ms(time), &node_id, instance, state)
                && let Some((_, info)) = nodes.info(&node_id)
                && let Some(new) = &info.metrics
            {
                metrics.push(new.to_json(&node_id));
            }
        }
    });
    if !metrics.is_empty() {
        let update: Arc<str> = monitor::metrics_update(&metrics, time).into();
        hub.send_to_all(|| LoopMessage::Broadcast(update.clone()));
    }
}
