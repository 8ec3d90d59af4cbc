//! Which clients may connect, by the current configuration. A reload replaces it.

use std::sync::Arc;

use crate::config::sha256;
use crate::hub::admission::{Admission, Admitted, Proof};
use crate::hub::credentials::NodeCredentials;
use crate::hub::operators::{Operators, Role};

/// The token of the published Core service, which published clients send.
const DEFAULT_TOKEN: &str = "default-token";

pub struct Access {
    pub admission: Admission,
    pub operators: Operators,
    /// Whether every listener has a loopback address.
    pub is_loopback_only: bool,
    /// Survive a reload.
    pub credentials: Arc<NodeCredentials>,
}

impl Access {
    /// `None`: the hm node may not connect. `is_local` is whether no proxy has forwarded the handshake.
    pub fn hm_node(&self, token: Option<&str>, is_local: bool) -> Option<Admitted> {
        self.by_credential(token).or_else(|| self.admit(token, is_local))
    }

    /// `None`: the Core node may not connect. A node with a credential sends it beside its token, as `bearer`.
    pub fn core_node(&self, bearer: Option<&str>, token: &str, is_local: bool) -> Option<Admitted> {
        let by_token = || match &self.admission {
            Admission::Open | Admission::Loopback if token == DEFAULT_TOKEN => {
                self.admit(None, is_local)
            }
            Admission::Open | Admission::Loopback => None,
            Admission::Token(_) => self.admit(Some(token), is_local),
        };
        self.by_credential(bearer).or_else(|| self.by_credential(Some(token))).or_else(by_token)
    }

    fn by_credential(&self, credential: Option<&str>) -> Option<Admitted> {
        let digest = sha256(credential?.as_bytes());
        Some(Admitted::by_credential(self.credentials.owner(&digest)?, digest))
    }

    fn admit(&self, token: Option<&str>, is_local: bool) -> Option<Admitted> {
        let mut admitted = self.admission.admit(token.map(str::as_bytes))?;
        if self.is_loopback_only && is_local && admitted.proof == Proof::None {
            admitted.proof = Proof::Loopback;
        }
        Some(admitted)
    }

    /// Whether nodes that connect with a join token of several nodes are offered a credential.
    pub fn offers_credentials(&self) -> bool {
        matches!(self.admission, Admission::Token(_))
    }

    /// Whether the node has a join token of its own.
    pub fn has_own_token(&self, node_id: &str) -> bool {
        matches!(&self.admission, Admission::Token(tokens) if tokens.has_node(node_id))
    }

    /// Whether a monitor client may connect.
    pub fn is_monitor(&self, token: &str) -> bool {
        match &self.operators.0 {
            Some(_) => self.operators.check(Some(token.as_bytes()), Role::Read).is_ok(),
            None => token == DEFAULT_TOKEN,
        }
    }
}
