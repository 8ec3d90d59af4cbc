//! Enrolment: which node a connection may be, and the exchange of a join token for a credential.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{Secret, sha256};
use crate::hub::Hub;
use crate::hub::admission::{Admitted, Proof};
use crate::hub::credentials::Digest;
use crate::hub::event_loop::link::Link;
use crate::hub::event_loop::mailbox::LoopMessage;
use crate::hub::nodes::LinkId;
use crate::hub::store::{QueuedWrite, Write, WriteOrigin};
use crate::hub_extension::messages::{Announcement, HubInfo};
use crate::util::error::reason;
use crate::util::sync::lock;

/// Connections without a proof end this long after the node has got a credential. Its other connection presents it sooner.
const UNPROVEN_GRACE: Duration = Duration::from_secs(5);

impl Hub {
    /// Whether the connection may become one of the node. The error is the reason, which is logged.
    pub fn check_identity(&self, node_id: &Arc<str>, link: &Link) -> Result<(), &'static str> {
        let (admitted, access) = (&link.admitted, self.access());
        let refuse = |why| {
            self.log_refused(link.peer, node_id, why);
            Err(why)
        };
        if !admitted.allows(node_id) {
            return refuse("its token belongs to another node");
        }
        match admitted.proof {
            Proof::BoundToken => {}
            Proof::Credential(digest) => {
                if access.credentials.owner(&digest).is_none() {
                    return refuse("its credential was forgotten");
                }
                self.store_credential(node_id, &admitted.group, &digest);
            }
            Proof::None | Proof::Loopback if access.has_own_token(node_id) => {
                return refuse("the node has a token of its own (node=)");
            }
            Proof::None | Proof::Loopback => {
                if access.credentials.active_since(node_id).is_some() {
                    let (now, address) = (Instant::now(), link.peer.ip());
                    lock(&self.nodes).record_refused_duplicate(now, node_id, address);
                    return refuse("the node has a credential, and this client does not know it");
                }
            }
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
        let digest = sha256(credential.expose().as_bytes());
        let Some(owner) = self.access().credentials.owner(&digest) else { return };
        if owner.node_id != *node_id {
            return self.log_refused(link.peer, node_id, "its credential is another node's");
        }
        link.set_credential(credential, Admitted::by_credential(owner, digest));
        self.store_credential(node_id, &link.admitted.group, &digest);
        self.update_nodes(|nodes| nodes.set_peer(node_id, id, link.peer.ip(), true));
    }

    /// Stores a credential that the node has presented for the first time; it is active after the commit.
    fn store_credential(&self, node_id: &Arc<str>, group: &Option<Arc<str>>, digest: &Digest) {
        if self.access().credentials.present(digest) {
            let (node_id, group) = (node_id.clone(), group.clone());
            let write = Write::Credential { node_id, digest: *digest, group };
            self.store.add(QueuedWrite { write, origin: WriteOrigin::Hub });
        }
    }

    /// Ends connections that were opened before their node had a credential, and have not presented it.
    pub fn end_unproven_links(&self) {
        let (access, now) = (self.access(), Instant::now());
        let is_due = |node_id: &str| {
            let since = access.credentials.active_since(node_id);
            since.is_some_and(|since| now.saturating_duration_since(since) >= UNPROVEN_GRACE)
        };
        let links = lock(&self.nodes).unproven_links(is_due);
        for link in links {
            let why = "the node has a credential, and this connection has not presented it";
            self.send(link.event_loop, LoopMessage::End { link: link.number, why });
        }
    }

    /// What a node that was accepted learns of the hub. One with a join token of several nodes is offered a credential.
    pub fn hub_info(&self, node_id: &Arc<str>, link: &mut Link) -> HubInfo {
        let access = self.access();
        if link.admitted.has_proof() || !access.offers_credentials() {
            return HubInfo::own(None);
        }
        let offered = access.credentials.offer(node_id, &link.admitted.group);
        let offered = offered.unwrap_or_else(|error| {
            log::error!("cannot create a credential: {}", reason(&error));
            None
        });
        let (credential, digest) = offered.unzip();
        if let Some(former) = std::mem::replace(&mut link.offered, digest) {
            access.credentials.withdraw(&former);
        }
        HubInfo::own(credential.map(Into::into))
    }

    /// Body of the response to `online`. The published server sends none, and published clients ignore it.
    pub fn announcement(&self, node_id: &Arc<str>, link: &mut Link) -> String {
        let announcement = Announcement { hub: self.hub_info(node_id, link) };
        // Serialization cannot fail: the type has neither maps nor custom implementations.
        serde_json::to_string(&announcement).unwrap_or_default()
    }
}
