//! Types of settings, and their parsing from text (after `-s KEY=`, in the environment) and from TOML.

use std::fmt;

use toml::de::DeValue;

use crate::net::url::Url;
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

/// The type of a setting.
#[derive(Debug)]
pub enum Kind {
    /// `true` or `false`.
    Flag,
    /// A whole number from `min` to `max`.
    Int {
        min: u64,
        max: u64,
        /// E.g. "whole seconds", for error messages.
        unit: &'static str,
    },
    /// A text that passes a check.
    Text {
        /// What is expected, for error messages.
        what: &'static str,
        check: fn(&str) -> bool,
    },
    /// URL of a WebSocket server, printed without the parts that may be secret.
    Url,
    /// Path of a file with a secret. An invalid value is not printed: it may be the secret itself.
    SecretFile,
    /// A text that is never printed and never empty: an empty password would admit every client.
    Secret,
    /// A text that passes a check and may contain a password. Only the default is printed.
    SecretText {
        /// What is expected, for error messages.
        what: &'static str,
        check: fn(&str) -> bool,
    },
    /// Texts that each pass a check, separated by commas or as a TOML array.
    List {
        /// What is expected, for error messages.
        what: &'static str,
        /// Checks one item.
        check: fn(&str) -> bool,
    },
}

/// The value of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Unset,
    Flag(bool),
    Int(u64),
    Text(String),
    List(Vec<String>),
}

impl Kind {
    /// Parses a value from the command line or the environment.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        match self {
            Self::Flag => match text {
                "true" => Ok(Value::Flag(true)),
                "false" => Ok(Value::Flag(false)),
                _ => Err(self.describe_error(text)),
            },
            Self::Int { min, max, .. } => match text.parse() {
                Ok(number) if (*min..=*max).contains(&number) => Ok(Value::Int(number)),
                _ => Err(self.describe_error(text)),
            },
            Self::Text { check, .. } | Self::SecretText { check, .. } if check(text) => {
                Ok(Value::Text(text.to_owned()))
            }
            Self::Secret if !text.is_empty() => Ok(Value::Text(text.to_owned())),
            Self::Url if Url::parse_websocket(text).is_ok() => Ok(Value::Text(text.to_owned())),
            Self::SecretFile if text.starts_with('/') => Ok(Value::Text(text.to_owned())),
            Self::Text { .. }
            | Self::Url
            | Self::SecretFile
            | Self::Secret
            | Self::SecretText { .. } => Err(self.describe_error(text)),
            Self::List { .. } if text.starts_with('[') => match DeValue::parse(text) {
                Ok(array) => self.from_toml(array.get_ref()),
                Err(_) => Err(self.describe_error(text)),
            },
            Self::List { .. } => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                self.list(items.map(str::to_owned).collect())
            }
        }
    }

    /// Parses a TOML value. A text setting also accepts a number.
    pub fn from_toml(&self, value: &DeValue<'_>) -> Result<Value, String> {
        match (self, value) {
            (Self::Flag, DeValue::Boolean(flag)) => Ok(Value::Flag(*flag)),
            (Self::Int { .. }, DeValue::Integer(number)) if number.radix() == 10 => {
                self.parse(number.as_str())
            }
            (
                Self::Text { .. }
                | Self::Url
                | Self::SecretFile
                | Self::Secret
                | Self::SecretText { .. },
                DeValue::String(text),
            ) => self.parse(text),
            (Self::Text { .. }, DeValue::Integer(number)) => self.parse(number.as_str()),
            (Self::List { .. }, DeValue::Array(items)) => {
                let text = |item: &DeValue<'_>| item.as_str().map(str::to_owned);
                let texts: Option<Vec<String>> =
                    items.iter().map(|item| text(item.get_ref())).collect();
                self.list(
                    texts.ok_or_else(|| self.describe_error(&format!("{} items", items.len())))?,
                )
            }
            (_, other) => Err(self.describe_error(&describe(other))),
        }
    }

    fn list(&self, items: Vec<String>) -> Result<Value, String> {
        let Self::List { check, .. } = self else { return Err(self.describe_error("a list")) };
        match items.iter().find(|item| !check(item)) {
            Some(bad) => Err(self.describe_error(bad)),
            None => Ok(Value::List(items)),
        }
    }

    fn describe_error(&self, text: &str) -> String {
        let got = escape_for_log(text, EXCERPT_CHARS);
        match self {
            Self::Flag => format!("expected true or false, got \"{got}\""),
            Self::Int { min, max, unit } => {
                format!("expected {unit} from {min} to {max}, got \"{got}\"")
            }
            Self::Text { what, .. } | Self::List { what, .. } => {
                format!("expected {what}, got \"{got}\"")
            }
            Self::Url => {
                let shown = escape_for_log(redact_url(text), EXCERPT_CHARS);
                format!(
                    "expected an address such as ws://host:port/path or wss://host/path, got \"{shown}\""
                )
            }
            Self::SecretFile => "expected the absolute path of a file".to_owned(),
            // An invalid secret is not printed either.
            Self::SecretText { what, .. } => format!("expected {what}"),
            Self::Secret => "expected a text in quotes that is not empty".to_owned(),
        }
    }
}

/// Removes user, password and query from a URL, also from an invalid one.
fn redact_url(url: &str) -> String {
    let (scheme, rest) = url.split_at(url.find("://").map_or(0, |at| at + 3));
    let (user, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => ("(not shown)@", rest),
        None => ("", rest),
    };
    format!("{scheme}{user}{}", without_query(rest))
}

/// Replaces the query of a URL by a placeholder.
pub fn without_query(url: &str) -> String {
    let end = url.find(['?', '#']).map_or(url.len(), |at| at + 1);
    let (shown, hidden) = url.split_at(end);
    let hidden = if hidden.is_empty() { "" } else { "(not shown)" };
    format!("{shown}{hidden}")
}

fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(flag) => flag.to_string(),
        other => format!("a TOML {}", other.type_str()),
    }
}

impl fmt::Display for Value {
    /// TOML syntax.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset => f.write_str("(not set)"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Int(number) => write!(f, "{number}"),
            Self::Text(text) => write!(f, "{}", TomlText(text)),
            Self::List(items) => {
                f.write_str("[")?;
                for (at, item) in items.iter().enumerate() {
                    let comma = if at > 0 { ", " } else { "" };
                    write!(f, "{comma}{}", TomlText(item))?;
                }
                f.write_str("]")
            }
        }
    }
}

struct TomlText<'a>(&'a str);

impl fmt::Display for TomlText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for letter in self.0.chars() {
            match letter {
                '"' | '\\' => write!(f, "\\{letter}")?,
                letter if letter.is_control() => write!(f, "\\u{:04X}", u32::from(letter))?,
                letter => write!(f, "{letter}")?,
            }
        }
        f.write_str("\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECONDS: Kind = Kind::Int { min: 1, max: 3600, unit: "whole seconds" };
    const NAMES: Kind = Kind::List { what: "a list of names", check: |text| text != "bad" };

    #[test]
    fn rejects_numbers_out_of_range() {
        assert_eq!(SECONDS.parse("3600"), Ok(Value::Int(3600)));
        for bad in ["0", "3601", "-1", "1.5", "5s", "", "99999999999999999999"] {
            let why = SECONDS.parse(bad).unwrap_err();
            assert_eq!(why, format!("expected whole seconds from 1 to 3600, got \"{bad}\""));
        }
    }

    #[test]
    fn parses_lists_as_commas_or_toml() {
        let both = Ok(Value::List(vec!["a".into(), "b c".into()]));
        assert_eq!(NAMES.parse("a, b c"), both);
        assert_eq!(NAMES.parse(r#"["a", "b c"]"#), both);
        assert_eq!(NAMES.parse(""), Ok(Value::List(vec![])));
        assert!(NAMES.parse("[\"a\"").is_err() && NAMES.parse("[1]").is_err());
        assert_eq!(NAMES.parse("a,bad").unwrap_err(), "expected a list of names, got \"bad\"");
    }

    #[test]
    fn rejects_wrong_toml_type() {
        let value = |text| DeValue::parse(text).unwrap();
        let refused = |kind: &Kind, text| kind.from_toml(value(text).get_ref()).unwrap_err();
        assert_eq!(refused(&Kind::Flag, "\"yes\""), "expected true or false, got \"yes\"");
        assert!(refused(&SECONDS, "5.0").ends_with("got \"5.0\""));
        assert!(refused(&SECONDS, "[5]").ends_with("got \"a TOML array\""));
        assert!(!refused(&Kind::Secret, "12345").contains("12345"));
    }

    #[test]
    fn prints_values_as_toml() {
        let list = Value::List(vec!["a\"b".into(), "c\\\n".into()]);
        assert_eq!(list.to_string(), r#"["a\"b", "c\\\u000A"]"#);
        assert_eq!(NAMES.parse(&list.to_string()), Ok(list));
    }

    #[test]
    fn redacts_user_password_and_query_of_url() {
        for (url, shown) in [
            ("ws://h:1/x?token=a#b", "ws://h:1/x?(not shown)"),
            ("ws://h/", "ws://h/"),
            ("wss://h/x?", "wss://h/x?"),
            ("ws://me:pass@h/x", "ws://(not shown)@h/x"),
            ("ws://me:pa/s?s@h/x?a", "ws://(not shown)@h/x?(not shown)"),
            ("me:pass@h", "(not shown)@h"),
            ("", ""),
            ("://", "://"),
        ] {
            assert_eq!(redact_url(url), shown, "{url}");
        }
    }
}
