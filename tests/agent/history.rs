//! `/history`: a day of the most important series, across restarts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::support::fake_nvml::{Driver, FULL_GPU};
use crate::support::full_disk::FullDisk;
use crate::support::{Agent, TempDir, hm_agent, sleep_for, wait_until};

const CLOSE: &str = "Connection: close\r\n";

fn get(agent: &Agent, query: &str) -> Value {
    let (status, response) = agent.http(&format!("/history{query}"), CLOSE);
    assert_eq!(status, 200, "{response}");
    serde_json::from_str(response.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// Known values of a series.
fn values(history: &Value, name: &str, gpu: Option<u32>) -> Vec<f64> {
    let gpu = gpu.map_or(Value::Null, Value::from);
    let series = history["series"].as_array().unwrap();
    let found = series.iter().find(|series| series["name"] == name && series["gpu"] == gpu);
    let found = found.unwrap_or_else(|| panic!("no {name} {gpu} in {history:#}"));
    found["values"].as_array().unwrap().iter().filter_map(Value::as_f64).collect()
}

fn start(state: &Path) -> Agent {
    Agent::start(&["interval=1", &format!("state_dir={}", state.display())])
}

/// Waits for this many values.
fn wait_values(agent: &Agent, count: usize) {
    wait_until(&format!("{count} values"), || {
        // An answer costs more than a sample.
        sleep_for(Duration::from_millis(300));
        (values(&get(agent, ""), "memory_percent", None).len() >= count).then_some(())
    });
}

#[test]
fn curves_of_node_and_gpus_go_on_after_a_restart() {
    let driver = Driver::new(FULL_GPU);
    let state = format!("state_dir={}", driver.scratch.0.join("state").display());
    let mut watched = driver.start(&[&state]);
    watched.until("a GPU", |update| update["gpus"][0]["power_watts"].as_f64());
    wait_values(&watched.agent, 2);
    watched.stop();
    let watched = driver.start(&[&state]);
    let history = get(&watched.agent, "?range=1h");
    assert_eq!((&history["range"], &history["step"]), (&"1h".into(), &5.into()));
    let (start, now) = (history["start"].as_u64().unwrap(), history["now"].as_u64().unwrap());
    let series = history["series"].as_array().unwrap();
    assert!(series.iter().all(|series| series["values"].as_array().unwrap().len() == 720));
    assert!((now - 5..=now).contains(&(start + 719 * 5)), "{start} {now}");
    assert_eq!(series.len(), 12);
    let memory = values(&history, "memory_percent", None);
    assert!(memory.len() >= 2 && memory.iter().all(|value| (0.0..=100.0).contains(value)));
    for (name, expected) in [
        ("gpu_utilization_percent", 81.0),
        ("gpu_memory_used_percent", 37.5),
        ("gpu_temperature_celsius", 71.0),
        ("gpu_power_watts", 287.5),
        ("gpu_clock_mhz", 1755.0),
    ] {
        let found = values(&history, name, Some(0));
        assert!(!found.is_empty() && found.iter().all(|value| *value == expected), "{found:?}");
    }
    let day = get(&watched.agent, "?range=24h");
    assert_eq!((&day["range"], &day["step"]), (&"24h".into(), &120.into()));
    assert!(!values(&day, "load1", None).is_empty());
    watched.stop();
}

#[test]
fn query_that_is_not_known_is_refused() {
    let agent = Agent::start(&[]);
    let (status, response) = agent.http("/history?range=2h", CLOSE);
    assert_eq!(status, 400, "{response}");
    assert!(response.contains("\"range\" is neither 1h nor 24h"), "{response}");
    let (status, response) = agent.http("/history", "Accept-Encoding: gzip\r\n");
    assert!(status == 200 && response.contains("Content-Encoding: gzip"), "{response}");
    agent.stop();
    let secret = Agent::start(&["usage.token=secret"]);
    assert_eq!(secret.http("/history", CLOSE).0, 401);
    assert_eq!(secret.http("/history?token=secret&range=24h", CLOSE).0, 200);
    secret.stop();
}

#[test]
fn history_without_state_directory_is_kept_in_memory() {
    let scratch = TempDir::new("history");
    let file = PathBuf::from(scratch.write("file", ""));
    let agent = start(&file.join("below"));
    wait_values(&agent, 2);
    agent.stop();
}

#[test]
#[ignore = "needs root"]
fn history_is_recorded_while_the_disk_is_full() {
    let disk = FullDisk::new();
    let start = || {
        let mut command = hm_agent();
        command.args(["-s", "usage.listen=127.0.0.1:0", "-s", "interval=1"]);
        command.arg("-s").arg(format!("state_dir={}", disk.directory.0.display()));
        Agent::spawn(disk.run_inside(&command))
    };
    disk.fill();
    let agent = start();
    agent.wait_log("history is kept in memory only: ");
    assert!(!disk.file("history.new").exists());
    wait_values(&agent, 2);
    agent.stop();
    disk.empty();
    // Its space is reserved when the file is created.
    let agent = start();
    agent.wait_log("started; settings");
    disk.fill();
    wait_values(&agent, 2);
    agent.stop();
    let agent = start();
    wait_values(&agent, 3);
    let lines = agent.stop();
    assert!(!lines.iter().any(|line| line.contains("history")), "{lines:#?}");
}
