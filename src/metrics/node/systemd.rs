//! Units of systemd: the collector systemd.

use crate::metrics::Truncation;
use crate::metrics::encoder::{Encoder, MetricType, Number, labels};
use crate::model::node::systemd::{SocketConnections, Systemd, Unit};

const STATES: [&str; 5] = ["activating", "active", "deactivating", "failed", "inactive"];

type SocketFamily = (&'static str, &'static str, MetricType, fn(&SocketConnections) -> Option<u64>);

const SOCKETS: [SocketFamily; 3] = [
    (
        "node_systemd_socket_accepted_connections_total",
        "Number of connections that the socket has accepted.",
        MetricType::Counter,
        |socket| socket.accepted,
    ),
    (
        "node_systemd_socket_current_connections",
        "Number of open connections of the socket.",
        MetricType::Gauge,
        |socket| socket.current,
    ),
    (
        "node_systemd_socket_refused_connections_total",
        "Number of connections that the socket has refused because of its limits.",
        // As node_exporter declares it.
        MetricType::Gauge,
        |socket| socket.refused,
    ),
];

pub(super) fn encode(encoder: &mut Encoder, systemd: &Systemd, truncation: &mut Truncation) {
    truncation.add("systemd_units", systemd.truncated);
    manager(encoder, systemd);
    let named: Vec<(String, &Unit)> =
        systemd.units.iter().map(|unit| (labels(&[("name", &unit.name)]), unit)).collect();
    unit_states(encoder, &systemd.units);
    encoder.counter(
        "node_systemd_service_restart_total",
        "Number of times that systemd has restarted the service after it had ended.",
    );
    for (labels, unit) in &named {
        encoder.sample_if(labels, unit.restarts);
    }
    for (name, help, metric_type, value) in SOCKETS {
        encoder.family(name, metric_type, help);
        for (labels, unit) in &named {
            encoder.sample_if(labels, unit.connections.as_ref().and_then(value));
        }
    }
    encoder.gauge(
        "node_systemd_timer_last_trigger_seconds",
        "Unix time at which the timer last started its unit; 0 if it has not.",
    );
    for (labels, unit) in &named {
        let time = unit.last_trigger_microseconds;
        encoder.sample_if(labels, time.map(|time| Number::Decimal(time, 6)));
    }
}

fn manager(encoder: &mut Encoder, systemd: &Systemd) {
    encoder.gauge("node_systemd_units", "Number of units by state.");
    for (state, count) in &systemd.units_by_state {
        encoder.sample_with_label("", ("state", state), *count);
    }
    encoder
        .gauge(
            "node_systemd_system_running",
            "Whether the system is running and no unit has failed: systemctl is-system-running.",
        )
        .sample_if("", systemd.system_state.as_ref().map(|state| state == "running"));
    if let Some(version) = &systemd.version {
        encoder
            .gauge("node_systemd_version", "Version of systemd.")
            .sample_if(&labels(&[("version", version)]), version_number(version));
    }
}

fn unit_states(encoder: &mut Encoder, units: &[Unit]) {
    encoder.gauge(
        "node_systemd_unit_state",
        "State of the unit: 1 for the current state, 0 for the others.",
    );
    for unit in units {
        for state in STATES {
            let labels =
                labels(&[("name", &unit.name), ("state", state), ("type", &unit.service_type)]);
            encoder.sample(&labels, unit.active_state == state);
        }
    }
}

/// The number at the start: `252.39-1~deb12u2` becomes 252.39.
fn version_number(version: &str) -> Option<f64> {
    let end = version.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
    let (number, _) = version.split_at(end.unwrap_or(version.len()));
    let mut parts = number.split('.');
    let (major, minor) = (parts.next()?, parts.next().filter(|minor| !minor.is_empty()));
    format!("{major}.{}", minor.unwrap_or("0")).parse().ok().filter(|_| !major.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_versions_of_distributions() {
        for (version, number) in [
            ("252.39-1~deb12u2", 252.39),
            ("219", 219.0),
            ("v", 0.0),
            ("257.2.1-arch", 257.2),
            ("245.", 245.0),
        ] {
            assert_eq!(version_number(version).unwrap_or_default(), number, "{version}");
        }
    }
}
