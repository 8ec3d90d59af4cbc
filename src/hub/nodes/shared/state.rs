//! What a hub passes on of its nodes to the others.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::hub::nodes::Nodes;
use crate::hub::nodes::info::{NodeInfo, ReceivedStatus, StoredMetrics};
use crate::hub::nodes::node::{Node, Protocols};
use crate::hub::nodes::shared::{InstanceId, LinkProtocol};
use crate::hub_extension::status::NodeStatus;

/// New metrics of a Core node are passed on this often at most.
const METRICS_INTERVAL: Duration = Duration::from_secs(10);

/// What other hubs show of a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SharedState {
    pub status: NodeStatus,
    /// Unix milliseconds of the arrival of the status; 0: there is none.
    pub status_at: i64,
    /// Unix milliseconds.
    pub last_message_at: i64,
    pub address: Option<IpAddr>,
    pub hm: bool,
    pub core: bool,
    pub is_unauthenticated: bool,
    pub refused_duplicate: Option<IpAddr>,
    /// Whether the hub may send it commands.
    pub gets_commands: bool,
    pub project: Option<String>,
    pub last_heartbeat: Option<i64>,
    pub metrics: Option<StoredMetrics>,
}

/// A node's state, to be passed on.
#[derive(Debug, PartialEq)]
pub struct UnsharedState {
    pub node_id: Arc<str>,
    pub state: SharedState,
}

impl Nodes {
    /// The states of nodes of this hub that have changed, at most `max`. `unix_ms` is the time of `now`.
    pub fn unshared_states(
        &mut self,
        now: Instant,
        unix_ms: i64,
        max: usize,
    ) -> Vec<UnsharedState> {
        let mut unshared = Vec::new();
        for (node_id, node) in &mut self.by_id {
            let links = LinkProtocol::ALL.map(|it| node.shared.get(it).published);
            if links.iter().all(Option::is_none) {
                continue;
            }
            let has_changed = node.revision > node.shared.shared_revision;
            if !has_changed && !node.has_unshared_metrics(now) {
                continue;
            }
            node.shared.shared_revision = node.revision;
            let metrics = node.info.metrics.as_ref();
            node.shared.shared_metrics = metrics.map(|metrics| (metrics.id, now));
            let state = node.to_shared_state(now, unix_ms);
            unshared.push(UnsharedState { node_id: node_id.clone(), state });
            if unshared.len() >= max {
                break;
            }
        }
        unshared
    }

    /// The states could not be passed on.
    pub fn set_unshared(&mut self, states: &[UnsharedState]) {
        for UnsharedState { node_id, .. } in states {
            if let Some(node) = self.by_id.get_mut(node_id) {
                (node.shared.shared_revision, node.shared.shared_metrics) = (0, None);
            }
        }
    }

    /// Takes over what another hub has passed on: metrics of the hub with the Core connection, the rest of that with the hm connection, or else
    /// with the only one. What comes from a connection of this hub is newer. Returns whether there are new metrics.
    pub fn apply_shared_state(
        &mut self,
        now: Instant,
        unix_ms: i64,
        node_id: &Arc<str>,
        instance: InstanceId,
        state: SharedState,
    ) -> bool {
        self.insert_known(now, node_id);
        let Some(node) = self.by_id.get_mut(node_id) else { return false };
        let has_metrics =
            node.shared.core.remote_owner == Some(instance) && node.add_core_state(&state);
        if node.has_local_connection() || node.shared.remote_owner() != Some(instance) {
            return has_metrics;
        }
        let age = u64::try_from(unix_ms - state.last_message_at).unwrap_or_default();
        if state.last_message_at > 0 {
            node.last_message = now.checked_sub(Duration::from_millis(age));
        }
        let shown = |node: &Node| {
            let refused = node.refused_duplicate.map(|(_, address)| address);
            let project = node.info.project.clone();
            (node.address, node.protocols, node.shared_unauthenticated, refused, project)
        };
        let before = shown(node);
        node.address = state.address;
        node.protocols = Protocols { hm: state.hm, core: state.core };
        node.shared_unauthenticated = state.is_unauthenticated;
        node.refused_duplicate = state.refused_duplicate.map(|address| (now, address));
        let info = Arc::make_mut(&mut node.info);
        info.project = state.project.map(Arc::from);
        let others = self.status_bytes - node.status_bytes();
        if state.status_at > 0 {
            let received = ReceivedStatus {
                status: state.status,
                at: state.status_at,
                ..ReceivedStatus::default()
            };
            node.set_status(received, &mut self.revision);
            // The hub that has received it saves it.
            node.is_status_saved = true;
        }
        if shown(node) != before {
            node.touch(&mut self.revision);
        }
        self.status_bytes = others + node.status_bytes();
        has_metrics
    }

    /// Takes over what a hub, which may be this one, has stored of the node. `is_leader`: this hub runs `fleet.on_change`, and knows what it was run for.
    pub fn apply_stored_info(
        &mut self,
        now: Instant,
        node_id: &Arc<str>,
        stored: NodeInfo,
        is_leader: bool,
    ) {
        self.insert_known(now, node_id);
        let Some(node) = self.by_id.get_mut(node_id) else { return };
        let NodeInfo { register, first_seen, updated_at, agent, group, hook_state, .. } = stored;
        let (known, is_agent_saved) = (&*node.info, node.is_agent_saved);
        let has_changed = node.revision == 0
            || known.register != register
            || is_agent_saved && (&known.agent, &known.group) != (&agent, &group);
        let info = Arc::make_mut(&mut node.info);
        info.register = register;
        if !is_leader {
            info.hook_state = hook_state;
        }
        (info.first_seen, info.updated_at) = (first_seen, updated_at);
        // What a connection of this hub has sent is newer, and will be stored.
        if is_agent_saved {
            (info.agent, info.group) = (agent, group);
        }
        if has_changed {
            node.touch(&mut self.revision);
        }
    }
}

impl Node {
    /// Takes over what the hub with the Core connection knows. Returns whether there are new metrics.
    fn add_core_state(&mut self, state: &SharedState) -> bool {
        self.shared.owner_sends_commands = Some(state.gets_commands);
        let known = self.info.metrics.as_ref().map(|metrics| metrics.id);
        let metrics = state.metrics.as_ref().filter(|new| known.is_none_or(|id| id < new.id));
        let last_heartbeat = self.info.last_heartbeat.max(state.last_heartbeat);
        if metrics.is_some() || last_heartbeat != self.info.last_heartbeat {
            let info = Arc::make_mut(&mut self.info);
            info.last_heartbeat = last_heartbeat;
            if let Some(metrics) = metrics {
                info.metrics = Some(metrics.clone());
            }
        }
        metrics.is_some()
    }

    fn has_unshared_metrics(&self, now: Instant) -> bool {
        let Some(metrics) = &self.info.metrics else { return false };
        self.shared
            .shared_metrics
            .is_none_or(|(id, at)| id != metrics.id && now >= at + METRICS_INTERVAL)
    }

    fn to_shared_state(&self, now: Instant, unix_ms: i64) -> SharedState {
        let info = &*self.info;
        let status = info.status.as_ref();
        let age = self.last_message.map(|at| now.saturating_duration_since(at).as_millis());
        let last_message_at = age.map_or(0, |age| unix_ms - i64::try_from(age).unwrap_or(0));
        SharedState {
            status: status.map(|received| received.status.clone()).unwrap_or_default(),
            status_at: status.map_or(0, |received| received.at),
            last_message_at,
            address: self.address,
            hm: self.protocols.hm,
            core: self.protocols.core,
            is_unauthenticated: self.is_unauthenticated(),
            refused_duplicate: self.refused_duplicate.map(|(_, address)| address),
            gets_commands: self.command_link().is_some(),
            project: info.project.as_deref().map(str::to_owned),
            last_heartbeat: info.last_heartbeat,
            metrics: info.metrics.clone(),
        }
    }
}
