//! Where settings are looked for, and where a value came from.

use std::fmt;
use std::path::PathBuf;

use crate::util::error::{Error, reason};

/// The file that is read when none is named, if it is there.
pub const DEFAULT_FILE: &str = "/etc/hm-agent/hm-agent.toml";
pub(super) const ENVIRONMENT_PREFIX: &str = "HM_AGENT_";

/// Where to look for settings.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `-c FILE`; without it the default file is read, if there is one.
    pub file: Option<PathBuf>,
    /// Variables that begin with `HM_AGENT_`.
    pub environment: Vec<(String, String)>,
    /// `-s KEY=VALUE`, in their order.
    pub overrides: Vec<(String, String)>,
}

impl Sources {
    /// The command line's wishes, together with the environment.
    pub fn new(file: Option<PathBuf>, overrides: Vec<(String, String)>) -> Result<Self, Error> {
        let mut environment = Vec::new();
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().filter(|name| name.starts_with(ENVIRONMENT_PREFIX))
            else {
                continue;
            };
            let value = value.into_string().map_err(|_| Error::Setting {
                origin: format!("environment {name}"),
                why: "is not UTF-8".to_owned(),
            })?;
            environment.push((name.to_owned(), value));
        }
        environment.sort();
        Ok(Self { file, environment, overrides })
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A line of the settings file.
    File(PathBuf, usize),
    /// An environment variable.
    Environment(String),
    /// `-s`.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{} line {line}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::CommandLine => f.write_str("command line"),
        }
    }
}

/// The default file, if there is one. One that may not be looked for is an error, not an absence: it may
/// hold the token without which everybody is let in.
pub(super) fn default_file() -> Result<Option<PathBuf>, Error> {
    let path = PathBuf::from(DEFAULT_FILE);
    match path.try_exists() {
        Ok(exists) => Ok(exists.then_some(path)),
        Err(error) => Err(Error::Setting {
            origin: "settings".to_owned(),
            why: format!("cannot read {DEFAULT_FILE}: {}", reason(&error)),
        }),
    }
}
