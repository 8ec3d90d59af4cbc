//! What the client of a link may be.

use crate::config::Secret;
use crate::hub::access::Access;
use crate::hub::admission::Admitted;
use crate::hub::event_loop::link::{Link, Protocol};

impl Link {
    /// Checks the token again. Returns whether `access` admits the client, as the node that it is.
    pub fn readmit(&mut self, access: &Access) -> bool {
        let token = self.token.as_ref().map(Secret::expose);
        let admitted = match &self.protocol {
            Protocol::Hm { .. } => access.hm_node(token),
            Protocol::CoreNode(_) => token.and_then(|token| access.core_node(None, token)),
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
