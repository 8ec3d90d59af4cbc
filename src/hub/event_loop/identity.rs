//! What the client of a link may be.

use std::time::Instant;

use tungstenite::protocol::frame::coding::CloseCode;

use crate::config::Secret;
use crate::hub::Hub;
use crate::hub::access::Access;
use crate::hub::admission::Admitted;
use crate::hub::event_loop::link::{Ended, Link, Protocol};
use crate::hub::event_loop::{EventLoop, REVOKED};
use crate::util::sync::lock;
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

impl Link {
    /// Checks the token again. Returns whether `access` admits the client, as the node that it is.
    pub fn readmit(&mut self, access: &Access) -> bool {
        let token = self.token.as_ref().map(Secret::expose);
        let admitted = match &self.protocol {
            Protocol::Hm { .. } => access.hm_node(token, self.is_local),
            Protocol::CoreNode(_) => {
                token.and_then(|token| access.core_node(None, token, self.is_local))
            }
            Protocol::Monitor { .. } => return token.is_some_and(|token| access.is_monitor(token)),
        };
        let node_id = self.node_id().cloned();
        let is_other = |admitted: &Admitted| node_id.is_some_and(|id| !admitted.allows(&id));
        let Some(new) = admitted.filter(|admitted| !is_other(admitted)) else { return false };
        self.set_admitted(new);
        true
    }

    /// The node has presented its credential.
    pub fn set_credential(&mut self, credential: Secret, admitted: Admitted) {
        self.token = Some(credential);
        self.set_admitted(admitted);
    }

    fn set_admitted(&mut self, admitted: Admitted) {
        if let Protocol::CoreNode(session) = &mut self.protocol {
            session.set_admitted(admitted.node());
        }
        self.admitted = admitted;
    }
}

impl EventLoop {
    /// Ends the links that are not admitted any more. The group of the others may have changed.
    pub(super) fn recheck(&mut self, hub: &Hub) {
        let (now, access) = (Instant::now(), hub.access());
        for number in self.links.keys().copied().collect::<Vec<_>>() {
            let id = self.link_id(number);
            let Some(link) = self.links.get_mut(&number) else { continue };
            if !link.readmit(&access) {
                self.end(hub, number, REVOKED);
            } else if let Some(node_id) = link.node_id() {
                let mut nodes = lock(&hub.nodes);
                nodes.set_group(now, node_id, id, &link.admitted.group);
                nodes.set_peer(node_id, id, link.peer.ip(), link.admitted.is_authenticated());
            }
        }
    }

    /// Ends a link at once, with a reason for its client.
    pub(super) fn end(&mut self, hub: &Hub, number: u64, why: &'static str) {
        let Some(link) = self.links.get_mut(&number) else { return };
        let node_id = link.node_id().map_or("", |id| id);
        let node_id = escape_for_log(node_id, EXCERPT_CHARS);
        log::info!("{} (node {node_id}) ends: {why}", link.peer);
        // The connection ends, whether or not the frame can be sent.
        let _ = link.close(CloseCode::Policy, why, Instant::now());
        self.remove(hub, number, &Ended(why.to_owned()));
    }
}
