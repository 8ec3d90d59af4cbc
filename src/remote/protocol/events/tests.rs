//! Tests of the notifications.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::remote::collect::sample::Sections;

const KEY: &str = "cc@10.128.248.93:22";

fn sample(sections: &[(&str, &str)]) -> RemoteSample {
    let mut kept = Sections::default();
    sections.iter().for_each(|(name, text)| kept.insert(name, text.as_bytes().to_vec()));
    RemoteSample::parse(&kept, &RemoteInventory::default())
}

fn fixture(tree: &str) -> RemoteSample {
    let read = |name: &str| {
        std::fs::read_to_string(format!(
            "{}/tests/fixtures/{tree}/proc/{name}",
            env!("CARGO_MANIFEST_DIR")
        ))
        .unwrap_or_default()
    };
    let names = ["uptime", "loadavg", "stat", "meminfo", "diskstats"];
    let mut texts: Vec<(&str, String)> = names.iter().map(|name| (*name, read(name))).collect();
    texts.push(("net/dev", read("net/dev")));
    let texts: Vec<(&str, &str)> =
        texts.iter().map(|(name, text)| (*name, text.as_str())).collect();
    sample(&texts)
}

/// Messages by name of their event.
fn messages(events: &[String]) -> BTreeMap<String, Value> {
    let message = |text: &String| {
        let event: Value = serde_json::from_str(text).unwrap();
        assert_eq!((&event["id"], &event["method"]), (&Value::Null, &json!("ssh.notification")));
        let params = &event["params"][0];
        assert_eq!(params["message"]["ssh_key"], KEY);
        (params["event"].as_str().unwrap().to_owned(), params["message"].clone())
    };
    events.iter().map(message).collect()
}

#[test]
fn builds_all_events_of_real_sample() {
    let (earlier, now) = (fixture("x86/a"), fixture("x86/b"));
    let seconds = now.uptime_seconds.unwrap() - earlier.uptime_seconds.unwrap();
    let events = messages(&of_sample(KEY, &RemoteInventory::default(), &earlier, &now, seconds));
    let names: Vec<&String> = events.keys().collect();
    assert_eq!(
        names,
        ["cpu_performance", "disk", "loadavg", "memory_performance", "net_dev", "uptime"]
    );
    let total = &events["cpu_performance"]["total"];
    let sum: f64 = ["free", "system", "user", "io", "steal"]
        .iter()
        .map(|name| total[*name].as_f64().unwrap())
        .sum();
    assert!((sum - 100.0).abs() < 0.05, "{total}");
    assert!(events["cpu_performance"]["cpu_performance"]["1"]["utilization"].is_number());
    let memory = &events["memory_performance"]["memory"];
    assert_eq!(memory["total_mem_unit"], "GB");
    assert!(memory["used_mem_occupy"].as_f64().is_some_and(|share| share > 0.0 && share < 1.0));
    assert!(memory.get("total_mem_occupy").is_none(), "{memory}");
    assert!(
        events["disk"]["disk_map"]["vda"]["read_iops"].is_number()
            && events["disk"]["write_unit"].is_string()
    );
    assert!(events["net_dev"]["net_dev"]["lo"]["up_speed"].is_number());
}

#[test]
fn skips_events_of_missing_kernel_files() {
    let now = sample(&[("uptime", "93784.99 1\n"), ("zones", "0 45000\n2 61500\n")]);
    let events =
        messages(&of_sample(KEY, &RemoteInventory::default(), &RemoteSample::default(), &now, 2.0));
    assert_eq!(events.keys().collect::<Vec<_>>(), ["temp", "uptime"]);
    assert_eq!(events["temp"]["temp_map"], json!({"zone0": 45000, "zone2": 61500}));
    assert_eq!(
        events["uptime"]["uptime"],
        json!({"up_day": 1, "up_hour": 2, "up_min": 3, "up_sec": 4})
    );
    let rough =
        messages(&[rough(KEY, &RemoteInventory::default(), &RemoteSample::default(), &now, 2.0)]);
    assert_eq!(rough["rough"], json!({"ssh_key": KEY, "temp": {"highest_temp": 61500}}));
}

#[test]
fn loadavg_has_load_per_processor() {
    let stat = "cpu 1 1 1 1\ncpu0 1 1 1 1\ncpu1 1 1 1 1\n";
    let now = sample(&[("loadavg", "0.51 1.00 3.00 2/80 11206\n"), ("stat", stat)]);
    let events =
        messages(&of_sample(KEY, &RemoteInventory::default(), &RemoteSample::default(), &now, 2.0));
    let expected = json!({
        "one": 0.51, "five": 1.0, "fifteen": 3.0, "one_occupy": 0.26, "five_occupy": 0.5, "fifteen_occupy": 1.5,
        "running": 2, "active": 80, "last_pid": 11206,
    });
    assert_eq!(events["loadavg"]["loadavg"], expected);
}

#[test]
fn memory_without_swap_has_zero_share() {
    let now = sample(&[(
        "meminfo",
        "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 250 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\nSwapCached: 0 kB\n",
    )]);
    let rough =
        messages(&[rough(KEY, &RemoteInventory::default(), &RemoteSample::default(), &now, 2.0)]);
    let expected =
        json!({"free_mem_occupy": 0.1, "used_mem_occupy": 0.75, "cached_swap_occupy": 0.0});
    assert_eq!(rough["rough"]["memory"], expected);
}

#[test]
fn sorts_processes_by_cpu_time_then_memory() {
    let inventory = |uptime_seconds: f64, ticks: [u64; 3]| {
        let line = |pid: usize, ticks: u64, pages: u64| {
            format!(
                "{pid} (p{pid}) S 1 1 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 1 0 {pid} 0 {pages}\n"
            )
        };
        let text = line(1, ticks[0], 5) + &line(2, ticks[1], 256) + &line(3, ticks[2], 512);
        let processes = crate::procfs::processes::parse(text.as_bytes());
        let processes = ProcessList { uptime_seconds, processes };
        RemoteInventory { processes, page_size_bytes: 4096, ..RemoteInventory::default() }
    };
    let (before, now) = (inventory(100.0, [0, 7, 7]), inventory(105.0, [50, 7, 7]));
    let event = process(KEY, &now, &before.processes).unwrap();
    let expected = json!([
        {"pid": 1, "name": "p1", "cpu": 10.0, "mem": 20.0, "mem_unit": "KB"},
        {"pid": 3, "name": "p3", "cpu": 0.0, "mem": 2.0, "mem_unit": "MB"},
        {"pid": 2, "name": "p2", "cpu": 0.0, "mem": 1.0, "mem_unit": "MB"},
    ]);
    assert_eq!(messages(&[event])["process"]["process"], expected, "three processes");
    assert!(process(KEY, &now, &now.processes).is_none());
}

#[test]
fn compares_long_lists_of_processes_in_linear_time() {
    let list = |length: u32, uptime_seconds, start_ticks| {
        let process = |pid: u32| Process {
            pid,
            name: Vec::new(),
            ticks: pid.into(),
            start_ticks,
            resident_pages: 1,
        };
        ProcessList { uptime_seconds, processes: (0..length).map(process).collect() }
    };
    let compare = |length: u32| {
        let inventory =
            RemoteInventory { processes: list(length, 2.0, 1), ..RemoteInventory::default() };
        let start = std::time::Instant::now();
        let max_cpu = |previous: ProcessList| {
            let event = process(KEY, &inventory, &previous).unwrap();
            messages(&[event])["process"]["process"][0]["cpu"].clone()
        };
        let last = f64::from(length - 1);
        assert_eq!(max_cpu(list(length, 1.0, 0)), json!(last), "all processes are new");
        assert_eq!(max_cpu(list(length, 1.0, 1)), json!(0.0), "no process is new");
        start.elapsed()
    };
    // The shortest of several times, because other processes of the machine interrupt some.
    let [short, long] =
        [4_000, 64_000].map(|length| (0..4).map(|_| compare(length)).min().unwrap_or_default());
    assert!(long < 100 * short, "{short:?} and, for 16 times as many, {long:?}");
}

#[test]
fn builds_connection_and_gpu_events() {
    let lost = messages(&[connection(KEY, "waiting", Some("connection refused"))]);
    let expected = json!({"ssh_key": KEY, "state": "waiting", "reason": "connection refused"});
    assert_eq!(lost["connection"], expected);
    let gpus =
        crate::remote::collect::nvidia_smi::parse(b"0, A100, GPU-1, 00000000:41:00.0, 40960\n");
    let found = messages(&[gpu(KEY, &RemoteInventory { gpus, ..RemoteInventory::default() })]);
    let expected = json!([{"index": 0, "vendor": "nvidia", "name": "A100", "uuid": "GPU-1", "pci_address": "0000:41:00.0", "memory_total_bytes": 42949672960_u64}]);
    assert_eq!(found["gpu"]["gpus"], expected);
}
