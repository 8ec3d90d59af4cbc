//! hm-hub: the server that nodes connect to.
//!
//! ```text
//! clients ──▶ hm::server, core::server (a thread per handshake) ──▶ event_loop (few threads, many connections)
//!                  │                                                   │  hm::session, core::node_session, core::monitor
//!                  └─▶ core::rest                                      ▼                 ▲
//!                        └───────────────────────────────▶ nodes (presence), store       │ after the commit
//!                        ▲                                     │       (one writer) ─────┘
//! operators ──▶ web (pages, API, scrapes of nodes)             └─▶ change_hook (a program of the operator)
//! ```
//!
//! No lock of the nodes is held across a system call that can block.

pub mod access;
pub mod admission;
pub mod after_commit;
pub mod audit;
pub mod authorization;
pub mod change_hook;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod core;
pub mod credentials;
mod enrolment;
pub mod event_loop;
pub mod hm;
pub mod import;
pub mod node_requests;
pub mod nodes;
pub mod operators;
pub mod original_config;
pub mod run;
pub mod sessions;
pub mod status;
pub mod store;
pub mod tls;
pub mod tls_client;
pub mod web;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use std::time::SystemTime;

use log::Level;
use serde_json::Value;

use crate::hub::access::Access;
use crate::hub::audit::AuditLog;
use crate::hub::cluster::Cluster;
use crate::hub::core::monitor;
use crate::hub::event_loop::link::Link;
use crate::hub::event_loop::mailbox::{LoopMessage, Mailbox};
use crate::hub::node_requests::NodeRequests;
use crate::hub::nodes::agents::UnsavedAgent;
use crate::hub::nodes::{Claim, LinkId, Nodes};
use crate::hub::sessions::Sessions;
use crate::hub::store::{HubStore, QueuedWrite, Write, WriteOrigin};
use crate::hub::tls::HubTls;
use crate::util::logger::RateLimitedLog;
use crate::util::sync::{Shutdown, lock};
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

/// Statuses of disconnected nodes that are stored at once: each has some KiB, and reports must not wait for a site that has lost its
/// network.
const MAX_SAVED_STATUSES: usize = 200;

/// What the threads of the hub share.
pub struct Hub {
    pub nodes: Arc<Mutex<Nodes>>,
    pub store: HubStore,
    /// `None`: this hub has a database of its own.
    pub cluster: Option<Arc<Cluster>>,
    /// One per event loop.
    pub mailboxes: Arc<[Arc<Mailbox>]>,
    /// Random id of this run of the hub.
    pub run_id: String,
    pub requests: NodeRequests,
    /// Browser sessions of operators.
    pub sessions: Sessions,
    pub audit: AuditLog,
    /// Held from the start of the program of `fleet.on_change` until it is stored what it was run for.
    pub hook_report: Mutex<()>,
    /// Held while an answer about all nodes is made.
    pub fleet_answers: Mutex<()>,
    access: Mutex<Arc<Access>>,
    /// As configured at the start.
    pub tls: HubTls,
    pub shutdown: Shutdown,
    /// Limits the log lines that clients can cause.
    pub log: RateLimitedLog,
}

impl Hub {
    pub fn access(&self) -> Arc<Access> {
        lock(&self.access).clone()
    }

    /// Applies a reloaded configuration, also to connections: those whose token is not valid any more end.
    pub fn set_access(&self, access: Access) {
        *lock(&self.access) = Arc::new(access);
        self.send_to_all(|| LoopMessage::Recheck);
    }

    pub fn send(&self, event_loop: usize, message: LoopMessage) {
        if let Some(mailbox) = self.mailboxes.get(event_loop) {
            mailbox.send(message);
        }
    }

    pub fn send_to_all(&self, message: impl Fn() -> LoopMessage) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.send(message()));
    }

    /// Makes `link` the node's hm connection if the node has none.
    pub fn claim(&self, node_id: &Arc<str>, id: LinkId, link: &Link) -> Claim {
        let claim = self.update_nodes(|nodes| {
            let claim = nodes.claim(Instant::now(), node_id, id);
            if claim == Claim::Granted {
                nodes.set_peer(node_id, id, link.peer.ip(), link.admitted.is_authenticated());
            }
            claim
        });
        if claim == Claim::Refused {
            self.log_refused(link.peer, node_id, "too many nodes are known");
        }
        claim
    }

    /// Notes a message of a Core connection. Returns whether the node is accepted.
    pub fn on_core_message(&self, node_id: &Arc<str>, id: LinkId, link: &Link) -> bool {
        self.update_nodes(|nodes| {
            let is_accepted = nodes.on_core_message(Instant::now(), node_id, id);
            if is_accepted {
                nodes.set_peer(node_id, id, link.peer.ip(), link.admitted.is_authenticated());
            }
            is_accepted
        })
    }

    /// The nodes as objects of the REST API, newest registration first; only those with the status, if it is set.
    pub fn nodes_json(&self, status: Option<&str>) -> Vec<Value> {
        let mut nodes = lock(&self.nodes).all();
        nodes.retain(|(_, presence, _)| status.is_none_or(|status| presence.to_string() == status));
        nodes.sort_unstable_by(|a, b| (b.2.first_seen, &a.0).cmp(&(a.2.first_seen, &b.0)));
        nodes.iter().map(|(id, presence, info)| info.to_json(id, *presence)).collect()
    }

    /// The latest metrics of every node as objects of the REST API.
    pub fn metrics_json(&self) -> Vec<Value> {
        let nodes = lock(&self.nodes).all();
        let metrics = nodes.iter().filter_map(|(id, _, info)| Some((id, info.metrics.as_ref()?)));
        let mut metrics: Vec<_> = metrics.collect();
        metrics.sort_unstable_by_key(|(id, _)| *id);
        metrics.into_iter().map(|(id, metrics)| metrics.to_json(id)).collect()
    }

    /// Stores the descriptions of nodes that have changed. While the store fails, only one is queued, to see whether it works again.
    pub fn save_agents(&self) {
        let max = if self.store.failure().is_some() { 1 } else { usize::MAX };
        for UnsavedAgent { node_id, agent, group } in lock(&self.nodes).take_unsaved_agents(max) {
            let write = Write::Agent { node_id, agent, group };
            self.store.add(QueuedWrite { write, origin: WriteOrigin::Hub });
        }
    }

    /// Stores the last status of nodes that have disconnected, and of all when the hub stops. While the store fails, only one is queued, to see
    /// whether it works again.
    pub fn save_statuses(&self, is_stopping: bool) {
        let max = match (self.store.failure(), is_stopping) {
            (Some(_), _) => 1,
            (None, true) => usize::MAX,
            (None, false) => MAX_SAVED_STATUSES,
        };
        for (node_id, status) in
            lock(&self.nodes).take_unsaved_statuses(Instant::now(), max, is_stopping)
        {
            let write = Write::Status { node_id, status };
            self.store.add(QueuedWrite { write, origin: WriteOrigin::Hub });
        }
    }

    /// Whether this hub does what only one of the hubs of a fleet may do.
    pub fn is_leader(&self) -> bool {
        self.cluster.as_ref().is_none_or(|cluster| cluster.is_leader())
    }

    /// What the hub cannot do at present.
    pub fn failures(&self) -> Vec<String> {
        let store = self.store.failure().map(|error| format!("the store cannot commit: {error}"));
        let cluster = self.cluster.as_ref().and_then(|cluster| cluster.failure());
        let cluster = cluster
            .map(|error| format!("the database does not connect this hub with others: {error}"));
        store.into_iter().chain(cluster).collect()
    }

    /// Forgets a node: its connections to this hub end, and its credential is not valid any more.
    pub fn forget(&self, node_id: &str) {
        // First, so that the node cannot return with what is forgotten.
        self.access().credentials.forget(node_id);
        let links = lock(&self.nodes).links(node_id);
        for link in links {
            let why = "an operator has removed the node";
            self.send(link.event_loop, LoopMessage::End { link: link.number, why });
        }
        lock(&self.nodes).remove(node_id);
    }

    /// Removes `link` from the node's connections.
    pub fn release(&self, node_id: &Arc<str>, link: LinkId) {
        self.update_nodes(|nodes| nodes.release(Instant::now(), node_id, link));
    }

    /// Changes the nodes. It sends the changes to monitor clients, and logs them after the lock is released. While the hub stops, changes are
    /// not reported: its own shutdown disconnects every node.
    pub fn update_nodes<R>(&self, update: impl FnOnce(&mut Nodes) -> R) -> R {
        let mut nodes = lock(&self.nodes);
        let result = update(&mut nodes);
        let mut changes = nodes.take_changes();
        if self.shutdown.is_triggered() {
            changes.clear();
        }
        // Before another thread can change the node: messages are in the order of the changes. Sending does not block.
        for change in &changes {
            let text = monitor::status_change(&change.node_id, change.to, SystemTime::now());
            self.broadcast(&text);
        }
        drop(nodes);
        for change in changes {
            let node_id = escape_for_log(&*change.node_id, EXCERPT_CHARS);
            log::info!("node {node_id} is {}", change.to);
        }
        result
    }

    /// Logs that a node was refused, at a limited rate.
    pub fn log_refused(&self, peer: SocketAddr, node_id: &str, why: &str) {
        self.log.write(Level::Warn, || {
            format!("{peer}: node {} refused: {why}", escape_for_log(node_id, EXCERPT_CHARS))
        });
    }

    fn broadcast(&self, text: &str) {
        let text: Arc<str> = text.into();
        self.send_to_all(|| LoopMessage::Broadcast(text.clone()));
    }
}
