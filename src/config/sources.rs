//! The configuration sources and the origin of a value.

use std::fmt;
use std::path::PathBuf;

use crate::config::schema::Schema;
use crate::config::suggestion::misspelled_variable;
use crate::config::table::AGENT;
use crate::util::error::{Error, reason};

/// The configuration sources.
#[derive(Debug, Clone)]
pub struct Sources {
    pub schema: &'static Schema,
    /// `-c FILE`; `None`: the default file.
    pub file: Option<PathBuf>,
    /// Variables with the program's prefix, also misspelled.
    pub environment: Vec<(String, String)>,
    /// `-s KEY=VALUE`, in order.
    pub overrides: Vec<(String, String)>,
}

impl Sources {
    /// Combines the command line with the environment of this process.
    pub fn new(
        schema: &'static Schema,
        file: Option<PathBuf>,
        overrides: Vec<(String, String)>,
    ) -> Result<Self, Error> {
        let mut environment = Vec::new();
        let is_ours = |name: &&str| {
            name.starts_with(schema.environment_prefix)
                || misspelled_variable(schema, name).is_some()
        };
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().filter(is_ours) else { continue };
            let value = value.into_string().map_err(|_| Error::Setting {
                origin: format!("environment {name}"),
                why: "is not UTF-8".to_owned(),
            })?;
            environment.push((name.to_owned(), value));
        }
        environment.sort();
        Ok(Self { schema, file, environment, overrides })
    }

    /// Why this user cannot read the default file, if it would be read and only other users can.
    pub fn unreadable_default_file(&self) -> Option<String> {
        let file = self.schema.default_file;
        let error = match self.file {
            None => std::fs::File::open(file).err()?,
            Some(_) => return None,
        };
        let is_denied = error.kind() == std::io::ErrorKind::PermissionDenied;
        is_denied.then(|| format!("cannot read {file}: {}", reason(&error)))
    }
}

impl Default for Sources {
    /// hm-agent's, without any source.
    fn default() -> Self {
        Self { schema: &AGENT, file: None, environment: Vec::new(), overrides: Vec::new() }
    }
}

/// The source that set a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// File and line.
    File(PathBuf, usize),
    /// The variable's name.
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

/// The default file, if it exists. A directory without read permission is an error, because the file may contain the token
/// without which every client has access.
pub(super) fn default_file(schema: &Schema) -> Result<Option<PathBuf>, Error> {
    let path = PathBuf::from(schema.default_file);
    match path.try_exists() {
        Ok(exists) => Ok(exists.then_some(path)),
        Err(error) => Err(Error::Setting {
            origin: "settings".to_owned(),
            why: format!("cannot read {}: {}", path.display(), reason(&error)),
        }),
    }
}
