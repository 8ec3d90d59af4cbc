//! Credentials of nodes. Each connection that was opened with a join token of several nodes is offered one. Once a node has presented it, its
//! id needs it: the join token alone does not suffice any more. The database keeps SHA-256 digests only; what is offered is known as long as
//! its connection lasts.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::config::{Secret, sha256};
use crate::util::random;
use crate::util::sync::lock;

pub type Digest = [u8; 32];

/// A credential in the database.
pub struct StoredCredential {
    pub node_id: Arc<str>,
    pub digest: Digest,
    /// Group of the join token that it was offered for.
    pub group: Option<Arc<str>>,
}

/// The node that a credential belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialOwner {
    pub node_id: Arc<str>,
    pub group: Option<Arc<str>>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Offered,
    /// The node has presented it, and it is being stored.
    Presented,
    Active,
}

#[derive(Default)]
pub struct NodeCredentials(Mutex<State>);

#[derive(Default)]
struct State {
    by_digest: HashMap<Digest, CredentialOwner>,
    /// Since when a node needs its credential.
    active: HashMap<Arc<str>, Instant>,
}

impl NodeCredentials {
    pub fn new(now: Instant, stored: impl IntoIterator<Item = StoredCredential>) -> Self {
        let mut state = State::default();
        for StoredCredential { node_id, digest, group } in stored {
            state.active.insert(node_id.clone(), now);
            state
                .by_digest
                .insert(digest, CredentialOwner { node_id, group, stage: Stage::Active });
        }
        Self(Mutex::new(state))
    }

    /// The node that this credential belongs to. It is none of an offer that another one of the node has overtaken.
    pub fn owner(&self, digest: &Digest) -> Option<CredentialOwner> {
        lock(&self.0).by_digest.get(digest).cloned()
    }

    /// Since when the node needs its credential.
    pub fn active_since(&self, node_id: &str) -> Option<Instant> {
        lock(&self.0).active.get(node_id).copied()
    }

    /// A new credential for a node that needs none yet. Fails if the system has no random numbers.
    pub fn offer(
        &self,
        node_id: &Arc<str>,
        group: &Option<Arc<str>>,
    ) -> io::Result<Option<(Secret, Digest)>> {
        let mut state = lock(&self.0);
        if state.active.contains_key(node_id) {
            return Ok(None);
        }
        let credential = Secret::new(random::token()?);
        let digest = sha256(credential.expose().as_bytes());
        let (node_id, group) = (node_id.clone(), group.clone());
        state.by_digest.insert(digest, CredentialOwner { node_id, group, stage: Stage::Offered });
        Ok(Some((credential, digest)))
    }

    /// The connection of an offer has ended. What the node has presented meanwhile stays.
    pub fn withdraw(&self, digest: &Digest) {
        let mut state = lock(&self.0);
        if state.by_digest.get(digest).is_some_and(|owner| owner.stage == Stage::Offered) {
            state.by_digest.remove(digest);
        }
    }

    /// The node has presented the credential. Returns whether it must be stored now.
    pub fn present(&self, digest: &Digest) -> bool {
        let mut state = lock(&self.0);
        let Some(owner) = state.by_digest.get_mut(digest) else { return false };
        let is_first = owner.stage == Stage::Offered;
        if is_first {
            owner.stage = Stage::Presented;
        }
        is_first
    }

    /// The credential was stored. Returns whether the node needs it from now on: the first one that is stored counts.
    pub fn activate(&self, now: Instant, digest: &Digest) -> bool {
        let mut state = lock(&self.0);
        let State { by_digest, active } = &mut *state;
        let Some(owner) = by_digest.get_mut(digest) else { return false };
        owner.stage = Stage::Active;
        let node_id = owner.node_id.clone();
        active.insert(node_id.clone(), now);
        by_digest.retain(|other, owner| other == digest || owner.node_id != node_id);
        true
    }

    /// Another hub has stored the credential of a node.
    pub fn learn(&self, now: Instant, stored: &StoredCredential) {
        let mut state = lock(&self.0);
        let StoredCredential { node_id, digest, group } = stored;
        let is_known = |owner: &CredentialOwner| {
            owner.stage == Stage::Active && owner.node_id == *node_id && owner.group == *group
        };
        if state.by_digest.get(digest).is_some_and(is_known) {
            return;
        }
        let (node_id, group) = (node_id.clone(), group.clone());
        state.active.entry(node_id.clone()).or_insert(now);
        state.by_digest.retain(|other, owner| other == digest || owner.node_id != node_id);
        state.by_digest.insert(*digest, CredentialOwner { node_id, group, stage: Stage::Active });
    }

    /// The credential could not be stored. The node may present it again.
    pub fn set_unstored(&self, digest: &Digest) {
        if let Some(owner) = lock(&self.0).by_digest.get_mut(digest) {
            owner.stage = Stage::Offered;
        }
    }

    /// The node may connect with a join token again.
    pub fn forget(&self, node_id: &str) {
        let mut state = lock(&self.0);
        state.active.remove(node_id);
        state.by_digest.retain(|_, owner| &*owner.node_id != node_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credential_is_active_once_it_was_presented() {
        let (credentials, now) = (NodeCredentials::default(), Instant::now());
        let (node_id, group) = (Arc::<str>::from("a"), Some(Arc::<str>::from("blue")));
        let (_, first) = credentials.offer(&node_id, &group).unwrap().unwrap();
        let (_, second) = credentials.offer(&node_id, &None).unwrap().unwrap();
        assert_ne!(first, second, "each connection has its own");
        assert_eq!(credentials.active_since("a"), None);
        assert!(credentials.present(&first) && !credentials.present(&first));
        assert!(credentials.activate(now, &first));
        assert_eq!(credentials.active_since("a"), Some(now));
        assert_eq!(credentials.owner(&first).unwrap().group, group);
        assert_eq!(credentials.owner(&second), None, "it was too late");
        assert!(!credentials.present(&second) && !credentials.activate(now, &second));
        assert_eq!(credentials.offer(&node_id, &None).unwrap(), None);
        credentials.forget("a");
        assert_eq!((credentials.owner(&first), credentials.active_since("a")), (None, None));
    }

    #[test]
    fn offer_ends_with_its_connection_unless_it_was_presented() {
        let credentials = NodeCredentials::default();
        let node_id = Arc::<str>::from("a");
        let (_, digest) = credentials.offer(&node_id, &None).unwrap().unwrap();
        credentials.withdraw(&digest);
        assert_eq!(credentials.owner(&digest), None);
        let (_, digest) = credentials.offer(&node_id, &None).unwrap().unwrap();
        credentials.present(&digest);
        credentials.withdraw(&digest);
        assert!(credentials.owner(&digest).is_some());
        credentials.set_unstored(&digest);
        assert!(credentials.present(&digest), "again after a failure of the store");
    }

    #[test]
    fn stored_credentials_are_active() {
        let digest = sha256(b"c");
        let stored = StoredCredential { node_id: "a".into(), digest, group: None };
        let credentials = NodeCredentials::new(Instant::now(), [stored]);
        assert!(credentials.owner(&digest).is_some() && credentials.active_since("a").is_some());
        assert_eq!(credentials.owner(&sha256(b"d")), None);
    }
}
