//! TLS to hubs: to the one on this machine, for the subcommands, and to those that share the fleet.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;

use crate::config::Settings;
use crate::net::tls::own_port::{FileError, PortTls, config_with};
use crate::net::tls::{client_config, read_certificates};
use crate::util::error::Error;

const CERTIFICATE: &str = "tls.certificate_file";

/// For a port of the hub on this machine. The error names the setting with the wrong file.
pub fn own_port(settings: &Settings, address: SocketAddr) -> Result<PortTls, Error> {
    let missing = || settings.invalid(CERTIFICATE, "is not set");
    let certificate: PathBuf = settings.parsed(CERTIFICATE).ok_or_else(missing)?;
    let key = client_key(settings);
    PortTls::new(&certificate, key.as_deref(), address).map_err(|why| invalid(settings, &why))
}

/// For requests to the hubs that share the fleet: they are verified as this hub is, by the authorities of the system and those in
/// `tls.certificate_file`. The error names the setting with the wrong file.
pub fn peer_config(settings: &Settings) -> Result<Arc<ClientConfig>, Error> {
    let Some(certificate) = settings.parsed::<PathBuf>(CERTIFICATE) else {
        return client_config(None).map_err(|why| settings.invalid("hub.url", &why));
    };
    let wrong = |why: String| settings.invalid(CERTIFICATE, &why);
    let chain = read_certificates(&certificate).map_err(wrong)?;
    let key = client_key(settings);
    config_with(&certificate, chain, key.as_deref()).map_err(|why| invalid(settings, &why))
}

/// Its key, if a hub requires certificates of clients: it presents its own.
fn client_key(settings: &Settings) -> Option<PathBuf> {
    settings.parsed::<PathBuf>("tls.client_ca_file").and_then(|_| settings.parsed("tls.key_file"))
}

fn invalid(settings: &Settings, (file, why): &FileError) -> Error {
    settings.invalid(&format!("tls.{file}"), why)
}
