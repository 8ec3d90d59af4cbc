//! Credentials that hubs have given to this node: `hub-credentials.json` in `state_dir`. The connections to one host share them. One is used
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
/// Hubs that take turns under one name have a credential each. With more, the oldest is dropped.
const MAX_PER_HOST: usize = 4;

pub struct HubCredentials {
    node_id: String,
    path: PathBuf,
    state: StateIo,
    known: Arc<Mutex<Known>>,
}

#[derive(Clone, Default)]
struct Known {
    /// By host, newest first.
    by_host: BTreeMap<String, Vec<Secret>>,
    /// Those of other node ids, which this node may have again.
    others: Vec<SavedCredential>,
}

#[derive(Clone, Serialize, Deserialize)]
struct SavedCredential {
    host: String,
    /// A node that gets another id needs another credential.
    node_id: String,
    credential: String,
}

impl HubCredentials {
    /// Reads the file.
    pub fn open(state: &StateIo, node_id: &str) -> Self {
        let path = state.directory().join(FILE_NAME);
        let file = path.clone();
        let saved = match state.read(move || read(&file)) {
            Ok(saved) => saved,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                state.set_aside(&path, &format!("is damaged ({})", reason(&error)), "credentials");
                Vec::new()
            }
            Err(error) => {
                let path = path.display();
                log::warn!("cannot read {path}: {}; using the token", reason(&error));
                Vec::new()
            }
        };
        let mut known = Known::default();
        for saved in saved {
            match saved.node_id == node_id {
                true => {
                    let of_host = known.by_host.entry(saved.host).or_default();
                    of_host.push(Secret::new(saved.credential));
                }
                false => known.others.push(saved),
            }
        }
        let (node_id, known) = (node_id.to_owned(), Arc::new(Mutex::new(known)));
        Self { node_id, path, state: state.clone(), known }
    }

    /// Newest first.
    pub fn get(&self, host: &str) -> Vec<Secret> {
        lock(&self.known).by_host.get(host).cloned().unwrap_or_default()
    }

    /// Keeps a credential, unless there is one for this host that the hub has not refused. Does not wait for the disk; `on_kept` is called
    /// when it is written.
    pub fn keep(
        &self,
        host: &str,
        credential: Secret,
        refused: Vec<Secret>,
        on_kept: impl FnOnce() + Send + 'static,
    ) {
        let (host, node_id) = (host.to_owned(), self.node_id.clone());
        let (path, shared) = (self.path.clone(), self.known.clone());
        self.state.submit(move |prepared| {
            // Jobs run one after the other: none of several hosts is lost.
            let mut known = lock(&shared).clone();
            let of_host = known.by_host.entry(host).or_default();
            if of_host.iter().any(|credential| !refused.contains(credential)) {
                return;
            }
            of_host.insert(0, credential);
            of_host.truncate(MAX_PER_HOST);
            match prepared.and_then(|()| write(&path, &node_id, &known)) {
                Ok(()) => {
                    *lock(&shared) = known;
                    on_kept();
                }
                Err(error) => log::warn!(
                    "cannot write {}: {}; keeping the token, see state_dir",
                    path.display(),
                    reason(&error)
                ),
            }
        });
    }
}

fn read(path: &Path) -> io::Result<Vec<SavedCredential>> {
    let mut text = Vec::new();
    state_dir::open_file(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(ErrorKind::InvalidData, "file is too large"));
    }
    serde_json::from_slice(&text).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

/// Replaces the file atomically.
fn write(path: &Path, node_id: &str, known: &Known) -> io::Result<()> {
    let mut saved = known.others.clone();
    for (host, credentials) in &known.by_host {
        saved.extend(credentials.iter().map(|credential| SavedCredential {
            host: host.clone(),
            node_id: node_id.to_owned(),
            credential: credential.expose().to_owned(),
        }));
    }
    let new = path.with_extension("json.new");
    let text = serde_json::to_vec(&saved)?;
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

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    fn get(temp: &Dir, node_id: &str, host: &str) -> Vec<String> {
        let credentials = HubCredentials::open(&temp.state, node_id).get(host);
        credentials.iter().map(|credential| credential.expose().to_owned()).collect()
    }

    #[test]
    fn credential_is_kept_for_its_host_and_node() {
        let temp = Dir::new("credentials");
        let credentials = HubCredentials::open(&temp.state, "n");
        let kept = Arc::new(Mutex::new(false));
        let on_kept = kept.clone();
        credentials.keep("a", secret("c1"), Vec::new(), move || *lock(&on_kept) = true);
        credentials.keep("b", secret("c2"), Vec::new(), || {});
        temp.flush();
        assert!(*lock(&kept));
        let mode = fs::metadata(&credentials.path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(get(&temp, "n", "a"), ["c1"]);
        assert_eq!(get(&temp, "n", "b"), ["c2"]);
        assert_eq!((get(&temp, "n", "c").len(), get(&temp, "other", "a").len()), (0, 0));
        // A node that has another id for a while.
        let other = HubCredentials::open(&temp.state, "other");
        other.keep("a", secret("c3"), Vec::new(), || {});
        temp.flush();
        assert_eq!(
            (get(&temp, "n", "a"), get(&temp, "other", "a")),
            (vec!["c1".into()], vec!["c3".into()])
        );
    }

    #[test]
    fn another_credential_is_kept_only_if_the_known_ones_were_refused() {
        let temp = Dir::new("credentials");
        let credentials = HubCredentials::open(&temp.state, "n");
        credentials.keep("a", secret("c1"), Vec::new(), || {});
        credentials.keep("a", secret("c2"), Vec::new(), || {});
        temp.flush();
        assert_eq!(get(&temp, "n", "a"), ["c1"], "the node has two connections");
        credentials.keep("a", secret("c3"), vec![secret("c1")], || {});
        temp.flush();
        assert_eq!(get(&temp, "n", "a"), ["c3", "c1"], "two hubs take turns");
    }

    #[test]
    fn damaged_file_is_set_aside() {
        let temp = Dir::new("credentials");
        fs::create_dir_all(temp.state.directory()).unwrap();
        let path = temp.state.directory().join(FILE_NAME);
        fs::write(&path, "[{").unwrap();
        let credentials = HubCredentials::open(&temp.state, "n");
        assert!(credentials.get("a").is_empty());
        assert!(path.with_extension("json.damaged").exists());
        credentials.keep("a", secret("c"), Vec::new(), || {});
        temp.flush();
        assert_eq!(get(&temp, "n", "a"), ["c"]);
    }
}
