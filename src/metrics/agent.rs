//! What the agent knows of itself: its sources, the applications that beat, its links, ports and process.

use crate::limits;
use crate::metrics::encoder::{Number, Text, labels};
use crate::metrics::{Facts, LeftOut, PortStatus, Process};
use crate::model::devices::CollectorStatus;
use crate::model::status::UpstreamStatus;
use crate::model::status::{AppState, AppStatus};

pub(super) fn write(text: &mut Text, facts: &Facts<'_>, left_out: &mut LeftOut) {
    let build =
        labels(&[("version", env!("CARGO_PKG_VERSION")), ("architecture", std::env::consts::ARCH)]);
    text.gauge("hm_agent_build_info", "The agent; always 1.").sample(&build, 1u64);
    sample(text, facts);
    sources(text, &facts.reading.collectors);
    heartbeats(text, &facts.reading.heartbeats, left_out);
    links(text, &facts.reading.upstreams);
    ports(text, facts.ports);
    if let Some(process) = &facts.process {
        self::process(text, process);
    }
}

fn seconds(duration: std::time::Duration) -> Number {
    Number::Fixed(u64::try_from(duration.as_nanos()).unwrap_or_default(), 9)
}

fn sample(text: &mut Text, facts: &Facts<'_>) {
    let reading = facts.reading;
    text.gauge(
        "hm_agent_sample_timestamp_seconds",
        "When the values here were read, in seconds since 1970.",
    )
    .sample("", reading.unix_seconds);
    text.gauge("hm_agent_sample_duration_seconds", "How long reading them took.")
        .sample("", seconds(reading.duration));
    text.gauge("hm_agent_sample_interval_seconds", "Time between samples.")
        .sample("", seconds(facts.interval));
    text.counter("hm_agent_samples_total", "Samples since the agent started.")
        .sample("", facts.samples);
    text.gauge("hm_agent_file_systems_hung", "File systems that do not answer, and are left out.")
        .sample("", reading.file_systems_stuck);
}

/// node_exporter's collectors that a source of ours stands for.
fn collectors(source: &CollectorStatus) -> &[&'static str] {
    match source.name {
        "stat" => &["cpu", "stat"],
        "sysfs" => &["hwmon", "netclass", "thermal_zone"],
        "meminfo" | "loadavg" | "pressure" | "diskstats" | "netdev" | "vmstat" | "filefd"
        | "filesystem" => std::slice::from_ref(&source.name),
        _ => &[],
    }
}

fn sources(text: &mut Text, sources: &[CollectorStatus]) {
    let collectors: Vec<(&str, &CollectorStatus)> = sources
        .iter()
        .flat_map(|source| collectors(source).iter().map(move |name| (*name, source)))
        .collect();
    text.gauge(
        "node_scrape_collector_duration_seconds",
        "How long reading took with the last sample.",
    );
    for (name, source) in &collectors {
        text.sample_with("", ("collector", name), seconds(source.duration));
    }
    text.gauge("node_scrape_collector_success", "1: it could be read.");
    for (name, source) in &collectors {
        text.sample_with("", ("collector", name), source.success);
    }
    text.gauge("hm_agent_source_success", "1: the source could be read with the last sample.");
    for source in sources {
        text.sample_with("", ("source", source.name), source.success);
    }
    text.gauge("hm_agent_source_duration_seconds", "How long reading the source took.");
    for source in sources {
        text.sample_with("", ("source", source.name), seconds(source.duration));
    }
    text.gauge(
        "hm_agent_source_last_success_timestamp_seconds",
        "When the source could be read last, in seconds since 1970.",
    );
    for source in sources {
        if let Some(last) = source.last_success_unix_seconds {
            text.sample_with("", ("source", source.name), last);
        }
    }
}

type State = (&'static str, fn(&AppStatus) -> bool);

const STATES: [State; 3] = [
    ("ok", |status| status.state == AppState::Ok),
    ("warning", |status| status.state == AppState::Warning),
    ("critical", |status| status.state >= AppState::Critical),
];

/// Anybody who reaches the heartbeat port may name applications: only so many are told, the latest first.
fn heartbeats(text: &mut Text, all: &[AppStatus], left_out: &mut LeftOut) {
    text.gauge("hm_agent_heartbeat_apps", "Applications that beat, by state.");
    for (state, is_it) in STATES {
        let count = all.iter().filter(|status| is_it(status)).count();
        text.sample_with("", ("state", state), count);
    }
    let mut latest: Vec<&AppStatus> = all.iter().collect();
    latest.sort_by(|one, other| other.overdue_ratio.total_cmp(&one.overdue_ratio));
    let told = left_out.cap("heartbeat_apps", &latest, limits::METRICS_APPS);
    let named: Vec<(String, &AppStatus)> =
        told.iter().map(|status| (labels(&[("app_id", &status.id)]), *status)).collect();
    text.gauge(
        "hm_agent_heartbeat_app_state",
        "How late an application is: 1 for the state it is in.",
    );
    for (labels, status) in &named {
        for (state, is_it) in STATES {
            text.sample_with(labels, ("state", state), is_it(status));
        }
    }
    text.gauge(
        "hm_agent_heartbeat_app_overdue_ratio",
        "Time since the last beat, as a multiple of the time granted; from 3 on it is late.",
    );
    for (labels, status) in &named {
        text.sample(labels, status.overdue_ratio);
    }
    text.gauge("hm_agent_heartbeat_app_since_beat_seconds", "Time since the last beat.");
    for (labels, status) in &named {
        text.sample(labels, status.overdue_ratio * status.timeout.as_secs_f64());
    }
    text.gauge("hm_agent_heartbeat_app_granted_seconds", "Time granted with the last beat.");
    for (labels, status) in &named {
        text.sample(labels, status.timeout.as_secs_f64());
    }
    text.gauge(
        "hm_agent_heartbeat_app_maintenance",
        "1: the application, or the host, is in maintenance.",
    );
    for (labels, status) in &named {
        text.sample(labels, status.maintenance.is_some());
    }
}

fn links(text: &mut Text, links: &[UpstreamStatus]) {
    let named: Vec<(String, &UpstreamStatus)> =
        links.iter().map(|link| (labels(&[("link", &link.name)]), link)).collect();
    text.gauge(
        "hm_agent_link_state",
        "How it stands with a server: 1 for the state the link is in.",
    );
    for (labels, link) in &named {
        for state in ["connecting", "connected", "online", "waiting"] {
            text.sample_with(labels, ("state", state), link.state == state);
        }
    }
    text.gauge("hm_agent_link_connected", "1: there is a connection to the server.");
    for (labels, link) in &named {
        text.sample(labels, ["connected", "online"].contains(&&*link.state));
    }
    text.gauge(
        "hm_agent_link_state_since_timestamp_seconds",
        "Since when the link is in its state, in seconds since 1970.",
    );
    for (labels, link) in &named {
        text.sample(labels, link.since_unix_seconds);
    }
    text.gauge(
        "hm_agent_link_last_answer_timestamp_seconds",
        "The server's last answer, in seconds since 1970.",
    );
    for (labels, link) in &named {
        text.sample_if(labels, link.last_answer_unix_seconds);
    }
    text.gauge("hm_agent_link_backlog", "Reports that are not delivered yet.");
    for (labels, link) in &named {
        text.sample(labels, link.backlog);
    }
    text.counter(
        "hm_agent_link_dropped_total",
        "Reports that were dropped since the agent started.",
    );
    for (labels, link) in &named {
        text.sample(labels, link.dropped);
    }
    text.counter(
        "hm_agent_link_reconnects_total",
        "How often the server was tried again since the agent started, by reason.",
    );
    for (labels, link) in &named {
        for (reason, count) in &link.disconnects {
            text.sample_with(labels, ("reason", reason), *count);
        }
    }
}

fn ports(text: &mut Text, ports: &[PortStatus]) {
    text.gauge("hm_agent_connections", "Open connections.");
    for port in ports {
        text.sample_with("", ("port", port.name), port.connections);
    }
    text.counter("hm_agent_connections_accepted_total", "Connections that were let in.");
    for port in ports {
        text.sample_with("", ("port", port.name), port.accepted);
    }
    text.counter("hm_agent_received_bytes_total", "Bytes that clients sent.");
    for port in ports {
        text.sample_with("", ("port", port.name), port.received_bytes);
    }
    text.counter("hm_agent_sent_bytes_total", "Bytes that were sent to clients.");
    for port in ports {
        text.sample_with("", ("port", port.name), port.sent_bytes);
    }
    text.counter(
        "hm_agent_refusals_total",
        "Connections and requests that were refused, by reason.",
    );
    for port in ports {
        let port_label = labels(&[("port", port.name)]);
        for (reason, count) in &port.refused {
            text.sample_with(&port_label, ("reason", reason), *count);
        }
    }
}

fn process(text: &mut Text, process: &Process) {
    text.counter("process_cpu_seconds_total", "Processor time of the agent.")
        .sample("", process.cpu_seconds);
    text.gauge("process_resident_memory_bytes", "Memory that the agent occupies.")
        .sample("", process.resident_bytes);
    text.gauge("process_virtual_memory_bytes", "The agent's address space.")
        .sample("", process.virtual_bytes);
    text.gauge("process_threads", "The agent's threads.").sample("", process.threads);
    text.gauge("process_open_fds", "The agent's open files.").sample("", process.open_files);
    text.gauge("process_max_fds", "Files that the agent may open.").sample("", process.max_files);
    text.gauge("process_start_time_seconds", "When the agent was started, in seconds since 1970.")
        .sample("", process.start_unix_seconds);
}
