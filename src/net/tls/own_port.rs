//! TLS to a port of this machine whose certificate file is known, for the subcommands. The server is verified: its certificate must be
//! valid for one of the names in the file, and signed by a certificate of the file, such as that of an intermediate authority, or by an
//! authority of the system.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, ClientConnection, Error as TlsError, StreamOwned};
use webpki::EndEntityCert;

use crate::net::disconnect::DisconnectReason;
use crate::net::tls::{
    authorities_with, client_config, disconnect_reason, read_certificates, read_private_key,
};

/// Which file is wrong, by the last part of its setting, such as `key_file`, and why.
pub type FileError = (&'static str, String);

const CERTIFICATE: &str = "certificate_file";

/// How to verify a port of this machine.
#[derive(Debug)]
pub struct PortTls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    /// `None`: it is not known, and only authorities of the system count.
    certificate_file: Option<PathBuf>,
    /// The server's own certificate is presented to it.
    has_client_certificate: bool,
}

impl PortTls {
    /// `key_file`: that of a server that requires certificates of clients.
    pub fn new(
        certificate_file: &Path,
        key_file: Option<&Path>,
        address: SocketAddr,
    ) -> Result<Self, FileError> {
        let wrong = |why: String| (CERTIFICATE, why);
        let chain = read_certificates(certificate_file).map_err(wrong)?;
        let name = name_of(certificate_file, &chain, address).map_err(wrong)?;
        let config = config_with(certificate_file, chain, key_file)?;
        let certificate_file = Some(certificate_file.to_owned());
        Ok(Self { config, name, certificate_file, has_client_certificate: key_file.is_some() })
    }

    /// Verifies a server by its host name, and by the authorities of the system.
    pub fn of_host(host: &str) -> Result<Self, String> {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let config = client_config(None)?;
        Ok(Self { config, name, certificate_file: None, has_client_certificate: false })
    }

    pub fn connect<S: Read + Write>(
        &self,
        socket: S,
    ) -> io::Result<StreamOwned<ClientConnection, S>> {
        let connection = ClientConnection::new(self.config.clone(), self.name.clone());
        Ok(StreamOwned::new(connection.map_err(io::Error::other)?, socket))
    }

    /// Says what the operator can do.
    pub fn explain(&self, error: io::Error) -> io::Error {
        let Some(tls) = error.get_ref().and_then(|error| error.downcast_ref::<TlsError>()) else {
            return error;
        };
        io::Error::other(match (tls, &self.certificate_file) {
            (TlsError::InvalidCertificate(CertificateError::UnknownIssuer), Some(file)) => format!(
                "the authority of the server's certificate is unknown: append the authority's certificate to {}, or set SSL_CERT_FILE",
                file.display()
            ),
            (TlsError::AlertReceived(_), Some(file)) if self.has_client_certificate => format!(
                "{tls}: the server requires certificates of its client_ca_file, and does not accept its own, {}",
                file.display()
            ),
            (TlsError::InvalidMessage(_), Some(_)) => {
                format!(
                    "{tls}: the server does not use TLS here; is it running with these settings?"
                )
            }
            _ => match disconnect_reason(&error) {
                DisconnectReason::Tls(why) => why,
                other => other.to_string(),
            },
        })
    }
}

/// Trusts the authorities of the system and the certificates of the file. With `key_file`, the first certificate is presented as that of the
/// client.
pub fn config_with(
    certificate_file: &Path,
    chain: Vec<CertificateDer<'static>>,
    key_file: Option<&Path>,
) -> Result<Arc<ClientConfig>, FileError> {
    let wrong = |why: String| (CERTIFICATE, why);
    let roots = authorities_with(CERTIFICATE, certificate_file).map_err(wrong)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?
        .with_root_certificates(roots);
    let config = match key_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let wrong = |why| ("key_file", why);
            let key = read_private_key(path).map_err(wrong)?;
            builder.with_client_auth_cert(chain, key).map_err(|error| wrong(error.to_string()))?
        }
    };
    Ok(Arc::new(config))
}

/// The address of the port if the certificate has it, else the certificate's first DNS name.
fn name_of(
    file: &Path,
    chain: &[CertificateDer<'_>],
    address: SocketAddr,
) -> Result<ServerName<'static>, String> {
    let invalid = |why: &dyn std::fmt::Display| format!("{}: {why}", file.display());
    let Some(first) = chain.first() else { return Err(invalid(&"has no certificate")) };
    let certificate = EndEntityCert::try_from(first).map_err(|error| invalid(&error))?;
    let ip = ServerName::from(address.ip());
    if certificate.verify_is_valid_for_subject_name(&ip).is_ok() {
        return Ok(ip);
    }
    let name =
        certificate.valid_dns_names().next().and_then(|name| ServerName::try_from(name).ok());
    name.map(|name| name.to_owned()).ok_or_else(|| {
        invalid(&format!(
            "the certificate has neither a DNS name without \"*\" nor {}",
            address.ip()
        ))
    })
}
