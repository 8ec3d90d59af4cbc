//! Several hubs that share a fleet through PostgreSQL. Each serves its own connections, and shows and reaches the nodes of all.
//!
//! ```text
//! this hub's nodes ──▶ publish: link (node, protocol, hub, epoch), node_state ──▶ PostgreSQL
//! nodes of others  ◀── read what other transactions have changed, every second ◀────┘
//! commands         ◀── notification, or every 5 s: take those of connected nodes that another hub has stored
//! ```
//!
//! Nothing is sent for each report. Which hubs are alive: [`leases`]. Which hub has a connection: [`shared`](super::nodes::shared).

mod apply;
pub mod database;
mod leases;
pub mod peer;
mod thread;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use crate::hub::Hub;
use crate::hub::cluster::database::{ClusterDatabase, Identity, Message};
use crate::hub::cluster::peer::{Peer, PeerResponse};
use crate::hub::cluster::thread::ClusterThread;
use crate::hub::event_loop::mailbox::LoopMessage;
use crate::hub::nodes::LinkId;
use crate::hub::nodes::shared::InstanceId;
use crate::hub::store::StoreError;
use crate::hub::store::postgres::session::PgSession;
use crate::hub::store::postgres::url::PostgresUrl;
use crate::util::sync::lock;

/// The other hub pings its connection and waits 2 s for the answer. One that does not answer has stopped, and its lease will end.
const PROBE_TIMEOUT: Duration = Duration::from_secs(4);
/// A hub that was restarted may have to wait until the database has noticed the end of its former connection.
const NAME_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a failure of the database.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// What this hub knows of the others, for all threads.
pub struct Cluster {
    identity: Identity,
    url: PostgresUrl,
    peers: Mutex<HashMap<InstanceId, Arc<Peer>>>,
    claims: Mutex<Vec<WaitingClaim>>,
    probes: Mutex<Probes>,
    is_leader: AtomicBool,
    /// Ids of removals of nodes by this hub that it has not read in the database yet.
    own_removals: Mutex<HashSet<i64>>,
    /// Ids of commands that this hub had to send and could not, or whose connection has ended, so that the node may have lost them.
    unsent: Mutex<Vec<String>>,
    /// Why the other hubs are not reached.
    failure: Mutex<Option<StoreError>>,
    /// Of requests to other hubs.
    tls: Arc<ClientConfig>,
}

/// An hm connection that wants a node which another hub has.
struct WaitingClaim {
    link: LinkId,
    node_id: Arc<str>,
    remote_owner: InstanceId,
    deadline: Instant,
    is_requested: bool,
}

/// Checks of connections of this hub that other hubs have requested.
#[derive(Default)]
struct Probes {
    last_number: u64,
    by_number: HashMap<u64, Probe>,
    /// The connection is alive. The other hub does not know yet.
    held: Vec<Probe>,
}

/// Another hub has a client that wants to be this node.
struct Probe {
    instance: InstanceId,
    node_id: Arc<str>,
}

impl Cluster {
    pub fn new(identity: Identity, url: PostgresUrl, tls: Arc<ClientConfig>) -> Self {
        Self {
            identity,
            url,
            peers: Mutex::default(),
            claims: Mutex::default(),
            probes: Mutex::default(),
            is_leader: AtomicBool::new(false),
            own_removals: Mutex::default(),
            unsent: Mutex::default(),
            failure: Mutex::default(),
            tls,
        }
    }

    /// Whether this hub does what only one of the hubs may do.
    pub fn is_leader(&self) -> bool {
        self.is_leader.load(Relaxed)
    }

    /// Why the other hubs are not reached; `None`: they are.
    pub fn failure(&self) -> Option<StoreError> {
        lock(&self.failure).clone()
    }

    /// Sends a GET request to another hub.
    pub fn get(
        &self,
        peer: &Peer,
        target: &str,
        headers: &[String],
        timeout: Duration,
    ) -> io::Result<PeerResponse> {
        peer.get(&self.tls, target, headers, timeout)
    }

    /// With which other hubs authenticate.
    pub fn secret(&self) -> &str {
        &self.identity.secret
    }

    pub fn peer(&self, instance: InstanceId) -> Option<Arc<Peer>> {
        lock(&self.peers).get(&instance).cloned()
    }

    /// Lets the owner check whether its connection of the node is alive. `link` gets the result as [`LoopMessage::ProbeResult`].
    pub fn claim(&self, link: LinkId, node_id: &Arc<str>, remote_owner: InstanceId) {
        let deadline = Instant::now() + PROBE_TIMEOUT;
        let (node_id, is_requested) = (node_id.clone(), false);
        lock(&self.claims).push(WaitingClaim {
            link,
            node_id,
            remote_owner,
            deadline,
            is_requested,
        });
    }

    /// The result of a check that another hub has requested. A connection that is not alive ends, which the other hub reads from the database.
    pub fn on_probe_result(&self, number: u64, is_alive: bool) {
        let mut probes = lock(&self.probes);
        let probe = probes.by_number.remove(&number);
        probes.held.extend(probe.filter(|_| is_alive));
    }

    /// This hub has removed a node. The node may return before the hub reads of it in the database.
    pub fn on_own_removal(&self, removal: i64) {
        lock(&self.own_removals).insert(removal);
    }

    /// Lets the hub that has a connection of the node take these commands, if they are pending. The node may have registered there before they
    /// were stored; a registration returns the others.
    pub fn give_back(&self, command_ids: Vec<String>) {
        lock(&self.unsent).extend(command_ids);
    }

    /// Joins the other hubs. The error keeps the hub from starting.
    pub fn join(&self) -> Result<ClusterDatabase, StoreError> {
        let deadline = Instant::now() + NAME_TIMEOUT;
        let mut is_first = true;
        loop {
            let session = PgSession::connect(&self.url)?;
            if let Some(database) = ClusterDatabase::join(session, &self.identity, true)? {
                return Ok(database);
            }
            if Instant::now() >= deadline {
                return Err(StoreError(format!(
                    "another hm-hub with the name {} uses this database; see hub.instance",
                    self.identity.name
                )));
            }
            if std::mem::take(&mut is_first) {
                let name = &self.identity.name;
                log::info!("cluster: waiting until the database notices the end of hub {name}");
            }
            std::thread::sleep(RETRY_INTERVAL);
        }
    }

    /// The thread `cluster`, until shutdown.
    pub fn run(&self, hub: &Hub, database: ClusterDatabase) {
        let mut thread = ClusterThread::new(self, database);
        while !hub.shutdown.is_triggered() {
            match thread.step(hub) {
                Ok(()) => {
                    if lock(&self.failure).take().is_some() {
                        log::info!("cluster: recovered");
                    }
                }
                Err(error) => {
                    if lock(&self.failure).replace(error.clone()).is_none() {
                        log::error!("cluster: the database is not reached: {error}");
                    }
                    self.is_leader.store(false, Relaxed);
                    self.grant_claims(hub);
                    hub.shutdown.wait(RETRY_INTERVAL);
                }
            }
        }
        if let Err(error) = thread.leave() {
            log::warn!(
                "cluster: cannot leave; nodes of this hub are lost after its lease: {error}"
            );
        }
    }

    /// Messages to other hubs that were not sent yet.
    fn take_messages(&self) -> HashMap<InstanceId, Vec<Message>> {
        let mut messages: HashMap<InstanceId, Vec<Message>> = HashMap::new();
        for claim in lock(&self.claims).iter_mut().filter(|claim| !claim.is_requested) {
            claim.is_requested = true;
            let probe = Message::Probe { from: 0, node_id: claim.node_id.clone() };
            messages.entry(claim.remote_owner).or_default().push(probe);
        }
        for Probe { instance, node_id } in lock(&self.probes).held.drain(..) {
            messages.entry(instance).or_default().push(Message::Held { node_id });
        }
        messages
    }

    /// Lets the event loop check this hub's connection of the node.
    fn probe(&self, hub: &Hub, instance: InstanceId, node_id: Arc<str>) {
        // Without a connection, the database names this hub no more, or soon.
        let Some(link) = lock(&hub.nodes).hm_link(&node_id) else { return };
        let mut probes = lock(&self.probes);
        probes.last_number += 1;
        let number = probes.last_number;
        probes.by_number.insert(number, Probe { instance, node_id });
        drop(probes);
        let claimant = LinkId::elsewhere(number);
        hub.send(link.event_loop, LoopMessage::Probe { link: link.number, claimant });
    }

    /// Another hub has answered that its connection of the node is alive.
    fn refuse_claims(&self, hub: &Hub, node_id: &str) {
        lock(&self.claims).retain(|claim| {
            let is_refused = *claim.node_id == *node_id;
            if is_refused {
                send_claim_result(hub, claim.link, true);
            }
            !is_refused
        });
    }

    /// Without the database, the owner cannot be reached. This hub publishes the connection later, and the owner ends its own.
    fn grant_claims(&self, hub: &Hub) {
        for claim in std::mem::take(&mut *lock(&self.claims)) {
            lock(&hub.nodes).disown(&claim.node_id);
            send_claim_result(hub, claim.link, false);
        }
    }
}

fn send_claim_result(hub: &Hub, link: LinkId, is_alive: bool) {
    hub.send(link.event_loop, LoopMessage::ProbeResult { link: link.number, is_alive });
}
