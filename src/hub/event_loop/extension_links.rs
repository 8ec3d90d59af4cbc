//! Messages of the extension on connections of nodes.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use log::Level;

use crate::hub::Hub;
use crate::hub::core::messages::unix_ms;
use crate::hub::event_loop::EventLoop;
use crate::hub::event_loop::link::Protocol;
use crate::hub::nodes::info::ReceivedStatus;
use crate::hub_extension::messages::{self, CredentialHead, NodeMessage, SnapshotHead};
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

/// A longer snapshot is not kept. hm-agent sends none.
const MAX_SNAPSHOT_BYTES: usize = 64 << 10;

impl EventLoop {
    /// Handles a binary message of a node that is online, or ignores it.
    pub(super) fn on_extension(&mut self, hub: &Hub, number: u64, bytes: &[u8]) {
        let link_id = self.link_id(number);
        let Some(link) = self.links.get_mut(&number) else { return };
        let Some(node_id) = link.node_id().cloned() else { return };
        if let Protocol::CoreNode(_) = link.protocol {
            hub.on_core_message(&node_id, link_id, link);
        }
        match messages::decode(bytes) {
            Ok((NodeMessage::Node(info), _)) => {
                let (agent, group) = (info.truncate(), link.admitted.group.clone());
                hub.update_nodes(|nodes| {
                    nodes.set_agent(Instant::now(), &node_id, link_id, agent, group);
                });
            }
            Ok((NodeMessage::Response(head), body)) => {
                if hub.requests.on_answer(link_id, head, body) {
                    link.on_response();
                }
            }
            Ok((NodeMessage::Snapshot(SnapshotHead { status, gzip }), body)) => {
                let received = ReceivedStatus {
                    status: status.truncate(),
                    snapshot: if body.len() <= MAX_SNAPSHOT_BYTES {
                        body.into()
                    } else {
                        Arc::default()
                    },
                    is_gzip: gzip,
                    at: unix_ms(SystemTime::now()),
                };
                hub.update_nodes(|nodes| {
                    nodes.set_status(Instant::now(), &node_id, link_id, received);
                });
            }
            Ok((NodeMessage::Credential(CredentialHead { credential }), _)) => {
                hub.on_credential(&node_id, link_id, link, credential.into());
            }
            // A later version of the agent may send others.
            Err(why) => hub.log.write(Level::Debug, || {
                let node_id = escape_for_log(&*node_id, EXCERPT_CHARS);
                let why = escape_for_log(&why, EXCERPT_CHARS);
                format!("node {node_id} has sent an unknown message of the extension: {why}")
            }),
        }
    }
}
