//! Messages of the extension on connections of nodes.

use log::Level;

use crate::hub::Hub;
use crate::hub::event_loop::EventLoop;
use crate::hub::node_requests::NodeAnswer;
use crate::hub_extension::messages::{self, AgentInfo, NodeMessage};
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

/// Longer texts and more models than any node has are cut off.
const MAX_TEXT_CHARS: usize = 256;
const MAX_MODELS: usize = 64;

impl EventLoop {
    /// Handles a binary message of a node that is online, or ignores it.
    pub(super) fn on_extension(&mut self, hub: &Hub, number: u64, bytes: &[u8]) {
        let id = self.link_id(number);
        let Some(link) = self.links.get_mut(&number) else { return };
        let Some(node_id) = link.node_id().cloned() else { return };
        match messages::decode(bytes) {
            Ok((NodeMessage::Node(info), _)) => {
                link.permit_long_messages();
                let group = link.group.clone();
                if hub.on_agent_info(&node_id, id, bounded(info), group) {
                    link.on_queued();
                }
            }
            Ok((NodeMessage::Response(head), body)) => {
                hub.requests.on_answer(id, NodeAnswer { head, body: body.to_vec() });
            }
            // A later version of the agent may send others.
            Err(why) => hub.log.write(Level::Debug, || {
                let node_id = escape_for_log(&*node_id, EXCERPT_CHARS);
                format!("node {node_id} has sent an unknown message of the extension: {why}")
            }),
        }
    }
}

fn bounded(mut info: AgentInfo) -> AgentInfo {
    info.gpu_models.truncate(MAX_MODELS);
    let texts = [&mut info.agent_version, &mut info.hostname, &mut info.project];
    for text in texts.into_iter().chain(&mut info.gpu_models) {
        if let Some((end, _)) = text.char_indices().nth(MAX_TEXT_CHARS) {
            text.truncate(end);
        }
    }
    info
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_what_a_node_says_of_itself() {
        let long = "é".repeat(1000);
        let info = bounded(AgentInfo {
            agent_version: "1".into(),
            hostname: long.clone(),
            project: String::new(),
            gpu_models: vec![long; 1000],
        });
        assert_eq!((info.agent_version.as_str(), info.gpu_models.len()), ("1", MAX_MODELS));
        assert_eq!(info.hostname.chars().count(), MAX_TEXT_CHARS);
        assert_eq!(info.gpu_models[63].chars().count(), MAX_TEXT_CHARS);
    }
}
