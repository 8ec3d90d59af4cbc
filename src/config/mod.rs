//! The settings, typed: what the rest of the agent reads.
//!
//! [`table`] names every key with its default and range, [`layers`] finds out who set it: `-s KEY=VALUE`
//! over environment over file over default.

pub mod layers;
pub mod sources;
pub mod table;
pub mod value;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use log::LevelFilter;

pub use crate::config::layers::Settings;
pub use crate::config::sources::Sources;
use crate::heartbeat::protocol::Unit;
use crate::limits;
use crate::model::primary_gpu::Primary;
use crate::util::error::Error;
use crate::util::shell_words;
use crate::util::sync::lock;

/// Every setting that this version acts on.
#[derive(Debug, Clone)]
pub struct Config {
    /// `node_id`: who this node is to its masters; `None`: machine id, else host name.
    pub node_id: Option<String>,
    /// `interval`: time between samples.
    pub interval: Duration,
    /// `log_level`.
    pub log_level: LevelFilter,
    /// `path.*`: where the machine is mounted.
    pub roots: Roots,
    /// `state_dir`: what must survive a restart, and the GPU probe where memory cannot be run.
    pub state_dir: PathBuf,
    /// `gpu.*`.
    pub gpu: GpuSettings,
    /// `usage.*`.
    pub usage: Usage,
    /// `heartbeat.*`.
    pub heartbeat: Heartbeat,
    /// `hm.*`; `None`: off.
    pub hm: Option<Hm>,
    /// `core.*`; `None`: off.
    pub core: Option<Core>,
    /// `monitor.*`.
    pub monitor: Monitor,
    /// `tls.ca_file`: authorities beside the system's.
    pub ca_file: Option<PathBuf>,
}

/// Where the machine's `/proc`, `/sys` and `/` are.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Roots {
    pub proc: PathBuf,
    pub sys: PathBuf,
    pub root: PathBuf,
}

/// `gpu.*`: where GPUs are read, and which one is shown first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuSettings {
    /// `gpu.source`.
    pub source: GpuSource,
    /// `gpu.nvml_library`; `None`: the driver's.
    pub nvml_library: Option<PathBuf>,
    /// `gpu.primary`.
    pub primary: Primary,
    /// `gpu.timeout`: a driver that has not answered for so long hangs.
    pub timeout: Duration,
}

/// `gpu.source`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuSource {
    /// What is there.
    Auto,
    /// NVIDIA's alone, and always.
    Nvml,
    /// None at all.
    Nothing,
}

/// `usage.*`: the telemetry port.
#[derive(Debug, Clone)]
pub struct Usage {
    /// `usage.enabled`.
    pub enabled: bool,
    /// `usage.listen`.
    pub listen: SocketAddr,
    /// `usage.token` or what `usage.token_file` holds; `None`: everybody may look.
    pub token: Option<Secret>,
    /// `usage.max_connections`; 0: no limit.
    pub max_connections: usize,
    /// `usage.max_connections_per_ip`; 0: no limit.
    pub max_connections_per_ip: usize,
    /// `usage.trusted_proxies`: whose word on the client's address is believed.
    pub trusted_proxies: Vec<IpAddr>,
    /// `usage.allowed_origins`: browser origins that may open a WebSocket, or `*`.
    pub allowed_origins: Vec<String>,
}

/// `heartbeat.*`: the watchdog's port.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    /// `heartbeat.enabled`.
    pub enabled: bool,
    /// `heartbeat.listen`.
    pub listen: SocketAddr,
    /// `heartbeat.unit`.
    pub unit: Unit,
    /// `heartbeat.on_overdue`: a program and its arguments; empty: none.
    pub on_overdue: Vec<String>,
}

/// `hm.*`: the central health monitor.
#[derive(Debug, Clone)]
pub struct Hm {
    /// `hm.url`.
    pub url: String,
    /// `hm.project`.
    pub project: String,
    /// `hm.models`.
    pub models: Vec<String>,
    /// `hm.report_interval`.
    pub report_interval: Duration,
    /// `hm.ping_interval`.
    pub ping_interval: Duration,
}

/// `core.*`: the server manager.
#[derive(Debug, Clone)]
pub struct Core {
    /// `core.url`.
    pub url: String,
    /// `core.token`, or what `core.token_file` holds.
    pub token: Secret,
    /// `core.heartbeat_interval`.
    pub heartbeat_interval: Duration,
    /// `core.commands` and `core.allow`.
    pub commands: CommandPolicy,
    /// `core.run_as`.
    pub run_as: Option<String>,
}

/// Which commands of Core are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandPolicy {
    /// None.
    Off,
    /// Those that begin with the words of one of these, without a shell.
    Allow(Vec<Vec<String>>),
    /// All, by a shell.
    Any,
}

/// `monitor.*`: other hosts, over SSH.
#[derive(Debug, Clone)]
pub struct Monitor {
    /// `monitor.enabled`.
    pub enabled: bool,
    /// `monitor.listen`.
    pub listen: SocketAddr,
    /// `monitor.token`, or what `monitor.token_file` holds; `None`: everybody may.
    pub token: Option<Secret>,
    /// `monitor.allowed_origins`: browser origins that may open a WebSocket, or `*`.
    pub allowed_origins: Vec<String>,
    /// `monitor.known_hosts`; `None`: the user's.
    pub known_hosts: Option<PathBuf>,
}

/// A text that must not be shown: it has no `Display`, and its `Debug` says nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one who must send it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// A secret that somebody told.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Compares in a time that depends on the candidate's length alone.
    pub fn matches(&self, candidate: &[u8]) -> bool {
        let secret = self.0.as_bytes();
        let mut difference = secret.len() ^ candidate.len();
        for (at, byte) in candidate.iter().enumerate() {
            let own = secret.get(at % secret.len().max(1)).copied().unwrap_or_default();
            difference |= std::hint::black_box(usize::from(own ^ byte));
        }
        std::hint::black_box(difference) == 0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(not shown)")
    }
}

impl Config {
    /// Reads what the settings name (token files) and gives every value its type.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        Ok(Self {
            node_id: settings.text("node_id").map(str::to_owned),
            interval: Duration::from_secs(settings.int("interval")),
            log_level: settings.parsed("log_level").unwrap_or(LevelFilter::Info),
            roots: Roots {
                proc: settings.parsed("path.proc").unwrap_or_default(),
                sys: settings.parsed("path.sys").unwrap_or_default(),
                root: settings.parsed("path.root").unwrap_or_default(),
            },
            state_dir: settings.parsed("state_dir").unwrap_or_default(),
            gpu: GpuSettings {
                source: match settings.text("gpu.source") {
                    Some("none") => GpuSource::Nothing,
                    Some("nvml") => GpuSource::Nvml,
                    _ => GpuSource::Auto,
                },
                nvml_library: settings.parsed("gpu.nvml_library"),
                primary: settings.parsed("gpu.primary").map_or(Primary::Aggregate, Primary::Index),
                timeout: Duration::from_secs(settings.int("gpu.timeout")),
            },
            usage: Usage {
                enabled: settings.flag("usage.enabled"),
                listen: settings
                    .parsed("usage.listen")
                    .ok_or_else(|| settings.wrong("usage.listen", "is not an address"))?,
                token: token(settings, "usage.token", "usage.token_file")?,
                max_connections: settings.int("usage.max_connections") as usize,
                max_connections_per_ip: settings.int("usage.max_connections_per_ip") as usize,
                trusted_proxies: settings
                    .list("usage.trusted_proxies")
                    .iter()
                    .filter_map(|address| address.parse().ok())
                    .map(|address: IpAddr| address.to_canonical())
                    .collect(),
                allowed_origins: settings.list("usage.allowed_origins").to_vec(),
            },
            heartbeat: Heartbeat {
                enabled: settings.flag("heartbeat.enabled"),
                listen: settings
                    .parsed("heartbeat.listen")
                    .ok_or_else(|| settings.wrong("heartbeat.listen", "is not an address"))?,
                unit: match settings.text("heartbeat.unit") {
                    Some("s") => Unit::Seconds,
                    _ => Unit::Milliseconds,
                },
                on_overdue: settings.list("heartbeat.on_overdue").to_vec(),
            },
            hm: settings.text("hm.url").map(|url| Hm {
                url: url.to_owned(),
                project: settings.text("hm.project").unwrap_or_default().to_owned(),
                models: settings.list("hm.models").to_vec(),
                report_interval: Duration::from_secs(settings.int("hm.report_interval")),
                ping_interval: Duration::from_secs(settings.int("hm.ping_interval")),
            }),
            core: match settings.text("core.url") {
                Some(url) => Some(core(settings, url)?),
                None => None,
            },
            monitor: Monitor {
                enabled: settings.flag("monitor.enabled"),
                listen: settings
                    .parsed("monitor.listen")
                    .ok_or_else(|| settings.wrong("monitor.listen", "is not an address"))?,
                token: token(settings, "monitor.token", "monitor.token_file")?,
                allowed_origins: settings.list("monitor.allowed_origins").to_vec(),
                known_hosts: settings.parsed("monitor.known_hosts"),
            },
            ca_file: settings.parsed("tls.ca_file"),
        })
    }
}

fn core(settings: &Settings, url: &str) -> Result<Core, Error> {
    let split = |text: &String| shell_words::split(text).ok();
    Ok(Core {
        url: url.to_owned(),
        token: token(settings, "core.token", "core.token_file")?
            .ok_or_else(|| settings.wrong("core.token", "is empty"))?,
        heartbeat_interval: Duration::from_secs(settings.int("core.heartbeat_interval")),
        commands: match settings.text("core.commands") {
            Some("any") => CommandPolicy::Any,
            Some("allow") => {
                CommandPolicy::Allow(settings.list("core.allow").iter().filter_map(split).collect())
            }
            _ => CommandPolicy::Off,
        },
        run_as: settings.text("core.run_as").map(str::to_owned),
    })
}

/// A secret that may be given in place or in a file of its own, but not both.
fn token(settings: &Settings, key: &str, file_key: &str) -> Result<Option<Secret>, Error> {
    let Some(path) = settings.text(file_key) else {
        return Ok(settings.text(key).map(|text| Secret(text.to_owned())));
    };
    if settings.text(key).is_some() && !settings.is_default(key) {
        let why = format!("is set, and so is {key}; leave one of them out");
        return Err(settings.wrong(file_key, &why));
    }
    let text = layers::read_text(path.as_ref(), limits::SETTINGS_FILE_BYTES)
        .map_err(|why| settings.wrong(file_key, &why))?;
    let text = text.trim();
    if text.is_empty() {
        return Err(settings.wrong(file_key, &format!("{path} is empty")));
    }
    Ok(Some(Secret(text.to_owned())))
}

/// The settings in force. Whoever needs one asks at that moment, so a reload reaches everybody.
#[derive(Debug)]
pub struct Current(Mutex<Arc<Config>>);

impl Current {
    /// Starts with these.
    pub fn new(config: Config) -> Self {
        Self(Mutex::new(Arc::new(config)))
    }

    /// The settings in force now.
    pub fn get(&self) -> Arc<Config> {
        lock(&self.0).clone()
    }

    /// New ones come into force.
    pub fn replace(&self, config: Config) {
        *lock(&self.0) = Arc::new(config);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(overrides: &[(&str, &str)]) -> Result<Config, Error> {
        let sources = Sources {
            overrides: overrides.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            ..Default::default()
        };
        Config::new(&Settings::load(&sources)?)
    }

    #[test]
    fn the_defaults_are_those_of_the_design() {
        let config = with(&[]).unwrap();
        assert_eq!(config.interval, Duration::from_secs(5));
        assert_eq!(config.log_level, LevelFilter::Info);
        assert_eq!(config.roots.proc, PathBuf::from("/proc"));
        assert_eq!(config.gpu.primary, Primary::Index(0));
        assert_eq!(config.usage.listen, "0.0.0.0:33931".parse().unwrap());
        assert_eq!((config.usage.max_connections, config.usage.max_connections_per_ip), (1024, 64));
        assert_eq!(config.usage.trusted_proxies.len(), 2);
        assert_eq!(config.usage.allowed_origins, ["*"]);
        assert!(config.usage.enabled && config.usage.token.is_none() && config.node_id.is_none());
    }

    #[test]
    fn a_proxy_is_the_same_however_its_address_is_written() {
        let config = with(&[("usage.trusted_proxies", "::ffff:192.0.2.1")]).unwrap();
        assert_eq!(config.usage.trusted_proxies, [IpAddr::from([192, 0, 2, 1])]);
    }

    #[test]
    fn aggregate_is_a_primary_gpu_too() {
        assert_eq!(with(&[("gpu.primary", "aggregate")]).unwrap().gpu.primary, Primary::Aggregate);
        assert_eq!(with(&[("gpu.primary", "3")]).unwrap().gpu.primary, Primary::Index(3));
    }

    #[test]
    fn a_secret_matches_itself_alone_and_is_never_shown() {
        let secret = Secret("s3cret".into());
        assert!(secret.matches(b"s3cret"));
        for wrong in [&b""[..], b"s3cre", b"s3crets", b"s3creT", b"s3crets3cret"] {
            assert!(!secret.matches(wrong));
        }
        assert_eq!(format!("{secret:?}"), "(not shown)");
        let config = with(&[("usage.token", "s3cret")]).unwrap();
        assert!(!format!("{config:?}").contains("s3cret"));
    }
}
