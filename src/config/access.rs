//! Which clients have access to the ports, and which users to the secrets.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::config::layers::Settings;
use crate::config::sources::Origin;
use crate::config::value::{Kind, Value, without_query};
use crate::config::{Config, Secret};
use crate::http::tls::TlsFiles;

/// Read permission of other users: inode(7).
const READABLE_BY_OTHERS: u32 = 0o004;

impl Config {
    /// For each open port, whether a token is in force.
    pub fn access(&self) -> Vec<String> {
        let usage = &self.usage;
        let heartbeat = &self.heartbeat;
        let monitor = &self.monitor;
        let ports = [
            ("usage", usage.enabled, usage.listen, &usage.token, &usage.tls),
            ("heartbeat", heartbeat.enabled, heartbeat.listen, &None::<Secret>, &heartbeat.tls),
            ("monitor", monitor.enabled, monitor.listen, &monitor.token, &monitor.tls),
        ];
        let enabled = ports.into_iter().filter(|(_, enabled, ..)| *enabled);
        let access = enabled.map(|(name, _, address, token, tls)| {
            let has_client_ca = tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
            match (token, has_client_ca) {
                (Some(_), true) => format!("{name}: clients need a certificate and a token"),
                (Some(_), false) => format!("{name}: clients need a token"),
                (None, true) => format!("{name}: clients need a certificate"),
                (None, false) => {
                    format!("{name}: no token, every client that reaches {address} has access")
                }
            }
        });
        access.collect()
    }

    /// The open ports with TLS, and their files.
    pub fn tls_ports(&self) -> impl Iterator<Item = (&'static str, &TlsFiles)> {
        let ports = [
            ("usage", self.usage.enabled, &self.usage.tls),
            ("heartbeat", self.heartbeat.enabled, &self.heartbeat.tls),
            ("monitor", self.monitor.enabled, &self.monitor.tls),
        ];
        let enabled = ports.into_iter().filter(|(_, is_enabled, _)| *is_enabled);
        enabled.filter_map(|(name, _, files)| Some((name, files.as_ref()?)))
    }
}

impl Settings {
    /// A warning for each file with a secret that every user of the machine can read.
    pub(super) fn exposed_secrets(&self) -> Vec<String> {
        let mut files = BTreeSet::new();
        for row in self.schema.rows {
            match (&row.kind, self.value(row.key)) {
                (Kind::SecretFile, Some((Value::Text(path), _))) => {
                    files.insert(Path::new(path));
                }
                (Kind::Secret, Some((Value::Text(_), Origin::File(path, _)))) => {
                    files.insert(path);
                }
                (Kind::Url, Some((Value::Text(url), Origin::File(path, _))))
                    if without_query(url) != *url =>
                {
                    files.insert(path);
                }
                (Kind::SecretText { .. }, Some((Value::Text(text), Origin::File(path, _))))
                    if text.contains('@') =>
                {
                    files.insert(path);
                }
                _ => {}
            }
        }
        let is_exposed = |file: &&Path| {
            let metadata = std::fs::metadata(file);
            metadata.is_ok_and(|file| file.is_file() && file.mode() & READABLE_BY_OTHERS != 0)
        };
        let warning = |file: &Path| {
            let file = file.display();
            format!("{file} contains a secret and every user can read it; chmod o-rwx {file}")
        };
        files.into_iter().filter(is_exposed).map(warning).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;
    use std::os::unix::fs::PermissionsExt;

    fn warnings(text: &str, mode: u32, overrides: &[(&str, &str)]) -> Vec<String> {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("hm-agent-access-{}-{number}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let overrides = overrides
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.replace("FILE", path.to_str().unwrap())))
            .collect();
        let sources = Sources { file: Some(path.clone()), overrides, ..Default::default() };
        let warnings = Settings::load(&sources).unwrap().warnings;
        std::fs::remove_file(&path).unwrap();
        warnings
    }

    #[test]
    fn warns_of_secrets_that_every_user_can_read() {
        for (text, overrides) in [
            ("[usage]\ntoken = \"s3cret\"", &[][..]),
            ("[core]\ntoken = \"s3cret\"", &[]),
            ("[hm]\nurl = \"ws://h/?token=s3cret\"", &[]),
            ("", &[("monitor.token_file", "FILE")]),
        ] {
            let found = warnings(text, 0o644, overrides);
            assert!(found.len() == 1 && found[0].contains("every user can read it"), "{found:?}");
            assert!(!found[0].contains("s3cret"), "{found:?}");
            assert_eq!(warnings(text, 0o640, overrides), [""; 0], "{text}");
        }
    }

    #[test]
    fn public_settings_may_be_readable() {
        for text in ["", "interval = 1", "[hm]\nurl = \"ws://h/\""] {
            assert_eq!(warnings(text, 0o644, &[("usage.token", "x")]), [""; 0], "{text}");
        }
    }
}
