//! TLS to servers: the certificate authorities of `SSL_CERT_FILE` and `SSL_CERT_DIR` or else of the system's bundle, Mozilla's
//! built-in ones where the system has no bundle, and those of `tls.ca_file` in addition.

mod errors;
pub mod own_port;
mod pem_files;
mod roots;

use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};

pub use crate::net::tls::errors::disconnect_reason;
pub use crate::net::tls::pem_files::{read_certificates, read_private_key};
pub use crate::net::tls::roots::{
    authorities_of, authorities_with, check_authorities, check_ca_file,
};

/// Reads the certificate authorities and builds the configuration for one connection. It is not shared between
/// connections, and sessions are not resumed, so that renewed bundles and removed authorities take effect with the next
/// connection. The error names the wrong file and the setting or variable.
pub fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    client_config_with(roots::load(ca_file)?)
}

/// The configuration with these certificate authorities.
pub fn client_config_with(roots: RootCertStore) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}
