//! Credentials of nodes. A node that connects with a join token is offered one. Once it has presented it, its id needs it: a join token alone
//! does not suffice any more. The database keeps SHA-256 digests only; what is offered is kept in memory until the node has presented it.

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
    /// Of the join token that it was offered for.
    pub group: Option<Arc<str>>,
}

/// The node that a credential belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub node_id: Arc<str>,
    pub group: Option<Arc<str>>,
    /// Whether it is in force. Otherwise the node has presented it for the first time.
    pub is_in_force: bool,
}

#[derive(Default)]
pub struct Credentials(Mutex<State>);

#[derive(Default)]
struct State {
    by_digest: HashMap<Digest, Holder>,
    in_force: HashMap<Arc<str>, InForce>,
    offered: HashMap<Arc<str>, Secret>,
}

struct InForce {
    digest: Digest,
    since: Instant,
}

impl Credentials {
    pub fn new(now: Instant, stored: impl IntoIterator<Item = StoredCredential>) -> Self {
        let credentials = Self::default();
        for StoredCredential { node_id, digest, group } in stored {
            let holder = Holder { node_id, group, is_in_force: false };
            lock(&credentials.0).by_digest.insert(digest, holder);
            credentials.put_in_force(now, &digest);
        }
        credentials
    }

    /// The node that this credential belongs to.
    pub fn holder(&self, credential: &str) -> Option<Holder> {
        lock(&self.0).by_digest.get(&sha256(credential.as_bytes())).cloned()
    }

    /// Since when the node needs a credential.
    pub fn in_force_since(&self, node_id: &str) -> Option<Instant> {
        lock(&self.0).in_force.get(node_id).map(|it| it.since)
    }

    /// The credential for a node without one; the same until it is in force. Fails if the system has no random numbers.
    pub fn offer(
        &self,
        node_id: &Arc<str>,
        group: &Option<Arc<str>>,
    ) -> io::Result<Option<Secret>> {
        let mut state = lock(&self.0);
        if state.in_force.contains_key(node_id) {
            return Ok(None);
        }
        if let Some(offered) = state.offered.get(node_id) {
            return Ok(Some(offered.clone()));
        }
        let credential = Secret::new(random::token()?);
        let (node_id, group) = (node_id.clone(), group.clone());
        let digest = sha256(credential.expose().as_bytes());
        state.offered.insert(node_id.clone(), credential.clone());
        state.by_digest.insert(digest, Holder { node_id, group, is_in_force: false });
        Ok(Some(credential))
    }

    /// The node has presented the credential, which is stored now. Returns whether that is new.
    pub fn put_in_force(&self, now: Instant, digest: &Digest) -> bool {
        let mut state = lock(&self.0);
        let State { by_digest, in_force, offered } = &mut *state;
        let Some(holder) = by_digest.get_mut(digest) else { return false };
        let was_in_force = std::mem::replace(&mut holder.is_in_force, true);
        offered.remove(&holder.node_id);
        let entry = InForce { digest: *digest, since: now };
        in_force.entry(holder.node_id.clone()).or_insert(entry);
        !was_in_force
    }

    /// The node may connect with a join token again.
    pub fn forget(&self, node_id: &str) {
        let mut state = lock(&self.0);
        let offered = state.offered.remove(node_id);
        let offered = offered.map(|credential| sha256(credential.expose().as_bytes()));
        let in_force = state.in_force.remove(node_id).map(|it| it.digest);
        for digest in offered.iter().chain(&in_force) {
            state.by_digest.remove(digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credential_is_in_force_once_it_was_presented() {
        let (credentials, now) = (Credentials::default(), Instant::now());
        let (node_id, group) = (Arc::<str>::from("a"), Some(Arc::<str>::from("blue")));
        let offered = credentials.offer(&node_id, &group).unwrap().unwrap();
        assert_eq!(credentials.offer(&node_id, &group).unwrap(), Some(offered.clone()));
        assert_eq!(credentials.in_force_since("a"), None);
        let holder = credentials.holder(offered.expose()).unwrap();
        assert_eq!(holder, Holder { node_id: node_id.clone(), group, is_in_force: false });
        credentials.put_in_force(now, &sha256(offered.expose().as_bytes()));
        assert_eq!(credentials.in_force_since("a"), Some(now));
        assert!(credentials.holder(offered.expose()).unwrap().is_in_force);
        assert_eq!(credentials.offer(&node_id, &None).unwrap(), None);
        credentials.forget("a");
        assert_eq!(
            (credentials.holder(offered.expose()), credentials.in_force_since("a")),
            (None, None)
        );
        assert_ne!(credentials.offer(&node_id, &None).unwrap(), Some(offered));
    }

    #[test]
    fn stored_credentials_are_in_force() {
        let digest = sha256(b"c");
        let stored = StoredCredential { node_id: "a".into(), digest, group: None };
        let credentials = Credentials::new(Instant::now(), [stored]);
        assert!(credentials.holder("c").is_some_and(|holder| holder.is_in_force));
        assert!(credentials.in_force_since("a").is_some());
        assert_eq!(credentials.holder("d"), None);
    }
}
