//! A real Prometheus answers the queries of Grafana dashboards about two nodes: this host, and a server with hardware that this host
//! lacks.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::metrics_peers::{Server, covers, documented, get};
use crate::support::fake_nvml::Driver;
use crate::support::gpu_server::GpuServer;
use crate::support::{Agent, TempDir, wait_until};

const NODE_SERIES: &str = include_str!("dashboard_series.txt");

const HOST_RULES: &str = include_str!("../../packaging/prometheus/host-rules.yml");

/// Queries of dashboard 1860 that combine series: their labels must match.
const NODE_QUERIES: &[&str] = &[
    "100 * (1 - avg(rate(node_cpu_seconds_total{mode=\"idle\"}[10s])))",
    "scalar(node_load1{instance=\"HOST\"}) * 100 / count(count(node_cpu_seconds_total) by (cpu))",
    "(1 - (node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes)) * 100",
    "100 - ((node_filesystem_avail_bytes{mountpoint=\"/\",fstype!=\"rootfs\"} * 100) / node_filesystem_size_bytes{mountpoint=\"/\",fstype!=\"rootfs\"})",
    "node_time_seconds - node_boot_time_seconds",
    "irate(node_network_receive_bytes_total[10s]) * 8",
    "node_network_up + on(instance, device) node_network_mtu_bytes + on(instance, device) node_network_transmit_queue_length",
    "irate(node_disk_read_time_seconds_total[10s]) / irate(node_disk_reads_completed_total[10s])",
    "node_filefd_maximum - node_filefd_allocated",
    "node_scrape_collector_duration_seconds + node_scrape_collector_success",
    "node_hwmon_temp_celsius * on(instance, chip) group_left(chip_name) node_hwmon_chip_names",
    "1 - node_textfile_scrape_error",
    "100 * (1 - node_processes_pids / node_processes_max_processes)",
];

/// Queries of Grafana dashboard 12239.
const GPU_QUERIES: &[&str] = &[
    "DCGM_FI_DEV_GPU_TEMP{instance=~\".+\", gpu=~\".+\"}",
    "avg(DCGM_FI_DEV_GPU_TEMP)",
    "DCGM_FI_DEV_POWER_USAGE",
    "sum(DCGM_FI_DEV_POWER_USAGE)",
    "DCGM_FI_DEV_SM_CLOCK * 1000000",
    "DCGM_FI_DEV_GPU_UTIL",
    "DCGM_FI_DEV_FB_USED",
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
];

/// Answers of a Prometheus that scrapes agents.
struct Queries {
    prometheus: Server,
    _scratch: TempDir,
}

impl Queries {
    fn of(agents: &[&Agent]) -> Self {
        let scratch = TempDir::new("prometheus");
        let targets: Vec<String> =
            agents.iter().map(|agent| format!("\"{}\"", agent.address)).collect();
        let config = scratch.write(
            "prometheus.yml",
            &format!(
                "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: hm-agent\n  static_configs:\n  - targets: [{}]\n",
                targets.join(", ")
            ),
        );
        let arguments = [
            format!("--config.file={config}"),
            format!("--storage.tsdb.path={}", scratch.0.join("data").display()),
        ];
        let prometheus = Server::start("prometheus", &arguments, "--web.listen-address");
        Self { prometheus, _scratch: scratch }
    }

    fn answer(&self, query: &str) -> Vec<Value> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = get(self.prometheus.1, &format!("/api/v1/query?query={encoded}"));
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        assert_ne!(answer["status"], "error", "{query}: {answer}");
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }

    fn wait(&self, query: &str) {
        wait_until(query, || (!self.answer(query).is_empty()).then_some(()));
    }
}

/// Names of the series in the expressions of rules.
fn series_of(rules: &str) -> BTreeSet<&str> {
    let expressions = rules.lines().filter_map(|line| line.trim_start().strip_prefix("expr: "));
    let words = expressions
        .flat_map(|expr| expr.split(|char: char| !char.is_ascii_alphanumeric() && char != '_'));
    words.filter(|word| word.starts_with("node_")).collect()
}

/// An agent of a server whose files are those of [`GpuServer`].
fn agent_of(server: &GpuServer) -> Agent {
    let path = |name: &str| format!("path.{name}={}", server.path().join(name).display());
    let textfiles = format!("textfile.directory={}", server.path().join("textfile").display());
    Agent::start(&["interval=1", &path("proc"), &path("sys"), &path("root"), &textfiles])
}

#[test]
#[ignore = "needs Prometheus and node_exporter"]
fn prometheus_answers_dashboard_queries() {
    let driver = Driver::new("gpus = 8\ngpu.0.gpm_metrics = 5:20");
    let (watched, server) = (driver.start(&["interval=1"]), GpuServer::new());
    let with_hardware = agent_of(&server);
    let queries = Queries::of(&[&watched.agent, &with_hardware]);
    let host = watched.agent.address.to_string();
    for query in NODE_QUERIES.iter().chain(GPU_QUERIES) {
        queries.wait(&query.replace("HOST", &host));
    }
    assert_eq!(queries.answer("DCGM_FI_DEV_GPU_TEMP").len(), 8);
    let up = queries.answer("up == 1 and scrape_samples_scraped > 500");
    assert_eq!(up.len(), 2, "{:?}", queries.answer("scrape_samples_scraped"));

    let documented = documented();
    let mut absent: BTreeMap<&str, &str> = BTreeMap::new();
    let mut row = "";
    for line in NODE_SERIES.lines() {
        if let Some(title) = line.strip_prefix("# ") {
            row = title;
        } else if queries.answer(line).is_empty() {
            absent.insert(line, row);
        }
    }
    for series in series_of(HOST_RULES) {
        if queries.answer(series).is_empty() {
            absent.insert(series, "host-rules.yml");
        }
    }
    let is_explained = |series: &str| documented.lines().any(|line| covers(line, series));
    let name = |series: &str| series.split('{').next().unwrap_or_default().to_owned();
    absent.retain(|series, _| !is_explained(series) && !is_explained(&name(series)));
    assert!(absent.is_empty(), "neither exposed nor explained in docs/metrics.md: {absent:#?}");
    with_hardware.stop();
    watched.stop();
}
