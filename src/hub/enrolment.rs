//! Enrolment: which node a connection may be, and the exchange of a join token for a credential.

use std::sync::Arc;
use std::time::Instant;

use crate::config::{Secret, sha256};
use crate::hub::Hub;
use crate::hub::admission::{Admitted, Proof};
use crate::hub::event_loop::link::Link;
use crate::hub::nodes::LinkId;
use crate::hub::store::{QueuedWrite, Write, WriteOrigin};
use crate::hub_extension::messages::{Announcement, HubInfo};
use crate::util::error::reason;
use crate::util::sync::lock;

impl Hub {
    /// Whether the connection may be the node. The error is the reason, which is logged.
    pub fn check_identity(&self, node_id: &Arc<str>, link: &Link) -> Result<(), &'static str> {
        let admitted = &link.admitted;
        let refuse = |why| {
            self.log_refused(link.peer, node_id, why);
            Err(why)
        };
        if !admitted.allows(node_id) {
            return refuse("its token belongs to another node");
        }
        if let Proof::Credential(_) = admitted.proof {
            // Presented for the first time, if it is not in force.
            self.store_credential(node_id, admitted);
            return Ok(());
        }
        // A connection from before may be the node's other one.
        let since = self.access().credentials.in_force_since(node_id);
        if since.is_some_and(|since| since <= link.accepted_at) {
            lock(&self.nodes).note_impostor(Instant::now(), node_id, link.peer.ip());
            return refuse("the node has a credential, and this client does not know it");
        }
        Ok(())
    }

    /// A connection of the node has presented a credential after its handshake.
    pub fn on_credential(
        &self,
        node_id: &Arc<str>,
        id: LinkId,
        link: &mut Link,
        credential: Secret,
    ) {
        let Some(holder) = self.access().credentials.holder(credential.expose()) else { return };
        if holder.node_id != *node_id {
            return self.log_refused(link.peer, node_id, "its credential is another node's");
        }
        let digest = sha256(credential.expose().as_bytes());
        link.set_credential(credential, Admitted::holder(holder, digest));
        self.store_credential(node_id, &link.admitted);
        self.update_nodes(|nodes| nodes.set_peer(node_id, id, link.peer.ip(), true));
    }

    /// Stores a credential that the node has presented for the first time; it is in force after the commit.
    fn store_credential(&self, node_id: &Arc<str>, admitted: &Admitted) {
        let Proof::Credential(digest) = admitted.proof else { return };
        if self.access().credentials.in_force_since(node_id).is_some() {
            return;
        }
        let (node_id, group) = (node_id.clone(), admitted.group.clone());
        let write = Write::Credential { node_id, digest, group };
        self.store.add(QueuedWrite { write, origin: WriteOrigin::Hub });
    }

    /// What a node that was accepted learns of the hub. A node with a join token is offered a credential.
    pub fn hub_info(&self, node_id: &Arc<str>, admitted: &Admitted) -> HubInfo {
        let access = self.access();
        if admitted.has_credential() || !access.offers_credentials() {
            return HubInfo::own(None);
        }
        let offered = access.credentials.offer(node_id, &admitted.group).unwrap_or_else(|error| {
            log::error!("cannot create a credential: {}", reason(&error));
            None
        });
        HubInfo::own(offered.map(Into::into))
    }

    /// Body of the response to `online`. The published server sends none, and published clients ignore it.
    pub fn announcement(&self, node_id: &Arc<str>, admitted: &Admitted) -> String {
        let announcement = Announcement { hub: self.hub_info(node_id, admitted) };
        // Serialization cannot fail: the type has neither maps nor custom implementations.
        serde_json::to_string(&announcement).unwrap_or_default()
    }
}
