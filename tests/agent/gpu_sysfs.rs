//! AMD and Intel GPUs as clients see them: the real agent with the sysfs trees in `tests/fixtures`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Agent, TempDir, hm_agent, wait_until};

const CLOSE: &str = "Connection: close\r\n";

/// A copy of a tree in `tests/fixtures`, with the files that every machine has.
struct Machine {
    _directory: TempDir,
    tree: PathBuf,
}

impl Machine {
    fn new(tree: &str) -> Self {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(tree);
        let directory = TempDir::new(tree);
        let tree = directory.0.join("tree");
        let status = Command::new("cp").arg("-a").arg(fixture).arg(&tree).status();
        assert!(status.unwrap().success());
        let machine = Self { _directory: directory, tree };
        machine.write("proc/stat", "cpu  9 0 3 50 7 0 8 0 0 0\ncpu0 9 0 3 50 7 0 8 0 0 0\n");
        machine.write("proc/meminfo", "MemTotal: 2113531420 kB\nMemAvailable: 1900000000 kB\n");
        machine
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.tree.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn settings(&self) -> [String; 3] {
        ["proc", "sys", "root"]
            .map(|name| format!("path.{name}={}", self.tree.join(name).display()))
    }

    fn start(&self) -> Agent {
        let settings = self.settings();
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let agent = Agent::start(&[&settings[..], &["interval=1"]].concat());
        agent.subscribe().json();
        agent
    }
}

fn body(agent: &Agent, path: &str) -> String {
    let (status, response) = agent.http(path, CLOSE);
    assert_eq!(status, 200, "{response}");
    response.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Series of the GPU with this device label, as `NAME{labels} VALUE` without the labels that identify it.
fn series(text: &str, device: &str) -> Vec<String> {
    let of_device = format!("device=\"{device}\"");
    let lines = text.lines().filter(|line| line.contains(&of_device));
    let short = lines.map(|line| {
        let (name, rest) = line.split_once('{').unwrap();
        let (labels, value) = rest.rsplit_once("} ").unwrap();
        let own = labels.split_once("Hostname=").unwrap().1.split_once(',');
        own.map_or(format!("{name} {value}"), |(_, own)| format!("{name}{{{own}}} {value}"))
    });
    short.filter(|line| !line.starts_with("hm_agent_gpu_problem")).collect()
}

fn assert_series(text: &str, device: &str, expected: &str) {
    let expected: Vec<&str> = expected.lines().map(str::trim).collect();
    assert_eq!(series(text, device), expected, "{device}");
}

#[test]
fn exposes_amd_gpu_under_the_names_of_dcgm_exporter() {
    let machine = Machine::new("amd");
    let agent = machine.start();
    let text = body(&agent, "/metrics");
    assert!(text.contains(r#"DCGM_FI_DEV_GPU_UTIL{gpu="2",UUID="GPU-0d7c1e94a2b35f68",pci_bus_id="00000000:C3:00.0",device="amd2",modelName="AMD Instinct MI300X OAM",Hostname="#));
    let container = "7f0c3a5b91d2e8477f0c3a5b91d2e8477f0c3a5b91d2e8477f0c3a5b91d2e847";
    let pod = "3c1d7a52-0e4f-4b8e-9d0a-5f6c7b8a9d0e";
    let mut links = String::new();
    for link in 0..7 {
        links += &format!("hm_agent_gpu_xgmi_link_up{{link=\"{link}\"}} {}\n", u8::from(link < 6));
    }
    for (direction, factor) in [("read", 1_024_000_000u64), ("written", 2_048_000_000)] {
        for link in 0..8u64 {
            let bytes = if link < 7 { (link + 1) * factor } else { 0 };
            links +=
                &format!("hm_agent_gpu_xgmi_{direction}_bytes_total{{link=\"{link}\"}} {bytes}\n");
        }
    }
    let expected = format!(
        r#"DCGM_FI_DEV_SM_CLOCK 2097
        DCGM_FI_DEV_MEM_CLOCK 1300
        DCGM_FI_DEV_GPU_TEMP 64
        DCGM_FI_DEV_MEMORY_TEMP 57
        DCGM_FI_DEV_POWER_USAGE 612
        DCGM_FI_DEV_ENFORCED_POWER_LIMIT 750
        DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION 1245184000
        DCGM_FI_DEV_PCIE_REPLAY_COUNTER 0
        DCGM_FI_DEV_PCIE_LINK_GEN 5
        DCGM_FI_DEV_PCIE_LINK_WIDTH 16
        DCGM_FI_DEV_GPU_UTIL 98
        DCGM_FI_DEV_MEM_COPY_UTIL 41
        DCGM_FI_DEV_ECC_SBE_VOL_TOTAL 23
        DCGM_FI_DEV_ECC_DBE_VOL_TOTAL 1
        DCGM_FI_DEV_RETIRED_DBE 2
        DCGM_FI_DEV_RETIRED_PENDING 1
        DCGM_FI_DEV_FB_TOTAL 196592
        DCGM_FI_DEV_FB_FREE 49136
        DCGM_FI_DEV_FB_USED 147456
        hm_agent_gpu_pcie_errors_total{{type="nak_received"}} 4
        hm_agent_gpu_pcie_errors_total{{type="nak_sent"}} 3
        hm_agent_gpu_pcie_errors_total{{type="replay_rollover"}} 1
        hm_agent_gpu_pcie_errors_total{{type="recovery"}} 2
        hm_agent_gpu_retired_pages_failed 0
        hm_agent_gpu_throttle_observed_cycles_total 3600000
        hm_agent_gpu_partitions 1
        hm_agent_gpu_throttle_cycles_total{{reason="power"}} 900000
        hm_agent_gpu_throttle_cycles_total{{reason="socket_thermal"}} 1200
        hm_agent_gpu_throttle_cycles_total{{reason="memory_thermal"}} 60
        hm_agent_gpu_throttle_cycles_total{{reason="regulator_thermal"}} 300
        hm_agent_gpu_throttle_cycles_total{{reason="prochot"}} 0
        {links}hm_agent_gpu_partition_info{{compute_mode="SPX",memory_mode="NPS1"}} 1
        hm_agent_gpu_processes{{user="root",container_id="{container}",pod_uid="{pod}"}} 1
        hm_agent_gpu_processes{{user="alice",container_id="",pod_uid=""}} 1
        hm_agent_gpu_process_memory_bytes{{user="root",container_id="{container}",pod_uid="{pod}"}} 137438953472
        hm_agent_gpu_process_memory_bytes{{user="alice",container_id="",pod_uid=""}} 8589934592"#
    );
    assert_series(&text, "amd2", &expected);
    // A suspended GPU, and a Radeon without a table of its firmware.
    assert_series(&text, "amd1", "");
    let absent = ["RETIRED", "ENERGY", "xgmi", "throttle", "pcie_errors", "partition"];
    for line in series(&text, "amd0") {
        assert!(!absent.iter().any(|name| line.contains(name)), "{line}");
    }
    agent.stop();
}

#[test]
fn exposes_intel_gpus_under_the_names_of_dcgm_exporter() {
    let machine = Machine::new("intel");
    let agent = machine.start();
    let devices = "sys/devices";
    let (flex, b580) =
        ("pci0000:29/0000:2d:00.0/hwmon/hwmon4", "pci0000:5d/0000:61:00.0/hwmon/hwmon5");
    machine.write(&format!("{devices}/{flex}/energy1_input"), "12445678000\n");
    machine.write(&format!("{devices}/{b580}/energy1_input"), "1087654321\n");
    // Power needs two samples with different counters, and is absent again after the next one.
    let mut watts = [None; 2];
    wait_until("power of both GPUs", || {
        let text = body(&agent, "/metrics");
        let power = text.lines().filter(|line| line.starts_with("DCGM_FI_DEV_POWER_USAGE{"));
        for line in power {
            let gpu = usize::from(line.contains("intel1"));
            watts[gpu] = line.rsplit_once(' ').map(|(_, watts)| watts.parse::<f64>().unwrap());
        }
        watts.iter().all(Option::is_some).then_some(())
    });
    // 100 J within 1 s, or more if the machine is busy.
    assert!(watts.iter().flatten().all(|watts| (10.0..=500.0).contains(watts)), "{watts:?}");
    let text = wait_until("no further energy", || {
        let text = body(&agent, "/metrics");
        (!text.contains("DCGM_FI_DEV_POWER_USAGE")).then_some(text)
    });
    assert!(text.contains(r#"DCGM_FI_DEV_SM_CLOCK{gpu="0",UUID="",pci_bus_id="00000000:2D:00.0",device="intel0",modelName="Intel Data Center GPU Flex 170",Hostname="#), "{text}");
    assert_series(
        &text,
        "intel0",
        "DCGM_FI_DEV_SM_CLOCK 2050
        DCGM_FI_DEV_GPU_TEMP 47
        DCGM_FI_DEV_ENFORCED_POWER_LIMIT 150
        DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION 12445678
        DCGM_FI_DEV_CLOCK_THROTTLE_REASONS 4
        DCGM_FI_DEV_CLOCKS_EVENT_REASONS 4",
    );
    assert_series(
        &text,
        "intel1",
        "DCGM_FI_DEV_SM_CLOCK 2850
        DCGM_FI_DEV_GPU_TEMP 51
        DCGM_FI_DEV_MEMORY_TEMP 58
        DCGM_FI_DEV_ENFORCED_POWER_LIMIT 200
        DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION 1087654
        DCGM_FI_DEV_CLOCK_THROTTLE_REASONS 0
        DCGM_FI_DEV_CLOCKS_EVENT_REASONS 0",
    );
    assert!(!text.contains("intel2"), "the GPU in the processor is not listed");
    agent.stop();
}

#[test]
fn snapshot_and_detail_have_all_values_of_amd_and_intel_gpus() {
    let machine = Machine::new("amd");
    let agent = machine.start();
    let snapshot: Value = serde_json::from_str(&body(&agent, "/snapshot")).unwrap();
    let gpu = &snapshot["gpus"][2];
    let retired = json!({"double_bit": 2, "pending": true, "failed": 0});
    assert_eq!(gpu["retired_pages"], retired);
    let partitions = json!({"count": 1, "compute_mode": "SPX", "memory_mode": "NPS1"});
    assert_eq!(gpu["partitions"], partitions);
    assert_eq!(gpu["throttle_cycles"]["power"], 900_000);
    assert_eq!(gpu["pcie_errors"]["naks_sent"], 3);
    let link = json!({"link": 6, "up": false, "read_bytes": 7_168_000_000u64, "written_bytes": 14_336_000_000u64});
    assert_eq!(gpu["xgmi"]["links"][6], link);
    let process = json!({
        "pid": 7001,
        "name": "python3",
        "user": "root",
        "container_id": "7f0c3a5b91d2e847".repeat(4),
        "pod_uid": "3c1d7a52-0e4f-4b8e-9d0a-5f6c7b8a9d0e",
        "kind": "compute",
        "memory_used_bytes": 137_438_953_472u64,
    });
    assert_eq!(gpu["processes"][0], process);
    assert_eq!(gpu["processes"][1]["user"], "alice");
    assert!(gpu["processes"][2].is_null(), "a process that uses no memory of this GPU");
    agent.stop();
}

#[test]
fn logs_table_of_unknown_revision_once() {
    let machine = Machine::new("amd");
    let table = "sys/devices/pci0000:c0/0000:c0:03.1/0000:c3:00.0/gpu_metrics";
    // 8 bytes, format 1, content 99.
    machine.write(table, "\u{8}\0\u{1}\u{63}abcd");
    let agent = machine.start();
    let mut client = agent.subscribe();
    (0..3).for_each(|_| drop(client.json()));
    let lines = agent.stop();
    let lines: Vec<&String> = lines.iter().filter(|line| line.contains("firmware")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("expected a known revision of its size"), "{lines:?}");
}

#[test]
fn sample_command_lists_gpus_of_both_vendors() {
    let text = |tree: &str| {
        let (machine, mut command) = (Machine::new(tree), hm_agent());
        command.arg("sample");
        for setting in machine.settings() {
            command.args(["-s", &setting]);
        }
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let amd = text("amd");
    for part in ["AMD Instinct MI300X OAM", "2 retired pages", "page retirement pending"] {
        assert!(amd.contains(part), "no {part:?} in {amd}");
    }
    let owner = "root, pod 3c1d7a52-0e4f-4b8e-9d0a-5f6c7b8a9d0e, container 7f0c3a5b91d2: python3";
    assert!(amd.contains(owner), "{amd}");
    let intel = text("intel");
    for part in ["Intel Data Center GPU Flex 170", "Intel GPU 0xe20b", "sw_power_cap"] {
        assert!(intel.contains(part), "no {part:?} in {intel}");
    }
}
