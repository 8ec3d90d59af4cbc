//! TLS towards servers: the system's certificate authorities where there are any, built-in ones otherwise, and
//! those of `tls.ca_file` in any case. Certificates are always verified.

pub mod provider;
pub mod verifier;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use rustls::{CertificateError, ClientConfig, Error, RootCertStore};

use crate::net::tls::verifier::Verifier;

use crate::net::reconnect::DisconnectReason;
use crate::util::error::reason;
use crate::util::logger::utc;

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
    let trusted = roots(ca_file, &[])?;
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

/// Why there is no TLS, of an error of a handshake. What rustls has found will not mend itself soon; that the connection
/// broke, as it does when a server is started again, will.
pub fn outage(error: &io::Error) -> DisconnectReason {
    let found = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
    match found {
        Some(Error::InvalidCertificate(why)) => DisconnectReason::Tls(refusal(why)),
        Some(error) => DisconnectReason::Tls(error.to_string()),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            DisconnectReason::Tls("the server closed the connection".to_owned())
        }
        None => DisconnectReason::Lost(reason(error)),
    }
}

/// What is wrong with a certificate. Nobody reads times as rustls writes them, and as often as the certificate it is this
/// machine's clock that is wrong.
fn refusal(why: &CertificateError) -> String {
    use CertificateError::{ExpiredContext, NotValidYetContext};
    let what = "invalid peer certificate";
    match why {
        ExpiredContext { time, not_after } => {
            let (now, end) = (utc(time.as_secs()), utc(not_after.as_secs()));
            format!("{what}: it has expired at {end}; the clock here shows {now}")
        }
        NotValidYetContext { time, not_before } => {
            let (now, begin) = (utc(time.as_secs()), utc(not_before.as_secs()));
            format!("{what}: it is not valid before {begin}; the clock here shows {now}")
        }
        why => Error::InvalidCertificate(why.clone()).to_string(),
    }
}

/// Whom we trust.
struct Roots {
    store: RootCertStore,
    /// How many are the system's and from which file, or why they are not used.
    system: Result<Option<(usize, PathBuf)>, String>,
}

/// Reads the files, and keeps of the authorities in them only those with one of these names, as certificates have them: a
/// hundred and fifty that nobody asks for would take 0.3 MB. The error is of `tls.ca_file`, which must be good; a system's
/// damaged file is as good as none.
fn roots(ca_file: Option<&Path>, names: &[&[u8]]) -> Result<Roots, String> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let path = named.into_iter().chain(SYSTEM.map(PathBuf::from)).find(|path| path.exists());
    let system = path.map(|path| Ok((read(&path, names)?, path))).transpose();
    let (mut anchors, system) = match system {
        Ok(Some(((found, anchors), path))) if found > 0 => (anchors, Ok(Some((found, path)))),
        other => {
            let built_in = webpki_roots::TLS_SERVER_ROOTS.iter();
            let wanted = built_in.filter(|anchor| names.contains(&&*anchor.subject));
            (wanted.cloned().collect(), other.map(|_| None))
        }
    };
    if let Some(path) = ca_file {
        match read(path, names) {
            Ok((0, _)) => {
                return Err(format!("tls.ca_file: {} holds no certificate", path.display()));
            }
            Ok((_, more)) => anchors.extend(more),
            Err(why) => return Err(format!("tls.ca_file: {why}")),
        }
    }
    Ok(Roots { store: RootCertStore { roots: anchors }, system })
}

/// How many authorities a file has, and those with one of these names.
fn read(path: &Path, names: &[&[u8]]) -> Result<(usize, Vec<TrustAnchor<'static>>), String> {
    let wrong = |error| format!("{}: {error}", path.display());
    let (mut found, mut wanted) = (0, Vec::new());
    for certificate in CertificateDer::pem_file_iter(path).map_err(wrong)? {
        let certificate = certificate.map_err(wrong)?;
        // Bundles hold a few that are too old to be understood; the others are good.
        let Ok(anchor) = webpki::anchor_from_trusted_cert(&certificate) else { continue };
        found += 1;
        if names.contains(&&*anchor.subject) {
            wanted.push(anchor.to_owned());
        }
    }
    Ok((found, wanted))
}
