//! What a setting can be, and how it is written: as text (behind `-s KEY=`, in the environment) or in
//! TOML.

use std::fmt;

use toml::de::DeValue;

use crate::net::url::Address;
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

/// What a setting may be.
pub enum Kind {
    /// true or false.
    Flag,
    /// A whole number within bounds.
    Int {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
        /// What it counts, e.g. "whole seconds".
        unit: &'static str,
    },
    /// A text that passes a check.
    Text {
        /// What is expected, for the error.
        what: &'static str,
        /// The check.
        check: fn(&str) -> bool,
    },
    /// A server's address, which is shown without what may be secret in it.
    Address,
    /// Where a secret is. What stands there and is no path may be the secret itself.
    SecretFile,
    /// A text that is never shown, and never empty: an empty password lets everybody in.
    Secret,
    /// Texts that each pass a check; as text they are separated by commas, or a TOML array.
    List {
        /// What is expected, for the error.
        what: &'static str,
        /// The check of each.
        check: fn(&str) -> bool,
    },
}

/// A setting's value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Value {
    Unset,
    Flag(bool),
    Int(u64),
    Text(String),
    List(Vec<String>),
}

impl Kind {
    /// Reads a value that was given as text.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        match self {
            Self::Flag => match text {
                "true" => Ok(Value::Flag(true)),
                "false" => Ok(Value::Flag(false)),
                _ => Err(self.refuse(text)),
            },
            Self::Int { min, max, .. } => match text.parse() {
                Ok(number) if (*min..=*max).contains(&number) => Ok(Value::Int(number)),
                _ => Err(self.refuse(text)),
            },
            Self::Text { check, .. } if check(text) => Ok(Value::Text(text.to_owned())),
            Self::Secret if !text.is_empty() => Ok(Value::Text(text.to_owned())),
            Self::Address if Address::parse(text).is_ok() => Ok(Value::Text(text.to_owned())),
            Self::SecretFile if text.starts_with('/') => Ok(Value::Text(text.to_owned())),
            Self::Text { .. } | Self::Address | Self::SecretFile | Self::Secret => {
                Err(self.refuse(text))
            }
            Self::List { .. } if text.starts_with('[') => match DeValue::parse(text) {
                Ok(array) => self.from_toml(array.get_ref()),
                Err(_) => Err(self.refuse(text)),
            },
            Self::List { .. } => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                self.list(items.map(str::to_owned).collect())
            }
        }
    }

    /// Reads a value that was given in TOML. A number stands for itself where a text is wanted.
    pub fn from_toml(&self, value: &DeValue<'_>) -> Result<Value, String> {
        match (self, value) {
            (Self::Flag, DeValue::Boolean(flag)) => Ok(Value::Flag(*flag)),
            (Self::Int { .. }, DeValue::Integer(number)) if number.radix() == 10 => {
                self.parse(number.as_str())
            }
            (
                Self::Text { .. } | Self::Address | Self::SecretFile | Self::Secret,
                DeValue::String(text),
            ) => self.parse(text),
            (Self::Text { .. }, DeValue::Integer(number)) => self.parse(number.as_str()),
            (Self::List { .. }, DeValue::Array(items)) => {
                let text = |item: &DeValue<'_>| item.as_str().map(str::to_owned);
                let texts: Option<Vec<String>> =
                    items.iter().map(|item| text(item.get_ref())).collect();
                self.list(texts.ok_or_else(|| self.refuse(&format!("{} items", items.len())))?)
            }
            (_, other) => Err(self.refuse(&shown(other))),
        }
    }

    fn list(&self, items: Vec<String>) -> Result<Value, String> {
        let Self::List { check, .. } = self else { return Err(self.refuse("a list")) };
        match items.iter().find(|item| !check(item)) {
            Some(bad) => Err(self.refuse(bad)),
            None => Ok(Value::List(items)),
        }
    }

    fn refuse(&self, text: &str) -> String {
        let got = escape_for_log(text, EXCERPT_CHARS);
        match self {
            Self::Flag => format!("expected true or false, got \"{got}\""),
            Self::Int { min, max, unit } => {
                format!("expected {unit} from {min} to {max}, got \"{got}\"")
            }
            Self::Text { what, .. } | Self::List { what, .. } => {
                format!("expected {what}, got \"{got}\"")
            }
            Self::Address => {
                let shown = escape_for_log(without_secrets(text), EXCERPT_CHARS);
                format!(
                    "expected an address such as ws://host:port/path or wss://host/path, got \"{shown}\""
                )
            }
            Self::SecretFile => "expected the absolute path of a file".to_owned(),
            // What was meant as a secret is not repeated, not even when it is wrong.
            Self::Secret => "expected a text in quotes that is not empty".to_owned(),
        }
    }
}

/// What is left of a server's address for those who may not know what opens the door there: neither user nor password,
/// wherever they end in an address that is none, and no query.
fn without_secrets(url: &str) -> String {
    let (scheme, rest) = url.split_at(url.find("://").map_or(0, |at| at + 3));
    let (user, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => ("(not shown)@", rest),
        None => ("", rest),
    };
    format!("{scheme}{user}{}", without_query(rest))
}

/// An address without its query, of which nothing is left but that there is one.
pub fn without_query(url: &str) -> String {
    let end = url.find(['?', '#']).map_or(url.len(), |at| at + 1);
    let (shown, hidden) = url.split_at(end);
    let hidden = if hidden.is_empty() { "" } else { "(not shown)" };
    format!("{shown}{hidden}")
}

fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(flag) => flag.to_string(),
        other => format!("a TOML {}", other.type_str()),
    }
}

impl fmt::Display for Value {
    /// As it would stand in a settings file.
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
    fn ranges_are_kept_and_named() {
        assert_eq!(SECONDS.parse("3600"), Ok(Value::Int(3600)));
        for bad in ["0", "3601", "-1", "1.5", "5s", "", "99999999999999999999"] {
            let why = SECONDS.parse(bad).unwrap_err();
            assert_eq!(why, format!("expected whole seconds from 1 to 3600, got \"{bad}\""));
        }
    }

    #[test]
    fn lists_are_commas_or_toml() {
        let both = Ok(Value::List(vec!["a".into(), "b c".into()]));
        assert_eq!(NAMES.parse("a, b c"), both);
        assert_eq!(NAMES.parse(r#"["a", "b c"]"#), both);
        assert_eq!(NAMES.parse(""), Ok(Value::List(vec![])));
        assert!(NAMES.parse("[\"a\"").is_err() && NAMES.parse("[1]").is_err());
        assert_eq!(NAMES.parse("a,bad").unwrap_err(), "expected a list of names, got \"bad\"");
    }

    #[test]
    fn a_wrong_type_in_toml_is_named() {
        let value = |text| DeValue::parse(text).unwrap();
        let refused = |kind: &Kind, text| kind.from_toml(value(text).get_ref()).unwrap_err();
        assert_eq!(refused(&Kind::Flag, "\"yes\""), "expected true or false, got \"yes\"");
        assert!(refused(&SECONDS, "5.0").ends_with("got \"5.0\""));
        assert!(refused(&SECONDS, "[5]").ends_with("got \"a TOML array\""));
        assert!(!refused(&Kind::Secret, "12345").contains("12345"));
    }

    #[test]
    fn values_print_as_toml() {
        let list = Value::List(vec!["a\"b".into(), "c\\\n".into()]);
        assert_eq!(list.to_string(), r#"["a\"b", "c\\\u000A"]"#);
        assert_eq!(NAMES.parse(&list.to_string()), Ok(list));
    }

    #[test]
    fn an_address_is_shown_without_what_may_be_secret() {
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
            assert_eq!(without_secrets(url), shown, "{url}");
        }
    }
}
