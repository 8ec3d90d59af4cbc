//! The certificate, the key and the authorities of clients of a server.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{Error, InconsistentKeys, ServerConfig};

use crate::net::tls::{authorities_of, read_certificates, read_private_key};

/// The files of the settings `certificate_file`, `key_file` and `client_ca_file`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by those of intermediate authorities.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Clients must present a certificate of one of these authorities. `None`: they need none.
    pub client_ca: Option<PathBuf>,
}

/// Why the files cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub struct TlsFileError {
    /// The last part of the setting's key, such as `key_file`.
    pub setting: &'static str,
    /// Names the file.
    pub why: String,
}

impl fmt::Display for TlsFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// What changes when a file is written or replaced. `None`: the file cannot be found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FileStamp(Option<[i128; 6]>);

impl FileStamp {
    fn of(path: &Path) -> Self {
        let stamp = std::fs::metadata(path).map(|file| {
            let time = |seconds: i64, nanoseconds: i64| {
                i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
            };
            [
                file.dev().into(),
                file.ino().into(),
                file.size().into(),
                file.mode().into(),
                time(file.mtime(), file.mtime_nsec()),
                // A former file that is moved back has an old mtime.
                time(file.ctime(), file.ctime_nsec()),
            ]
        });
        Self(stamp.ok())
    }
}

impl TlsFiles {
    pub(super) fn stamps(&self) -> Vec<FileStamp> {
        [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()]
            .into_iter()
            .flatten()
            .map(|path| FileStamp::of(path))
            .collect()
    }

    /// Reads the files. The error names the one that is wrong.
    pub(super) fn load(&self) -> Result<Arc<ServerConfig>, TlsFileError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let wrong = |setting| move |why: String| TlsFileError { setting, why };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong("certificate_file")(error.to_string()))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let wrong = wrong("client_ca_file");
                let roots = authorities_of(path).map_err(&wrong)?;
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                    .build()
                    .map_err(|error| wrong(format!("{}: {error}", path.display())))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = read_certificates(&self.certificate).map_err(wrong("certificate_file"))?;
        let key = read_private_key(&self.key).map_err(wrong("key_file"))?;
        let mut config =
            builder.with_single_cert(chain, key).map_err(|error| self.describe(&error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // The certificate of a client is verified at every connection, with the authorities of that time.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    fn describe(&self, error: &Error) -> TlsFileError {
        let (certificate, key) = (self.certificate.display(), self.key.display());
        match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsFileError {
                setting: "key_file",
                why: format!("{key} is not the key of the certificate in {certificate}"),
            },
            Error::InvalidCertificate(why) => TlsFileError {
                setting: "certificate_file",
                why: format!("the first certificate in {certificate} is not valid X.509: {why}"),
            },
            error => TlsFileError {
                setting: "key_file",
                why: format!(
                    "cannot use the key in {key}: {error}; RSA of 2048 to 8192 bits, ECDSA P-256 and P-384, and Ed25519 are supported"
                ),
            },
        }
    }
}
