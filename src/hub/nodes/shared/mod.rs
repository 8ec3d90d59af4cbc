//! Connections of nodes when several hubs share the fleet. For each node and protocol, the database names one hub that has a
//! connection, with an epoch, which each published connection increases. This module compares that with the connections of this hub.
//!
//! An hm connection that the database names no more ends: the node has connected to another hub. A Core connection stays, because
//! published node agents do not return after an end; the node's commands go to the owner.

mod state;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use crate::hub::nodes::node::{CORE_SILENCE, Node, Protocols};
use crate::hub::nodes::{LinkId, Nodes, Presence};

pub use crate::hub::nodes::shared::state::{SharedState, UnsharedState};

/// Id of a hub in the database.
pub type InstanceId = i64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkProtocol {
    Hm,
    Core,
}

impl LinkProtocol {
    pub const ALL: [Self; 2] = [Self::Hm, Self::Core];

    /// As in the database.
    pub fn code(self) -> i16 {
        match self {
            Self::Hm => 1,
            Self::Core => 2,
        }
    }

    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.code() == code)
    }
}

/// What the database says of the connection over one protocol.
#[derive(Debug, Default)]
pub(super) struct SharedLink {
    /// The connection of this hub that it names, and the epoch.
    published: Option<(LinkId, i64)>,
    /// The other hub that it names, if that is alive.
    remote_owner: Option<InstanceId>,
    /// A connection of this hub that was named before the owner's.
    superseded: Option<LinkId>,
}

#[derive(Debug, Default)]
pub(super) struct SharedLinks {
    hm: SharedLink,
    core: SharedLink,
    /// Revision at the last call of [`Nodes::unshared_states`].
    shared_revision: u64,
    shared_metrics: Option<(i64, Instant)>,
    /// Whether the hub with the Core connection may send commands; `None`: it has not passed on the state of the node yet.
    owner_sends_commands: Option<bool>,
}

impl SharedLinks {
    fn get(&self, protocol: LinkProtocol) -> &SharedLink {
        match protocol {
            LinkProtocol::Hm => &self.hm,
            LinkProtocol::Core => &self.core,
        }
    }

    fn get_mut(&mut self, protocol: LinkProtocol) -> &mut SharedLink {
        match protocol {
            LinkProtocol::Hm => &mut self.hm,
            LinkProtocol::Core => &mut self.core,
        }
    }

    /// The other hub that has a connection of the node. That of hm answers requests if it can.
    pub(super) fn remote_owner(&self) -> Option<InstanceId> {
        self.hm.remote_owner.or(self.core.remote_owner)
    }

    /// Over which other hubs have a connection.
    pub(super) fn protocols(&self) -> Protocols {
        Protocols { hm: self.hm.remote_owner.is_some(), core: self.core.remote_owner.is_some() }
    }

    /// Whether another hub has a Core connection of the node that does not prove which node it is.
    pub(super) fn refuses_commands(&self) -> bool {
        self.core.remote_owner.is_some() && self.owner_sends_commands == Some(false)
    }

    pub(super) fn remote_hm_owner(&self) -> Option<InstanceId> {
        self.hm.remote_owner
    }
}

/// A row of the database: which hub has the connection of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkRow {
    pub node_id: Arc<str>,
    pub protocol: LinkProtocol,
    /// `None`: the node is not connected, or that hub is dead.
    pub owner: Option<LinkOwner>,
    pub epoch: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkOwner {
    ThisHub,
    Other(InstanceId),
}

/// A change of this hub's connections that the database does not have yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    pub node_id: Arc<str>,
    pub protocol: LinkProtocol,
    pub link: LinkId,
}

/// A connection that the database still names, and its epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    pub node_id: Arc<str>,
    pub protocol: LinkProtocol,
    pub epoch: i64,
}

/// What follows from a row.
#[derive(Debug, PartialEq, Eq)]
pub enum RowAction {
    Nothing,
    /// End this connection: the node has connected to another hub.
    End(LinkId),
    /// The database names this hub, which has no such connection.
    Release(Release),
}

impl Node {
    /// The connection that the database should name.
    fn link_to_publish(&self, now: Instant, protocol: LinkProtocol) -> Option<LinkId> {
        match protocol {
            LinkProtocol::Hm => self.link,
            LinkProtocol::Core => {
                let mut newest_first = self.core_links.iter().rev();
                let live = newest_first.find(|(_, at)| *at + CORE_SILENCE > now);
                live.map(|(link, _)| *link)
            }
        }
    }
}

impl Nodes {
    /// Connections that the database should name and does not, at most `max`.
    pub fn unpublished(&self, now: Instant, max: usize) -> Vec<Publication> {
        let publication = |(node_id, node, protocol): (&Arc<str>, &Node, LinkProtocol)| {
            let link = node.link_to_publish(now, protocol)?;
            let shared = node.shared.get(protocol);
            let is_published = shared.published.is_some_and(|(published, _)| published == link);
            let is_superseded = shared.remote_owner.is_some() && shared.superseded == Some(link);
            (!is_published && !is_superseded).then(|| Publication {
                node_id: node_id.clone(),
                protocol,
                link,
            })
        };
        self.by_protocol().filter_map(publication).take(max).collect()
    }

    fn by_protocol(&self) -> impl Iterator<Item = (&Arc<str>, &Node, LinkProtocol)> {
        let nodes = self.by_id.iter();
        nodes.flat_map(|(id, node)| LinkProtocol::ALL.map(|protocol| (id, node, protocol)))
    }

    /// The database names the connection now.
    pub fn set_published(&mut self, publication: &Publication, epoch: i64) {
        let Some(node) = self.by_id.get_mut(&publication.node_id) else { return };
        let shared = node.shared.get_mut(publication.protocol);
        *shared =
            SharedLink { published: Some((publication.link, epoch)), ..SharedLink::default() };
        node.shared.shared_revision = 0;
    }

    /// Connections that the database names and that have ended, at most `max`.
    pub fn unreleased(&self, now: Instant, max: usize) -> Vec<Release> {
        let release = |(node_id, node, protocol): (&Arc<str>, &Node, LinkProtocol)| {
            let (_, epoch) = node.shared.get(protocol).published?;
            let has_link = node.link_to_publish(now, protocol).is_some();
            (!has_link).then(|| Release { node_id: node_id.clone(), protocol, epoch })
        };
        self.by_protocol().filter_map(release).take(max).collect()
    }

    /// The database does not name the connection any more.
    pub fn set_released(&mut self, release: &Release) {
        let Some(node) = self.by_id.get_mut(&release.node_id) else { return };
        let shared = node.shared.get_mut(release.protocol);
        shared.published.take_if(|(_, epoch)| *epoch == release.epoch);
    }

    /// All rows of the database were read anew: what it does not name any more, and all states, will be written again.
    pub fn confirm_published(&mut self, is_named: impl Fn(&str, LinkProtocol, i64) -> bool) {
        for (node_id, node) in &mut self.by_id {
            for protocol in LinkProtocol::ALL {
                let shared = node.shared.get_mut(protocol);
                shared.published.take_if(|(_, epoch)| !is_named(node_id, protocol, *epoch));
            }
            (node.shared.shared_revision, node.shared.shared_metrics) = (0, None);
        }
    }

    /// The hub that has the node's hm connection does not answer: it counts as gone, until the database names one again.
    pub fn disown(&mut self, node_id: &str) {
        if let Some(node) = self.by_id.get_mut(node_id) {
            node.shared.hm.remote_owner = None;
        }
    }

    /// Applies a row of the database.
    pub fn apply_link_row(&mut self, now: Instant, row: &LinkRow) -> RowAction {
        let LinkRow { node_id, protocol, owner, epoch } = row;
        if owner.is_some() {
            self.insert_known(now, node_id);
        }
        let Some(node) = self.by_id.get_mut(node_id) else {
            return match owner {
                Some(LinkOwner::ThisHub) => RowAction::Release(Release {
                    node_id: node_id.clone(),
                    protocol: *protocol,
                    epoch: *epoch,
                }),
                _ => RowAction::Nothing,
            };
        };
        let shared = node.shared.get_mut(*protocol);
        // A later change of this hub's own is in the database already.
        if shared.published.is_some_and(|(_, published)| published > *epoch) {
            return RowAction::Nothing;
        }
        let mut action = RowAction::Nothing;
        match owner {
            Some(LinkOwner::ThisHub) => {
                if shared.published.is_none_or(|(_, published)| published != *epoch) {
                    // If the node is still connected, it is published again.
                    shared.published = None;
                    let (node_id, protocol) = (node_id.clone(), *protocol);
                    action = RowAction::Release(Release { node_id, protocol, epoch: *epoch });
                }
                shared.remote_owner = None;
            }
            Some(LinkOwner::Other(instance)) => {
                if let Some((link, _)) = shared.published.take() {
                    shared.superseded = Some(link);
                    if *protocol == LinkProtocol::Hm {
                        action = RowAction::End(link);
                    }
                }
                let is_new = shared.remote_owner.replace(*instance) != Some(*instance);
                if is_new && *protocol == LinkProtocol::Core {
                    node.shared.owner_sends_commands = None;
                }
            }
            None => *shared = SharedLink { published: shared.published, ..SharedLink::default() },
        }
        self.check_connected_or_online(now, node_id);
        action
    }

    /// The connections of this hub are dead: the database's rows that name it count as none.
    pub fn end_instance(&mut self, now: Instant, instance: InstanceId) {
        let has_owner = |node: &Node| {
            LinkProtocol::ALL.iter().any(|it| node.shared.get(*it).remote_owner == Some(instance))
        };
        let nodes = self.by_id.iter().filter(|(_, node)| has_owner(node));
        let node_ids: Vec<Arc<str>> = nodes.map(|(node_id, _)| node_id.clone()).collect();
        for node_id in node_ids {
            if let Some(node) = self.by_id.get_mut(&node_id) {
                for protocol in LinkProtocol::ALL {
                    let shared = node.shared.get_mut(protocol);
                    if shared.remote_owner == Some(instance) {
                        (shared.remote_owner, shared.superseded) = (None, None);
                    }
                }
            }
            self.check_connected_or_online(now, &node_id);
        }
    }

    /// The nodes that were stored, and are none of these.
    pub fn missing_in(&self, stored: &HashSet<&str>) -> Vec<Arc<str>> {
        let is_missing = |(node_id, node): &(&Arc<str>, &Node)| {
            node.info.first_seen > 0 && !stored.contains(&***node_id)
        };
        self.by_id.iter().filter(is_missing).map(|(node_id, _)| node_id.clone()).collect()
    }

    fn check_connected_or_online(&mut self, now: Instant, node_id: &Arc<str>) {
        let Some(node) = self.by_id.get_mut(node_id) else { return };
        if node.is_connected(now) {
            node.disconnected_at = None;
            self.set_presence(now, node_id, Presence::Online);
        } else {
            node.disconnected_at.get_or_insert(now);
            self.check_connected(now, node_id);
        }
    }

    /// A node that another hub knows.
    fn insert_known(&mut self, now: Instant, node_id: &Arc<str>) {
        if !self.by_id.contains_key(node_id) {
            let node = Node::new(Presence::Offline, now, Arc::default());
            self.by_id.insert(node_id.clone(), node);
        }
    }

    /// The other hub that answers for a node without a connection to this one.
    pub fn answering_remote_owner(&self, node_id: &str) -> Option<InstanceId> {
        let node = self.by_id.get(node_id).filter(|node| !node.has_local_connection())?;
        node.shared.remote_owner()
    }

    /// The other hub that has the node's connection over a protocol.
    pub fn remote_owner_over(&self, node_id: &str, protocol: LinkProtocol) -> Option<InstanceId> {
        self.by_id.get(node_id)?.shared.get(protocol).remote_owner
    }

    /// The node's hm connection to this hub.
    pub fn hm_link(&self, node_id: &str) -> Option<LinkId> {
        self.by_id.get(node_id)?.link
    }

    /// Number of connections of this hub that the database names.
    pub fn published_links(&self) -> usize {
        let links = self.by_protocol();
        links.filter(|(_, node, it)| node.shared.get(*it).published.is_some()).count()
    }
}

#[cfg(test)]
mod tests;
