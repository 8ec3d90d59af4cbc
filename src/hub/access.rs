//! Which clients may connect, by the current configuration. A reload replaces it.

use std::sync::Arc;

use crate::config::sha256;
use crate::hub::admission::{Admission, Admitted, Proof};
use crate::hub::credentials::Credentials;
use crate::hub::operators::{Operators, Role};

/// The token of the published Core service, which published clients send.
const DEFAULT_TOKEN: &str = "default-token";

pub struct Access {
    pub admission: Admission,
    pub operators: Operators,
    /// Whether every listener has a loopback address.
    pub is_loopback_only: bool,
    /// Survive a reload.
    pub credentials: Arc<Credentials>,
}

impl Access {
    /// `None`: the hm node may not connect.
    pub fn hm_node(&self, token: Option<&str>) -> Option<Admitted> {
        self.holder(token).or_else(|| self.admit(token))
    }

    /// `None`: the Core node may not connect. A node with a credential sends it beside its token, as `bearer`.
    pub fn core_node(&self, bearer: Option<&str>, token: &str) -> Option<Admitted> {
        let by_token = || match &self.admission {
            Admission::Open | Admission::Loopback if token == DEFAULT_TOKEN => self.admit(None),
            Admission::Open | Admission::Loopback => None,
            Admission::Token(_) => self.admit(Some(token)),
        };
        self.holder(bearer).or_else(|| self.holder(Some(token))).or_else(by_token)
    }

    fn holder(&self, credential: Option<&str>) -> Option<Admitted> {
        let credential = credential?;
        let holder = self.credentials.holder(credential)?;
        Some(Admitted::holder(holder, sha256(credential.as_bytes())))
    }

    fn admit(&self, token: Option<&str>) -> Option<Admitted> {
        let mut admitted = self.admission.admit(token.map(str::as_bytes))?;
        if self.is_loopback_only && admitted.proof == Proof::None {
            admitted.proof = Proof::Loopback;
        }
        Some(admitted)
    }

    /// Whether nodes that connect with a join token are offered a credential.
    pub fn offers_credentials(&self) -> bool {
        matches!(self.admission, Admission::Token(_))
    }

    /// Whether a monitor client may connect.
    pub fn is_monitor(&self, token: &str) -> bool {
        match &self.operators.0 {
            Some(_) => self.operators.check(Some(token.as_bytes()), Role::Read).is_ok(),
            None => token == DEFAULT_TOKEN,
        }
    }
}
