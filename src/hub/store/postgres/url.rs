//! The address of the database: `postgres://USER:PASSWORD@HOST:PORT/NAME?PARAMETERS`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use rustls::ClientConfig;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use crate::net::tls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection whose data are not acknowledged for this long ends.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;

/// Where the database is, and how to reach it.
#[derive(Clone)]
pub struct PostgresUrl {
    pub(super) config: Config,
    pub(super) tls: Option<Tls>,
}

/// The server must have a certificate for its name.
#[derive(Clone)]
pub(super) struct Tls {
    /// Authorities; `None`: those of the system.
    pub(super) root_file: Option<PathBuf>,
}

impl PostgresUrl {
    pub fn is_url(text: &str) -> bool {
        text.starts_with("postgres://") || text.starts_with("postgresql://")
    }

    /// Parses a URL. Errors never contain a part of it, which may hold a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
        if let Some((user, _)) = rest.rsplit_once('@')
            && user.contains(['@', '/', '?', '#'])
        {
            return Err("@ / ? and # in a user or password must be percent-encoded".to_owned());
        }
        let (address, query) = text.split_once('?').unwrap_or((text, ""));
        let (mut others, mut mode, mut root_file) = (Vec::new(), None, None);
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match name {
                "sslmode" => mode = Some(value),
                "sslrootcert" => {
                    let path = percent_decode_str(value).decode_utf8_lossy().into_owned();
                    root_file = Some(PathBuf::from(path));
                }
                _ => others.push(parameter),
            }
        }
        let is_tls = match mode {
            None | Some("disable") => false,
            Some("require" | "verify-full") => true,
            Some(_) => {
                return Err("sslmode must be disable, require or verify-full; the last two are the same: the certificate of the server is verified".to_owned());
            }
        };
        if root_file.is_some() && !is_tls {
            return Err("sslrootcert needs sslmode=verify-full".to_owned());
        }
        let separator = if others.is_empty() { "" } else { "?" };
        let text = format!("{address}{separator}{}", others.join("&"));
        // Its errors name a parameter, and not its value.
        let mut config: Config =
            text.parse().map_err(|error| format!("not a PostgreSQL URL: {}", describe(&error)))?;
        if config.get_hosts().is_empty() {
            return Err("host missing".to_owned());
        }
        if config.get_target_session_attrs() == TargetSessionAttrs::Any {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        set_common(&mut config, if is_tls { SslMode::Require } else { SslMode::Disable });
        Ok(Self { config, tls: is_tls.then_some(Tls { root_file }) })
    }

    /// A configuration for each host: the driver has no deadline for a host that accepts connections and does not answer.
    pub(super) fn each_host(&self) -> Vec<Config> {
        let (hosts, ports) = (self.config.get_hosts(), self.config.get_ports());
        if hosts.len() < 2 || !self.config.get_hostaddrs().is_empty() {
            return vec![self.config.clone()];
        }
        let of_host = |(at, host): (usize, &Host)| {
            let mut config = self.without_hosts();
            match host {
                Host::Tcp(name) => config.host(name),
                Host::Unix(directory) => config.host_path(directory),
            };
            ports.get(at).or(ports.first()).iter().for_each(|port| {
                config.port(**port);
            });
            config
        };
        hosts.iter().enumerate().map(of_host).collect()
    }

    fn without_hosts(&self) -> Config {
        let (from, mut config) = (&self.config, Config::new());
        from.get_user().iter().for_each(|user| {
            config.user(*user);
        });
        from.get_password().iter().for_each(|password| {
            config.password(password);
        });
        from.get_dbname().iter().for_each(|name| {
            config.dbname(*name);
        });
        from.get_options().iter().for_each(|options| {
            config.options(*options);
        });
        config
            .target_session_attrs(from.get_target_session_attrs())
            .channel_binding(from.get_channel_binding())
            .keepalives(from.get_keepalives());
        set_common(&mut config, from.get_ssl_mode());
        config
    }

    /// Reads the authorities. The error names the file.
    pub fn tls_config(&self) -> Result<Option<Arc<ClientConfig>>, String> {
        let Some(Tls { root_file }) = &self.tls else { return Ok(None) };
        let Some(file) = root_file else { return tls::client_config(None).map(Some) };
        let roots = tls::authorities_of(file).map_err(|why| format!("sslrootcert: {why}"))?;
        tls::client_config_with(roots).map(Some)
    }
}

/// What all URLs have in common.
fn set_common(config: &mut Config, mode: SslMode) {
    config
        .ssl_mode(mode)
        .application_name("hm-hub")
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_user_timeout(TCP_USER_TIMEOUT)
        .keepalives_idle(KEEPALIVE_IDLE)
        .keepalives_interval(KEEPALIVE_INTERVAL)
        .keepalives_retries(KEEPALIVE_RETRIES);
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = self.config.get_ports();
        let hosts = self.config.get_hosts().iter().enumerate().map(|(at, host)| {
            let port = ports.get(at).or(ports.first()).unwrap_or(&5432);
            match host {
                Host::Tcp(name) if name.contains(':') => format!("[{name}]:{port}"),
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(directory) => format!("{}:{port}", directory.display()),
            }
        });
        let user = self.config.get_user().map_or(String::new(), |user| format!("{user}@"));
        let name = self.config.get_dbname().unwrap_or_default();
        write!(f, "postgres://{user}{}/{name}", hosts.collect::<Vec<_>>().join(","))
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An error with its causes.
pub(super) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some errors repeat their cause.
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        PostgresUrl::parse(text).unwrap_err()
    }

    #[test]
    fn shows_everything_but_the_password() {
        for (text, shown) in [
            ("postgres://u:secret@h/d", "postgres://u@h:5432/d"),
            ("postgresql://h1:1,h2:2/d?target_session_attrs=read-write", "postgres://h1:1,h2:2/d"),
            ("postgres://u@%2Frun%2Fpg/d", "postgres://u@/run/pg:5432/d"),
        ] {
            let url = PostgresUrl::parse(text).unwrap();
            assert_eq!((url.to_string(), format!("{url:?}")), (shown.into(), shown.into()));
        }
    }

    #[test]
    fn tls_verifies_or_is_not_used() {
        let tls = |text: &str| PostgresUrl::parse(text).unwrap().tls.map(|tls| tls.root_file);
        assert!(tls("postgres://h/d").is_none() && tls("postgres://h/d?sslmode=disable").is_none());
        assert_eq!(tls("postgres://h/d?sslmode=require"), Some(None));
        let file = "postgres://h/d?sslmode=verify-full&sslrootcert=%2Fa%2Fb.pem&options=-cx=1";
        assert_eq!(tls(file), Some(Some("/a/b.pem".into())));
        for mode in ["prefer", "allow", "verify-ca", "x"] {
            assert!(error(&format!("postgres://h/d?sslmode={mode}")).contains("sslmode must be"));
        }
        assert!(error("postgres://h/d?sslrootcert=/a").contains("needs sslmode"));
    }

    #[test]
    fn each_host_is_tried_with_the_same_parameters() {
        let text = "postgres://u:secret@h1:1,h2:2/d?options=-cx=1&target_session_attrs=read-only";
        let url = PostgresUrl::parse(text).unwrap();
        let one = |at: u16| {
            PostgresUrl::parse(&text.replace("h1:1,h2:2", &format!("h{at}:{at}"))).unwrap().config
        };
        assert_eq!(url.each_host(), [one(1), one(2)]);
        assert_eq!(PostgresUrl { config: one(1), tls: None }.each_host(), [one(1)]);
    }

    #[test]
    fn errors_do_not_show_the_password() {
        for text in [
            "postgres://u:secret@h/d?secret=1",
            "postgres://u:secret@h:x/d",
            "postgres://u:x@u:secret@h/d",
            "postgres://u:secret?u:secret@h/d?sslmode=require",
            "postgres:///d",
        ] {
            let error = error(text);
            assert!(!error.contains("u:secret"), "{error}");
        }
    }
}
