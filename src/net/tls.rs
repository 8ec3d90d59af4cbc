//! TLS to servers: the system's certificate authorities, Mozilla's built-in ones where the system has none, and those of
//! `tls.ca_file` in addition.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, ClientConfig, Error, RootCertStore};

use crate::net::disconnect::DisconnectReason;
use crate::util::error::reason;
use crate::util::logger::utc;

/// Reads the certificate authorities and builds the configuration for one connection. It is not shared between
/// connections, and sessions are not resumed, so that renewed bundles and removed authorities take effect with the next
/// connection. The error names `tls.ca_file`.
pub fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = system_roots();
    if let Some(path) = ca_file {
        add_ca_file(&mut roots, path).map_err(|why| format!("tls.ca_file: {why}"))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Classifies an error of a handshake. An error of TLS itself needs an operator; a broken connection, for example while a
/// server restarts, does not.
pub fn disconnect_reason(error: &io::Error) -> DisconnectReason {
    match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(why)) => DisconnectReason::Tls(describe(why)),
        Some(error) => DisconnectReason::Tls(error.to_string()),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            DisconnectReason::Tls("connection closed by server".to_owned())
        }
        None => DisconnectReason::Lost(reason(error)),
    }
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    // Bundles contain a few certificates that rustls cannot parse.
    let (added, _) = roots.add_parsable_certificates(system.certs);
    if added == 0 {
        for error in &system.errors {
            log::warn!("read system certificate authorities: {error}; using the built-in ones");
        }
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

fn add_ca_file(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
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
