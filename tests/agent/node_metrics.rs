//! /metrics of a server with hardware that test machines lack. After an intended change run `UPDATE_GOLDEN=1 cargo test
//! node_metrics::`; review the diff.

use std::time::Duration;

use crate::support::TEST_TIMEOUT;
use crate::support::golden::compare;
use crate::support::gpu_server::GpuServer;
use crate::support::gpu_server::kernel::{replace_clock, statvfs};
use hm_agent::collector::disabled::DisabledCollectors;
use hm_agent::collector::host_info;
use hm_agent::collector::sampler::Sampler;
use hm_agent::config::CollectorsConfig;
use hm_agent::metrics::{Exposition, Format, render};
use hm_agent::model::RawSample;
use hm_agent::model::finding::HealthReport;
use hm_agent::sys::FsSize;

fn collect(server: &GpuServer) -> RawSample {
    let mut sampler = Sampler::new(server.roots(), &server.collectors(), statvfs);
    sampler.collect_first(TEST_TIMEOUT).unwrap()
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
        health: &HealthReport::unknown(),
        gpu_hostname_label: "Hostname",
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
    compare("gpu_server.prom", &series(&GpuServer::new()));
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

#[test]
fn file_of_another_program_cannot_replace_or_repeat_a_series() {
    let server = GpuServer::new();
    let metrics = "node_load1 7\nnode_nf_conntrack_entries{x=\"1\"} 8\nhm_agent_new 9\nfine 1\n";
    server.write("textfile/a.prom", metrics);
    server.write("textfile/b.prom", "fine{a=\"\"} 2\n");
    server.write("proc/loadavg", "0.25 1.50 2.75 3/1234 4321\n");
    let text = series(&server);
    for line in [
        "node_load1 0.25",
        "node_nf_conntrack_entries 1234",
        "fine 1",
        "node_textfile_scrape_error 1",
        "node_scrape_collector_success{collector=\"textfile\"} 1",
        "hm_agent_metrics_truncated{kind=\"textfile_duplicates\"} 3",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    for absent in ["node_load1 7", "{x=\"1\"}", "hm_agent_new", "fine{"] {
        assert!(!text.contains(absent), "{absent}: {text}");
    }
}

#[test]
fn odd_file_of_another_program_does_not_hide_the_others() {
    let server = GpuServer::new();
    server.write("textfile/half.prom", "half_written{a=\"b");
    server.write("textfile/timestamp.prom", "with_timestamp 1 1795216253000\n");
    server.write("textfile/large.prom", &"# comment\n".repeat(110_000));
    std::fs::create_dir(server.path().join("textfile/directory.prom")).unwrap();
    let fifo = server.path().join("textfile/fifo.prom");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let text = series(&server);
    assert!(text.contains("\nnode_textfile_scrape_error 1\n"), "{text}");
    assert_eq!(text.matches("\nnode_textfile_mtime_seconds{").count(), 3, "{text}");
    assert!(text.contains("\nslurm_prolog_seconds_count 58\n"), "{text}");
    assert!(!text.contains("half_written") && !text.contains("with_timestamp"), "{text}");
}

#[test]
fn shows_whether_textfile_directory_can_be_read() {
    let server = GpuServer::new();
    let error = |directory: Option<&str>| {
        let directory = directory.map(|name| server.path().join(name));
        let config =
            CollectorsConfig { textfile_directory: directory, ..CollectorsConfig::default() };
        let sample =
            Sampler::new(server.roots(), &config, statvfs).collect_first(TEST_TIMEOUT).unwrap();
        let text = text(&server, &sample);
        let line = text.lines().find(|line| line.starts_with("node_textfile_scrape_error"));
        line.unwrap().to_owned()
    };
    assert_eq!(error(None), "node_textfile_scrape_error 0");
    assert_eq!(error(Some("textfile")), "node_textfile_scrape_error 0");
    assert_eq!(error(Some("none")), "node_textfile_scrape_error 1");
}

#[test]
fn disabled_collectors_have_no_series() {
    let server = GpuServer::new();
    server.write("proc/loadavg", "0.25 1.50 2.75 3/1234 4321\n");
    server.write("proc/1/net/dev", NET_DEV);
    server.write("proc/1/mountinfo", "24 1 8:1 / / rw - ext4 /dev/sda1 rw\n");
    server.write("sys/class/hwmon/hwmon0/temp1_input", "45500\n");
    server.write("sys/class/net/eth0/operstate", "up\n");
    server.write("sys/class/thermal/thermal_zone0/type", "x86_pkg_temp\n");
    server.write("sys/class/thermal/thermal_zone0/temp", "51000\n");
    let series = [
        ("conntrack", "node_nf_conntrack_entries"),
        ("filesystem", "node_filesystem_size_bytes"),
        ("hwmon", "node_hwmon_temp_celsius"),
        ("loadavg", "node_load1"),
        ("netclass", "node_network_up"),
        ("netdev", "node_network_receive_bytes_total"),
        ("textfile", "node_textfile_scrape_error"),
        ("thermal_zone", "node_thermal_zone_temp"),
    ];
    let names = series.map(|(name, _)| name.to_owned());
    for disabled in [&[][..], &names[..1], &names[2..5], &names] {
        let config = DisabledCollectors::new(disabled).unwrap();
        let config = CollectorsConfig { disabled: config, ..server.collectors() };
        let size = FsSize {
            total_bytes: 5,
            free_bytes: 3,
            available_bytes: 2,
            files: 9,
            files_free: 8,
            read_only: false,
        };
        let sampler = Sampler::new(server.roots(), &config, move |_| Ok(size));
        let text = text(&server, &{ sampler }.collect_first(TEST_TIMEOUT).unwrap());
        for (name, metric) in series {
            let enabled = !disabled.contains(&name.to_owned());
            let success = format!("node_scrape_collector_success{{collector=\"{name}\"}} 1\n");
            assert_eq!(text.contains(&format!("\n{metric}")), enabled, "{disabled:?}: {text}");
            assert_eq!(text.contains(&success), enabled, "{disabled:?}: {text}");
        }
    }
}

const NET_DEV: &str =
    "Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
  eth0: 1296814    1022    0    1    0     0          0         2   123456     321    0    0    0     0       0          0
";
