//! /metrics and the health endpoints: output for captured machines and for scripted GPUs, content negotiation and
//! authentication. After an intended change run `UPDATE_GOLDEN=1 cargo test metrics::`; review the diff.

use crate::support;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::fake_nvml::Driver;
use crate::support::golden::compare;
use crate::support::{Agent, TEST_TIMEOUT, wait_until};
use hm_agent::collector::host_info;
use hm_agent::collector::sampler::Sampler;
use hm_agent::config::{CollectorsConfig, Roots};
use hm_agent::metrics::{Exposition, Format, render};
use hm_agent::model::finding::HealthReport;
use hm_agent::model::status::{PortStatus, ProcessStats};
use hm_agent::sys::FsSize;

const CLOSE: &str = "Connection: close\r\n";
fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// /metrics of a captured machine. Times and sizes that are in no file are made up.
fn captured(tree: &str, format: Format) -> String {
    let tree = tests().join("fixtures").join(tree);
    let roots = Roots { proc: tree.join("proc"), sys: tree.join("sys"), root: tree.join("root") };
    let size = FsSize {
        total_bytes: 100 << 30,
        free_bytes: 50 << 30,
        available_bytes: 45 << 30,
        files: 6_553_600,
        files_free: 6_000_000,
        read_only: false,
    };
    let host = host_info::read(&roots);
    let mut sample = Sampler::new(roots, &CollectorsConfig::default(), move |_| Ok(size))
        .collect_first(TEST_TIMEOUT)
        .unwrap();
    (sample.unix_seconds, sample.duration) = (1_795_216_252, Duration::from_micros(250));
    for source in &mut sample.collectors {
        source.duration = Duration::from_micros(20);
        source.last_success_unix_seconds = Some(1_795_216_252);
    }
    support::gpu_server::kernel::remove_clock(&mut sample);
    let port = PortStatus {
        name: "usage",
        connections: 2,
        accepted: 7,
        received_bytes: 1000,
        sent_bytes: 100_000,
        refused: vec![("unauthorized", 1), ("busy", 0)],
        rejected_by_code: vec![("401", 1), ("503", 0)],
        websockets_closed: 3,
    };
    let process = ProcessStats {
        cpu_seconds: 0.25,
        resident_bytes: 1 << 20,
        virtual_bytes: 8 << 20,
        max_virtual_bytes: Some(u64::MAX),
        threads: 9,
        open_files: 40,
        max_files: Some(1024),
        start_unix_seconds: 1_795_216_000.5,
    };
    let input = Exposition {
        sample: &sample,
        host: &host,
        now: Duration::from_millis(1_795_216_253_125),
        interval: Duration::from_secs(5),
        samples: 3,
        process: Some(process),
        ports: &[port],
        health: &HealthReport::unknown(),
        gpu_hostname_label: "Hostname",
    };
    render(&input, format)
}

#[test]
fn exposes_captured_x86_server_in_prometheus_format() {
    compare("x86.prom", &captured("x86/b", Format::Prometheus));
}

#[test]
fn exposes_captured_arm_machine_in_openmetrics_format() {
    compare("arm.openmetrics", &captured("arm/b", Format::OpenMetrics));
}

#[test]
fn exposes_thermal_zone_and_hwmon_chip_of_raspberry_pi() {
    let text = captured("raspi", Format::Prometheus);
    assert!(text.contains("\nnode_thermal_zone_temp{type=\"cpu-thermal\",zone=\"0\"} "), "{text}");
    assert!(text.contains("\nnode_hwmon_temp_celsius{chip=\"cpu_thermal\",sensor=\"temp1\"} "));
}

/// Value of a series. Panics with the family's series if it is absent.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let family = series.split('{').next().unwrap();
    let known: Vec<&str> = text.lines().filter(|line| line.starts_with(family)).collect();
    line.unwrap_or_else(|| panic!("no {series} in {known:#?}")).parse().unwrap()
}

fn metrics(agent: &Agent) -> String {
    let (status, response) = agent.http("/metrics", CLOSE);
    assert_eq!(status, 200, "{response}");
    response.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[test]
fn serves_the_format_requested_by_accept() {
    let agent = Agent::start(&[]);
    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n";
    let (_, open) = agent.http("/metrics", &format!("{accept}{CLOSE}"));
    let kind = "\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
    assert!(open.contains(kind) && open.ends_with("\n# EOF\n"), "{open}");
    assert!(open.contains("\n# TYPE node_cpu_seconds counter\nnode_cpu_seconds_total{cpu=\"0\""));
    let (_, plain) = agent.http("/metrics", CLOSE);
    assert!(plain.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    assert!(
        plain.contains("\n# TYPE node_cpu_seconds_total counter\n") && !plain.contains("# EOF")
    );
    agent.stop();
}

#[test]
fn exposes_every_family_and_series_once() {
    let agent = Agent::start(&[]);
    for accept in ["", "Accept: application/openmetrics-text\r\n"] {
        let (_, response) = agent.http("/metrics", &format!("{accept}{CLOSE}"));
        let text = response.split_once("\r\n\r\n").unwrap().1;
        let mut seen = std::collections::BTreeSet::new();
        for line in text.lines().filter(|line| *line != "# EOF") {
            // The value of a sample, and the type of a family, is the last word.
            assert!(seen.insert(line.rsplit_once(' ').unwrap().0.to_owned()), "duplicate: {line}");
            assert!(!line.ends_with("NaN") && !line.ends_with("inf"), "{line}");
        }
        assert!(seen.len() > 300, "{}", seen.len());
    }
    agent.stop();
}

#[test]
fn compresses_long_responses_if_the_client_accepts_gzip() {
    let agent = Agent::start(&["interval=3600"]);
    let (head, body) = request_gzip(&agent, "GET", "/snapshot");
    let (_, plain) = agent.http("/snapshot", CLOSE);
    assert!(!plain.contains("Content-Encoding"), "{plain}");
    assert!(plain.contains("\r\nVary: Accept, Accept-Encoding\r\n"), "{plain}");
    // The response of a small machine may be below the threshold.
    if head.contains("\r\nContent-Encoding: gzip\r\n") {
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
        let text = gunzip(&body);
        assert!(serde_json::from_slice::<serde_json::Value>(&text).unwrap()["machine"].is_object());
        assert!(body.len() * 2 < text.len(), "{} of {}", body.len(), text.len());
    } else {
        assert!(body.len() < hm_agent::http::gzip::MIN_COMPRESSED_BYTES, "{head}");
    }
    let (_, health) = agent.http("/healthz", &format!("Accept-Encoding: gzip\r\n{CLOSE}"));
    assert!(!health.contains("Content-Encoding") && health.ends_with("\r\n\r\nok\n"), "{health}");
    agent.stop();
}

#[test]
fn same_body_with_and_without_gzip() {
    let agent = Agent::start(&["interval=3600"]);
    let (head, body) = request_gzip(&agent, "GET", "/");
    assert!(head.contains("\r\nContent-Encoding: gzip\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
    assert_eq!(request_gzip(&agent, "HEAD", "/"), (head.clone(), Vec::new()));
    let (status, response) = agent.http("/", CLOSE);
    let (plain_head, page) = response.split_once("\r\n\r\n").unwrap();
    assert_eq!(status, 200);
    assert!(!plain_head.contains("Content-Encoding"), "{plain_head}");
    assert_eq!(gunzip(&body), page.as_bytes());
    let policy = |head: &str| {
        let line = head.lines().find(|line| line.starts_with("Content-Security-Policy: "));
        line.unwrap().to_owned()
    };
    assert_eq!(policy(&head), policy(plain_head));
    agent.stop();
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    Read::read_to_end(&mut flate2::read::GzDecoder::new(bytes), &mut text).unwrap();
    text
}

/// Head and body of a response to a client that accepts gzip.
fn request_gzip(agent: &Agent, method: &str, path: &str) -> (String, Vec<u8>) {
    let mut socket = agent.socket();
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n{CLOSE}\r\n");
    socket.write_all(request.as_bytes()).unwrap();
    let mut response = Vec::new();
    socket.read_to_end(&mut response).unwrap();
    let head = response.windows(4).position(|part| part == b"\r\n\r\n").unwrap() + 4;
    let body = response.split_off(head);
    (String::from_utf8(response).unwrap(), body)
}

#[test]
fn head_has_no_body_and_other_methods_return_405() {
    let agent = Agent::start(&[]);
    for path in ["/metrics", "/snapshot", "/-/healthy", "/healthz", "/-/ready"] {
        let response =
            agent.raw(format!("HEAD {path} HTTP/1.1\r\nHost: a\r\n{CLOSE}\r\n").as_bytes());
        assert!(
            response.starts_with("HTTP/1.1 200 OK\r\n") && response.ends_with("\r\n\r\n"),
            "{response}"
        );
        assert!(!response.contains("Content-Length: 0\r\n"), "{response}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let request =
                format!("{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
            let response = agent.raw(request.as_bytes());
            assert!(response.starts_with("HTTP/1.1 405 "), "{method} {path}: {response}");
            assert!(response.contains("\r\nAllow: GET, HEAD\r\n"), "{response}");
        }
    }
    for path in ["/metrics/", "/Metrics", "/-/", "/healthz?x", "/-/healthy/"] {
        let expected = if path.contains('?') { 200 } else { 404 };
        assert_eq!(agent.http(path, CLOSE).0, expected, "{path}");
    }
    agent.stop();
}

#[test]
fn serves_pipelined_requests_then_upgrades_the_connection() {
    let agent = Agent::start(&[]);
    let mut socket = agent.socket();
    let one = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    let with_body = "GET /-/healthy HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    socket.write_all([one, with_body, one].concat().as_bytes()).unwrap();
    let mut responses = Vec::new();
    while responses.windows(7).filter(|part| part == b"\r\n\r\nok\n").count() < 3 {
        let mut part = [0; 1024];
        let read = socket.read(&mut part).unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&responses));
        responses.extend(&part[..read]);
    }
    let url = format!("ws://{}/usage", agent.address);
    let mut client = support::Client(tungstenite::client(url, socket).unwrap().0);
    client.send_text("subscribe:usage");
    assert_eq!(client.json()["status"], "subscribed");
    agent.stop();
}

#[test]
fn requires_token_except_for_health_endpoints() {
    let agent = Agent::start(&["usage.token=s3cret", "interval=1"]);
    for path in ["/metrics", "/snapshot"] {
        let (status, response) = agent.http(path, CLOSE);
        assert_eq!(status, 401);
        assert!(response.contains("\r\nWWW-Authenticate: Bearer\r\n") && response.contains(path));
        assert!(!response.contains("node_"), "{response}");
        assert_eq!(agent.http(&format!("{path}?token=s3cre"), CLOSE).0, 401);
        assert_eq!(agent.http(&format!("{path}?token=s3cret"), CLOSE).0, 200);
        assert_eq!(agent.http(path, &format!("Authorization: Bearer s3cret\r\n{CLOSE}")).0, 200);
    }
    for path in ["/-/healthy", "/-/ready", "/healthz"] {
        assert_eq!(agent.http(path, CLOSE).0, 200, "{path}");
    }
    // The response is rendered once per sample.
    let rejected = "hm_agent_http_rejected_total{port=\"usage\",code=\"401\"}";
    wait_until("all rejections", || {
        let text = agent.http("/metrics?token=s3cret", CLOSE).1;
        (value(&text, rejected) == 4.0).then_some(())
    });
    agent.stop();
}

#[test]
fn becomes_ready_after_three_seconds_if_the_gpu_driver_hangs() {
    let driver = Driver::new("gpus = 1\nhang = nvmlInit_v2");
    let agent = Agent::spawn(driver.command(&[], &["gpu.source=nvml", "gpu.timeout=60"]));
    let (status, response) = agent.http("/-/ready", CLOSE);
    assert_eq!(status, 503, "{response}");
    assert!(response.ends_with("waiting for the first GPU sample\n"), "{response}");
    assert_eq!(agent.http("/-/healthy", CLOSE).0, 200);
    // Three seconds after the start, even without a result from the driver.
    wait_until("the agent to be ready", || (agent.http("/-/ready", CLOSE).0 == 200).then_some(()));
    let text = metrics(&agent);
    assert_eq!(value(&text, "hm_agent_gpu_probe_state{state=\"starting\"}"), 1.0);
    agent.stop();
}

#[test]
fn scrape_omits_values_of_hung_driver_without_blocking() {
    let driver = Driver::new("gpus = 2");
    let mut watched = driver.start(&[]);
    watched.until_state("ok");
    assert_eq!(metrics(&watched.agent).matches("\nDCGM_FI_DEV_GPU_TEMP{").count(), 2);
    driver.set_script("gpus = 2\nhang = nvmlDeviceGetTemperature, nvmlDeviceGetCount_v2");
    watched.until("GPUs without values", |update| {
        update["gpus"][0]["temperature_celsius"].is_null().then_some(())
    });
    let start = std::time::Instant::now();
    let text = metrics(&watched.agent);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(!text.contains("\nDCGM_FI_DEV_GPU_TEMP"), "stale values must not be exposed");
    watched.stop();
}

#[test]
fn exposes_eight_gpus_with_problems_mig_and_xids() {
    let driver = Driver::new(
        "gpus = 8\ngpu.0.mig = 1\ngpu.0.mig_instances = 2\ngpu.1.reasons = 68\ngpu.2.energy_mj = 123456789\n\
         gpu.3.power_mw = 71250\ngpu.4.temp_mem = none\nlost = 6\nxid = 1:1:79, 2:1:79, 3:2:48\n",
    );
    let mut watched = driver.start(&[]);
    watched.until("all errors", |update| {
        let counts = |gpu: usize| update["gpus"][gpu]["xids"][0]["count"].as_u64();
        (counts(1) == Some(2) && counts(2) == Some(1) && update["gpus"][6]["problem"] == "lost")
            .then_some(())
    });
    let text = metrics(&watched.agent);
    let gpu = |family: &str, number: usize| {
        let start = format!("{family}{{gpu=\"{number}\",UUID=\"GPU-");
        let line = text.lines().find(|line| line.starts_with(&start) && !line.contains("GPU_I_ID"));
        line.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
    };
    let line =
        text.lines().find(|line| line.starts_with("DCGM_FI_DEV_SM_CLOCK{gpu=\"1\"")).unwrap();
    for label in [
        "pci_bus_id=\"00000000:11:00.0\"",
        "device=\"nvidia1\"",
        "modelName=\"NVIDIA H100 80GB HBM3\"",
        "Hostname=\"",
    ] {
        assert!(line.contains(label), "{label} in {line}");
    }
    assert_eq!(gpu("DCGM_FI_DEV_GPU_TEMP", 3), Some(49.0));
    assert_eq!(gpu("DCGM_FI_DEV_POWER_USAGE", 3), Some(71.25));
    assert_eq!(gpu("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 2), Some(123_456_789.0));
    assert_eq!(gpu("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", 1), Some(68.0));
    assert_eq!(gpu("DCGM_FI_DEV_FB_USED", 1), Some(2048.0));
    assert_eq!(gpu("DCGM_FI_DEV_XID_ERRORS", 1), Some(79.0));
    assert_eq!(gpu("DCGM_FI_DEV_XID_ERRORS", 5), Some(0.0));
    assert!(gpu("DCGM_FI_DEV_MEMORY_TEMP", 3).is_some());
    assert!(gpu("DCGM_FI_DEV_MEMORY_TEMP", 4).is_none());
    assert_eq!(gpu("DCGM_FI_DEV_GPU_TEMP", 6), None, "a lost GPU has no values");
    // A GPU in MIG mode exposes the memory of its instances instead of its own, and no utilization.
    assert_eq!(gpu("DCGM_FI_DEV_MIG_MODE", 0), Some(1.0));
    assert_eq!((gpu("DCGM_FI_DEV_FB_USED", 0), gpu("DCGM_FI_DEV_GPU_UTIL", 0)), (None, None));
    let instances = text.lines().filter(|line| line.starts_with("DCGM_FI_DEV_FB_USED{gpu=\"0\""));
    let has_labels =
        |line: &&str| line.contains(",GPU_I_ID=\"") && line.contains(",GPU_I_PROFILE=\"");
    assert_eq!(instances.filter(has_labels).count(), 2, "{text}");
    let of = |family: &str, gpu: usize, label: &str| {
        let start = format!("{family}{{gpu=\"{gpu}\"");
        let line = text.lines().find(|line| line.starts_with(&start) && line.contains(label))?;
        Some(line.rsplit_once(' ')?.1.to_owned())
    };
    assert_eq!(of("hm_agent_gpu_xid_errors_total", 1, "xid=\"79\"").as_deref(), Some("2"));
    assert_eq!(of("hm_agent_gpu_xid_errors_total", 2, "xid=\"48\"").as_deref(), Some("1"));
    assert!(of("hm_agent_gpu_xid_last_timestamp_seconds", 2, "xid=\"48\"").is_some());
    assert_eq!(of("hm_agent_gpu_problem", 6, "problem=\"lost\"").as_deref(), Some("1"));
    assert_eq!(of("hm_agent_gpu_problem", 5, "problem=\"lost\"").as_deref(), Some("0"));
    assert_eq!(value(&text, "hm_agent_gpu_probe_state{state=\"ok\"}"), 1.0);
    let success = "node_scrape_collector_success{collector=\"nvidia\"} 1";
    wait_until("the collector", || metrics(&watched.agent).contains(success).then_some(()));
    watched.stop();
}

#[test]
fn exposes_the_200_most_overdue_applications() {
    let agent = Agent::start(&["interval=1"]);
    let mut socket = std::net::TcpStream::connect(agent.heartbeat()).unwrap();
    let mut beat = |id: &str| {
        write!(socket, "GET /hb_ping?60000&appid={id} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut response = [0; 1024];
        assert!(socket.read(&mut response).unwrap() > 0);
    };
    beat("first%22one");
    for number in 0..249 {
        beat(&format!("app{number}"));
    }
    let state = "hm_agent_heartbeat_apps{state=\"ok\"}";
    let text = wait_until("all applications", || {
        let text = metrics(&agent);
        (value(&text, state) == 250.0).then_some(text)
    });
    assert_eq!(text.matches("\nhm_agent_heartbeat_app_overdue_ratio{").count(), 200);
    assert_eq!(value(&text, "hm_agent_metrics_truncated{kind=\"heartbeat_apps\"}"), 50.0);
    assert_eq!(
        value(&text, "hm_agent_heartbeat_app_state{app_id=\"first\\\"one\",state=\"ok\"}"),
        1.0
    );
    agent.stop();
}
