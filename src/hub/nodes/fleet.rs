//! What the fleet page shows of the nodes, and what has changed since a revision.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::hub::nodes::info::{NodeInfo, ReceivedStatus};
use crate::hub::nodes::node::{Node, Protocols};
use crate::hub::nodes::{LinkId, Nodes, Presence};

/// Removed nodes are kept for pages that do not know of it yet. A page that has missed more gets everything.
const MAX_REMOVED: usize = 1000;
/// Size of the statuses of all nodes; further ones are not kept. Ten thousand machines with eight GPUs need a tenth of it.
const MAX_STATUS_BYTES: usize = 1 << 30;
/// Time between two writes of the status of a node that connects and disconnects.
const MIN_SAVE_INTERVAL: Duration = Duration::from_secs(60);

/// A node as the fleet page shows it.
#[derive(Debug, Clone)]
pub struct FleetNode {
    pub node_id: Arc<str>,
    pub presence: Presence,
    /// When it came online, or was lost; `None`: it has not been online since the hub started.
    pub since: Option<Instant>,
    /// Time of the last message since the hub started.
    pub last_message: Option<Instant>,
    pub address: Option<IpAddr>,
    /// Over which it has connected in this run of the hub.
    pub protocols: Protocols,
    pub info: Arc<NodeInfo>,
    /// Whether one of its connections does not prove which node it is.
    pub is_unauthenticated: bool,
    /// From where a client without the node's credential has recently tried to be the node.
    pub refused_duplicate: Option<IpAddr>,
    pub revision: u64,
}

/// The nodes at a revision.
pub struct Fleet {
    pub revision: u64,
    /// Every node, in no order.
    pub nodes: Vec<FleetNode>,
    /// The nodes removed after the revision that the caller knows; `None`: there are too many.
    pub removed: Option<Vec<Arc<str>>>,
}

/// A node that is in another state than it was when `fleet.on_change` was run.
#[derive(Debug, PartialEq)]
pub struct HookChange {
    pub node_id: Arc<str>,
    /// `None`: the node is new.
    pub from: Option<Presence>,
    pub to: Presence,
    pub info: Arc<NodeInfo>,
}

/// The latest removed nodes, each with the revision of its removal.
#[derive(Default)]
pub(super) struct Removed {
    latest: VecDeque<(u64, Arc<str>)>,
    /// Revision of the newest removal that was dropped.
    forgotten: u64,
}

impl Removed {
    pub(super) fn add(&mut self, revision: u64, node_id: Arc<str>) {
        if self.latest.len() >= MAX_REMOVED
            && let Some((revision, _)) = self.latest.pop_front()
        {
            self.forgotten = revision;
        }
        self.latest.push_back((revision, node_id));
    }

    fn since(&self, revision: u64) -> Option<Vec<Arc<str>>> {
        let later = self.latest.iter().filter(|(removed_at, _)| *removed_at > revision);
        (revision >= self.forgotten).then(|| later.map(|(_, node_id)| node_id.clone()).collect())
    }
}

impl Nodes {
    /// `known` is the revision of the caller's last call; 0: there was none.
    pub fn fleet(&self, known: u64) -> Fleet {
        let nodes = self.by_id.iter().map(|(node_id, node)| FleetNode {
            node_id: node_id.clone(),
            presence: node.presence,
            since: node.since,
            last_message: node.last_message,
            address: node.address,
            protocols: node.protocols | node.shared.protocols(),
            info: node.info.clone(),
            is_unauthenticated: node.is_unauthenticated(),
            refused_duplicate: node.refused_duplicate.map(|(_, address)| address),
            revision: node.revision,
        });
        let removed = self.removed.since(known).filter(|_| known <= self.revision);
        Fleet { revision: self.revision, nodes: nodes.collect(), removed }
    }

    /// A message of the node has arrived.
    pub(super) fn note_message(&mut self, now: Instant, node_id: &str, over: Protocols) {
        let Some(node) = self.by_id.get_mut(node_id) else { return };
        node.last_message = Some(now);
        let protocols = node.protocols | over;
        if node.protocols != protocols {
            node.protocols = protocols;
            node.touch(&mut self.revision);
        }
    }

    /// A connection of the node has this peer. The address of an hm connection is preferred, because a node has only one.
    pub fn set_peer(
        &mut self,
        node_id: &str,
        link: LinkId,
        address: IpAddr,
        is_authenticated: bool,
    ) {
        let Some(node) = self.by_id.get_mut(node_id) else { return };
        let was_unauthenticated = node.is_unauthenticated();
        node.authenticated_links.retain(|known| *known != link);
        if is_authenticated {
            node.authenticated_links.push(link);
        }
        let newest_core = node.core_links.last().map(|(link, _)| *link);
        let address = match node.link.or(newest_core) == Some(link) {
            true => Some(address),
            false => node.address,
        };
        // What was refused from there was an earlier attempt of the node itself.
        let was_own = |(_, refused): &mut (Instant, IpAddr)| Some(*refused) == address;
        let is_cleared = is_authenticated && node.refused_duplicate.take_if(was_own).is_some();
        if node.address != address || node.is_unauthenticated() != was_unauthenticated || is_cleared
        {
            node.address = address;
            node.touch(&mut self.revision);
        }
    }

    /// Connections without a proof of nodes for which `needs_proof`.
    pub fn unproven_links(&self, needs_proof: impl Fn(&str) -> bool) -> Vec<LinkId> {
        let nodes = self.by_id.iter().filter(|(_, node)| node.is_unauthenticated());
        let nodes = nodes.filter(|(node_id, _)| needs_proof(node_id));
        let unproven = |node: &Node| {
            let is_proven = |link: &LinkId| node.authenticated_links.contains(link);
            node.links().filter(|link| !is_proven(link)).collect::<Vec<_>>()
        };
        nodes.flat_map(|(_, node)| unproven(node)).collect()
    }

    /// A client without the node's credential has tried to be the node.
    pub fn record_refused_duplicate(&mut self, now: Instant, node_id: &str, address: IpAddr) {
        let Some(node) = self.by_id.get_mut(node_id) else { return };
        let known = node.refused_duplicate.replace((now, address));
        if known.is_none_or(|(_, known)| known != address) {
            node.touch(&mut self.revision);
        }
    }

    /// A connection of the node has sent its status. As with requests, only one of its connections counts.
    pub fn set_status(
        &mut self,
        now: Instant,
        node_id: &str,
        link: LinkId,
        mut received: ReceivedStatus,
    ) {
        let Some(node) = self.by_id.get_mut(node_id) else { return };
        if node.request_link(now) != Some(link) {
            return;
        }
        node.last_message = Some(now);
        let others = self.status_bytes - node.status_bytes();
        if others + received.size() > MAX_STATUS_BYTES {
            received = ReceivedStatus { at: received.at, ..ReceivedStatus::default() };
        }
        node.set_status(received, &mut self.revision);
        self.status_bytes = others + node.status_bytes();
    }

    /// At most `max` statuses that are not stored, to be queued by the caller. Those of nodes with a connection will be replaced, so they
    /// are stored only when the hub stops.
    pub fn take_unsaved_statuses(
        &mut self,
        now: Instant,
        max: usize,
        is_stopping: bool,
    ) -> Vec<(Arc<str>, Arc<ReceivedStatus>)> {
        let is_due =
            |node: &Node| node.status_saved_at.is_none_or(|at| now >= at + MIN_SAVE_INTERVAL);
        let is_last = |node: &Node| is_stopping || (!node.has_connection() && is_due(node));
        let nodes = self.by_id.iter_mut();
        let unsaved = nodes.filter(|(_, node)| !node.is_status_saved && is_last(node));
        let take = |(node_id, node): (&Arc<str>, &mut Node)| {
            (node.is_status_saved, node.status_saved_at) = (true, Some(now));
            Some((node_id.clone(), node.info.status.clone()?))
        };
        unsaved.take(max).filter_map(take).collect()
    }

    /// The nodes that have come online or gone offline since the last call. Lost nodes are expected to return.
    pub fn take_hook_changes(&mut self) -> Vec<HookChange> {
        let mut changes = Vec::new();
        for (node_id, node) in &mut self.by_id {
            let (from, to) = (node.info.hook_state, node.presence);
            if to == Presence::Lost || from == Some(to) {
                continue;
            }
            Arc::make_mut(&mut node.info).hook_state = Some(to);
            let info = node.info.clone();
            changes.push(HookChange { node_id: node_id.clone(), from, to, info });
        }
        changes.sort_unstable_by(|a, b| a.node_id.cmp(&b.node_id));
        changes
    }

    /// The status of a node could not be stored.
    pub fn set_status_unsaved(&mut self, node_id: &str) {
        if let Some(node) = self.by_id.get_mut(node_id) {
            (node.is_status_saved, node.status_saved_at) = (false, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub_extension::messages::AgentInfo;
    use crate::hub_extension::status::NodeStatus;
    use crate::model::health_problem::{HealthProblem, Severity};

    const LINK: LinkId = LinkId { event_loop: 0, number: 1 };

    fn nodes() -> (Nodes, Arc<str>, Instant) {
        let (now, node_id) = (Instant::now(), Arc::<str>::from("a"));
        let mut nodes = Nodes::new(now, Duration::from_secs(60), []);
        nodes.claim(now, &node_id, LINK);
        nodes.set_agent(now, &node_id, LINK, AgentInfo::default(), None);
        (nodes, node_id, now)
    }

    fn status(utilization: u8) -> ReceivedStatus {
        let status =
            NodeStatus { gpu_utilization_percent: Some(utilization), ..NodeStatus::default() };
        ReceivedStatus { status, ..ReceivedStatus::default() }
    }

    fn changed(nodes: &Nodes, known: u64) -> usize {
        nodes.fleet(known).nodes.iter().filter(|node| node.revision > known).count()
    }

    #[test]
    fn small_changes_add_up_to_a_revision() {
        let (mut nodes, node_id, now) = nodes();
        nodes.set_status(now, &node_id, LINK, status(50));
        let known = nodes.fleet(0).revision;
        for (utilization, expected) in [(53, 0), (54, 0), (55, 1)] {
            nodes.set_status(now, &node_id, LINK, status(utilization));
            assert_eq!(changed(&nodes, known), expected, "{utilization}");
        }
        let known = nodes.fleet(0).revision;
        let mut problem = status(55);
        problem.status.problems =
            vec![HealthProblem { severity: Severity::Warning, text: "hot".into() }];
        nodes.set_status(now, &node_id, LINK, problem);
        assert_eq!(changed(&nodes, known), 1);
        let known = nodes.fleet(0).revision;
        nodes.set_status(now, &node_id, LinkId { number: 2, ..LINK }, status(0));
        assert_eq!(changed(&nodes, known), 0, "of a connection that answers no requests");
    }

    #[test]
    fn status_is_saved_once_after_the_node_has_disconnected() {
        let (mut nodes, node_id, now) = nodes();
        nodes.set_status(now, &node_id, LINK, status(50));
        let unsaved = |nodes: &mut Nodes| nodes.take_unsaved_statuses(now, 10, false).len();
        assert_eq!(unsaved(&mut nodes), 0);
        nodes.release(now, &node_id, LINK);
        assert_eq!(unsaved(&mut nodes), 1);
        assert_eq!(unsaved(&mut nodes), 0);
        nodes.set_status_unsaved(&node_id);
        assert_eq!(unsaved(&mut nodes), 1);
        nodes.claim(now, &node_id, LINK);
        nodes.set_agent(now, &node_id, LINK, AgentInfo::default(), None);
        nodes.set_status(now, &node_id, LINK, status(60));
        assert_eq!(nodes.take_unsaved_statuses(now, 10, true).len(), 1, "the hub stops");
    }

    #[test]
    fn hook_reports_online_and_offline_but_not_lost() {
        let (mut nodes, node_id, now) = nodes();
        let known = NodeInfo { hook_state: Some(Presence::Online), ..NodeInfo::default() };
        let mut restarted = Nodes::new(now, Duration::from_secs(60), [("k".into(), known)]);
        let changes = |nodes: &mut Nodes| -> Vec<_> {
            nodes.take_hook_changes().iter().map(|change| (change.from, change.to)).collect()
        };
        assert_eq!(changes(&mut nodes), [(None, Presence::Online)]);
        nodes.release(now, &node_id, LINK);
        assert_eq!(changes(&mut nodes), [], "it may return");
        let late = now + Duration::from_secs(120);
        nodes.expire(late);
        assert_eq!(changes(&mut nodes), [(Some(Presence::Online), Presence::Offline)]);
        assert_eq!(changes(&mut nodes), []);
        // A restart of the hub is no change of a node that returns.
        assert_eq!(changes(&mut restarted), []);
        restarted.claim(now, &"k".into(), LINK);
        assert_eq!(changes(&mut restarted), []);
    }

    #[test]
    fn removed_nodes_are_listed_unless_there_are_too_many() {
        let (mut nodes, node_id, now) = nodes();
        let known = nodes.fleet(0).revision;
        nodes.release(now, &node_id, LINK);
        nodes.remove(&node_id);
        let fleet = nodes.fleet(known);
        assert_eq!((fleet.removed, fleet.nodes.len()), (Some(vec![node_id.clone()]), 0));
        assert_eq!(nodes.fleet(fleet.revision).removed, Some(Vec::new()));
        assert_eq!(nodes.fleet(fleet.revision + 1).removed, None, "of another run of the hub");
        for number in 0..MAX_REMOVED {
            let node_id: Arc<str> = number.to_string().into();
            nodes.claim(now, &node_id, LINK);
            nodes.release(now, &node_id, LINK);
            nodes.remove(&node_id);
        }
        assert_eq!(nodes.fleet(known).removed, None);
    }
}
