//! The table of all settings. `--help` prints it; `tests/agent/packaging.rs` compares the man page and the example file with it.

use crate::config::schema::TakesEffect::{OnReload, OnRestart};
use crate::config::schema::{
    ADDRESS, ADDRESSES, COMMANDS, COUNT, LOG_LEVEL, NAME, NAMES, ORIGINS, PATH, Row, Schema, TEXT,
    row, seconds,
};
use crate::config::value::Kind;

/// Settings of hm-agent.
pub static AGENT: Schema = Schema {
    program: "hm-agent",
    environment_prefix: "HM_AGENT_",
    default_file: "/etc/hm-agent/hm-agent.toml",
    rows: ROWS,
};

const TLS_CERTIFICATE: &str = "Certificate of this port in PEM format, followed by those of intermediate authorities. Clients must use TLS then.";
const TLS_KEY: &str =
    "Private key of the certificate in PEM format. Restrict it to the agent's user.";
const TLS_CLIENT_CA: &str = "Clients must present a certificate of these authorities, in PEM format. Default: none is needed.";

/// Every setting of hm-agent, in the order in which `hm-agent check` prints them.
pub const ROWS: &[Row] = &[
    row(
        "node_id",
        None,
        NAME,
        OnRestart,
        "Identity of this node in hm and Core. Default: the machine id, else the host name.",
    ),
    row("interval", Some("5"), seconds(3600), OnReload, "Seconds between samples, 1 to 3600."),
    row("log_level", Some("info"), LOG_LEVEL, OnReload, "error, warn, info, debug or trace."),
    row(
        "state_dir",
        Some("/var/lib/hm-agent"),
        PATH,
        OnRestart,
        "Directory for state that survives a restart.",
    ),
    row(
        "path.proc",
        Some("/proc"),
        PATH,
        OnRestart,
        "Path of the host's /proc, for use in a container.",
    ),
    row(
        "path.sys",
        Some("/sys"),
        PATH,
        OnRestart,
        "Path of the host's /sys, for use in a container.",
    ),
    row(
        "path.root",
        Some("/"),
        PATH,
        OnRestart,
        "Path of the host's root filesystem, for use in a container.",
    ),
    row(
        "path.kmsg",
        Some("/dev/kmsg"),
        Kind::Text {
            what: "an absolute path, or \"\"",
            check: |text| text.is_empty() || text.starts_with('/'),
        },
        OnRestart,
        "Path of the kernel log. If /dev/kmsg cannot be opened, syslog(2) is used. Empty: the kernel log is not read.",
    ),
    row(
        "gpu.source",
        Some("auto"),
        Kind::Text {
            what: "auto, nvml or none",
            check: |text| matches!(text, "auto" | "nvml" | "none"),
        },
        OnReload,
        "auto: every supported GPU. nvml: NVIDIA only, and query the driver even if no NVIDIA device is found. none: do not read GPUs.",
    ),
    row(
        "gpu.nvml_library",
        None,
        PATH,
        OnReload,
        "Path of libnvidia-ml.so.1, if it is not in a standard directory.",
    ),
    row(
        "gpu.primary",
        Some("0"),
        Kind::Text {
            what: "the index of a GPU, or \"aggregate\"",
            check: |text| text == "aggregate" || text.parse::<u32>().is_ok(),
        },
        OnReload,
        "Index of the GPU reported in usage_update and to hm, which have fields for one GPU, or aggregate: mean utilization and total memory.",
    ),
    row(
        "gpu.timeout",
        Some("10"),
        seconds(3600),
        OnReload,
        "Seconds without a response after which the GPU driver counts as hung, 1 to 3600.",
    ),
    row(
        "gpu.hostname_label",
        Some("Hostname"),
        Kind::Text {
            what: "Hostname or hostname",
            check: |text| matches!(text, "Hostname" | "hostname"),
        },
        OnReload,
        "Label with the host name in GPU metrics: Hostname, as in dcgm-exporter before May 2026, or hostname, as since then.",
    ),
    row(
        "collectors.disable",
        Some(""),
        NAMES,
        OnRestart,
        "Collectors that do not run, by their names in node_scrape_collector_success.",
    ),
    row(
        "textfile.directory",
        None,
        PATH,
        OnRestart,
        "Directory of files in the Prometheus text format, named *.prom, that other programs write. Their metrics are added to /metrics. Default: none.",
    ),
    row(
        "health.expected_gpus",
        None,
        COUNT,
        OnReload,
        "Number of GPUs that a healthy node has. Default: any.",
    ),
    row(
        "health.expected_ib_ports",
        None,
        COUNT,
        OnReload,
        "Number of active InfiniBand ports that a healthy node has. Default: any.",
    ),
    row(
        "usage.enabled",
        Some("true"),
        Kind::Flag,
        OnRestart,
        "Serve telemetry: dashboard, /usage, /metrics.",
    ),
    row(
        "usage.listen",
        Some("0.0.0.0:33931"),
        ADDRESS,
        OnRestart,
        "Address and port for telemetry. [::]:33931 accepts IPv6 and IPv4.",
    ),
    row(
        "usage.token",
        None,
        Kind::Secret,
        OnReload,
        "Token that clients must send. Default: none; every client has access. Every user of this machine may be able to read a token that is set here.",
    ),
    row(
        "usage.token_file",
        None,
        Kind::SecretFile,
        OnReload,
        "File that contains the token. Restrict it to the agent's user.",
    ),
    row(
        "usage.max_connections",
        Some("1024"),
        COUNT,
        OnReload,
        "Maximum number of connections. 0: no limit.",
    ),
    row(
        "usage.max_connections_per_ip",
        Some("64"),
        COUNT,
        OnReload,
        "Maximum number of connections per client address. 0: no limit.",
    ),
    row(
        "usage.trusted_proxies",
        Some("127.0.0.1, ::1"),
        ADDRESSES,
        OnReload,
        "Addresses of proxies whose X-Forwarded-For or X-Real-IP header is trusted.",
    ),
    row(
        "usage.allowed_origins",
        Some("*"),
        ORIGINS,
        OnReload,
        "Browser origins that may connect, or *. If origins are listed and no token is set, browsers get /metrics and /snapshot only if they address this host by one of its names, an IP address or localhost.",
    ),
    row("usage.tls_certificate_file", None, PATH, OnRestart, TLS_CERTIFICATE),
    row("usage.tls_key_file", None, PATH, OnRestart, TLS_KEY),
    row("usage.tls_client_ca_file", None, PATH, OnRestart, TLS_CLIENT_CA),
    row(
        "heartbeat.enabled",
        Some("true"),
        Kind::Flag,
        OnRestart,
        "Accept heartbeats of applications.",
    ),
    row(
        "heartbeat.listen",
        Some("127.0.0.1:8888"),
        ADDRESS,
        OnRestart,
        "Address and port for heartbeats.",
    ),
    row("heartbeat.tls_certificate_file", None, PATH, OnRestart, TLS_CERTIFICATE),
    row("heartbeat.tls_key_file", None, PATH, OnRestart, TLS_KEY),
    row("heartbeat.tls_client_ca_file", None, PATH, OnRestart, TLS_CLIENT_CA),
    row(
        "heartbeat.unit",
        Some("ms"),
        Kind::Text { what: "ms or s", check: |text| matches!(text, "ms" | "s") },
        OnReload,
        "Unit of the times in requests and responses: ms (released clients) or s (prototype of 2016).",
    ),
    row(
        "heartbeat.on_overdue",
        None,
        NAMES,
        OnReload,
        "Program and arguments to run when an application becomes overdue, is dropped or recovers.",
    ),
    row(
        "hm.url",
        None,
        Kind::Url,
        OnRestart,
        "WebSocket URL of an hm server, ws:// or wss://. Default: none; no reports to hm.",
    ),
    row(
        "hm.token",
        None,
        Kind::Secret,
        OnRestart,
        "Token sent to the hm server as \"Authorization: Bearer\", for hm-hub. Every user of this machine may be able to read a token that is set here.",
    ),
    row(
        "hm.token_file",
        None,
        Kind::SecretFile,
        OnRestart,
        "File that contains the token for hm. Restrict it to the agent's user.",
    ),
    row("hm.project", Some(""), TEXT, OnRestart, "Project name in reports to hm."),
    row("hm.models", Some(""), NAMES, OnRestart, "Model names in reports to hm."),
    row(
        "hm.report_interval",
        Some("30"),
        seconds(86_400),
        OnRestart,
        "Seconds between reports to hm, 1 to 86400.",
    ),
    row(
        "hm.ping_interval",
        Some("10"),
        seconds(29),
        OnRestart,
        "Seconds between pings to hm, 1 to 29. hm closes a connection after 30 s without one.",
    ),
    row(
        "core.url",
        None,
        Kind::Url,
        OnRestart,
        "WebSocket URL of a Core server (server manager), ws:// or wss://. Default: none; no connection to Core.",
    ),
    row(
        "core.token",
        Some("default-token"),
        Kind::Secret,
        OnRestart,
        "Token sent to Core. Every user of this machine may be able to read a token that is set here.",
    ),
    row(
        "core.token_file",
        None,
        Kind::SecretFile,
        OnRestart,
        "File that contains the token for Core. Restrict it to the agent's user.",
    ),
    row(
        "core.heartbeat_interval",
        Some("30"),
        seconds(86_400),
        OnRestart,
        "Seconds between heartbeats to Core, 1 to 86400.",
    ),
    row(
        "core.commands",
        Some("off"),
        Kind::Text {
            what: "off, allow or any",
            check: |text| matches!(text, "off" | "allow" | "any"),
        },
        OnRestart,
        "Commands from Core that are run. off: none. allow: those listed in core.allow. any: all, by sh -c.",
    ),
    row(
        "core.allow",
        Some(""),
        COMMANDS,
        OnRestart,
        "Allowed commands, or their first words, such as [\"nvidia-smi\", \"systemctl status\"].",
    ),
    row(
        "core.run_as",
        None,
        NAME,
        OnRestart,
        "User that runs the commands. Needs an agent that runs as root. Default: the agent's user.",
    ),
    row(
        "monitor.enabled",
        Some("false"),
        Kind::Flag,
        OnRestart,
        "Monitor other hosts over SSH for clients of this port.",
    ),
    row(
        "monitor.listen",
        Some("127.0.0.1:9097"),
        ADDRESS,
        OnRestart,
        "Address and port for monitoring of other hosts. Clients send SSH passwords to it: use TLS for access from other machines.",
    ),
    row(
        "monitor.token",
        None,
        Kind::Secret,
        OnReload,
        "Token that clients must send. Every user of this machine may be able to read a token that is set here.",
    ),
    row(
        "monitor.token_file",
        None,
        Kind::SecretFile,
        OnReload,
        "File that contains the token. Restrict it to the agent's user.",
    ),
    row(
        "monitor.allowed_origins",
        Some(""),
        ORIGINS,
        OnReload,
        "Browser origins that may connect, or *.",
    ),
    row(
        "monitor.known_hosts",
        None,
        PATH,
        OnReload,
        "File that stores host keys. Default: ~/.ssh/known_hosts of the agent's user.",
    ),
    row("monitor.tls_certificate_file", None, PATH, OnRestart, TLS_CERTIFICATE),
    row("monitor.tls_key_file", None, PATH, OnRestart, TLS_KEY),
    row("monitor.tls_client_ca_file", None, PATH, OnRestart, TLS_CLIENT_CA),
    row(
        "tls.ca_file",
        None,
        PATH,
        OnRestart,
        "Additional certificate authorities for wss://, in PEM format.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_keys_unique() {
        for row in ROWS {
            if let Some(default) = row.default {
                assert!(row.kind.parse(default).is_ok(), "{} = {default}", row.key);
            }
            assert_eq!(ROWS.iter().filter(|other| other.key == row.key).count(), 1, "{}", row.key);
        }
    }
}
