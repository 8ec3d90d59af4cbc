//! TLS to the hub on this machine. The hub is verified: its certificate must be valid for one of the names in `tls.certificate_file`,
//! and signed by a certificate of this file, such as that of an intermediate authority, or by an authority of the system.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, ClientConnection, Error as TlsError, StreamOwned};
use webpki::EndEntityCert;

use crate::config::Settings;
use crate::net::disconnect::DisconnectReason;
use crate::net::tls::client_config as client_config_of_system;
use crate::net::tls::{authorities_with, disconnect_reason, read_certificates, read_private_key};
use crate::util::error::Error;

const CERTIFICATE: &str = "tls.certificate_file";

/// How to verify a port of the hub.
pub struct PortTls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    certificate_file: PathBuf,
    /// The hub's own certificate is presented to it.
    has_client_certificate: bool,
}

impl PortTls {
    /// The error names the setting with the wrong file.
    pub fn new(settings: &Settings, address: SocketAddr) -> Result<Self, Error> {
        let file = |key| settings.parsed::<PathBuf>(key);
        let missing = || settings.invalid(CERTIFICATE, "is not set");
        let certificate_file = file(CERTIFICATE).ok_or_else(missing)?;
        let wrong = |why: String| settings.invalid(CERTIFICATE, &why);
        let chain = read_certificates(&certificate_file).map_err(wrong)?;
        let name = name_of(&certificate_file, &chain, address).map_err(wrong)?;
        let has_client_certificate = file("tls.client_ca_file").is_some();
        let key = file("tls.key_file").filter(|_| has_client_certificate);
        let config = client_config(&certificate_file, chain, key.as_deref())
            .map_err(|(key, why)| settings.invalid(key, &why))?;
        Ok(Self { config, name, certificate_file, has_client_certificate })
    }

    pub fn connect(
        &self,
        socket: TcpStream,
    ) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let connection = ClientConnection::new(self.config.clone(), self.name.clone());
        Ok(StreamOwned::new(connection.map_err(io::Error::other)?, socket))
    }

    /// Says what the operator can do.
    pub fn explain(&self, error: io::Error) -> io::Error {
        let file = self.certificate_file.display();
        let Some(tls) = error.get_ref().and_then(|error| error.downcast_ref::<TlsError>()) else {
            return error;
        };
        io::Error::other(match tls {
            TlsError::InvalidCertificate(CertificateError::UnknownIssuer) => format!(
                "the authority of the hub's certificate is unknown: append the authority's certificate to {file}, or set SSL_CERT_FILE"
            ),
            TlsError::AlertReceived(_) if self.has_client_certificate => format!(
                "{tls}: the hub requires certificates of tls.client_ca_file, and does not accept its own, {file}"
            ),
            TlsError::InvalidMessage(_) => {
                format!("{tls}: the hub does not use TLS here; is it running with these settings?")
            }
            _ => match disconnect_reason(&error) {
                DisconnectReason::Tls(why) => why,
                other => other.to_string(),
            },
        })
    }
}

/// For requests to the hubs that share the fleet: they are verified as this hub is, by the authorities of the system and those in
/// `tls.certificate_file`. The error names the setting with the wrong file.
pub fn peer_config(settings: &Settings) -> Result<Arc<ClientConfig>, Error> {
    let file = |key| settings.parsed::<PathBuf>(key);
    let Some(certificate_file) = file(CERTIFICATE) else {
        return client_config_of_system(None).map_err(|why| settings.invalid("hub.url", &why));
    };
    let wrong = |why: String| settings.invalid(CERTIFICATE, &why);
    let chain = read_certificates(&certificate_file).map_err(wrong)?;
    let key = file("tls.key_file").filter(|_| file("tls.client_ca_file").is_some());
    client_config(&certificate_file, chain, key.as_deref())
        .map_err(|(key, why)| settings.invalid(key, &why))
}

/// With `key`, the hub's certificate is presented as that of the client. The error has the setting that is wrong.
fn client_config(
    certificate_file: &Path,
    chain: Vec<CertificateDer<'static>>,
    key: Option<&Path>,
) -> Result<Arc<ClientConfig>, (&'static str, String)> {
    let wrong = |why: String| (CERTIFICATE, why);
    let roots = authorities_with(CERTIFICATE, certificate_file).map_err(wrong)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?
        .with_root_certificates(roots);
    let config = match key {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let wrong = |why| ("tls.key_file", why);
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
