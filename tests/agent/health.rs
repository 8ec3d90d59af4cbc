//! `/health` and `hm-agent health`: findings of a node over a week of faults, and their end.

use std::process::Command;

use serde_json::Value;

use crate::events::{KernelLog, XID_79, XID_119};
use crate::support::fake_nvml::Driver;
use crate::support::{Agent, hm_agent, wait_until};

const CLOSE: &str = "Connection: close\r\n";

fn report(agent: &Agent) -> Value {
    let (status, response) = agent.http("/health", CLOSE);
    assert_eq!(status, 200, "{response}");
    serde_json::from_str(response.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// Id and action of each finding that is not acknowledged.
fn findings(agent: &Agent) -> Vec<(String, String)> {
    let report = report(agent);
    let open = report["findings"].as_array().unwrap().iter();
    let open = open.filter(|finding| finding["acknowledged"].is_null());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    open.map(|finding| (text(&finding["id"]), text(&finding["action"]))).collect()
}

fn wait_findings(agent: &Agent, expected: &[(&str, &str)]) {
    let expected: Vec<_> =
        expected.iter().map(|(id, action)| ((*id).to_owned(), (*action).to_owned())).collect();
    wait_until(&format!("the findings {expected:?} in {:#}", report(agent)), || {
        (findings(agent) == expected).then_some(())
    });
}

/// Standard output and exit code of `hm-agent health` with these arguments.
fn health(agent: &Agent, state_dir: &str, arguments: &[&str]) -> (String, i32) {
    let mut command: Command = hm_agent();
    command.arg("health").args(["-s", &format!("usage.listen={}", agent.address)]);
    let output = command.args(["-s", state_dir]).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8(text).unwrap(), output.status.code().unwrap())
}

const ID: &str = "gpu-xid79-0000_41_00.0";

#[test]
fn week_of_the_same_error_ends_with_an_inspection() {
    let mut log = KernelLog::new();
    let boot = |number: u32, log: &mut KernelLog| {
        // The kernel log of each boot is a new one.
        std::fs::write(log.path(), "").unwrap();
        log.start_in_boot_with(number, &["interval=1"])
    };
    let agent = boot(1, &mut log);
    wait_findings(&agent, &[]);
    log.write(&[XID_79]);
    wait_findings(&agent, &[(ID, "reboot")]);
    agent.stop();
    let mut agent = boot(2, &mut log);
    wait_findings(&agent, &[]);
    log.write(&[XID_79]);
    wait_findings(&agent, &[(ID, "reboot")]);
    assert_eq!(report(&agent)["findings"][0]["reboots"], 1);
    // Without a clean end.
    wait_until("both errors in the state file", || {
        let text = std::fs::read_to_string(log.state_dir().join("events")).unwrap();
        (text.matches("\"code\":79").count() == 2).then_some(())
    });
    agent.signal("-KILL");
    agent.wait();
    drop(agent);
    let agent = boot(3, &mut log);
    wait_findings(&agent, &[]);
    log.write(&[XID_79, "NVRM: Xid (PCI:0000:41:00): 31, pid=7, name=python, Ch 00000008"]);
    wait_findings(&agent, &[(ID, "inspect_hardware")]);

    let state_dir = format!("state_dir={}", log.state_dir().display());
    let (text, code) = health(&agent, &state_dir, &[]);
    let start = "CRITICAL - 0000:41:00.0: XID 79, GPU has fallen off the bus; inspect the hardware | critical=1;;0 warning=0;0\n";
    assert!(text.starts_with(start) && text.contains("occurred again after 2 reboots"), "{text}");
    assert_eq!(code, 2);
    let (text, code) = health(&agent, &state_dir, &["--acknowledge", "gpu-xid80"]);
    assert!(text.contains("there is no such finding") && code == 1, "{text}");
    let (text, code) = health(&agent, &state_dir, &["--acknowledge", ID]);
    assert_eq!((text, code), (format!("{ID} is acknowledged\n"), 0));
    let (text, code) = health(&agent, &state_dir, &[]);
    assert!(text.starts_with("OK - no findings") && text.contains("\nacknowledged "), "{text}");
    assert_eq!((code, &report(&agent)["status"]), (0, &"ok".into()));
    agent.stop();
    let agent = log.start_in_boot_with(3, &["interval=1"]);
    wait_until("the acknowledgement after a restart", || {
        let report = report(&agent);
        let known = report["findings"].as_array().unwrap().len() == 1;
        (known && report["status"] == "ok").then_some(())
    });
    log.write(&[XID_119]);
    wait_findings(&agent, &[("gpu-xid119-0000_c1_00.0", "reset_gpu")]);
    agent.stop();
    let (text, code) = {
        let output =
            hm_agent().args(["health", "-s", "usage.listen=127.0.0.1:9"]).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.code())
    };
    assert!(text.starts_with("UNKNOWN - http://127.0.0.1:9: ") && code == Some(3), "{text}");
}

#[test]
fn condition_of_a_gpu_is_a_finding_until_it_ends() {
    let driver = Driver::new("gpus = 2");
    let watched = driver.start(&["health.expected_gpus=2"]);
    wait_findings(&watched.agent, &[]);
    let fault = "gpus = 2\ngpu.1.remapped_corrected = 1\ngpu.1.remapped_uncorrected = 1\n";
    driver.set_script(&format!("{fault}gpu.1.remapped_pending = 1\ngpu.1.recovery_action = 1"));
    let expected = [("gpu-recovery-gpu_1", "reset_gpu"), ("gpu-remap-pending-gpu_1", "reset_gpu")];
    wait_findings(&watched.agent, &expected);
    let (_, metrics) = watched.agent.http("/metrics", CLOSE);
    for line in [
        "hm_agent_health{component=\"gpu\",severity=\"critical\"} 1",
        "hm_agent_health{component=\"gpu\",severity=\"warning\"} 1",
        "hm_agent_health{component=\"disk\",severity=\"critical\"} 0",
        "hm_agent_suggested_action{action=\"reset_gpu\",component=\"gpu\",id=\"gpu-recovery-gpu_1\"} 1",
    ] {
        assert!(metrics.contains(&format!("\n{line}\n")), "{line}");
    }
    let health = |gpu: &str, watch: &str| {
        let (gpu, watch) = (format!("{{gpu=\"{gpu}\","), format!("health_watch=\"{watch}\"}} "));
        let mut lines = metrics.lines().filter(|line| {
            line.starts_with(&format!("DCGM_EXP_GPU_HEALTH_STATUS{gpu}")) && line.contains(&watch)
        });
        lines.next().unwrap().rsplit_once(' ').unwrap().1.to_owned()
    };
    let found = [("1", "MEM"), ("1", "DRIVER"), ("1", "PCIE"), ("0", "MEM")];
    assert_eq!(found.map(|(gpu, watch)| health(gpu, watch)), ["10", "20", "0", "0"]);
    // After the reset.
    driver.set_script(&format!("{fault}gpu.1.remapped_pending = 0\ngpu.1.recovery_action = 0"));
    wait_findings(&watched.agent, &[]);
    driver.set_script("gpus = 2\nlost = 1");
    wait_findings(&watched.agent, &[("gpu-lost-gpu_1", "reboot"), ("gpu-missing", "reboot")]);
    watched.stop();
}

#[test]
fn dropped_application_and_token_are_respected() {
    let log = KernelLog::new();
    let agent = log.start(&["heartbeat.listen=127.0.0.1:0", "interval=1", "usage.token=secret"]);
    assert_eq!(agent.http("/health", CLOSE).0, 401);
    assert_eq!(agent.http("/health?token=secret", CLOSE).0, 200);
    let heartbeat = agent.heartbeat();
    let socket = std::net::TcpStream::connect(heartbeat).unwrap();
    std::io::Write::write_all(&mut &socket, b"GET /hb_init?100&appid=job-7 HTTP/1.0\r\n\r\n")
        .unwrap();
    wait_until("the drop", || {
        let (_, response) = agent.http("/health?token=secret", CLOSE);
        response.contains("\"summary\":\"dropped, no heartbeat\"").then_some(())
    });
    wait_for_event(&agent);
    agent.stop();
}

/// Requests without the token are refused, so events are read with it.
fn wait_for_event(agent: &Agent) {
    wait_until("the event", || {
        let (_, response) = agent.http("/events?token=secret", CLOSE);
        response.contains("was dropped").then_some(())
    });
}
