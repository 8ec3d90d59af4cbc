//! Credentials that hubs have given to this node: `hub-credentials.json` in `state_dir`. The connections to one host share one. It is used
//! once it is on disk: a node that could not keep its credential would be refused after a restart.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::config::Secret;
use crate::util::error::reason;
use crate::util::state_dir;
use crate::util::state_io::StateIo;
use crate::util::sync::lock;

const FILE_NAME: &str = "hub-credentials.json";
const MAX_FILE_BYTES: u64 = 64 << 10;

pub struct Credentials {
    node_id: String,
    path: PathBuf,
    state: StateIo,
    /// By host.
    by_host: Arc<Mutex<BTreeMap<String, Secret>>>,
}

#[derive(Serialize, Deserialize)]
struct SavedCredential {
    host: String,
    /// A node that gets another id needs another credential.
    node_id: String,
    credential: String,
}

impl Credentials {
    /// Reads the file.
    pub fn open(state: &StateIo, node_id: &str) -> Self {
        let path = state.directory().join(FILE_NAME);
        let file = path.clone();
        let saved = match state.read(move || read(&file)) {
            Ok(saved) => saved,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                let path = path.display();
                log::warn!("read {path}: {}; the hub gets the token instead", reason(&error));
                Vec::new()
            }
        };
        let own = saved.into_iter().filter(|saved| saved.node_id == node_id);
        let by_host = own.map(|saved| (saved.host, Secret::new(saved.credential))).collect();
        let (node_id, by_host) = (node_id.to_owned(), Arc::new(Mutex::new(by_host)));
        Self { node_id, path, state: state.clone(), by_host }
    }

    pub fn get(&self, host: &str) -> Option<Secret> {
        lock(&self.by_host).get(host).cloned()
    }

    /// Keeps a credential instead of an earlier one of this host. Does not wait for the disk; `on_kept` is called when it is written.
    pub fn keep(&self, host: &str, credential: Secret, on_kept: impl FnOnce() + Send + 'static) {
        let (host, node_id) = (host.to_owned(), self.node_id.clone());
        let (path, shared) = (self.path.clone(), self.by_host.clone());
        self.state.submit(move |prepared| {
            // Jobs run one after the other: none of several hosts is lost.
            let mut by_host = lock(&shared).clone();
            by_host.insert(host, credential);
            match prepared.and_then(|()| write(&path, &node_id, &by_host)) {
                Ok(()) => {
                    *lock(&shared) = by_host;
                    on_kept();
                }
                Err(error) => log::warn!(
                    "write {}: {}; the hub gets the token instead, see state_dir",
                    path.display(),
                    reason(&error)
                ),
            }
        });
    }
}

fn read(path: &Path) -> io::Result<Vec<SavedCredential>> {
    let mut text = Vec::new();
    state_dir::open_file(path)?.take(MAX_FILE_BYTES).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Replaces the file atomically.
fn write(path: &Path, node_id: &str, by_host: &BTreeMap<String, Secret>) -> io::Result<()> {
    let saved = by_host.iter().map(|(host, credential)| SavedCredential {
        host: host.clone(),
        node_id: node_id.to_owned(),
        credential: credential.expose().to_owned(),
    });
    let text = serde_json::to_vec(&saved.collect::<Vec<_>>())?;
    let new = path.with_extension("json.new");
    let mut file = state_dir::create_file(&new, 0o600)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), state_dir::sync_dir)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::util::state_io::tests::Dir;

    #[test]
    fn credential_is_kept_for_its_host_and_node() {
        let temp = Dir::new("credentials");
        let credentials = Credentials::open(&temp.state, "n");
        let kept = Arc::new(Mutex::new(false));
        let on_kept = kept.clone();
        credentials.keep("a", Secret::new("c1".into()), move || *lock(&on_kept) = true);
        temp.flush();
        assert!(*lock(&kept));
        credentials.keep("b", Secret::new("c2".into()), || {});
        temp.flush();
        let mode = fs::metadata(&credentials.path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        let get = |node_id: &str, host: &str| {
            let credential = Credentials::open(&temp.state, node_id).get(host);
            credential.map(|credential| credential.expose().to_owned())
        };
        assert_eq!(get("n", "a").as_deref(), Some("c1"));
        assert_eq!(get("n", "b").as_deref(), Some("c2"));
        assert_eq!((get("n", "c"), get("other", "a")), (None, None));
    }

    #[test]
    fn damaged_file_is_no_credential() {
        let temp = Dir::new("credentials");
        fs::create_dir_all(temp.state.directory()).unwrap();
        fs::write(temp.state.directory().join(FILE_NAME), "[{").unwrap();
        let credentials = Credentials::open(&temp.state, "n");
        assert!(credentials.get("a").is_none());
        credentials.keep("a", Secret::new("c".into()), || {});
        temp.flush();
        assert!(Credentials::open(&temp.state, "n").get("a").is_some());
    }
}
