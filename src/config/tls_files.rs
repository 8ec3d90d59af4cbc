//! Files of certificates: of ports with TLS, and of authorities for outgoing connections.

use std::path::PathBuf;

use crate::config::layers::Settings;
use crate::http::tls::TlsFiles;
use crate::net::tls::check_ca_file;
use crate::util::error::Error;

/// The files of the settings `PREFIXcertificate_file`, `PREFIXkey_file` and `PREFIXclient_ca_file`; `None`: the port has no TLS. Reads no
/// file, some of which only the server's user can read.
pub fn tls_files(settings: &Settings, prefix: &str) -> Result<Option<TlsFiles>, Error> {
    let name = |file: &str| format!("{prefix}{file}_file");
    let [certificate_file, key_file, client_ca_file] =
        ["certificate", "key", "client_ca"].map(name);
    let path = |name: &str| settings.parsed::<PathBuf>(name);
    let client_ca = path(&client_ca_file);
    match (path(&certificate_file), path(&key_file)) {
        (Some(certificate), Some(key)) => Ok(Some(TlsFiles { certificate, key, client_ca })),
        (Some(_), None) => Err(settings.invalid(&certificate_file, &format!("needs {key_file}"))),
        (None, Some(_)) => Err(settings.invalid(&key_file, &format!("needs {certificate_file}"))),
        (None, None) if client_ca.is_some() => {
            let why = format!("needs {certificate_file} and {key_file}");
            Err(settings.invalid(&client_ca_file, &why))
        }
        (None, None) => Ok(None),
    }
}

/// Each connection reads the file again. Reading it here reports a wrong one.
pub(super) fn ca_file(settings: &Settings) -> Result<Option<PathBuf>, Error> {
    let path: Option<PathBuf> = settings.parsed("tls.ca_file");
    if let Some(path) = &path {
        check_ca_file(path).map_err(|why| settings.invalid("tls.ca_file", &why))?;
    }
    Ok(path)
}
