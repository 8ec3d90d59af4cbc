//! `/metrics` beside its peers: promtool, and node_exporter on the same machine.

use crate::support;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::fake_nvml::{Driver, FULL_GPU};
use crate::support::{Agent, reserve_address, wait_until};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

pub fn documented() -> String {
    std::fs::read_to_string(file("docs/metrics.md")).unwrap()
}

/// A listening program. Dropping it kills the program.
pub struct Server(Child, pub SocketAddr);

impl Server {
    /// Starts it on a free port and waits until it listens.
    pub fn start(program: &str, arguments: &[String], listen: &str) -> Self {
        let address = reserve_address();
        let mut command = Command::new(program);
        command.args(arguments).arg(format!("{listen}={address}"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self(command.spawn().unwrap(), address);
        wait_until(program, || TcpStream::connect(address).ok());
        server
    }

    fn node_exporter() -> Self {
        // Debian's default exists only where the package was installed, not unpacked.
        let textfiles =
            format!("--collector.textfile.directory={}", file("packaging/nagios").display());
        Self::start("prometheus-node-exporter", &[textfiles], "--web.listen-address")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The body of a response.
pub fn get(address: SocketAddr, target: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(support::TEST_TIMEOUT)).unwrap();
    write!(socket, "GET {target} HTTP/1.0\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

fn promtool(arguments: &[&str], input: Option<&str>) -> (bool, String) {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(file("packaging/prometheus"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.unwrap_or_default().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
#[ignore = "needs Prometheus and node_exporter"]
fn promtool_objects_only_to_names_taken_from_other_exporters() {
    let mig = "gpu.2.mig = 1\ngpu.2.mig_instances = 2";
    let driver = Driver::new(&format!("{FULL_GPU}\ngpus = 8\n{mig}\nxid = 1:1:79"));
    let mut watched = driver.start(&[]);
    watched.until("an error", |update| update["gpus"][1]["xids"][0]["count"].as_u64());
    let (_, found) = promtool(&["check", "metrics"], Some(&get(watched.agent.address, "/metrics")));
    assert!(!found.contains("error while linting"), "{found}");
    // hm_agent_gpu_* has dcgm-exporter's labels, so that both can be joined.
    let of_peers = |line: &&str| {
        let label = line.starts_with("hm_agent_gpu_") && line.contains("label names");
        const PEERS: [&str; 5] =
            ["node_entropy_", "node_memory_", "node_netstat_", "node_sockstat_", "DCGM_"];
        PEERS.iter().any(|peer| line.starts_with(peer)) || label
    };
    let (peers, ours): (Vec<&str>, Vec<&str>) = found.lines().partition(of_peers);
    assert!(ours.is_empty() && !peers.is_empty(), "{ours:#?}");
    let (_, broken) = promtool(&["check", "metrics"], Some("a{ 1\n"));
    assert!(broken.contains("error while linting"), "promtool accepts invalid input: {broken}");
    watched.stop();
}

#[test]
#[ignore = "needs Prometheus and node_exporter"]
fn every_alert_has_passing_tests() {
    for arguments in [
        &["check", "config", "prometheus.yml"][..],
        &["check", "rules", "rules.yml"],
        &["test", "rules", "rules_test.yml"],
        &["check", "rules", "host-rules.yml"],
        &["test", "rules", "host-rules_test.yml"],
        &["check", "rules", "hub-rules.yml"],
        &["test", "rules", "hub-rules_test.yml"],
    ] {
        let (passed, output) = promtool(arguments, None);
        assert!(passed, "{arguments:?}: {output}");
    }
    let read =
        |name: &str| std::fs::read_to_string(file("packaging/prometheus").join(name)).unwrap();
    let all = |names: [&str; 3]| names.map(&read).concat();
    let rules = all(["rules.yml", "host-rules.yml", "hub-rules.yml"]);
    let tests = all(["rules_test.yml", "host-rules_test.yml", "hub-rules_test.yml"]);
    let alerts: Vec<&str> =
        rules.lines().filter_map(|line| line.split_once("alert: ")).map(|(_, name)| name).collect();
    assert!(alerts.len() >= 31, "{alerts:?}");
    for alert in alerts {
        let silent = format!("alertname: {alert}\n        exp_alerts: []");
        let fires = format!("alertname: {alert}\n        exp_alerts:\n");
        assert!(tests.contains(&silent) && tests.contains(&fires), "{alert}");
    }
}

/// Whether a line of the document's tables explains a series: `| `node_netstat_*` | why |`.
pub fn covers(line: &str, name: &str) -> bool {
    let Some(row) = line.strip_prefix("| `") else { return false };
    let Some((pattern, reason)) = row.split_once("` |") else { return false };
    let matches = match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    };
    matches && reason.trim().len() > 10
}

/// Labels that node_exporter 1.9 has and 1.5 has not.
const NEWER_LABELS: [&str; 2] = ["rotational=", "adminstate="];

/// Values by name and sorted labels, without labels whose value is empty and [`NEWER_LABELS`].
pub fn series(text: &str) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').unwrap();
        let mut labels: Vec<&str> =
            labels.split("\",").map(|label| label.trim_end_matches('"')).collect();
        let is_newer = |label: &str| NEWER_LABELS.iter().any(|newer| label.starts_with(newer));
        let is_empty =
            |label: &str| label.is_empty() || label.ends_with('=') || label.ends_with("=\"");
        labels.retain(|label| !is_empty(label) && !is_newer(label));
        labels.sort_unstable();
        found.insert(format!("{name} {labels:?}"), value.parse().unwrap());
    }
    found
}

fn family(series: &str) -> &str {
    series.split(' ').next().unwrap()
}

#[test]
#[ignore = "needs Prometheus and node_exporter"]
fn values_equal_node_exporter_and_missing_series_are_documented() {
    let agent = Agent::start(&["interval=1"]);
    let peer = Server::node_exporter();
    let theirs = || series(&get(peer.1, "/metrics"));
    let fresh = |after: f64| {
        wait_until("a new sample", || {
            let text = get(agent.address, "/metrics");
            let sampled = series(&text)["hm_agent_samples_total []"];
            (sampled >= after).then(|| (series(&text), sampled))
        })
    };
    let (_, mut sampled) = fresh(3.0);
    let of_themselves =
        |name: &str| name.starts_with("node_scrape_") || name == "node_exporter_build_info";
    let mut open: BTreeMap<String, String> = BTreeMap::new();
    let mut settled = BTreeSet::new();
    for round in 0..12 {
        let before = theirs();
        // node_exporter counts the sockets of the request that it answers: the agent's sample counts as many.
        let connection = TcpStream::connect(peer.1).unwrap();
        // The sample after the next one starts after node_exporter's response.
        let (ours, at) = fresh(sampled + 2.0);
        sampled = at;
        drop(connection);
        let after = theirs();
        let known: BTreeSet<&str> = ours.keys().map(|series| family(series)).collect();
        open.clear();
        for (name, low) in before.iter().filter(|(name, _)| name.starts_with("node_")) {
            let (Some(high), true) = (after.get(name), known.contains(family(name))) else {
                continue;
            };
            let Some(our) = ours.get(name) else {
                // The agent exports each filesystem once, node_exporter each of its mount points.
                if !of_themselves(family(name)) && !name.starts_with("node_filesystem_") {
                    open.insert(name.clone(), "missing".to_owned());
                }
                continue;
            };
            let (low, high) = (low.min(*high), low.max(*high));
            let slack = 1e-6 + high.abs() * 0.02;
            let same = (low - slack..=high + slack).contains(our) || of_themselves(family(name));
            if same {
                settled.insert(name.clone());
            } else if !settled.contains(name) {
                open.insert(name.clone(), format!("{our}, node_exporter {low} to {high}"));
            }
        }
        if round > 0 && open.is_empty() {
            break;
        }
    }
    assert!(open.is_empty(), "{open:#?}");
    assert!(settled.len() > 150, "{}", settled.len());
    println!("{} series have node_exporter's values", settled.len());
    let documented = documented();
    let ours: BTreeSet<String> = fresh(0.0).0.keys().map(|name| family(name).to_owned()).collect();
    let theirs: BTreeSet<String> = theirs().keys().map(|name| family(name).to_owned()).collect();
    for name in theirs.iter().filter(|name| name.starts_with("node_") && !ours.contains(*name)) {
        let reason = documented.lines().any(|line| covers(line, name));
        assert!(reason, "docs/metrics.md does not explain why {name} is missing");
    }
    agent.stop();
}

/// The request of Prometheus 2.42.
const REQUEST: &str = "GET /metrics HTTP/1.1\r\nHost: a\r\nUser-Agent: Prometheus/2.42.0\r\nAccept: application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\nAccept-Encoding: gzip\r\nX-Prometheus-Scrape-Timeout-Seconds: 10\r\n\r\n";

/// CPU time of one scrape in milliseconds.
fn cost(pid: u32, address: SocketAddr, times: u32) -> f64 {
    let used = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()
    };
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(support::TEST_TIMEOUT)).unwrap();
    let mut scrape = || {
        socket.write_all(REQUEST.as_bytes()).unwrap();
        let mut answer = Vec::new();
        loop {
            let mut part = [0; 32 << 10];
            let read = socket.read(&mut part).unwrap();
            assert!(read > 0);
            answer.extend(&part[..read]);
            let Some(head) = answer.windows(4).position(|part| part == b"\r\n\r\n") else {
                continue;
            };
            let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
            assert!(text.contains("content-encoding: gzip"), "{text}");
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
            match length {
                Some(length) if answer.len() < head + 4 + length.parse::<usize>().unwrap() => {}
                None if !answer.ends_with(b"\r\n0\r\n\r\n") => {}
                _ => break,
            }
        }
    };
    (0..10).for_each(|_| scrape());
    let before = used();
    (0..times).for_each(|_| scrape());
    (used() - before) * 10.0 / f64::from(times)
}

#[test]
#[ignore = "builds a release"]
fn scrape_costs_a_tenth_of_node_exporter_at_most() {
    let built = Command::new(file("packaging/build-static")).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let mut command = Command::new(String::from_utf8(built.stdout).unwrap().trim());
    command.args(["-s", "usage.listen=127.0.0.1:0", "-s", "interval=3600"]);
    let agent = Agent::spawn(command);
    let peer = Server::node_exporter();
    // In turn, so that other load affects both.
    let (mut ours, mut theirs) = (0.0, 0.0);
    for _ in 0..3 {
        theirs += cost(peer.0.id(), peer.1, 100) / 3.0;
        ours += cost(agent.pid(), agent.address, 1000) / 3.0;
    }
    println!(
        "a scrape costs {ours:.3} ms, of node_exporter {theirs:.3} ms: 1/{:.0}",
        theirs / ours
    );
    assert!(ours < theirs / 10.0, "{ours} ms, node_exporter {theirs} ms");
    agent.stop();
    drop(peer);
}
