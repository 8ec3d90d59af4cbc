//! The configuration file of the published hm server, in both of its forms: JSON, with keys in any case, as Go reads it.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Map, Value};

use crate::config::layers::read_text;
use crate::util::error::Error;
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

/// The settings that a file means.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct OriginalConfig {
    pub settings: Vec<(String, String)>,
    /// What has no effect here.
    pub notes: Vec<String>,
}

pub fn read(path: &Path) -> Result<OriginalConfig, Error> {
    let invalid = |why: String| Error::Setting { origin: path.display().to_string(), why };
    let text = read_text(path).map_err(|why| Error::Setting { origin: "-config".into(), why })?;
    let file: Map<String, Value> =
        serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
    convert(&file).map_err(invalid)
}

fn convert(file: &Map<String, Value>) -> Result<OriginalConfig, String> {
    let mut config = OriginalConfig::default();
    for (key, value) in file {
        match (key.to_ascii_lowercase().as_str(), value) {
            ("addr", value) => config.set("hm.listen", address(text(key, value)?)?),
            ("loglevel", value) => config.set("log_level", log_level(text(key, value)?)?),
            ("logfile", value) if *value == "" => {}
            ("logfile", _) => config.ignore(key, "the log goes to standard error"),
            ("mongouri", _) | ("mongodb", Value::String(_)) => config.ignore(key, NO_MONGODB),
            ("mongodb", Value::Object(mongodb)) => config.convert_mongodb(mongodb)?,
            ("prometheus", Value::Object(prometheus)) => config.convert_prometheus(prometheus)?,
            _ => config.ignore(key, "it is not a key of hm"),
        }
    }
    Ok(config)
}

const NO_MONGODB: &str = "reports are stored in state_dir, not in MongoDB";

impl OriginalConfig {
    fn convert_mongodb(&mut self, mongodb: &Map<String, Value>) -> Result<(), String> {
        for (key, value) in mongodb {
            match (key.to_ascii_lowercase().as_str(), value.as_u64()) {
                ("expiretime", Some(0)) => self.ignore("MongoDB.ExpireTime", "it is 0"),
                ("expiretime", Some(seconds)) => self.set("history.raw", format!("{seconds}s")),
                ("expiretime", None) => {
                    return Err("MongoDB.ExpireTime: expected a number of seconds".to_owned());
                }
                _ => self.ignore(&format!("MongoDB.{key}"), NO_MONGODB),
            }
        }
        Ok(())
    }

    fn convert_prometheus(&mut self, prometheus: &Map<String, Value>) -> Result<(), String> {
        for (key, value) in prometheus {
            match key.to_ascii_lowercase().as_str() {
                "jobname" => match text("Prometheus.JobName", value)? {
                    "" => {}
                    name => self.set("hm.job", name.to_owned()),
                },
                _ if *value == "" => {}
                _ => self.ignore(&format!("Prometheus.{key}"), "it has no effect in hm either"),
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: String) {
        self.settings.push((key.to_owned(), value));
    }

    fn ignore(&mut self, key: &str, why: &str) {
        let key = escape_for_log(key, EXCERPT_CHARS);
        self.notes.push(format!("{key} of the configuration file is ignored: {why}"));
    }
}

fn text<'a>(key: &str, value: &'a Value) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| format!("{}: expected a text", escape_for_log(key, EXCERPT_CHARS)))
}

/// Go's listen addresses: without a host, every address.
fn address(text: &str) -> Result<String, String> {
    let invalid = || {
        format!("Addr: expected an address such as 0.0.0.0:9521, got \"{}\"", text.escape_debug())
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
    let host = match host {
        "" => "[::]".to_owned(),
        "localhost" => "127.0.0.1".to_owned(),
        host => host.to_owned(),
    };
    let ip = host.trim_start_matches('[').trim_end_matches(']');
    let is_valid = ip.parse::<IpAddr>().is_ok() && port.parse::<u16>().is_ok();
    is_valid.then(|| format!("{host}:{port}")).ok_or_else(invalid)
}

/// Names of logrus.
fn log_level(text: &str) -> Result<String, String> {
    let level = match text.to_ascii_lowercase().as_str() {
        "panic" | "fatal" | "error" => "error",
        "warn" | "warning" => "warn",
        "info" => "info",
        "debug" => "debug",
        "trace" => "trace",
        _ => return Err(format!("LogLevel: unknown level \"{}\"", text.escape_debug())),
    };
    Ok(level.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(text: &str) -> Result<OriginalConfig, String> {
        convert(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn reads_the_flat_form_of_the_published_document() {
        let text = r#"{"Addr": "0.0.0.0:9521", "LogLevel": "info", "LogFile": "./test.log",
            "MongoURI": "mongodb://127.0.0.1:27017/", "MongoDB": "health_monitoring"}"#;
        let config = converted(text).unwrap();
        let expected = [("hm.listen", "0.0.0.0:9521"), ("log_level", "info")];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(config.settings, expected);
        assert_eq!(config.notes.len(), 3, "{:?}", config.notes);
    }

    #[test]
    fn reads_the_nested_form_in_any_case() {
        let text = r#"{"addr": ":9521", "LOGLEVEL": "Warning", "LogFile": "",
            "MongoDB": {"URI": "x", "Database": "y", "ExpireTime": 3600},
            "Prometheus": {"JobName": "fleet", "RemoteWriteURL": ""}}"#;
        let config = converted(text).unwrap();
        let settings: Vec<_> = config.settings.iter().map(|(k, v)| (&**k, &**v)).collect();
        let expected = [
            ("history.raw", "3600s"),
            ("hm.job", "fleet"),
            ("hm.listen", "[::]:9521"),
            ("log_level", "warn"),
        ];
        let mut sorted = settings;
        sorted.sort_unstable();
        assert_eq!(sorted, expected);
        assert_eq!(config.notes.len(), 2, "{:?}", config.notes);
    }

    #[test]
    fn errors_name_the_key() {
        for (text, expected) in [
            (r#"{"Addr": 9521}"#, "Addr: expected a text"),
            (r#"{"Addr": "9521"}"#, "Addr: expected an address such as 0.0.0.0:9521, got \"9521\""),
            (
                r#"{"Addr": "host:9521"}"#,
                "Addr: expected an address such as 0.0.0.0:9521, got \"host:9521\"",
            ),
            (r#"{"LogLevel": "loud"}"#, "LogLevel: unknown level \"loud\""),
            (
                r#"{"MongoDB": {"ExpireTime": "1d"}}"#,
                "MongoDB.ExpireTime: expected a number of seconds",
            ),
        ] {
            assert_eq!(converted(text).unwrap_err(), expected);
        }
    }
}
