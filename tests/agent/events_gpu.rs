//! Events of GPUs, from the driver and the kernel log together; a state directory on a full disk; privileges.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::events::{KernelLog, XID_79, events, wait_for};
use crate::support::core_fixture::wrap;
use crate::support::fake_nvml::{Driver, Watched};
use crate::support::full_disk::FullDisk;
use crate::support::heartbeat::list_setting;
use crate::support::{Agent, TempDir, hm_agent, wait_until};

/// The second GPU of the fake driver is 0000:11:00.0.
fn line(code: u32) -> String {
    format!("NVRM: Xid (PCI:0000:11:00): {code}, pid=1, name=python, x")
}

fn xids(update: &Value) -> Vec<(u64, u64)> {
    let xids = update["gpus"][1]["xids"].as_array().cloned().unwrap_or_default();
    xids.iter().map(|xid| (xid["code"].as_u64().unwrap(), xid["count"].as_u64().unwrap())).collect()
}

#[test]
fn xids_of_kernel_log_and_driver_are_counted_once() {
    let (driver, mut log) = (Driver::new("gpus = 2"), KernelLog::new());
    let mut watched = driver.start(&[&format!("path.kmsg={}", log.path().display())]);
    let wait = |watched: &mut Watched, expected: &[(u64, u64)]| {
        watched.until(&format!("{expected:?}"), |update| (xids(update) == expected).then_some(()));
    };
    // NVML does not report 79, 119 and 120; the others it reports, too.
    driver.set_script("gpus = 2\nxid = 1:1:31, 2:1:31");
    log.write(&[&line(31), &line(31), &line(119)]);
    wait(&mut watched, &[(31, 2), (119, 1)]);
    log.write(&[
        &line(79),
        "NVRM: GPU 0000:11:00.0: GPU has fallen off the bus.",
        XID_79, // of another GPU
    ]);
    wait(&mut watched, &[(31, 2), (79, 1), (119, 1)]);
    let (_, text) = watched.agent.http("/metrics", "");
    let series = |line: &&str| {
        line.starts_with("hm_agent_gpu_xid_errors_total{") && line.contains("xid=\"119\"")
    };
    assert!(text.lines().find(series).unwrap().ends_with(" 1"), "{text}");
    watched.stop();
}

#[test]
fn records_gpus_that_are_lost_and_driver_that_crashes() {
    let (driver, log) = (Driver::new("gpus = 2"), KernelLog::new());
    let mut watched = driver.start(&[&format!("path.kmsg={}", log.path().display())]);
    watched.until_state("ok");
    driver.set_script("gpus = 2\nlost = 1");
    let lost = wait_for(&watched.agent, "gpu_state", 1);
    assert_eq!(
        (&lost[0]["subject"], &lost[0]["severity"]),
        (&"0000:11:00.0".into(), &"critical".into())
    );
    driver.set_script("gpus = 2");
    let found = wait_for(&watched.agent, "gpu_state", 2);
    assert!(found[1]["text"].as_str().unwrap().ends_with("recovered"), "{found:?}");
    driver.set_script("crash = nvmlDeviceGetTemperature");
    watched.until_state("crashed");
    let crashed = wait_for(&watched.agent, "gpu_driver", 1);
    assert!(crashed[0]["text"].as_str().unwrap().starts_with("NVIDIA driver crashed: "));
    driver.set_script("gpus = 2");
    watched.until_state("ok");
    let recovered = wait_for(&watched.agent, "gpu_driver", 2);
    assert_eq!(recovered[1]["text"], "NVIDIA driver recovered");
    watched.stop();
}

#[test]
#[ignore = "needs root"]
fn events_are_kept_in_memory_while_the_disk_is_full() {
    let (disk, mut log) = (FullDisk::new(), KernelLog::new());
    let start = |log: &KernelLog| {
        let mut command = hm_agent();
        command.args(["-s", "usage.listen=127.0.0.1:0", "-s", "gpu.source=none"]);
        command.args(["-s", "interval=1", "-s", "heartbeat.enabled=false"]);
        command.arg("-s").arg(format!("path.kmsg={}", log.path().display()));
        command.arg("-s").arg(format!("state_dir={}", disk.directory.0.display()));
        Agent::spawn(disk.run_inside(&command))
    };
    let agent = start(&log);
    agent.wait_log("started; settings");
    disk.fill();
    // More than the rest of the last page of the file.
    let lines: Vec<String> = (1..=50).map(line).collect();
    log.write(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    wait_for(&agent, "xid", 50);
    agent.wait_log("no space left on device; events are kept in memory only, see state_dir");
    disk.empty();
    agent.wait_log("events recovered");
    wait_until("the event in the file", || {
        let text = std::fs::read_to_string(disk.file("events")).ok()?;
        text.contains("\"xid\"").then_some(())
    });
    agent.stop();
    let agent = start(&log);
    assert_eq!(wait_for(&agent, "xid", 50).len(), 50);
    assert!(events(&agent).len() >= 4);
    agent.stop();
}

/// As in a container: `/dev/kmsg` cannot be opened.
#[test]
#[ignore = "needs root and setpriv"]
fn reads_syslog_without_the_device() {
    let scratch = TempDir::new("syslog");
    let device = scratch.write("kmsg", "");
    std::fs::set_permissions(&device, Permissions::from_mode(0o000)).unwrap();
    let script = format!(
        "mount --bind {device} /dev/kmsg && exec setpriv --reuid=65534 --regid=65534 --clear-groups \
         --inh-caps=-all,+syslog --ambient-caps=-all,+syslog \"$@\""
    );
    let mut command = hm_agent();
    command.args(["-s", "usage.listen=127.0.0.1:0", "-s", "gpu.source=none"]);
    command.args(["-s", "interval=1", "-s", "log_level=debug"]);
    let agent = Agent::spawn(wrap(&["unshare", "--mount", "sh", "-c", &script, "sh"], &command));
    agent.wait_log("reading the kernel log from syslog(2)");
    wait_until("the kernel log", || {
        let (_, text) = agent.http("/metrics", "");
        text.contains("\nhm_agent_kernel_log_readable 1\n").then_some(())
    });
    agent.stop();
}

/// As in the systemd unit: a user without privileges but `CAP_SYSLOG`.
#[test]
#[ignore = "needs root and setpriv"]
fn capability_lets_agent_read_kernel_log_and_is_not_inherited() {
    let restricted = std::fs::read_to_string("/proc/sys/kernel/dmesg_restrict").unwrap();
    let scratch = TempDir::new("capability");
    std::fs::set_permissions(&scratch.0, Permissions::from_mode(0o777)).unwrap();
    let report = scratch.0.join("report");
    let script = format!("grep ^Cap /proc/self/status >{0}.new; mv {0}.new {0}", report.display());
    let hook = list_setting("heartbeat.on_overdue", &["/bin/sh", "-c", &script]);
    let start = |capabilities: &str| {
        let mut command = hm_agent();
        command.args(["-s", "usage.listen=127.0.0.1:0", "-s", "gpu.source=none"]);
        command.args(["-s", "interval=1", "-s", &hook]);
        let sets = ["--inh-caps", "--ambient-caps", "--bounding-set"];
        let mut wrapper = vec!["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        sets.iter().for_each(|set| wrapper.extend([*set, capabilities]));
        Agent::spawn(wrap(&wrapper, &command))
    };
    let agent = start("-all,+syslog");
    agent.get_ok("/hb_init?1&appid=a");
    let capabilities = wait_until("the hook", || std::fs::read_to_string(&report).ok());
    let effective = |line: &&str| ["CapInh", "CapBnd"].iter().all(|name| !line.starts_with(name));
    for line in capabilities.lines().filter(effective) {
        assert!(line.ends_with("\t0000000000000000"), "{capabilities}");
    }
    wait_until("the kernel log", || {
        let (_, text) = agent.http("/metrics", "");
        text.contains("\nhm_agent_kernel_log_readable 1\n").then_some(())
    });
    agent.stop();
    if restricted.trim() == "1" {
        let agent = start("-all");
        agent.wait_log("the kernel log is not read: /dev/kmsg: operation not permitted");
        agent.stop();
    }
}
