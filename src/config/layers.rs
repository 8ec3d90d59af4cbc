//! Merges the configuration sources: defaults, file, environment, command line. A later source overrides an earlier one, and
//! every value keeps its origin.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use crate::config::schema::{Row, Schema, TakesEffect};
use crate::config::sources::{Origin, Sources, default_file};
use crate::config::suggestion::{misspelled_variable, nearest_key};
use crate::config::value::{Kind, Value, without_query};
use crate::util::error::{Error, reason};
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

/// A larger configuration or token file is rejected.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Every setting with its value and its origin.
#[derive(Debug, Clone)]
pub struct Settings {
    pub(super) schema: &'static Schema,
    values: BTreeMap<&'static str, (Value, Origin)>,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// Problems that do not prevent a start.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Merges all sources. Fails at the first error.
    pub fn load(sources: &Sources) -> Result<Self, Error> {
        let schema = sources.schema;
        let file = match &sources.file {
            Some(file) => Some(file.clone()),
            None => default_file(schema)?,
        };
        let mut settings =
            Self { schema, values: BTreeMap::new(), file: None, warnings: Vec::new() };
        for row in schema.rows {
            let value = row.default.map_or(Ok(Value::Unset), |text| row.kind.parse(text));
            settings.set(row, Origin::Default, value)?;
        }
        if let Some(path) = &file {
            settings.add_file(path)?;
        }
        settings.file = file;
        settings.add_environment(&sources.environment)?;
        for (key, text) in &sources.overrides {
            let row = schema.find(key);
            let row = row.ok_or_else(|| unknown_key(schema, &Origin::CommandLine, key))?;
            settings.set(row, Origin::CommandLine, row.kind.parse(text))?;
        }
        settings.warnings.extend(settings.exposed_secrets());
        Ok(settings)
    }

    fn set(
        &mut self,
        row: &'static Row,
        origin: Origin,
        value: Result<Value, String>,
    ) -> Result<(), Error> {
        let value = value.map_err(|why| Error::Setting {
            origin: origin.to_string(),
            why: format!("{}: {why}", row.key),
        })?;
        self.values.insert(row.key, (value, origin));
        Ok(())
    }

    fn add_file(&mut self, path: &Path) -> Result<(), Error> {
        let invalid = |line: usize, why: String| Error::Setting {
            origin: Origin::File(path.to_owned(), line).to_string(),
            why,
        };
        let text =
            read_text(path).map_err(|why| Error::Setting { origin: "settings".into(), why })?;
        let table = DeTable::parse(&text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            invalid(line_of(&text, at), error.message().replace('\n', ", "))
        })?;
        let mut leaves = Vec::new();
        collect_leaves(self.schema, "", table.get_ref(), &mut leaves);
        for (key, at, value) in leaves {
            let origin = Origin::File(path.to_owned(), line_of(&text, at));
            let row = self.schema.find(&key);
            let row = row.ok_or_else(|| unknown_key(self.schema, &origin, &key))?;
            self.set(row, origin, row.kind.from_toml(value))?;
        }
        Ok(())
    }

    /// A misspelled variable is an error: without `HM_AGENT_USAGE_TOKEN_FILE` the port would be open. Other unknown variables
    /// are a warning: Kubernetes sets `HM_AGENT_PORT` and others for a service with that name.
    fn add_environment(&mut self, variables: &[(String, String)]) -> Result<(), Error> {
        let mut ignored = Vec::new();
        for (name, text) in variables {
            match self.schema.rows.iter().find(|row| self.schema.variable(row.key) == *name) {
                Some(row) => {
                    let origin = Origin::Environment(name.clone());
                    self.set(row, origin, row.kind.parse(text))?;
                }
                None => match misspelled_variable(self.schema, name) {
                    Some(known) => return Err(misspelled(name, &known)),
                    None => ignored.push(name.as_str()),
                },
            }
        }
        if !ignored.is_empty() {
            let names = ignored.join(", ");
            self.warnings
                .push(format!("ignored environment variables that match no setting: {names}"));
        }
        Ok(())
    }

    /// The output of `hm-agent check`: TOML with the origin of each value as a comment, without secrets.
    pub fn effective(&self) -> String {
        let mut out = String::new();
        for row in self.schema.rows {
            let Some((value, origin)) = self.values.get(row.key) else { continue };
            let line = match (value, &row.kind) {
                (Value::Unset, _) => format!("# {} is not set", row.key),
                (_, Kind::Secret) => format!("# {} is set and not shown", row.key),
                (Value::Text(text), Kind::SecretText { .. }) if row.default != Some(text) => {
                    format!("# {} is set and not shown", row.key)
                }
                (Value::Text(url), Kind::Url) if without_query(url) != *url => {
                    format!("# {} is {}", row.key, Value::Text(without_query(url)))
                }
                (value, _) => format!("{} = {value}", row.key),
            };
            out.push_str(&format!("{line:<50} # {origin}\n"));
        }
        out
    }

    /// Keys whose values differ from `other`'s and take effect on the next start only.
    pub fn changed_until_restart(&self, other: &Self) -> Vec<&'static str> {
        let value = |settings: &Self, key| settings.values.get(key).map(|(value, _)| value.clone());
        let changed = |row: &&Row| value(self, row.key) != value(other, row.key);
        self.schema
            .rows
            .iter()
            .filter(|row| row.takes_effect == TakesEffect::OnRestart)
            .filter(changed)
            .map(|row| row.key)
            .collect()
    }

    /// Whether no source but the defaults sets the key.
    pub fn is_default(&self, key: &str) -> bool {
        self.values.get(key).is_none_or(|(_, origin)| *origin == Origin::Default)
    }

    /// An error about the value of a setting, with its origin.
    pub fn invalid(&self, key: &str, why: &str) -> Error {
        let origin = self.values.get(key).map_or(&Origin::Default, |(_, origin)| origin);
        Error::Setting { origin: origin.to_string(), why: format!("{key}: {why}") }
    }

    pub(super) fn value(&self, key: &str) -> Option<&(Value, Origin)> {
        self.values.get(key)
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match self.values.get(key) {
            Some((Value::Text(text), _)) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn parsed<T: FromStr>(&self, key: &str) -> Option<T> {
        self.text(key)?.parse().ok()
    }

    pub(crate) fn int(&self, key: &str) -> u64 {
        self.optional_int(key).unwrap_or_default()
    }

    pub(crate) fn optional_int(&self, key: &str) -> Option<u64> {
        match self.values.get(key) {
            Some((Value::Int(number), _)) => Some(*number),
            _ => None,
        }
    }

    pub(crate) fn seconds(&self, key: &str) -> Duration {
        Duration::from_secs(self.int(key))
    }

    pub(crate) fn flag(&self, key: &str) -> bool {
        matches!(self.values.get(key), Some((Value::Flag(true), _)))
    }

    pub(crate) fn list(&self, key: &str) -> &[String] {
        match self.values.get(key) {
            Some((Value::List(items), _)) => items,
            _ => &[],
        }
    }
}

/// Reads a text file of at most [`MAX_FILE_BYTES`].
pub(crate) fn read_text(path: &Path) -> Result<String, String> {
    let cannot = |why: &str| format!("cannot read {}: {why}", path.display());
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text))
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => cannot("it is not UTF-8 text"),
            _ => cannot(&reason(&error)),
        })?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(cannot(&format!("it is larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(text)
}

fn unknown_key(schema: &Schema, origin: &Origin, key: &str) -> Error {
    let shown = escape_for_log(key, EXCERPT_CHARS);
    let in_section =
        |row: &&Row| row.key.split_once('.').is_some_and(|(section, _)| section == key);
    let why = match (schema.rows.iter().find(in_section), nearest_key(schema, key)) {
        (Some(row), _) => format!("\"{shown}\" is a section, its keys are like {}", row.key),
        (None, Some(near)) => format!("unknown key \"{shown}\", did you mean {near}?"),
        (None, None) => {
            format!("unknown key \"{shown}\"; {} --help lists all keys", schema.program)
        }
    };
    Error::Setting { origin: origin.to_string(), why }
}

fn misspelled(name: &str, known: &str) -> Error {
    let origin = Origin::Environment(escape_for_log(name, EXCERPT_CHARS)).to_string();
    Error::Setting { origin, why: format!("unknown variable, did you mean {known}?") }
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|&byte| byte == b'\n').count() + 1
}

/// Flattens tables into dotted keys, each with the byte offset of its key.
fn collect_leaves<'a>(
    schema: &Schema,
    prefix: &str,
    table: &'a DeTable<'a>,
    leaves: &mut Vec<(String, usize, &'a DeValue<'a>)>,
) {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name.get_ref().to_string()
        } else {
            format!("{prefix}.{}", name.get_ref())
        };
        match value.get_ref() {
            DeValue::Table(inner) if schema.find(&key).is_none() => {
                collect_leaves(schema, &key, inner, leaves);
            }
            value => leaves.push((key, name.span().start, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::table::ROWS;

    fn from_file(text: &str) -> Result<Settings, String> {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("hm-agent-settings-{}-{number}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        let sources = Sources { file: Some(path.clone()), ..Default::default() };
        let settings = Settings::load(&sources);
        std::fs::remove_file(&path).unwrap();
        let shown = path.display().to_string();
        settings.map_err(|error| error.to_string().replace(&shown, "FILE"))
    }

    #[test]
    fn later_sources_override_earlier_ones() {
        let mut settings =
            from_file("interval = 7\nlog_level = \"debug\"\n[usage]\nmax_connections = 1").unwrap();
        settings.add_environment(&[("HM_AGENT_USAGE_MAX_CONNECTIONS".into(), "2".into())]).unwrap();
        assert_eq!(settings.int("interval"), 7);
        assert_eq!(settings.int("usage.max_connections"), 2);
        assert_eq!(settings.int("usage.max_connections_per_ip"), 64);
        let sources = Sources {
            environment: vec![("HM_AGENT_INTERVAL".into(), "8".into())],
            overrides: vec![("interval".into(), "9".into())],
            ..Default::default()
        };
        let settings = Settings::load(&sources).unwrap();
        assert_eq!(settings.int("interval"), 9);
        let shown = settings.effective();
        let line = shown.lines().find(|line| line.starts_with("interval = 9 ")).unwrap();
        assert!(line.ends_with("# command line"), "{line}");
    }

    #[test]
    fn errors_name_line_key_and_expected_value() {
        for (text, message) in [
            (
                "\n[usage]\nlisen = \"x\"",
                "FILE line 3: unknown key \"usage.lisen\", did you mean usage.listen?",
            ),
            (
                "interval = 0",
                "FILE line 1: interval: expected whole seconds from 1 to 3600, got \"0\"",
            ),
            (
                "interval = \"5\"",
                "FILE line 1: interval: expected whole seconds from 1 to 3600, got \"5\"",
            ),
            ("usage = 5", "FILE line 1: \"usage\" is a section, its keys are like usage.enabled"),
            ("\nnosuch = 5", "FILE line 2: unknown key \"nosuch\"; hm-agent --help lists all keys"),
            ("interval = 5\ninterval = 6", "FILE line 2: duplicate key"),
            ("[usage\n", "FILE line 1: unclosed table, expected `]`"),
        ] {
            assert_eq!(from_file(text).unwrap_err(), message);
        }
    }

    #[test]
    fn truncated_files_do_not_panic() {
        let text = "interval = 7\n[usage]\nlisten = \"127.0.0.1:0\"\nallowed_origins = [\"*\"]\n";
        for end in 0..=text.len() {
            let _ = from_file(&text[..end]);
        }
    }

    #[test]
    fn unknown_environment_variables_are_warnings() {
        let sources = Sources {
            environment: vec![
                ("HM_AGENT_PORT".into(), "tcp://10.0.0.1:33931".into()),
                ("HM_AGENT_SERVICE_HOST".into(), "10.0.0.1".into()),
            ],
            ..Default::default()
        };
        let warnings = Settings::load(&sources).unwrap().warnings;
        assert_eq!(
            warnings,
            [
                "ignored environment variables that match no setting: HM_AGENT_PORT, HM_AGENT_SERVICE_HOST"
            ]
        );
    }

    #[test]
    fn effective_settings_are_toml_without_secrets() {
        let sources = Sources {
            overrides: vec![
                ("usage.token".into(), "s3cret".into()),
                ("hm.url".into(), "ws://h/a@b?s3cret".into()),
                ("core.url".into(), "ws://h/a@b".into()),
            ],
            ..Default::default()
        };
        let shown = Settings::load(&sources).unwrap().effective();
        assert!(DeTable::parse(&shown).is_ok(), "{shown}");
        assert!(!shown.contains("s3cret") && !shown.contains("default-token"), "{shown}");
        assert!(shown.contains("# usage.token is set and not shown"), "{shown}");
        assert!(shown.contains("# hm.url is \"ws://h/a@b?(not shown)\""), "{shown}");
        assert!(shown.contains("\ncore.url = \"ws://h/a@b\""), "{shown}");
        assert_eq!(shown.lines().count(), ROWS.len());
    }

    #[test]
    fn lists_changes_that_need_restart() {
        let with = |key: &str, value: &str| {
            let overrides = vec![(key.to_owned(), value.to_owned())];
            Settings::load(&Sources { overrides, ..Default::default() }).unwrap()
        };
        let base = Settings::load(&Sources::default()).unwrap();
        let moved = with("usage.listen", "127.0.0.1:1");
        assert_eq!(moved.changed_until_restart(&base), ["usage.listen"]);
        assert!(with("interval", "9").changed_until_restart(&base).is_empty());
    }
}
