//! The settings of TLS.

use std::sync::Arc;

use crate::config::{Settings, tls_files};
use crate::http::tls::TlsAcceptor;
use crate::util::error::Error;

/// Which ports have TLS, and with what.
#[derive(Debug)]
pub struct HubTls {
    /// `None`: no port has TLS.
    pub acceptor: Option<Arc<TlsAcceptor>>,
    pub hm: bool,
    pub core: bool,
    pub web: bool,
}

impl HubTls {
    /// Reads the files.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let acceptor = match tls_files(settings, "tls.")? {
            None => None,
            Some(files) => Some(Arc::new(TlsAcceptor::new(files).map_err(|error| {
                settings.invalid(&format!("tls.{}", error.setting), &error.why)
            })?)),
        };
        Ok(Self {
            acceptor,
            hm: is_enabled(settings, "hm.tls")?,
            core: is_enabled(settings, "core.tls")?,
            web: is_enabled(settings, "web.tls")?,
        })
    }
}

/// Whether a port has TLS, by its setting. Reads no file, some of which only the hub's user can read.
pub fn is_enabled(settings: &Settings, key: &str) -> Result<bool, Error> {
    let has_certificate = settings.text("tls.certificate_file").is_some();
    if settings.is_default(key) {
        return Ok(has_certificate);
    }
    match (settings.flag(key), has_certificate) {
        (true, false) => {
            Err(settings
                .invalid(key, "needs tls.certificate_file and tls.key_file, which are not set"))
        }
        (is_enabled, _) => Ok(is_enabled),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;
    use crate::hub::config::SCHEMA;

    fn with(overrides: &[(&str, &str)]) -> Result<[bool; 3], String> {
        let overrides = overrides.iter().map(|(key, value)| ((*key).into(), (*value).into()));
        let overrides = overrides.collect();
        let sources = Sources { schema: &SCHEMA, overrides, ..Default::default() };
        let settings = Settings::load(&sources).map_err(|error| error.to_string())?;
        let flags = ["hm.tls", "core.tls", "web.tls"].map(|key| is_enabled(&settings, key));
        let [hm, core, web] = flags.map(|flag| flag.map_err(|error| error.to_string()));
        tls_files(&settings, "tls.").map_err(|error| error.to_string())?;
        Ok([hm?, core?, web?])
    }

    #[test]
    fn certificate_enables_tls_unless_a_port_stays_plain() {
        let files = [("tls.certificate_file", "/c"), ("tls.key_file", "/k")];
        assert_eq!(with(&[]), Ok([false; 3]));
        assert_eq!(with(&files), Ok([true; 3]));
        let [certificate, key] = files;
        assert_eq!(with(&[certificate, key, ("core.tls", "false")]), Ok([true, false, true]));
        assert_eq!(with(&[("hm.tls", "false")]), Ok([false; 3]));
    }

    #[test]
    fn incomplete_settings_are_errors() {
        for (overrides, expected) in [
            (&[("web.tls", "true")][..], "web.tls: needs tls.certificate_file and tls.key_file"),
            (&[("tls.certificate_file", "/c")], "tls.certificate_file: needs tls.key_file"),
            (&[("tls.key_file", "/k")], "tls.key_file: needs tls.certificate_file"),
            (&[("tls.client_ca_file", "/a")], "tls.client_ca_file: needs tls.certificate_file"),
        ] {
            let error = with(overrides).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
