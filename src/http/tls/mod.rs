//! TLS of the ports: rustls with its own `ring` provider and its own verifier, TLS 1.2 and 1.3. The files are read again when
//! they change.

mod files;
mod stream;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ServerConfig;

use crate::http::tls::files::FileStamp;
pub use crate::http::tls::files::{TlsFileError, TlsFiles};
pub use crate::http::tls::stream::{MaybeTlsStream, TlsStream};
use crate::util::sync::{Shutdown, lock};

/// Interval between checks whether the files have changed.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// The TLS configuration of new connections.
#[derive(Debug)]
pub struct TlsAcceptor {
    files: TlsFiles,
    config: Mutex<Arc<ServerConfig>>,
    /// Not the lock of `config`: a handshake must not wait for a disk.
    reload: Mutex<Reload>,
}

#[derive(Debug)]
struct Reload {
    /// Of the files that were read last.
    stamps: Vec<FileStamp>,
    state: ReloadState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReloadState {
    /// The configuration in use is that of the files.
    Current,
    /// The files could not be used at the last check. Only a second one is logged: a renewal may be in progress, which writes one
    /// file after the other.
    Failed,
    /// The same, and a warning was logged.
    Warned,
}

/// Reads files again that have changed, until shutdown.
pub fn watch(acceptors: &[Arc<TlsAcceptor>], shutdown: &Shutdown) {
    while !shutdown.wait(CHECK_INTERVAL) {
        acceptors.iter().for_each(|acceptor| acceptor.reload_if_changed());
    }
}

impl TlsAcceptor {
    pub fn new(files: TlsFiles) -> Result<Self, TlsFileError> {
        // Before the files are read: a change meanwhile is found later.
        let stamps = files.stamps();
        let config = Mutex::new(files.load()?);
        let reload = Mutex::new(Reload { stamps, state: ReloadState::Current });
        Ok(Self { files, config, reload })
    }

    /// The file of the certificate.
    pub fn certificate_file(&self) -> &Path {
        &self.files.certificate
    }

    /// The configuration of a new connection. Never waits for a disk.
    pub fn config(&self) -> Arc<ServerConfig> {
        lock(&self.config).clone()
    }

    /// Reads the files again, unless they are unchanged and in use.
    fn reload_if_changed(&self) {
        let is_changed = {
            let reload = lock(&self.reload);
            reload.state != ReloadState::Current || reload.stamps != self.files.stamps()
        };
        if is_changed {
            self.reload();
        }
    }

    /// Reads the files again. If they cannot be used, the former configuration stays.
    pub fn reload(&self) {
        let mut reload = lock(&self.reload);
        reload.stamps = self.files.stamps();
        let file = self.files.certificate.display();
        reload.state = match (self.files.load(), reload.state) {
            (Ok(config), state) => {
                *lock(&self.config) = config;
                match state {
                    ReloadState::Warned => log::info!("TLS certificate recovered from {file}"),
                    _ => log::info!("TLS certificate reloaded from {file}"),
                }
                ReloadState::Current
            }
            (Err(_), ReloadState::Current) => ReloadState::Failed,
            (Err(error), ReloadState::Failed) => {
                log::warn!("TLS certificate reload failed, keeping previous: {error}");
                ReloadState::Warned
            }
            (Err(_), ReloadState::Warned) => ReloadState::Warned,
        };
    }
}
