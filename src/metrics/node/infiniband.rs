//! RDMA devices and ports: the collectors infiniband and infiniband_counters.

use crate::metrics::Truncation;
use crate::metrics::encoder::{Encoder, Number, labels};
use crate::model::node::infiniband::{
    COUNTERS, Infiniband, InfinibandPort, InfinibandPortCounters, PortId, Unit,
};

type Family = (&'static str, &'static str, fn(&InfinibandPort) -> Option<u64>);

const GAUGES: [Family; 3] = [
    (
        "node_infiniband_state_id",
        "State of the port: 1 down, 2 initializing, 3 armed, 4 active, 5 active with errors.",
        |port| port.state,
    ),
    (
        "node_infiniband_physical_state_id",
        "Physical state of the port: 2 polling, 3 disabled, 4 training, 5 link up, 6 recovering from an error, 7 test.",
        |port| port.physical_state,
    ),
    (
        "node_infiniband_rate_bytes_per_second",
        "Rate of the link in bytes per second. While it is down, the lowest that there is.",
        |port| port.rate_bytes_per_second,
    ),
];

pub(super) fn encode(encoder: &mut Encoder, infiniband: &Infiniband, truncation: &mut Truncation) {
    encoder.gauge(
        "node_infiniband_info",
        "Board, firmware and type of the RDMA device. The value is always 1.",
    );
    for device in &infiniband.devices {
        let labels = labels(&[
            ("board_id", &device.board_id),
            ("device", &device.name),
            ("firmware_version", &device.firmware_version),
            ("hca_type", &device.hca_type),
        ]);
        encoder.sample(&labels, 1u64);
    }
    truncation.add("infiniband_ports", infiniband.truncated_ports);
    for (name, help, value) in GAUGES {
        encoder.gauge(name, help);
        for port in &infiniband.ports {
            encoder.sample_if(&port_labels(&port.id), value(port));
        }
    }
}

pub(super) fn encode_counters(encoder: &mut Encoder, ports: &[InfinibandPortCounters]) {
    let named: Vec<(String, &InfinibandPortCounters)> =
        ports.iter().map(|port| (port_labels(&port.id), port)).collect();
    for (index, counter) in COUNTERS.iter().enumerate() {
        match counter.unit {
            Unit::Milliseconds => encoder.gauge(counter.series, counter.help),
            Unit::Count | Unit::Words => encoder.counter(counter.series, counter.help),
        };
        for (labels, port) in &named {
            let value = port.values.get(index).copied().flatten();
            encoder.sample_if(labels, value.map(|value| number(value, counter.unit)));
        }
    }
}

fn number(value: u64, unit: Unit) -> Number {
    match unit {
        Unit::Count => Number::Integer(value),
        // A counter of 64 bits overflows after decades.
        Unit::Words => Number::Integer(value.wrapping_mul(4)),
        Unit::Milliseconds => Number::Decimal(value, 3),
    }
}

fn port_labels(id: &PortId) -> String {
    labels(&[("device", &id.device), ("port", &id.port.to_string())])
}
