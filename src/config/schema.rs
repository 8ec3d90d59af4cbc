//! What a table of settings consists of: rows, and the kinds of values that several rows share.

use std::net::{IpAddr, SocketAddr};

use crate::config::value::Kind;
use crate::util::shell_words;

/// One setting.
#[derive(Debug)]
pub struct Row {
    /// Dotted, e.g. `usage.listen`.
    pub key: &'static str,
    /// As written after `-s KEY=`; `None`: not set.
    pub default: Option<&'static str>,
    pub kind: Kind,
    pub takes_effect: TakesEffect,
    /// Text of `--help`, in complete sentences.
    pub description: &'static str,
}

/// The settings of one program.
#[derive(Debug)]
pub struct Schema {
    pub program: &'static str,
    /// Prefix of its environment variables, e.g. `HM_AGENT_`.
    pub environment_prefix: &'static str,
    /// The file that is read if `-c` is missing and the file exists.
    pub default_file: &'static str,
    pub rows: &'static [Row],
}

impl Schema {
    pub fn find(&self, key: &str) -> Option<&'static Row> {
        self.rows.iter().find(|row| row.key == key)
    }

    /// The environment variable of a key, e.g. `HM_AGENT_USAGE_LISTEN`.
    pub(super) fn variable(&self, key: &str) -> String {
        format!("{}{}", self.environment_prefix, key.replace('.', "_").to_ascii_uppercase())
    }
}

/// When a changed value takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakesEffect {
    /// On SIGHUP.
    OnReload,
    /// On the next start.
    OnRestart,
}

pub const fn row(
    key: &'static str,
    default: Option<&'static str>,
    kind: Kind,
    takes_effect: TakesEffect,
    description: &'static str,
) -> Row {
    Row { key, default, kind, takes_effect, description }
}

pub const fn seconds(max: u64) -> Kind {
    Kind::Int { min: 1, max, unit: "whole seconds" }
}

pub const COUNT: Kind = Kind::Int { min: 0, max: 1_000_000, unit: "a number" };
pub const ADDRESS: Kind = Kind::Text {
    what: "an address and port such as 0.0.0.0:33931 or [::]:33931",
    check: |text| text.parse::<SocketAddr>().is_ok(),
};
pub const PATH: Kind = Kind::Text { what: "an absolute path", check: |text| text.starts_with('/') };
pub const NAME: Kind = Kind::Text { what: "a text", check: |text| !text.trim().is_empty() };
pub const NAMES: Kind =
    Kind::List { what: "a list of texts", check: |text| !text.trim().is_empty() };
pub const LOG_LEVEL: Kind = Kind::Text {
    what: "error, warn, info, debug or trace",
    check: |text| matches!(text, "error" | "warn" | "info" | "debug" | "trace"),
};
pub const TEXT: Kind = Kind::Text { what: "a text", check: |_| true };
pub const COMMANDS: Kind = Kind::List {
    what: "a list of commands and their first arguments, without shell metacharacters",
    check: |text| shell_words::split(text).is_ok(),
};
pub const ADDRESSES: Kind =
    Kind::List { what: "a list of IP addresses", check: |text| text.parse::<IpAddr>().is_ok() };
pub const ORIGINS: Kind = Kind::List {
    what: "a list of origins such as https://dash.example, or \"*\"",
    check: |text| {
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        text == "*" || text == "null" || host.is_some_and(|h| !h.is_empty() && !h.contains('/'))
    },
};
