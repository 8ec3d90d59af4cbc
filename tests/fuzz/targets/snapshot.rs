//! Derives snapshots from samples of arbitrary kernel files. Percentages and rates must be in range, and every message rendered from
//! them must be well-formed.
#![no_main]

use std::time::Duration;

use hm_agent::metrics::{Exposition, Format, render};
use hm_agent::model::finding::HealthReport;
use hm_agent::model::host_info::HostInfo;
use hm_agent::model::primary_gpu::Primary;
use hm_agent::model::status::PortStatus;
use hm_agent::model::{RawSample, Snapshot};
use hm_agent::telemetry::messages;
use hm_agent::telemetry::snapshot_json::{self, AgentStatus};
use hm_agent_fuzz::{exposition, machine};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let samples = machine::samples(data);
    let host = machine::host_info(&samples[0]);
    let mut previous = None;
    for sections in samples.iter().take(3) {
        let sample = machine::raw_sample(sections);
        let before = previous.as_ref().map(|(sample, snapshot)| (sample, snapshot));
        let snapshot = Snapshot::derive(before, &sample);
        check_ranges(&snapshot);
        check_messages(&host, &sample, &snapshot);
        previous = Some((sample, snapshot));
    }
});

fn check_ranges(snapshot: &Snapshot) {
    let percent = |value: f64| assert!((0.0..=100.0).contains(&value), "{value} %");
    if let Some(cpu) = &snapshot.cpu {
        percent(cpu.percent);
        cpu.each_percent.iter().for_each(|(_, value)| percent(*value));
    }
    if let Some(memory) = &snapshot.memory {
        assert!(memory.used_bytes.is_none_or(|used| used <= memory.total_bytes));
    }
    for disk in &snapshot.disks {
        disk.busy_percent.into_iter().for_each(percent);
        assert!(disk.read_bytes_per_second.is_none_or(|rate| rate >= 0.0 && rate.is_finite()));
    }
    for network in snapshot.networks.iter().filter_map(|network| network.receive) {
        assert!(network.bytes_per_second >= 0.0 && network.bytes_per_second.is_finite());
    }
    snapshot.file_systems.iter().filter_map(|one| one.used_percent()).for_each(percent);
}

fn check_messages(host: &HostInfo, sample: &RawSample, snapshot: &Snapshot) {
    let json = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
    for primary in [Primary::Index(0), Primary::Aggregate] {
        for detailed in [false, true] {
            let info = json(&messages::system_info(host, snapshot, detailed, 0));
            assert_eq!(info["type"], "system_info");
            let update = json(&messages::usage_update(snapshot, primary, detailed));
            assert_eq!(update["type"], "usage_update");
        }
        json(&messages::sample(host, snapshot, primary));
        json(&hm_agent::hm_client::messages::machine_info("", &[], snapshot, primary));
    }
    let ports = [PortStatus {
        name: "usage",
        connections: 1,
        accepted: 2,
        received_bytes: 3,
        sent_bytes: 4,
        refused: vec![("busy", 5)],
        rejected_by_code: vec![("503", 5)],
        websockets_closed: 6,
    }];
    let own = AgentStatus { process: None, ports: &ports };
    json(&snapshot_json::snapshot(host, sample, snapshot, Primary::Index(0), own));
    let envelope = hm_agent::core_client::messages::Envelope { id: "i", timestamp: "t" };
    json(&hm_agent::core_client::messages::heartbeat(envelope, "n", snapshot));
    for format in [Format::Prometheus, Format::OpenMetrics] {
        let input = Exposition {
            sample,
            host,
            now: Duration::from_secs(1),
            interval: Duration::from_secs(5),
            samples: 1,
            process: None,
            ports: &ports,
            health: &HealthReport::unknown(),
            gpu_hostname_label: "Hostname",
        };
        exposition::check(render(&input, format).as_bytes(), format);
    }
}
