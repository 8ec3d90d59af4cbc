//! The thread that reads what other hubs have changed in the database, and writes what has changed here.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use crate::hub::Hub;
use crate::hub::cluster::database::changes::{Changes, InstanceRow, Position, StoredLink};
use crate::hub::cluster::database::{ClusterDatabase, Message, REMOVALS_KEPT};
use crate::hub::cluster::leases::{Leases, RENEWAL_INTERVAL};
use crate::hub::cluster::peer::Peer;
use crate::hub::cluster::{Cluster, apply, send_claim_result};
use crate::hub::core::messages::{self, unix_ms};
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
/// After more time without a reading, all nodes are compared with those of the database. An hour less than removals are kept.
const MAX_AWAY_MS: i64 = (REMOVALS_KEPT.as_secs() as i64 - 3600) * 1000;
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
    next_clean_up: Instant,
    /// Removals of nodes that were applied.
    removals: HashSet<i64>,
    /// Time of the last reading in Unix milliseconds of the database.
    last_read: Option<i64>,
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
            next_clean_up: now,
            removals: HashSet::new(),
            last_read: None,
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
        self.connect()?;
        self.receive(hub)?;
        self.send_messages()?;
        if self.next_read <= Instant::now() {
            self.read(hub)?;
            self.lead(hub)?;
            self.write(hub)?;
            self.answer_claims(hub);
            let is_waiting = !lock(&self.cluster.claims).is_empty();
            let interval = if is_waiting { PROBE_READ_INTERVAL } else { READ_INTERVAL };
            self.next_read = Instant::now() + interval;
        }
        if self.next_commands <= Instant::now() {
            self.next_commands = Instant::now() + COMMAND_INTERVAL;
            self.send_commands(hub)?;
        }
        self.give_back_commands()?;
        if self.next_clean_up <= Instant::now() && self.cluster.is_leader() {
            self.next_clean_up = Instant::now() + CLEAN_UP_INTERVAL;
            self.database.as_mut().map_or(Ok(()), ClusterDatabase::clean_up)?;
        }
        Ok(())
    }

    /// Begins a new session if there is none.
    fn connect(&mut self) -> Result<(), StoreError> {
        if self.database.is_some() {
            return Ok(());
        }
        let session = PgSession::connect(&self.cluster.url)?;
        let joined = ClusterDatabase::join(session, &self.cluster.identity, false)?;
        let why = || StoreError("another hm-hub has the name of this one".to_owned());
        self.database = Some(joined.ok_or_else(why)?);
        self.position = Position::start();
        let now = Instant::now();
        (self.next_read, self.next_renewal, self.next_commands) = (now, now, now);
        Ok(())
    }

    /// Waits for notifications for a short time.
    fn receive(&mut self, hub: &Hub) -> Result<(), StoreError> {
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
        Ok(())
    }

    /// Shows the other hubs that this one runs, and sends what waits for them.
    fn send_messages(&mut self) -> Result<(), StoreError> {
        let Some(database) = &mut self.database else { return Ok(()) };
        if self.next_renewal <= Instant::now() {
            database.renew()?;
            self.next_renewal = Instant::now() + RENEWAL_INTERVAL;
        }
        for (instance, messages) in self.cluster.take_messages() {
            database.notify(instance, &messages)?;
        }
        Ok(())
    }

    /// Applies what other hubs have changed.
    fn read(&mut self, hub: &Hub) -> Result<(), StoreError> {
        let Some(database) = &mut self.database else { return Ok(()) };
        let this_hub = database.id();
        let (mut changes, mut position) = database.changes(&self.position)?;
        // Of removals of meanwhile, some may be deleted.
        let was_away = self.last_read.is_some_and(|last| changes.time - last >= MAX_AWAY_MS);
        let is_whole = was_away || self.position == Position::start();
        if was_away {
            (changes, position) = database.changes(&Position::start())?;
        }
        self.last_read = Some(changes.time);
        self.position = position;
        let has_returned = self.observe(hub, &changes.instances);
        self.apply_nodes(hub, &changes);
        if was_away {
            apply::forget_missing(hub, &changes);
        }
        let actions = self.apply_links(hub, this_hub, &changes.links);
        if is_whole {
            apply::confirm_published(hub, this_hub, &changes.links);
            self.removals = changes.forgotten.iter().map(|(_, removal)| *removal).collect();
        }
        apply::states(hub, changes.states);
        if has_returned {
            // Its connections were ignored while it was dead.
            self.position = Position::start();
        }
        let releases = apply::end_links(hub, actions);
        match (releases.is_empty(), &mut self.database) {
            (false, Some(database)) => database.release(&releases),
            _ => Ok(()),
        }
    }

    /// Tries to become the leader. Reads what the former one has stored until it lost the lock.
    fn lead(&mut self, hub: &Hub) -> Result<(), StoreError> {
        let Some(database) = self.database.as_mut().filter(|_| !self.cluster.is_leader()) else {
            return Ok(());
        };
        if database.lead()? {
            self.read(hub)?;
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
        apply::log_changes(&peers, instances, &changes);
        let known = |row: &InstanceRow| peers.get(&row.id).filter(|peer| peer.row.is_same(row));
        let new = instances.iter().map(|row| {
            let peer = known(row).cloned().unwrap_or_else(|| Arc::new(Peer::new(row.clone())));
            (row.id, peer)
        });
        *peers = new.collect();
        drop(peers);
        for instance in changes.silent.into_iter().chain(changes.stopped) {
            hub.update_nodes(|nodes| nodes.end_instance(now, instance));
        }
        !changes.returned.is_empty()
    }

    /// Applies removals, credentials and descriptions of nodes.
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
                    let message = LoopMessage::SendCommand { link: link.number, command };
                    hub.send(link.event_loop, message);
                }
                None => self.cluster.give_back(vec![command.command_id]),
            }
        }
        Ok(())
    }

    fn give_back_commands(&mut self) -> Result<(), StoreError> {
        let Some(database) = &mut self.database else { return Ok(()) };
        let unsent = lock(&self.cluster.unsent).clone();
        if !unsent.is_empty() {
            database.give_back(&unsent)?;
            lock(&self.cluster.unsent).drain(..unsent.len());
        }
        Ok(())
    }

    pub(super) fn leave(&mut self) -> Result<(), StoreError> {
        self.database.as_mut().map_or(Ok(()), ClusterDatabase::leave)
    }
}
