//! TLS towards servers: the system's certificate authorities where there are any, built-in ones otherwise, and
//! those of `tls.ca_file` in any case. Certificates are always verified.

mod provider;
mod verifier;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use verifier::Verifier;

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
    // They are read for each handshake; this is to know now whether they can be.
    let trusted = roots(ca_file)?;
    match trusted.system {
        Ok(Some((count, path))) => {
            log::debug!("{count} certificate authorities from {}", path.display());
        }
        Ok(None) => log::debug!("no certificate authorities here; built-in ones are used"),
        Err(why) => log::warn!("{why}; built-in certificate authorities are used"),
    }
    let verifier = Verifier { ca_file: ca_file.map(Path::to_owned) };
    let config = ClientConfig::builder_with_provider(Arc::new(provider::provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous() // rustls calls every verifier so that is not its own
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Whom we trust.
struct Roots {
    store: RootCertStore,
    /// How many are the system's and from which file, or why they are not used.
    system: Result<Option<(usize, PathBuf)>, String>,
}

/// Reads the files. The error is of `tls.ca_file`, which must be good; a system's damaged file is as good as none.
fn roots(ca_file: Option<&Path>) -> Result<Roots, String> {
    let mut store = RootCertStore::empty();
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let path = named.into_iter().chain(SYSTEM.map(PathBuf::from)).find(|path| path.exists());
    let system = path.map(|path| Ok((add(&mut store, &path)?, path))).transpose();
    if store.is_empty() {
        store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(path) = ca_file {
        match add(&mut store, path) {
            Ok(0) => return Err(format!("tls.ca_file: {} holds no certificate", path.display())),
            Ok(_) => {}
            Err(why) => return Err(format!("tls.ca_file: {why}")),
        }
    }
    Ok(Roots { store, system })
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
