//! What hm-agents send of their nodes once they have connected.

use std::sync::Arc;
use std::time::Instant;

use crate::hub::nodes::node::Node;
use crate::hub::nodes::{LinkId, Nodes};
use crate::hub_extension::messages::AgentInfo;

/// The description of a node that is not stored.
pub struct UnsavedAgent {
    pub node_id: Arc<str>,
    pub agent: Arc<AgentInfo>,
    pub group: Option<Arc<str>>,
}

impl Nodes {
    /// A connection of the node answers requests, and describes it.
    pub fn set_agent(
        &mut self,
        now: Instant,
        node_id: &str,
        link: LinkId,
        mut agent: AgentInfo,
        group: Option<Arc<str>>,
    ) {
        let Some(node) = self.by_id.get_mut(node_id) else { return };
        if !node.request_links.contains(&link) {
            node.request_links.push(link);
        }
        // Requests go to another connection, which may be of another machine.
        if node.request_link(now) != Some(link) {
            return;
        }
        if let Some(known) = &node.info.agent
            && agent.gpu_models.is_empty()
        {
            // The driver hangs. A label that changes would begin a new series for each metric.
            agent.gpu_models.clone_from(&known.gpu_models);
        }
        if node.info.agent.as_deref() != Some(&agent) || node.info.group != group {
            let info = Arc::make_mut(&mut node.info);
            (info.agent, info.group) = (Some(Arc::new(agent)), group);
            node.is_agent_saved = false;
            node.touch(&mut self.revision);
        }
    }

    /// The group of a connection's token has been read again.
    pub fn set_group(
        &mut self,
        now: Instant,
        node_id: &str,
        link: LinkId,
        group: &Option<Arc<str>>,
    ) {
        let Some(node) = self.by_id.get_mut(node_id) else { return };
        if node.request_link(now) == Some(link) && node.info.group != *group {
            Arc::make_mut(&mut node.info).group.clone_from(group);
            node.is_agent_saved = false;
            node.touch(&mut self.revision);
        }
    }

    /// At most `max` descriptions that are not stored, to be queued by the caller.
    pub fn take_unsaved_agents(&mut self, max: usize) -> Vec<UnsavedAgent> {
        let unsaved = self.by_id.iter_mut().filter(|(_, node)| !node.is_agent_saved).take(max);
        let take = |(node_id, node): (&Arc<str>, &mut Node)| {
            node.is_agent_saved = true;
            let (agent, group) = (node.info.agent.clone()?, node.info.group.clone());
            Some(UnsavedAgent { node_id: node_id.clone(), agent, group })
        };
        unsaved.filter_map(take).collect()
    }

    /// The description of a node could not be stored, or was deleted.
    pub fn set_agent_unsaved(&mut self, node_id: &str) {
        if let Some(node) = self.by_id.get_mut(node_id) {
            node.is_agent_saved = false;
        }
    }
}
