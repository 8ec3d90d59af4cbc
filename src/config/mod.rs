//! Configuration with types, as the rest of the agent reads it: [`Config`], made from [`Settings`], which has the values with
//! their origins. A reload replaces it in [`CurrentConfig`].
//!
//! [`table`] has every key with its default and range. [`layers`] merges the sources: `-s KEY=VALUE` overrides the
//! environment, which overrides the file, which overrides the default.

mod access;
mod collectors;
mod gpu;
pub mod layers;
pub mod schema;
mod secret;
pub mod sources;
mod suggestion;
pub mod table;
mod tls_files;
pub mod value;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use log::LevelFilter;

pub use crate::config::collectors::CollectorsConfig;
pub use crate::config::gpu::{GpuConfig, GpuSource};
pub use crate::config::layers::Settings;
pub use crate::config::schema::Schema;
pub use crate::config::secret::{Secret, sha256};
pub use crate::config::sources::Sources;
use crate::config::tls_files::ca_file;
pub use crate::config::tls_files::tls_files;
use crate::http::tls::TlsFiles;
use crate::util::error::Error;
use crate::util::shell_words;
use crate::util::sync::lock;

/// The value of every setting.
#[derive(Debug, Clone)]
pub struct Config {
    /// `node_id`; `None`: machine id, else host name.
    pub node_id: Option<String>,
    /// Time between samples.
    pub interval: Duration,
    pub log_level: LevelFilter,
    /// `path.*`.
    pub roots: Roots,
    /// `path.kmsg`; empty: the kernel log is not read.
    pub kernel_log: PathBuf,
    /// `collectors.*` and `textfile.*`.
    pub collectors: CollectorsConfig,
    /// Directory for state that survives a restart, and for the GPU probe where programs cannot be run from memory.
    pub state_dir: PathBuf,
    pub gpu: GpuConfig,
    pub usage: UsageConfig,
    pub heartbeat: HeartbeatConfig,
    /// `None`: off.
    pub hm: Option<HmConfig>,
    /// `None`: off.
    pub core: Option<CoreConfig>,
    pub monitor: MonitorConfig,
    pub health: HealthConfig,
    /// `tls.ca_file`: certificate authorities in addition to the system's.
    pub ca_file: Option<PathBuf>,
}

/// `health.*`: what a healthy node has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthConfig {
    /// `health.expected_gpus`; `None`: any number.
    pub gpus: Option<u64>,
    /// `health.expected_ib_ports`: active ports; `None`: any number.
    pub infiniband_ports: Option<u64>,
}

/// Paths of the host's `/proc`, `/sys` and `/`.
#[derive(Debug, Clone)]
pub struct Roots {
    pub proc: PathBuf,
    pub sys: PathBuf,
    pub root: PathBuf,
}

/// `usage.*`: the telemetry port.
#[derive(Debug, Clone)]
pub struct UsageConfig {
    pub enabled: bool,
    pub listen: SocketAddr,
    /// Token from `usage.token` or `usage.token_file`; `None`: every client has access.
    pub token: Option<Secret>,
    /// 0: no limit.
    pub max_connections: usize,
    /// 0: no limit.
    pub max_connections_per_ip: usize,
    /// Proxies whose forwarding headers are trusted.
    pub trusted_proxies: Arc<[IpAddr]>,
    /// Browser origins that may open a WebSocket, or `*`.
    pub allowed_origins: Vec<String>,
    /// `None`: no TLS.
    pub tls: Option<TlsFiles>,
}

/// `heartbeat.*`: the heartbeat port.
#[derive(Debug, Clone)]
pub struct HeartbeatConfig {
    pub enabled: bool,
    pub listen: SocketAddr,
    /// `None`: no TLS.
    pub tls: Option<TlsFiles>,
    pub unit: TimeUnit,
    /// A program and its arguments; empty: none.
    pub on_overdue: Vec<String>,
}

/// `heartbeat.unit`: the unit of times in requests and responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    /// Protocol version 1.0.0.
    Milliseconds,
    /// The prototype of 2016.
    Seconds,
}

/// `hm.*`: the connection to a central hm.
#[derive(Debug, Clone)]
pub struct HmConfig {
    pub url: String,
    /// Token from `hm.token` or `hm.token_file`.
    pub token: Option<Secret>,
    pub project: String,
    pub models: Vec<String>,
    pub report_interval: Duration,
    pub ping_interval: Duration,
}

/// `core.*`: the connection to a Core (server manager).
#[derive(Debug, Clone)]
pub struct CoreConfig {
    pub url: String,
    /// Token from `core.token` or `core.token_file`.
    pub token: Secret,
    pub heartbeat_interval: Duration,
    /// Policy from `core.commands` and `core.allow`.
    pub commands: CommandPolicy,
    pub run_as: Option<String>,
}

/// The commands of Core that are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandPolicy {
    Off,
    /// Commands that begin with the words of one of these, without a shell.
    Allow(Vec<Vec<String>>),
    /// All, by `sh -c`.
    Any,
}

/// `monitor.*`: monitoring of other hosts over SSH.
#[derive(Debug, Clone)]
pub struct MonitorConfig {
    pub enabled: bool,
    pub listen: SocketAddr,
    /// Token from `monitor.token` or `monitor.token_file`; `None`: every client has access.
    pub token: Option<Secret>,
    /// Browser origins that may open a WebSocket, or `*`.
    pub allowed_origins: Vec<String>,
    /// `None`: `~/.ssh/known_hosts`.
    pub known_hosts: Option<PathBuf>,
    /// `None`: no TLS.
    pub tls: Option<TlsFiles>,
}

impl Config {
    /// Converts every setting to its type and reads the token files and `tls.ca_file`.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        Ok(Self {
            node_id: settings.text("node_id").map(str::to_owned),
            interval: settings.seconds("interval"),
            log_level: settings.parsed("log_level").unwrap_or(LevelFilter::Info),
            roots: Roots {
                proc: settings.parsed("path.proc").unwrap_or_default(),
                sys: settings.parsed("path.sys").unwrap_or_default(),
                root: settings.parsed("path.root").unwrap_or_default(),
            },
            kernel_log: settings.parsed("path.kmsg").unwrap_or_default(),
            collectors: CollectorsConfig::new(settings)?,
            state_dir: settings.parsed("state_dir").unwrap_or_default(),
            gpu: GpuConfig::new(settings),
            usage: usage(settings)?,
            heartbeat: heartbeat(settings)?,
            hm: settings.text("hm.url").map(|url| hm(settings, url)).transpose()?,
            core: settings.text("core.url").map(|url| core(settings, url)).transpose()?,
            monitor: monitor(settings)?,
            health: HealthConfig {
                gpus: settings.optional_int("health.expected_gpus"),
                infiniband_ports: settings.optional_int("health.expected_ib_ports"),
            },
            ca_file: ca_file(settings)?,
        })
    }
}

fn usage(settings: &Settings) -> Result<UsageConfig, Error> {
    let proxies = settings.list("usage.trusted_proxies").iter();
    let proxies = proxies.filter_map(|address| address.parse().ok());
    Ok(UsageConfig {
        enabled: settings.flag("usage.enabled"),
        listen: listen(settings, "usage.listen")?,
        token: token(settings, "usage.token", "usage.token_file")?,
        max_connections: settings.int("usage.max_connections") as usize,
        max_connections_per_ip: settings.int("usage.max_connections_per_ip") as usize,
        trusted_proxies: proxies.map(|address: IpAddr| address.to_canonical()).collect(),
        allowed_origins: settings.list("usage.allowed_origins").to_vec(),
        tls: tls_files(settings, "usage.tls_")?,
    })
}

fn heartbeat(settings: &Settings) -> Result<HeartbeatConfig, Error> {
    Ok(HeartbeatConfig {
        enabled: settings.flag("heartbeat.enabled"),
        listen: listen(settings, "heartbeat.listen")?,
        tls: tls_files(settings, "heartbeat.tls_")?,
        unit: match settings.text("heartbeat.unit") {
            Some("s") => TimeUnit::Seconds,
            _ => TimeUnit::Milliseconds,
        },
        on_overdue: settings.list("heartbeat.on_overdue").to_vec(),
    })
}

fn hm(settings: &Settings, url: &str) -> Result<HmConfig, Error> {
    let token = token(settings, "hm.token", "hm.token_file")?;
    let is_invalid = |token: &Secret| token.expose().bytes().any(|byte| !byte.is_ascii_graphic());
    if token.as_ref().is_some_and(is_invalid) {
        return Err(settings.invalid("hm.token", "only visible ASCII characters can be sent"));
    }
    Ok(HmConfig {
        url: url.to_owned(),
        token,
        project: settings.text("hm.project").unwrap_or_default().to_owned(),
        models: settings.list("hm.models").to_vec(),
        report_interval: settings.seconds("hm.report_interval"),
        ping_interval: settings.seconds("hm.ping_interval"),
    })
}

fn monitor(settings: &Settings) -> Result<MonitorConfig, Error> {
    Ok(MonitorConfig {
        enabled: settings.flag("monitor.enabled"),
        listen: listen(settings, "monitor.listen")?,
        token: token(settings, "monitor.token", "monitor.token_file")?,
        allowed_origins: settings.list("monitor.allowed_origins").to_vec(),
        known_hosts: settings.parsed("monitor.known_hosts"),
        tls: tls_files(settings, "monitor.tls_")?,
    })
}

fn listen(settings: &Settings, key: &str) -> Result<SocketAddr, Error> {
    settings.parsed(key).ok_or_else(|| settings.invalid(key, "is not an address"))
}

fn core(settings: &Settings, url: &str) -> Result<CoreConfig, Error> {
    let split = |text: &String| shell_words::split(text).ok();
    Ok(CoreConfig {
        url: url.to_owned(),
        token: token(settings, "core.token", "core.token_file")?
            .ok_or_else(|| settings.invalid("core.token", "is empty"))?,
        heartbeat_interval: settings.seconds("core.heartbeat_interval"),
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

/// A secret that is set directly or in a file, but not both.
fn token(settings: &Settings, key: &str, file_key: &str) -> Result<Option<Secret>, Error> {
    let Some(path) = settings.text(file_key) else {
        return Ok(settings.text(key).map(|text| Secret::new(text.to_owned())));
    };
    if settings.text(key).is_some() && !settings.is_default(key) {
        let why = format!("is set together with {key}; remove one of them");
        return Err(settings.invalid(file_key, &why));
    }
    let text = layers::read_text(path.as_ref()).map_err(|why| settings.invalid(file_key, &why))?;
    let text = text.trim();
    if text.is_empty() {
        return Err(settings.invalid(file_key, &format!("{path} is empty")));
    }
    Ok(Some(Secret::new(text.to_owned())))
}

/// The current configuration. Threads call [`CurrentConfig::get`] each time they need a value, so that a reload takes effect.
#[derive(Debug)]
pub struct CurrentConfig(Mutex<Arc<Config>>);

impl CurrentConfig {
    pub fn new(config: Config) -> Self {
        Self(Mutex::new(Arc::new(config)))
    }

    pub fn get(&self) -> Arc<Config> {
        lock(&self.0).clone()
    }

    pub fn replace(&self, config: Config) {
        *lock(&self.0) = Arc::new(config);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::primary_gpu::Primary;

    fn with(overrides: &[(&str, &str)]) -> Result<Config, Error> {
        let sources = Sources {
            overrides: overrides.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            ..Default::default()
        };
        Config::new(&Settings::load(&sources)?)
    }

    #[test]
    fn has_documented_defaults() {
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
    fn normalizes_ipv4_mapped_address_of_proxy() {
        let config = with(&[("usage.trusted_proxies", "::ffff:192.0.2.1")]).unwrap();
        assert_eq!(*config.usage.trusted_proxies, [IpAddr::from([192, 0, 2, 1])]);
    }

    #[test]
    fn expected_counts_are_optional() {
        assert_eq!(with(&[]).unwrap().health, HealthConfig::default());
        let set = with(&[("health.expected_gpus", "8"), ("health.expected_ib_ports", "0")]);
        let expected = HealthConfig { gpus: Some(8), infiniband_ports: Some(0) };
        assert_eq!(set.unwrap().health, expected);
        assert!(with(&[("health.expected_gpus", "-1")]).is_err());
    }

    #[test]
    fn accepts_both_names_of_the_hostname_label() {
        assert_eq!(with(&[]).unwrap().gpu.hostname_label, "Hostname");
        let lower = with(&[("gpu.hostname_label", "hostname")]).unwrap();
        assert_eq!(lower.gpu.hostname_label, "hostname");
        assert!(with(&[("gpu.hostname_label", "HOSTNAME")]).is_err());
    }

    #[test]
    fn names_the_origin_of_an_unknown_collector() {
        let config = with(&[("collectors.disable", "hwmon, netdev")]).unwrap();
        assert!(config.collectors.disabled.contains("netdev"));
        let error = with(&[("collectors.disable", "meminfo")]).unwrap_err().to_string();
        let why = "collectors.disable: meminfo cannot be disabled, because /usage needs it";
        assert!(error.ends_with(why) && error.len() > why.len(), "{error}");
    }

    #[test]
    fn accepts_aggregate_as_primary_gpu() {
        assert_eq!(with(&[("gpu.primary", "aggregate")]).unwrap().gpu.primary, Primary::Aggregate);
        assert_eq!(with(&[("gpu.primary", "3")]).unwrap().gpu.primary, Primary::Index(3));
    }

    #[test]
    fn secret_matches_only_itself_and_is_not_printed() {
        let secret = Secret::new("s3cret".into());
        assert!(secret.matches(b"s3cret"));
        for wrong in [&b""[..], b"s3cre", b"s3crets", b"s3creT", b"s3crets3cret"] {
            assert!(!secret.matches(wrong));
        }
        assert_eq!(format!("{secret:?}"), "(not shown)");
        let config = with(&[("usage.token", "s3cret")]).unwrap();
        assert!(!format!("{config:?}").contains("s3cret"));
    }
}
