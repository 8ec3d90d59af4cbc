//! Which clients may connect, by the current configuration. A reload replaces it.

use crate::hub::admission::{Admission, Admitted};
use crate::hub::operators::{Operators, Role};

/// The token of the published Core service, which published clients send.
const DEFAULT_TOKEN: &str = "default-token";

pub struct Access {
    pub admission: Admission,
    pub operators: Operators,
}

impl Access {
    /// `None`: the hm node may not connect.
    pub fn hm_node(&self, token: Option<&str>) -> Option<Admitted> {
        self.admission.admit(token.map(str::as_bytes))
    }

    /// `None`: the Core node may not connect.
    pub fn core_node(&self, token: &str) -> Option<Admitted> {
        match &self.admission {
            Admission::Open | Admission::Loopback if token == DEFAULT_TOKEN => {
                self.admission.admit(None)
            }
            Admission::Open | Admission::Loopback => None,
            Admission::Token(_) => self.admission.admit(Some(token.as_bytes())),
        }
    }

    /// Whether a monitor client may connect.
    pub fn is_monitor(&self, token: &str) -> bool {
        match &self.operators.0 {
            Some(_) => self.operators.check(Some(token.as_bytes()), Role::Read).is_ok(),
            None => token == DEFAULT_TOKEN,
        }
    }
}
