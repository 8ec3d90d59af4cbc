//! Settings of hm-hub.

mod table;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use crate::config::Settings;
use crate::config::layers::read_text;
use crate::hub::admission::{Admission, parse_tokens};
use crate::hub::operators::{self, Operators};
use crate::hub::store::Retention;
use crate::hub::store::postgres::url::PostgresUrl;
use crate::hub::tls::HubTls;
use crate::util::error::Error;

pub use crate::hub::config::table::SCHEMA;

/// The value of every setting.
#[derive(Debug)]
pub struct HubConfig {
    pub log_level: LevelFilter,
    pub state_dir: PathBuf,
    /// `None`: SQLite.
    pub postgres: Option<PostgresUrl>,
    /// Name among the hubs that share a database; `None`: the host name.
    pub instance: Option<String>,
    pub url: Option<String>,
    pub hm_listen: SocketAddr,
    pub hm_job: String,
    pub core_listen: SocketAddr,
    pub web_listen: SocketAddr,
    pub tls: HubTls,
    pub operators: Operators,
    pub commands_enabled: bool,
    pub admission: Admission,
    /// Whether every listener has a loopback address.
    pub is_loopback_only: bool,
    /// Program and arguments.
    pub on_change: Vec<String>,
    pub offline_after: Duration,
    pub retention: Retention,
}

impl HubConfig {
    /// Converts every setting to its type and reads the files that settings name.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let listen =
            |key| settings.parsed(key).ok_or_else(|| settings.invalid(key, "is not an address"));
        let (hm_listen, core_listen) = (listen("hm.listen")?, listen("core.listen")?);
        let web_listen = listen("web.listen")?;
        let listeners =
            [("hm.listen", hm_listen), ("core.listen", core_listen), ("web.listen", web_listen)];
        let admission = admission(settings, &listeners[..2])?;
        let commands_enabled = settings.flag("commands.enabled");
        let duration = |key| settings.text(key).and_then(parse_duration).unwrap_or_default();
        let config = Self {
            log_level: settings.parsed("log_level").unwrap_or(LevelFilter::Info),
            state_dir: settings.parsed("state_dir").unwrap_or_default(),
            postgres: postgres(settings)?,
            instance: settings.text("hub.instance").map(str::to_owned),
            url: settings.text("hub.url").map(str::to_owned),
            hm_listen,
            hm_job: settings.text("hm.job").unwrap_or_default().to_owned(),
            core_listen,
            web_listen,
            tls: HubTls::new(settings)?,
            commands_enabled,
            admission,
            is_loopback_only: !listeners.iter().any(is_exposed),
            operators: operators(settings, &listeners[1..])?,
            on_change: settings.list("fleet.on_change").to_vec(),
            offline_after: settings.seconds("nodes.offline_after"),
            retention: Retention { raw: duration("history.raw"), means: duration("history.means") },
        };
        if commands_enabled {
            config.check_commands(settings)?;
        }
        Ok(config)
    }

    /// Whether operators may send commands: not if every client could pose as a node and get them.
    pub fn check_commands(&self, settings: &Settings) -> Result<(), Error> {
        let listeners = [
            ("hm.listen", self.hm_listen),
            ("core.listen", self.core_listen),
            ("web.listen", self.web_listen),
        ];
        match listeners.iter().find(|listener| is_exposed(listener)) {
            Some((key, address)) if matches!(self.admission, Admission::Open) => {
                let why = format!(
                    "needs nodes.admission=token, because {key} {address} is not a loopback address: every client could pose as a node and get its commands"
                );
                Err(settings.invalid("commands.enabled", &why))
            }
            _ => Ok(()),
        }
    }
}

fn postgres(settings: &Settings) -> Result<Option<PostgresUrl>, Error> {
    let url = settings.text("store").filter(|text| PostgresUrl::is_url(text));
    let url = url.map(PostgresUrl::parse).transpose();
    // Reads the authorities, so that `check` finds a wrong file.
    let checked = url.and_then(|url| match &url {
        Some(it) => it.tls_config().map(|_| url),
        None => Ok(url),
    });
    checked.map_err(|why| settings.invalid("store", &why))
}

fn admission(settings: &Settings, listeners: &[(&str, SocketAddr)]) -> Result<Admission, Error> {
    match (settings.text("nodes.admission"), settings.text("nodes.tokens_file")) {
        (Some("token"), Some(path)) => {
            let path = PathBuf::from(path);
            let tokens = read_text(&path).and_then(|text| parse_tokens(&path, &text));
            tokens.map(Admission::Token).map_err(|why| settings.invalid("nodes.tokens_file", &why))
        }
        (Some("token"), None) => {
            Err(settings.invalid("nodes.admission", "token needs nodes.tokens_file"))
        }
        (_, Some(_)) => {
            let why = "is read only with nodes.admission=token";
            Err(settings.invalid("nodes.tokens_file", why))
        }
        (Some(_), None) => Ok(Admission::Open),
        (None, None) => {
            let Some((key, address)) = listeners.iter().find(|listener| is_exposed(listener))
            else {
                return Ok(Admission::Loopback);
            };
            let why = format!(
                "must be set, because {key} {address} is not a loopback address: open (every node may connect) or token (nodes with a token of nodes.tokens_file)"
            );
            Err(settings.invalid("nodes.admission", &why))
        }
    }
}

fn operators(settings: &Settings, listeners: &[(&str, SocketAddr)]) -> Result<Operators, Error> {
    let key = "operators.tokens_file";
    let Some(path) = settings.text(key) else {
        return match listeners.iter().find(|listener| is_exposed(listener)) {
            None => Ok(Operators(None)),
            Some((listener, address)) => {
                let why =
                    format!("must be set, because {listener} {address} is not a loopback address");
                Err(settings.invalid(key, &why))
            }
        };
    };
    let path = PathBuf::from(path);
    let operators = read_text(&path).and_then(|text| operators::parse_tokens(&path, &text));
    operators.map(|operators| Operators(Some(operators))).map_err(|why| settings.invalid(key, &why))
}

fn is_exposed((_, address): &(&str, SocketAddr)) -> bool {
    !address.ip().to_canonical().is_loopback()
}

/// A number and a unit: s, m, h or d.
fn parse_duration(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let number = text.strip_suffix(unit)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u32 = number.parse().ok().filter(|number| is_number && *number > 0)?;
    Some(Duration::from_secs(u64::from(number) * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn with(overrides: &[(&str, &str)]) -> Result<HubConfig, String> {
        let overrides = overrides.iter().map(|(key, value)| ((*key).into(), (*value).into()));
        let overrides = overrides.collect();
        let sources = Sources { schema: &SCHEMA, overrides, ..Default::default() };
        let settings = Settings::load(&sources).map_err(|error| error.to_string())?;
        HubConfig::new(&settings).map_err(|error| error.to_string())
    }

    #[test]
    fn has_documented_defaults() {
        let config = with(&[]).unwrap();
        assert_eq!(config.hm_listen, "127.0.0.1:9521".parse().unwrap());
        assert!(matches!(config.admission, Admission::Loopback));
        assert_eq!(config.retention.raw, Duration::from_secs(86_400));
        assert_eq!(config.retention.means, Duration::from_secs(30 * 86_400));
    }

    #[test]
    fn requires_admission_beyond_loopback() {
        let exposed = ("core.listen", "0.0.0.0:0");
        assert!(with(&[exposed]).unwrap_err().contains("nodes.admission: must be set"));
        let error = with(&[exposed, ("nodes.admission", "open")]).unwrap_err();
        assert!(error.contains("operators.tokens_file: must be set"), "{error}");
        assert!(with(&[("web.listen", "0.0.0.0:0")]).is_err());
        for (listen, is_loopback) in [
            ("127.0.0.1:0", true),
            ("[::1]:0", true),
            ("[::ffff:127.0.0.1]:0", true),
            ("0.0.0.0:0", false),
            ("[::]:0", false),
            ("192.0.2.1:0", false),
        ] {
            assert_eq!(with(&[("hm.listen", listen)]).is_ok(), is_loopback, "{listen}");
            let open = with(&[("hm.listen", listen), ("nodes.admission", "open")]);
            assert!(open.is_ok(), "{listen}");
        }
        let error = with(&[("hm.listen", "0.0.0.0:0")]).unwrap_err();
        assert!(error.contains("nodes.admission: must be set"), "{error}");
    }

    #[test]
    fn tokens_file_and_admission_belong_together() {
        let error = with(&[("nodes.admission", "token")]).unwrap_err();
        assert!(error.contains("token needs nodes.tokens_file"), "{error}");
        let error = with(&[("nodes.tokens_file", "/nonexistent")]).unwrap_err();
        assert!(error.contains("is read only with nodes.admission=token"), "{error}");
        let both = [("nodes.admission", "token"), ("nodes.tokens_file", "/nonexistent")];
        let error = with(&both).unwrap_err();
        assert!(error.contains("cannot read /nonexistent: no such file"), "{error}");
    }

    #[test]
    fn durations_have_a_unit() {
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("24h", 86_400), ("30d", 2_592_000)] {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "h", "24", "0h", "-1h", "+1h", "1.5h", "1w", "1 h", "99999999999d", "1é"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
