//! Presence of nodes. A node is online while it has a connection, lost after the last one has ended, and offline when it does not
//! return within `nodes.offline_after`. A node that is connected over both protocols is one node. Presence is never stored.

pub mod agents;
pub mod fleet;
pub mod info;
pub mod node;
pub mod shared;
mod status;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::hub::hm::metrics::GpuUsage;
use crate::hub::hm::session::HmReport;
use crate::hub::nodes::info::NodeInfo;
use crate::hub::nodes::node::Node;
use crate::hub::nodes::node::Protocols;
use crate::hub::nodes::shared::InstanceId;

/// After a start, nodes get this long to reconnect before they are called offline.
const START_GRACE: Duration = Duration::from_secs(120);

/// More nodes are refused. Without a bound, a client that invents node ids could use up the memory.
const MAX_NODES: usize = 200_000;

/// A connection: the event loop that owns it, and its number there, which is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkId {
    pub event_loop: usize,
    pub number: u64,
}

impl LinkId {
    /// A client of another hub. This hub has given its probe the number.
    pub fn elsewhere(probe: u64) -> Self {
        Self { event_loop: usize::MAX, number: probe }
    }

    pub fn is_elsewhere(self) -> bool {
        self.event_loop == usize::MAX
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Online,
    /// Disconnected, and expected to return.
    Lost,
    Offline,
}

impl Presence {
    pub fn name(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Lost => "lost",
            Self::Offline => "offline",
        }
    }
}

impl fmt::Display for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A change of a node's presence.
#[derive(Debug, PartialEq, Eq)]
pub struct PresenceChange {
    pub node_id: Arc<str>,
    pub to: Presence,
}

/// Answer to a connection that wants to become the node's connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    Granted,
    /// This connection has the node.
    Held(LinkId),
    /// A connection to this other hub has it.
    HeldElsewhere(InstanceId),
    /// There are too many nodes.
    Refused,
}

/// Where a request for a node is sent.
#[derive(Debug, PartialEq, Eq)]
pub enum RequestLink {
    Link(LinkId),
    /// One to this other hub.
    Elsewhere(InstanceId),
    UnknownNode,
    /// How long it has been disconnected; `None`: it has not connected since the hub started.
    NotConnected(Option<Duration>),
    /// None of its connections answers requests.
    NotSupported,
}

/// All nodes that have ever connected and were not deleted.
pub struct Nodes {
    by_id: HashMap<Arc<str>, Node>,
    offline_after: Duration,
    started: Instant,
    changes: Vec<PresenceChange>,
    /// Revision of the last change that [`fleet`] shows.
    revision: u64,
    removed: fleet::Removed,
    /// Size of the statuses of all nodes.
    status_bytes: usize,
}

impl Nodes {
    /// `known` are the nodes of earlier runs. They count as lost until they return.
    pub fn new(
        now: Instant,
        offline_after: Duration,
        known: impl IntoIterator<Item = (Arc<str>, NodeInfo)>,
    ) -> Self {
        let offline_at = now + START_GRACE.max(offline_after);
        let node = |info| Node::new(Presence::Lost, offline_at, Arc::new(info));
        let by_id: HashMap<_, _> = known.into_iter().map(|(id, info)| (id, node(info))).collect();
        let status_bytes = by_id.values().map(Node::status_bytes).sum();
        Self {
            by_id,
            offline_after,
            started: now,
            changes: Vec::new(),
            revision: 1,
            removed: fleet::Removed::default(),
            status_bytes,
        }
    }

    /// Makes `link` the node's connection if the node has none.
    pub fn claim(&mut self, now: Instant, node_id: &Arc<str>, link: LinkId) -> Claim {
        let is_full = self.by_id.len() >= MAX_NODES;
        match self.by_id.get_mut(node_id) {
            Some(Node { link: Some(holder), .. }) if *holder != link => {
                return Claim::Held(*holder);
            }
            Some(node) => match node.shared.remote_hm_owner() {
                Some(instance) => return Claim::HeldElsewhere(instance),
                None => node.link = Some(link),
            },
            None if is_full => return Claim::Refused,
            None => {
                let mut node = Node::new(Presence::Offline, now, Arc::default());
                node.link = Some(link);
                self.by_id.insert(node_id.clone(), node);
            }
        }
        self.note_message(now, node_id, Protocols::HM);
        self.set_presence(now, node_id, Presence::Online);
        Claim::Granted
    }

    /// Removes `link` from the node's connections.
    pub fn release(&mut self, now: Instant, node_id: &Arc<str>, link: LinkId) {
        let Some(node) = self.by_id.get_mut(node_id) else { return };
        if !node.links().any(|known| known == link) {
            return;
        }
        let was_unauthenticated = node.is_unauthenticated();
        if node.link == Some(link) {
            node.link = None;
            node.last_report = None;
        }
        node.core_links.retain(|(core_link, _)| *core_link != link);
        node.request_links.retain(|request_link| *request_link != link);
        node.authenticated_links.retain(|authenticated| *authenticated != link);
        if node.is_unauthenticated() != was_unauthenticated {
            node.touch(&mut self.revision);
        }
        node.disconnected_at = (!node.has_connection()).then_some(now);
        self.check_connected(now, node_id);
    }

    /// Notes a message of a Core connection. Returns whether the node is accepted.
    pub fn on_core_message(&mut self, now: Instant, node_id: &Arc<str>, link: LinkId) -> bool {
        if !self.by_id.contains_key(node_id) && self.by_id.len() >= MAX_NODES {
            return false;
        }
        let node = self.by_id.entry(node_id.clone());
        let node = node.or_insert_with(|| Node::new(Presence::Offline, now, Arc::default()));
        match node.core_links.iter_mut().find(|(known, _)| *known == link) {
            Some((_, at)) => *at = now,
            None => node.core_links.push((link, now)),
        }
        self.note_message(now, node_id, Protocols::CORE);
        self.set_presence(now, node_id, Presence::Online);
        true
    }

    /// The connection that answers requests for the node.
    pub fn request_link(&self, now: Instant, node_id: &str) -> RequestLink {
        let Some(node) = self.by_id.get(node_id) else { return RequestLink::UnknownNode };
        match (node.request_link(now), node.shared.remote_owner()) {
            (Some(link), _) => RequestLink::Link(link),
            (None, Some(instance)) => RequestLink::Elsewhere(instance),
            (None, None) if node.is_connected(now) => RequestLink::NotSupported,
            (None, None) => {
                let last_message = node.core_links.iter().map(|(_, at)| *at).max();
                let since = node.disconnected_at.or(last_message);
                RequestLink::NotConnected(since.map(|since| now.saturating_duration_since(since)))
            }
        }
    }

    /// The Core connection that gets the node's commands: the newest of those that prove which node they are.
    pub fn command_link(&self, node_id: &str) -> Option<LinkId> {
        self.by_id.get(node_id)?.command_link()
    }

    /// Whether the node has Core connections, and none of them proves which node it is.
    pub fn is_refused_commands(&self, node_id: &str) -> bool {
        let is_refused = |node: &Node| match node.core_links.is_empty() {
            true => node.shared.refuses_commands(),
            false => node.command_link().is_none(),
        };
        self.by_id.get(node_id).is_some_and(is_refused)
    }

    pub fn info(&self, node_id: &str) -> Option<(Presence, Arc<NodeInfo>)> {
        self.by_id.get(node_id).map(|node| (node.presence, node.info.clone()))
    }

    /// Every node, in no order.
    pub fn all(&self) -> Vec<(Arc<str>, Presence, Arc<NodeInfo>)> {
        let entry = |(id, node): (&Arc<str>, &Node)| (id.clone(), node.presence, node.info.clone());
        self.by_id.iter().map(entry).collect()
    }

    pub fn update_info(&mut self, node_id: &str, update: impl FnOnce(&mut NodeInfo)) {
        if let Some(node) = self.by_id.get_mut(node_id) {
            let registration = node.info.register.clone();
            update(Arc::make_mut(&mut node.info));
            if node.info.register != registration {
                node.touch(&mut self.revision);
            }
        }
    }

    /// Whether the node has a connection, also a silent one.
    pub fn has_connection(&self, node_id: &str) -> bool {
        self.by_id.get(node_id).is_some_and(Node::has_connection)
    }

    /// The connections of a node.
    pub fn links(&self, node_id: &str) -> Vec<LinkId> {
        self.by_id.get(node_id).map_or_else(Vec::new, |node| node.links().collect())
    }

    /// Forgets a node. Connections that it still has are not its own any more.
    pub fn remove(&mut self, node_id: &str) {
        if let Some((node_id, node)) = self.by_id.remove_entry(node_id) {
            self.status_bytes -= node.status_bytes();
            self.revision += 1;
            self.removed.add(self.revision, node_id);
        }
    }

    /// Number of nodes with a connection to this hub, also a silent one.
    pub fn connected_here(&self) -> usize {
        self.by_id.values().filter(|node| node.has_local_connection()).count()
    }

    /// Number of Core connections.
    pub fn core_connections(&self) -> usize {
        self.by_id.values().map(|node| node.core_links.len()).sum()
    }

    /// Marks nodes whose connections are silent as lost, and the lost ones that have not returned in time as offline.
    pub fn expire(&mut self, now: Instant) {
        let is_silent = |node: &Node| node.presence == Presence::Online && !node.is_connected(now);
        let silent =
            self.by_id.iter().filter(|(_, node)| is_silent(node)).map(|(id, _)| id.clone());
        for node_id in silent.collect::<Vec<_>>() {
            self.check_connected(now, &node_id);
        }
        for node in self.by_id.values_mut() {
            node.expire_refused_duplicate(now, &mut self.revision);
        }
        let is_due = |node: &Node| node.presence == Presence::Lost && node.offline_at <= now;
        let due = self.by_id.iter().filter(|(_, node)| is_due(node)).map(|(id, _)| id.clone());
        for node_id in due.collect::<Vec<_>>() {
            self.set_presence(now, &node_id, Presence::Offline);
        }
    }

    /// Keeps the last stored report of a connected node.
    pub fn set_report(&mut self, now: Instant, report: &HmReport, link: LinkId) {
        let node = self.by_id.get_mut(&report.node_id);
        let Some(node) = node.filter(|node| node.link == Some(link)) else { return };
        node.last_message = Some(now);
        node.last_report = Some((&*report.info).into());
        // An hm-agent that sends its status tells more.
        if node.info.agent.is_none() || node.info.status.is_none() {
            let others = self.status_bytes - node.status_bytes();
            node.set_reported(report, &mut self.revision);
            self.status_bytes = others + node.status_bytes();
        }
    }

    /// The connected nodes that have reported, each with its last report.
    pub fn reports(&self) -> Vec<(Arc<str>, GpuUsage)> {
        let report = |(id, node): (&Arc<str>, &Node)| Some((id.clone(), node.last_report?));
        self.by_id.iter().filter_map(report).collect()
    }

    /// Number of nodes that are online, lost and offline.
    pub fn counts(&self) -> [usize; 3] {
        [Presence::Online, Presence::Lost, Presence::Offline]
            .map(|presence| self.by_id.values().filter(|node| node.presence == presence).count())
    }

    /// The changes since the last call, oldest first.
    pub fn take_changes(&mut self) -> Vec<PresenceChange> {
        std::mem::take(&mut self.changes)
    }

    /// Marks an online node without a live connection as lost.
    fn check_connected(&mut self, now: Instant, node_id: &Arc<str>) {
        let grace_end = self.started + START_GRACE;
        let Some(node) = self.by_id.get_mut(node_id) else { return };
        if node.presence == Presence::Online && !node.is_connected(now) {
            node.offline_at = (now + self.offline_after).max(grace_end);
            self.set_presence(now, node_id, Presence::Lost);
        }
    }

    fn set_presence(&mut self, now: Instant, node_id: &Arc<str>, to: Presence) {
        let Some(node) = self.by_id.get_mut(node_id).filter(|node| node.presence != to) else {
            return;
        };
        if node.presence == Presence::Online || to == Presence::Online {
            node.since = Some(now);
        }
        node.presence = to;
        node.touch(&mut self.revision);
        self.changes.push(PresenceChange { node_id: node_id.clone(), to });
    }
}

#[cfg(test)]
mod tests;
