//! Every setting: its key, its default, what it may be.

use std::net::{IpAddr, SocketAddr};

use crate::config::value::Kind;
use crate::util::shell_words;

/// One setting.
pub struct Row {
    /// Its dotted name.
    pub key: &'static str,
    /// Its default, written as behind `-s KEY=`; `None`: not set.
    pub default: Option<&'static str>,
    /// What it may be.
    pub kind: Kind,
    /// When a new value comes into force.
    pub takes_effect: TakesEffect,
}

/// When a new value comes into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakesEffect {
    /// With SIGHUP.
    OnReload,
    /// With the next start.
    OnRestart,
}
use TakesEffect::{OnReload, OnRestart};

const fn row(
    key: &'static str,
    default: Option<&'static str>,
    kind: Kind,
    takes_effect: TakesEffect,
) -> Row {
    Row { key, default, kind, takes_effect }
}

const fn seconds(max: u64) -> Kind {
    Kind::Int { min: 1, max, unit: "whole seconds" }
}

const COUNT: Kind = Kind::Int { min: 0, max: 1_000_000, unit: "a number" };
const ADDRESS: Kind = Kind::Text {
    what: "an address and port such as 0.0.0.0:33931 or [::]:33931",
    check: |text| text.parse::<SocketAddr>().is_ok(),
};
const PATH: Kind = Kind::Text { what: "an absolute path", check: |text| text.starts_with('/') };
const NAME: Kind = Kind::Text { what: "a text", check: |text| !text.trim().is_empty() };
const TEXT: Kind = Kind::Text { what: "a text", check: |_| true };
const NAMES: Kind = Kind::List { what: "a list of texts", check: |text| !text.trim().is_empty() };
const COMMANDS: Kind = Kind::List {
    what: "a list of commands and their first arguments, in words that no shell would interpret",
    check: |text| shell_words::split(text).is_ok(),
};
const ADDRESSES: Kind =
    Kind::List { what: "a list of IP addresses", check: |text| text.parse::<IpAddr>().is_ok() };
const ORIGINS: Kind = Kind::List {
    what: "a list of origins such as https://dash.example, or \"*\"",
    check: |text| {
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        text == "*" || text == "null" || host.is_some_and(|h| !h.is_empty() && !h.contains('/'))
    },
};

/// Every setting, in the order in which `hm-agent check` prints them.
pub const ROWS: &[Row] = &[
    row("node_id", None, NAME, OnRestart),
    row("interval", Some("5"), seconds(3600), OnReload),
    row(
        "log_level",
        Some("info"),
        Kind::Text {
            what: "error, warn, info, debug or trace",
            check: |text| matches!(text, "error" | "warn" | "info" | "debug" | "trace"),
        },
        OnReload,
    ),
    row("state_dir", Some("/var/lib/hm-agent"), PATH, OnRestart),
    row("path.proc", Some("/proc"), PATH, OnRestart),
    row("path.sys", Some("/sys"), PATH, OnRestart),
    row("path.root", Some("/"), PATH, OnRestart),
    row(
        "gpu.source",
        Some("auto"),
        Kind::Text {
            what: "auto, nvml or none",
            check: |text| matches!(text, "auto" | "nvml" | "none"),
        },
        OnReload,
    ),
    row("gpu.nvml_library", None, PATH, OnReload),
    row(
        "gpu.primary",
        Some("0"),
        Kind::Text {
            what: "the index of a GPU, or \"aggregate\"",
            check: |text| text == "aggregate" || text.parse::<u32>().is_ok(),
        },
        OnReload,
    ),
    row("gpu.timeout", Some("10"), seconds(3600), OnReload),
    row("usage.enabled", Some("true"), Kind::Flag, OnRestart),
    row("usage.listen", Some("0.0.0.0:33931"), ADDRESS, OnRestart),
    row("usage.token", None, Kind::Secret, OnReload),
    row("usage.token_file", None, Kind::SecretFile, OnReload),
    row("usage.max_connections", Some("1024"), COUNT, OnReload),
    row("usage.max_connections_per_ip", Some("64"), COUNT, OnReload),
    row("usage.trusted_proxies", Some("127.0.0.1, ::1"), ADDRESSES, OnReload),
    row("usage.allowed_origins", Some("*"), ORIGINS, OnReload),
    row("heartbeat.enabled", Some("true"), Kind::Flag, OnRestart),
    row("heartbeat.listen", Some("127.0.0.1:8888"), ADDRESS, OnRestart),
    row(
        "heartbeat.unit",
        Some("ms"),
        Kind::Text { what: "ms or s", check: |text| matches!(text, "ms" | "s") },
        OnReload,
    ),
    row("heartbeat.on_overdue", None, NAMES, OnReload),
    row("hm.url", None, Kind::Address, OnRestart),
    row("hm.project", Some(""), TEXT, OnRestart),
    row("hm.models", Some(""), NAMES, OnRestart),
    row("hm.report_interval", Some("30"), seconds(86_400), OnRestart),
    row("hm.ping_interval", Some("10"), seconds(29), OnRestart),
    row("core.url", None, Kind::Address, OnRestart),
    row("core.token", Some("default-token"), Kind::Secret, OnRestart),
    row("core.token_file", None, Kind::SecretFile, OnRestart),
    row("core.heartbeat_interval", Some("30"), seconds(86_400), OnRestart),
    row(
        "core.commands",
        Some("off"),
        Kind::Text {
            what: "off, allow or any",
            check: |text| matches!(text, "off" | "allow" | "any"),
        },
        OnRestart,
    ),
    row("core.allow", Some(""), COMMANDS, OnRestart),
    row("core.run_as", None, NAME, OnRestart),
    row("monitor.enabled", Some("false"), Kind::Flag, OnRestart),
    row("monitor.listen", Some("127.0.0.1:9097"), ADDRESS, OnRestart),
    row("monitor.token", None, Kind::Secret, OnReload),
    row("monitor.token_file", None, Kind::SecretFile, OnReload),
    row("monitor.allowed_origins", Some(""), ORIGINS, OnReload),
    row("monitor.known_hosts", None, PATH, OnReload),
    row("tls.ca_file", None, PATH, OnRestart),
];

/// The setting of that name.
pub fn find(key: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.key == key)
}

/// The known key that looks most like an unknown one.
pub fn nearest(unknown: &str) -> &'static str {
    let distance = |row: &&Row| {
        // A key given without its section ("listen") is as near as one that is spelt wrong, and a
        // section given a value ("usage = 5") is nearest to its own keys.
        let (section, last) = row.key.split_once('.').unwrap_or(("", row.key));
        let near = edits(unknown, row.key).min(edits(unknown, last) + 1);
        if section == unknown { 0 } else { near }
    };
    ROWS.iter().min_by_key(distance).map_or("", |row| row.key)
}

/// Levenshtein distance: how many letters to insert, drop or change.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (at, letter) in from.chars().take(64).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, other) in to.iter().enumerate() {
            let change = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = change.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_allowed_and_every_key_is_there_once() {
        for row in ROWS {
            if let Some(default) = row.default {
                assert!(row.kind.parse(default).is_ok(), "{} = {default}", row.key);
            }
            assert_eq!(ROWS.iter().filter(|other| other.key == row.key).count(), 1, "{}", row.key);
        }
    }

    #[test]
    fn the_nearest_key_is_the_one_that_was_meant() {
        for (unknown, meant) in [
            ("usage.lisen", "usage.listen"),
            ("usage.Listen", "usage.listen"),
            ("intervall", "interval"),
            ("max_connections", "usage.max_connections"),
            ("usage.max_connection", "usage.max_connections"),
            ("loglevel", "log_level"),
            ("heartbeat.units", "heartbeat.unit"),
            ("usage.tokenfile", "usage.token_file"),
        ] {
            assert_eq!(nearest(unknown), meant);
        }
        assert!(!nearest("").is_empty() && !nearest(&"x".repeat(100_000)).is_empty());
    }
}
