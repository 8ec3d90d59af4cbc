//! TLS to servers: the certificate authorities of `SSL_CERT_FILE` and `SSL_CERT_DIR` or else of the system's bundle, Mozilla's
//! built-in ones where the system has no bundle, and those of `tls.ca_file` in addition.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, ClientConfig, Error, RootCertStore};
use rustls_native_certs::{CertificateResult, load_certs_from_paths};

use crate::net::disconnect::DisconnectReason;
use crate::util::error::reason;
use crate::util::logger::utc;

/// Bundles of Linux distributions, as in the crate openssl-probe.
const BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt", // Debian, Ubuntu, Arch, Alpine
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // RHEL 7 and later
    "/etc/pki/tls/certs/ca-bundle.crt",   // Fedora
    "/etc/ssl/ca-bundle.pem",             // SUSE
    "/etc/pki/tls/cacert.pem",            // OpenELEC
    "/etc/ssl/cert.pem",                  // Alpine
];

/// Reads the certificate authorities and builds the configuration for one connection. It is not shared between
/// connections, and sessions are not resumed, so that renewed bundles and removed authorities take effect with the next
/// connection. The error names the wrong file and the setting or variable.
pub fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = SystemRoots::from_environment().load()?;
    add_ca_file(&mut roots, ca_file)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Whether `tls.ca_file` can be used.
pub fn check_ca_file(ca_file: Option<&Path>) -> Result<(), String> {
    add_ca_file(&mut RootCertStore::empty(), ca_file)
}

/// Classifies an error of a handshake. An error of TLS itself needs an operator; a broken connection, for example while a
/// server restarts, does not.
pub fn disconnect_reason(error: &io::Error) -> DisconnectReason {
    match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(why)) => DisconnectReason::Tls(describe(why)),
        Some(error) => DisconnectReason::Tls(error.to_string()),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            DisconnectReason::Lost("closed during the TLS handshake".to_owned())
        }
        None => DisconnectReason::Lost(reason(error)),
    }
}

fn add_ca_file(roots: &mut RootCertStore, ca_file: Option<&Path>) -> Result<(), String> {
    let Some(path) = ca_file else { return Ok(()) };
    add_pem_file(roots, path).map_err(|why| format!("tls.ca_file: {why}"))
}

/// Where the system's certificate authorities are read from.
struct SystemRoots {
    /// `SSL_CERT_FILE`.
    file: Option<PathBuf>,
    /// `SSL_CERT_DIR`, separated by colons.
    directories: Vec<PathBuf>,
    /// The distribution's bundle, used when neither variable is set. Its directory is not: every file in it would become a
    /// trust anchor, the certificates of this machine's servers included.
    bundle: Option<PathBuf>,
}

impl SystemRoots {
    /// Empty variables are ignored.
    fn from_environment() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let directories = variable("SSL_CERT_DIR").unwrap_or_default();
        Self {
            file: variable("SSL_CERT_FILE").map(PathBuf::from),
            directories: std::env::split_paths(&directories)
                .filter(|path| !path.as_os_str().is_empty())
                .collect(),
            bundle: BUNDLES.iter().map(PathBuf::from).find(|path| path.exists()),
        }
    }

    /// An error means that a variable is wrong; the built-in authorities would hide that. They are used only where the
    /// system has no bundle.
    fn load(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = &self.file {
            add_pem_file(&mut roots, path).map_err(|why| format!("SSL_CERT_FILE: {why}"))?;
        }
        for path in &self.directories {
            add_parsable(&mut roots, load_certs_from_paths(None, Some(path)));
        }
        match &self.bundle {
            _ if !roots.is_empty() => {}
            _ if !self.directories.is_empty() => {
                return Err("SSL_CERT_DIR: no certificate found".to_owned());
            }
            Some(path) => add_parsable(&mut roots, load_certs_from_paths(Some(path), None)),
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        }
        Ok(roots)
    }
}

/// Bundles contain a few certificates that rustls cannot parse. Other errors are logged once, not with each connection.
fn add_parsable(roots: &mut RootCertStore, loaded: CertificateResult) {
    static LOGGED: Once = Once::new();
    roots.add_parsable_certificates(loaded.certs);
    if !loaded.errors.is_empty() {
        LOGGED.call_once(|| {
            for error in &loaded.errors {
                log::warn!("read system certificate authorities: {error}");
            }
        });
    }
}

fn add_pem_file(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let fail = |error| format!("{}: {error}", path.display());
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<_, _>>)
        .map_err(fail)?;
    match roots.add_parsable_certificates(certificates) {
        (0, _) => Err(format!("{} contains no certificate", path.display())),
        _ => Ok(()),
    }
}

/// As rustls describes it, but with readable times. A wrong clock on this machine is as likely as a wrong certificate.
fn describe(why: &CertificateError) -> String {
    use CertificateError::{ExpiredContext, NotValidYetContext};
    match why {
        ExpiredContext { time, not_after } => {
            let (now, end) = (utc(time.as_secs()), utc(not_after.as_secs()));
            format!("invalid peer certificate: expired at {end}; local clock is {now}")
        }
        NotValidYetContext { time, not_before } => {
            let (now, start) = (utc(time.as_secs()), utc(not_before.as_secs()));
            format!("invalid peer certificate: not valid before {start}; local clock is {now}")
        }
        why => Error::InvalidCertificate(why.clone()).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Dir(PathBuf);

    impl Dir {
        /// With the certificates `one.pem`, `two.pem`, and `broken.pem`, which contains none.
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("hm-tls-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            for name in ["one", "two"] {
                let key = rcgen::KeyPair::generate().unwrap();
                let params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
                let certificate = params.self_signed(&key).unwrap();
                fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
            }
            fs::write(dir.join("broken.pem"), "not a certificate").unwrap();
            Self(dir)
        }

        fn file(&self, name: &str) -> Option<PathBuf> {
            Some(self.0.join(name))
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn count(file: Option<PathBuf>, directories: &[PathBuf], bundle: Option<PathBuf>) -> usize {
        load(file, directories, bundle).unwrap()
    }

    fn load(
        file: Option<PathBuf>,
        directories: &[PathBuf],
        bundle: Option<PathBuf>,
    ) -> Result<usize, String> {
        let directories = directories.to_vec();
        SystemRoots { file, directories, bundle }.load().map(|roots| roots.len())
    }

    #[test]
    fn uses_variables_or_bundle_or_built_in_authorities() {
        let dir = Dir::new("sources");
        let built_in = webpki_roots::TLS_SERVER_ROOTS.len();
        assert_eq!(count(None, &[], None), built_in);
        assert_eq!(count(None, &[], dir.file("one.pem")), 1, "not its whole directory");
        assert_eq!(count(None, &[], dir.file("broken.pem")), 0, "not the built-in ones");
        assert_eq!(count(dir.file("two.pem"), &[], dir.file("one.pem")), 1);
        let directories = [dir.0.clone()];
        assert_eq!(count(None, &directories, dir.file("one.pem")), 2);
        let missing = [dir.0.join("missing"), dir.0.clone()];
        assert_eq!(count(dir.file("one.pem"), &missing, None), 3);
    }

    #[test]
    fn wrong_variables_are_errors_not_built_in_authorities() {
        let dir = Dir::new("errors");
        let one = || dir.file("one.pem");
        let error = load(dir.file("missing.pem"), &[], one()).unwrap_err();
        assert!(error.starts_with("SSL_CERT_FILE: ") && error.contains("missing.pem"), "{error}");
        let error = load(dir.file("broken.pem"), &[], one()).unwrap_err();
        assert!(error.ends_with("broken.pem contains no certificate"), "{error}");
        let error = load(None, &[dir.0.join("missing")], one()).unwrap_err();
        assert_eq!(error, "SSL_CERT_DIR: no certificate found");
    }
}
