//! TLS towards servers: the system's certificate authorities where there are any, built-in ones otherwise, and
//! those of `tls.ca_file` in any case. Certificates are always verified.

mod provider;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// Where distributions keep the authorities that a system trusts, all in one file.
const SYSTEM: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt", // Debian, Ubuntu, Arch, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",   // Red Hat, CentOS, Fedora
    "/etc/ssl/ca-bundle.pem",             // SUSE
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What clients need. The error says which file is at fault.
pub fn config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let system = named.into_iter().chain(SYSTEM.map(PathBuf::from)).find(|path| path.exists());
    if let Some(path) = system {
        // One that is damaged, or that we may not read, is as good as none.
        match add(&mut roots, &path) {
            Ok(added) => log::debug!("{added} certificate authorities from {}", path.display()),
            Err(why) => log::warn!("{why}; built-in certificate authorities are used"),
        }
    }
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(path) = ca_file {
        match add(&mut roots, path) {
            Ok(0) => return Err(format!("tls.ca_file: {} holds no certificate", path.display())),
            Ok(_) => {}
            Err(why) => return Err(format!("tls.ca_file: {why}")),
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(provider::provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn add(roots: &mut RootCertStore, path: &Path) -> Result<usize, String> {
    let wrong = |error| format!("{}: {error}", path.display());
    let certificates: Vec<CertificateDer<'_>> = CertificateDer::pem_file_iter(path)
        .map_err(wrong)?
        .collect::<Result<_, _>>()
        .map_err(wrong)?;
    // Bundles hold a few that are too old to be understood; the others are good.
    Ok(roots.add_parsable_certificates(certificates).0)
}
