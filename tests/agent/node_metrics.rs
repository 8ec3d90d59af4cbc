//! /metrics of a server with hardware that test machines lack. After an intended change run `UPDATE_GOLDEN=1 cargo test
//! node_metrics::`; review the diff.

use std::path::Path;
use std::time::Duration;

use crate::support::gpu_server::GpuServer;
use crate::support::gpu_server::kernel::{replace_clock, statvfs};
use hm_agent::collector::host_info;
use hm_agent::collector::sampler::Sampler;
use hm_agent::metrics::{Exposition, Format, render};
use hm_agent::model::RawSample;

fn collect(server: &GpuServer) -> RawSample {
    let mut sampler = Sampler::new(server.roots(), statvfs);
    sampler.collect_first().unwrap()
}

fn text(server: &GpuServer, sample: &RawSample) -> String {
    let input = Exposition {
        sample,
        host: &host_info::read(&server.roots()),
        now: Duration::from_secs(1_795_216_253),
        interval: Duration::from_secs(5),
        samples: 1,
        process: None,
        ports: &[],
    };
    render(&input, Format::Prometheus)
}

/// Without the values that differ between runs.
fn series(server: &GpuServer) -> String {
    let mut sample = collect(server);
    (sample.unix_seconds, sample.duration) = (1_795_216_252, Duration::from_millis(1));
    for collector in &mut sample.collectors {
        collector.duration = Duration::from_micros(20);
    }
    replace_clock(&mut sample);
    let directory = server.path().display().to_string();
    text(server, &sample).replace(&directory, "DIRECTORY")
}

#[test]
fn exposes_all_series_of_a_gpu_server() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gpu_server.prom");
    let found = series(&GpuServer::new());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    for (expected, found) in expected.lines().zip(found.lines()) {
        assert_eq!(found, expected);
    }
    assert_eq!(found, expected);
}

#[test]
fn counts_no_processes_that_it_does_not_see() {
    let server = GpuServer::new();
    server.remove("proc/1/stat");
    let text = series(&server);
    assert!(text.contains("node_processes_threads 2719\n"), "{text}");
    assert!(!text.contains("node_processes_pids ") && !text.contains("node_processes_state{"));
    assert!(text.contains("collector_success{collector=\"processes\"} 1\n"), "{text}");
}

#[test]
fn unreadable_file_makes_only_its_collector_fail() {
    let server = GpuServer::new();
    let is_success = |server: &GpuServer, name: &str| {
        collect(server).collectors.iter().find(|each| each.name == name).unwrap().success
    };
    assert!(is_success(&server, "conntrack"));
    server.write("proc/net/stat/nf_conntrack", "found\nmany\n");
    assert!(!is_success(&server, "conntrack") && is_success(&server, "meminfo"));
    let text = series(&server);
    assert!(text.contains("node_nf_conntrack_entries 1234\n"), "other files are read: {text}");
    assert!(!text.contains("node_nf_conntrack_stat_"), "{text}");
}
