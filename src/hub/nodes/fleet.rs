//! What the fleet page shows of the nodes, and what has changed since a revision.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::hub::hm::messages::MachineInfo;
use crate::hub::hm::session::HmReport;
use crate::hub::nodes::info::{NodeInfo, ReceivedStatus};
use crate::hub::nodes::node::{Node, Protocols};
use crate::hub::nodes::{LinkId, Nodes, Presence};
use crate::hub_extension::status::NodeStatus;
use crate::model::gpu::{Gpu, Gpus, Values};

/// Removed nodes are kept for pages that do not know of it yet. A page that has missed more gets everything.
const MAX_REMOVED: usize = 1000;
/// Of all nodes; further ones are not kept. Ten thousand machines with eight GPUs have a tenth.
const MAX_SNAPSHOT_BYTES: usize = 1 << 30;
/// A client without the node's credential is shown for this long after its last attempt.
const IMPOSTOR_AGE: Duration = Duration::from_secs(3600);
/// A change of a mean by less does not make a node a changed one: the values of a busy fleet change with every snapshot.
const MIN_CHANGE_PERCENT: u8 = 5;

/// A node as the fleet page shows it.
#[derive(Debug, Clone)]
pub struct FleetNode {
    pub node_id: Arc<str>,
    pub presence: Presence,
    /// When it came online, or was lost; `None`: it has not been online since the hub started.
    pub since: Option<Instant>,
    /// Of this run of the hub.
    pub last_message: Option<Instant>,
    pub address: Option<IpAddr>,
    /// Over which it has connected in this run of the hub.
    pub protocols: Protocols,
    pub info: Arc<NodeInfo>,
    /// Whether it is connected, and none of its connections proves which node it is.
    pub is_unauthenticated: bool,
    /// From where a client without the node's credential has recently tried to be the node.
    pub impostor: Option<IpAddr>,
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
pub struct ReportedChange {
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
    /// Of the last one that is not kept.
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
            protocols: node.protocols,
            info: node.info.clone(),
            is_unauthenticated: node.has_connection() && !node.is_authenticated(),
            impostor: node.impostor.map(|(_, address)| address),
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

    /// The node has connected from this address.
    pub fn set_peer(
        &mut self,
        node_id: &str,
        link: LinkId,
        address: IpAddr,
        is_authenticated: bool,
    ) {
        let Some(node) = self.by_id.get_mut(node_id) else { return };
        let was_authenticated = node.is_authenticated();
        if is_authenticated && !node.authenticated_links.contains(&link) {
            node.authenticated_links.push(link);
        }
        if node.address != Some(address) || node.is_authenticated() != was_authenticated {
            node.address = Some(address);
            node.touch(&mut self.revision);
        }
    }

    /// A client without the node's credential has tried to be the node.
    pub fn note_impostor(&mut self, now: Instant, node_id: &str, address: IpAddr) {
        let Some(node) = self.by_id.get_mut(node_id) else { return };
        let known = node.impostor.replace((now, address));
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
        self.snapshot_bytes -= node.snapshot_bytes();
        if self.snapshot_bytes + received.snapshot.len() > MAX_SNAPSHOT_BYTES {
            received.snapshot = Arc::default();
        }
        node.set_status(received, &mut self.revision);
        self.snapshot_bytes += node.snapshot_bytes();
    }

    /// At most `max` statuses that are not stored, to be queued by the caller. Those of nodes with a connection will be replaced, so they
    /// are stored only when the hub stops.
    pub fn take_unsaved_statuses(
        &mut self,
        max: usize,
        is_stopping: bool,
    ) -> Vec<(Arc<str>, Arc<ReceivedStatus>)> {
        let is_last = |node: &Node| is_stopping || !node.has_connection();
        let nodes = self.by_id.iter_mut();
        let unsaved = nodes.filter(|(_, node)| !node.is_status_saved && is_last(node));
        let take = |(node_id, node): (&Arc<str>, &mut Node)| {
            node.is_status_saved = true;
            Some((node_id.clone(), node.info.status.clone()?))
        };
        unsaved.take(max).filter_map(take).collect()
    }

    /// The nodes that have come online or gone offline since the last call. Lost nodes are expected to return.
    pub fn take_unreported(&mut self) -> Vec<ReportedChange> {
        let mut changes = Vec::new();
        for (node_id, node) in &mut self.by_id {
            let (from, to) = (node.info.reported, node.presence);
            if to == Presence::Lost || from == Some(to) {
                continue;
            }
            Arc::make_mut(&mut node.info).reported = Some(to);
            let info = node.info.clone();
            changes.push(ReportedChange { node_id: node_id.clone(), from, to, info });
        }
        changes.sort_unstable_by(|a, b| a.node_id.cmp(&b.node_id));
        changes
    }

    /// The status of a node could not be stored.
    pub fn set_status_unsaved(&mut self, node_id: &str) {
        if let Some(node) = self.by_id.get_mut(node_id) {
            node.is_status_saved = false;
        }
    }
}

impl Node {
    /// What a report over hm tells of the node. It describes one of its GPUs.
    pub(super) fn set_reported(&mut self, report: &HmReport, revision: &mut u64) {
        let MachineInfo { project, gpu_name, utilization_gpu, memory_total, memory_used, .. } =
            &*report.info;
        if self.info.project.as_deref() != Some(project) {
            Arc::make_mut(&mut self.info).project = Some(project.as_str().into());
            self.touch(revision);
        }
        let bytes = |value: i64| u64::try_from(value).ok();
        let values = Values {
            utilization_percent: u32::try_from(*utilization_gpu).ok(),
            memory_used_bytes: bytes(*memory_used),
            memory_total_bytes: bytes(*memory_total),
            ..Values::default()
        };
        let gpu = Gpu { name: gpu_name.clone(), values, ..Gpu::default() };
        // A client without a GPU reports an empty name.
        let each = if gpu_name.is_empty() { Vec::new() } else { vec![gpu] };
        let status = NodeStatus::new(&Gpus { nvidia: None, each }, Vec::new(), 0);
        let received = ReceivedStatus { status, at: report.sent, ..ReceivedStatus::default() };
        self.set_status(received, revision);
    }

    pub(super) fn expire_impostor(&mut self, now: Instant, revision: &mut u64) {
        if self.impostor.is_some_and(|(at, _)| now >= at + IMPOSTOR_AGE) {
            self.impostor = None;
            self.touch(revision);
        }
    }

    pub(super) fn snapshot_bytes(&self) -> usize {
        self.info.status.as_ref().map_or(0, |status| status.snapshot.len())
    }

    fn set_status(&mut self, received: ReceivedStatus, revision: &mut u64) {
        let status = &received.status;
        let percents = [status.gpu_utilization_percent, status.gpu_memory_used_percent];
        let is_visible_change = self.info.status.as_ref().is_none_or(|known| {
            known.status.gpus != status.gpus
                || known.status.problems != status.problems
                || known.status.xids_today != status.xids_today
        });
        let mut shown = self.shown_percents.iter().zip(percents);
        if is_visible_change || shown.any(|(shown, percent)| differs(*shown, percent)) {
            self.shown_percents = percents;
            self.touch(revision);
        }
        Arc::make_mut(&mut self.info).status = Some(Arc::new(received));
        self.is_status_saved = false;
    }
}

/// Whether pages must be updated.
fn differs(shown: Option<u8>, percent: Option<u8>) -> bool {
    match (shown, percent) {
        (Some(shown), Some(percent)) => shown.abs_diff(percent) >= MIN_CHANGE_PERCENT,
        (shown, percent) => shown != percent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub_extension::messages::AgentInfo;
    use crate::model::finding::{Finding, Level};

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
        problem.status.problems = vec![Finding { level: Level::Warning, text: "hot".into() }];
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
        let unsaved = |nodes: &mut Nodes| nodes.take_unsaved_statuses(10, false).len();
        assert_eq!(unsaved(&mut nodes), 0);
        nodes.release(now, &node_id, LINK);
        assert_eq!(unsaved(&mut nodes), 1);
        assert_eq!(unsaved(&mut nodes), 0);
        nodes.set_status_unsaved(&node_id);
        assert_eq!(unsaved(&mut nodes), 1);
        nodes.claim(now, &node_id, LINK);
        nodes.set_agent(now, &node_id, LINK, AgentInfo::default(), None);
        nodes.set_status(now, &node_id, LINK, status(60));
        assert_eq!(nodes.take_unsaved_statuses(10, true).len(), 1, "the hub stops");
    }

    #[test]
    fn node_is_reported_when_it_comes_online_and_when_it_is_offline() {
        let (mut nodes, node_id, now) = nodes();
        let known = NodeInfo { reported: Some(Presence::Online), ..NodeInfo::default() };
        let mut restarted = Nodes::new(now, Duration::from_secs(60), [("k".into(), known)]);
        let changes = |nodes: &mut Nodes| -> Vec<_> {
            nodes.take_unreported().iter().map(|change| (change.from, change.to)).collect()
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
