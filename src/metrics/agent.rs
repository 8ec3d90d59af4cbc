//! The agent's own state: collectors, heartbeat applications, upstreams, ports and process.

use std::time::Duration;

use crate::metrics::encoder::{Encoder, Number, labels};
use crate::metrics::{Exposition, Truncation};
use crate::model::RawSample;
use crate::model::status::{
    AppState, AppStatus, AppSummary, CollectorStatus, PortStatus, ProcessStats, UpstreamStatus,
};

pub(super) fn encode(encoder: &mut Encoder, input: &Exposition<'_>, truncation: &mut Truncation) {
    let build =
        labels(&[("version", env!("CARGO_PKG_VERSION")), ("architecture", std::env::consts::ARCH)]);
    encoder
        .gauge(
            "hm_agent_build_info",
            "Version and architecture of the agent. The value is always 1.",
        )
        .sample(&build, 1u64);
    node_exporter_build(encoder);
    sample(encoder, input);
    collectors(encoder, &input.sample.collectors);
    heartbeats(encoder, &input.sample.heartbeats, truncation);
    events(encoder, input.sample);
    upstreams(encoder, &input.sample.upstreams);
    ports(encoder, input.ports);
    if let Some(process) = &input.process {
        self::process(encoder, process);
    }
}

/// Dashboards of the node mixin find their instances by it.
fn node_exporter_build(encoder: &mut Encoder) {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let build = labels(&[
        ("branch", ""),
        ("goarch", architecture),
        ("goos", "linux"),
        ("goversion", ""),
        ("revision", ""),
        ("tags", ""),
        ("version", env!("CARGO_PKG_VERSION")),
    ]);
    encoder
        .gauge(
            "node_exporter_build_info",
            "Version of hm-agent, which serves this for dashboards that find instances by it. The value is always 1.",
        )
        .sample(&build, 1u64);
}

fn seconds(duration: Duration) -> Number {
    Number::Decimal(u64::try_from(duration.as_nanos()).unwrap_or_default(), 9)
}

fn sample(encoder: &mut Encoder, input: &Exposition<'_>) {
    let sample = input.sample;
    encoder
        .gauge(
            "hm_agent_sample_timestamp_seconds",
            "Unix time at which the current sample was collected.",
        )
        .sample("", sample.unix_seconds);
    encoder
        .gauge(
            "hm_agent_sample_duration_seconds",
            "Time it took to collect the current sample, in seconds.",
        )
        .sample("", seconds(sample.duration));
    encoder
        .gauge("hm_agent_sample_interval_seconds", "Configured time between samples, in seconds.")
        .sample("", seconds(input.interval));
    encoder
        .counter("hm_agent_samples_total", "Number of samples collected since the agent started.")
        .sample("", input.samples);
    encoder
        .gauge(
            "hm_agent_filesystems_stuck",
            "Number of filesystems whose size is not exposed because statvfs does not return.",
        )
        .sample("", sample.file_systems_stuck);
}

/// The node_exporter collectors that correspond to one of ours.
fn node_exporter_names(collector: &CollectorStatus) -> &[&'static str] {
    match collector.name {
        "stat" => &["cpu", "stat"],
        _ => std::slice::from_ref(&collector.name),
    }
}

/// Success and duration by node_exporter's names. Several of ours may be one there: temperatures are read with every sample, the
/// rest of hwmon once a minute.
fn merge_collectors(collectors: &[CollectorStatus]) -> Vec<(&str, bool, Duration)> {
    let mut merged: Vec<(&str, bool, Duration)> = Vec::new();
    for status in collectors {
        for name in node_exporter_names(status) {
            match merged.iter_mut().find(|(known, ..)| known == name) {
                Some((_, success, duration)) => {
                    *success &= status.success;
                    *duration += status.duration;
                }
                None => merged.push((*name, status.success, status.duration)),
            }
        }
    }
    merged
}

fn collectors(encoder: &mut Encoder, collectors: &[CollectorStatus]) {
    let merged = merge_collectors(collectors);
    encoder.gauge("node_scrape_collector_duration_seconds", "Duration of a collector scrape.");
    for (name, _, duration) in &merged {
        encoder.sample_with_label("", ("collector", name), seconds(*duration));
    }
    encoder.gauge("node_scrape_collector_success", "Whether a collector succeeded.");
    for (name, success, _) in &merged {
        encoder.sample_with_label("", ("collector", name), *success);
    }
}

fn heartbeats(encoder: &mut Encoder, apps: &AppSummary, truncation: &mut Truncation) {
    let states = AppState::ALL.map(|state| (state, state.name().to_ascii_lowercase()));
    encoder.gauge("hm_agent_heartbeat_apps", "Number of heartbeat applications by state.");
    for (state, name) in &states {
        encoder.sample_with_label("", ("state", name), apps.number(*state));
    }
    truncation.add("heartbeat_apps", apps.truncated);
    let named: Vec<(String, &AppStatus)> =
        apps.shown.iter().map(|status| (labels(&[("app_id", &status.id)]), status)).collect();
    encoder.gauge(
        "hm_agent_heartbeat_app_state",
        "State of the application: 1 for the current state, 0 for the others.",
    );
    for (labels, status) in &named {
        for (state, name) in &states {
            encoder.sample_with_label(labels, ("state", name), status.state == *state);
        }
    }
    for (name, help, value) in APP_GAUGES {
        encoder.gauge(name, help);
        for (labels, status) in &named {
            encoder.sample(labels, value(status));
        }
    }
}

type AppFamily = (&'static str, &'static str, fn(&AppStatus) -> Number);

const APP_GAUGES: [AppFamily; 4] = [
    (
        "hm_agent_heartbeat_app_overdue_ratio",
        "Age of the last heartbeat divided by its timeout. The state is warning from 3 on, critical from 5 on and dropped from 6 on.",
        |status| status.overdue_ratio.into(),
    ),
    (
        "hm_agent_heartbeat_app_last_heartbeat_age_seconds",
        "Time since the last heartbeat, in seconds.",
        |status| (status.overdue_ratio * status.timeout.as_secs_f64()).into(),
    ),
    (
        "hm_agent_heartbeat_app_timeout_seconds",
        "Timeout set by the last heartbeat: announced interval plus one second.",
        |status| status.timeout.as_secs_f64().into(),
    ),
    (
        "hm_agent_heartbeat_app_maintenance",
        "Whether the application or the host is in maintenance.",
        |status| status.maintenance.is_some().into(),
    ),
];

fn events(encoder: &mut Encoder, sample: &RawSample) {
    encoder.counter("hm_agent_events_total", "Number of events since the agent started, by kind.");
    for (kind, count) in sample.events.each() {
        encoder.sample_with_label("", ("kind", kind.name()), count);
    }
    encoder
        .gauge("hm_agent_kernel_log_readable", "Whether the kernel log is read for events.")
        .sample("", sample.kernel_log.readable);
    encoder
        .counter(
            "hm_agent_kernel_log_lost_total",
            "Number of records of the kernel log that were overwritten before they were read.",
        )
        .sample("", sample.kernel_log.lost);
}

fn upstreams(encoder: &mut Encoder, upstreams: &[UpstreamStatus]) {
    let named: Vec<(String, &UpstreamStatus)> =
        upstreams.iter().map(|status| (labels(&[("upstream", &status.name)]), status)).collect();
    encoder.gauge(
        "hm_agent_upstream_state",
        "State of the connection to the server: 1 for the current state, 0 for the others.",
    );
    for (labels, status) in &named {
        for state in ["connecting", "connected", "online", "waiting"] {
            encoder.sample_with_label(labels, ("state", state), status.state == state);
        }
    }
    for (name, help, value) in UPSTREAM_GAUGES {
        encoder.gauge(name, help);
        for (labels, status) in &named {
            encoder.sample_if(labels, value(status));
        }
    }
    encoder.counter(
        "hm_agent_upstream_dropped_total",
        "Number of reports dropped since the agent started.",
    );
    for (labels, status) in &named {
        encoder.sample(labels, status.dropped);
    }
    encoder.counter(
        "hm_agent_upstream_reconnects_total",
        "Number of reconnection attempts since the agent started, by the reason of the disconnect.",
    );
    for (labels, status) in &named {
        for (reason, count) in &status.disconnects {
            encoder.sample_with_label(labels, ("reason", reason), *count);
        }
    }
}

type UpstreamFamily = (&'static str, &'static str, fn(&UpstreamStatus) -> Option<Number>);

const UPSTREAM_GAUGES: [UpstreamFamily; 4] = [
    ("hm_agent_upstream_connected", "Whether there is a connection to the server.", |status| {
        Some(["connected", "online"].contains(&&*status.state).into())
    }),
    (
        "hm_agent_upstream_state_since_timestamp_seconds",
        "Unix time of the last change of state.",
        |status| Some(status.since_unix_seconds.into()),
    ),
    (
        "hm_agent_upstream_last_response_timestamp_seconds",
        "Unix time of the last response from the server.",
        |status| status.last_response_unix_seconds.map(Number::from),
    ),
    ("hm_agent_upstream_backlog", "Number of reports that are not delivered yet.", |status| {
        Some(status.backlog.into())
    }),
];

fn ports(encoder: &mut Encoder, ports: &[PortStatus]) {
    encoder.gauge("hm_agent_connections", "Number of open inbound connections.");
    for port in ports {
        encoder.sample_with_label("", ("port", port.name), port.connections);
    }
    for (name, help, value) in PORT_COUNTERS {
        encoder.counter(name, help);
        for port in ports {
            encoder.sample_with_label("", ("port", port.name), value(port));
        }
    }
    encoder.counter(
        "hm_agent_http_rejected_total",
        "Number of connections and requests rejected, by HTTP status code.",
    );
    for port in ports {
        let port_label = labels(&[("port", port.name)]);
        for (code, count) in &port.rejected_by_code {
            encoder.sample_with_label(&port_label, ("code", code), *count);
        }
    }
}

type PortFamily = (&'static str, &'static str, fn(&PortStatus) -> u64);

const PORT_COUNTERS: [PortFamily; 4] = [
    ("hm_agent_connections_accepted_total", "Number of inbound connections accepted.", |port| {
        port.accepted
    }),
    ("hm_agent_received_bytes_total", "Number of bytes received from clients.", |port| {
        port.received_bytes
    }),
    ("hm_agent_sent_bytes_total", "Number of bytes sent to clients.", |port| port.sent_bytes),
    (
        "hm_agent_websockets_closed_total",
        "Number of WebSocket connections closed by the agent because of an error or a limit.",
        |port| port.websockets_closed,
    ),
];

fn process(encoder: &mut Encoder, process: &ProcessStats) {
    encoder
        .counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.")
        .sample("", process.cpu_seconds);
    encoder
        .gauge("process_resident_memory_bytes", "Resident memory size in bytes.")
        .sample("", process.resident_bytes);
    encoder
        .gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.")
        .sample("", process.virtual_bytes);
    encoder
        .gauge(
            "process_virtual_memory_max_bytes",
            "Maximum virtual memory size in bytes. 18446744073709551615 is unlimited.",
        )
        .sample_if("", process.max_virtual_bytes);
    encoder.gauge("process_threads", "Number of OS threads.").sample("", process.threads);
    encoder
        .gauge("process_open_fds", "Number of open file descriptors.")
        .sample("", process.open_files);
    encoder
        .gauge("process_max_fds", "Maximum number of open file descriptors.")
        .sample_if("", process.max_files);
    encoder
        .gauge("process_start_time_seconds", "Unix time at which the process started.")
        .sample("", process.start_unix_seconds);
}
