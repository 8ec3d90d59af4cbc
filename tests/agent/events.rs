//! The event log: what the kernel, the GPUs, applications and servers do is recorded in order, and survives everything but the loss of
//! the state directory. The kernel log is a file that a test writes, in the format of `/dev/kmsg`.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Agent, TempDir, hm_agent, sleep_for, wait_until};

pub const XID_79: &str =
    "NVRM: Xid (PCI:0000:41:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.";
pub const XID_119: &str = "NVRM: Xid (PCI:0000:C1:00): 119, pid=2024380, name=nvidia-smi, Timeout after 6s of waiting for RPC response from GPU4 GSP!";

/// A kernel log and a state directory, which agents use one after the other.
pub struct KernelLog {
    pub directory: TempDir,
    next: u64,
}

impl KernelLog {
    pub fn new() -> Self {
        let log = Self { directory: TempDir::new("kmsg"), next: 100 };
        log.directory.write("kmsg", "");
        log
    }

    pub fn path(&self) -> PathBuf {
        self.directory.0.join("kmsg")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.directory.0.join("state")
    }

    /// Appends records with this priority; 3 is an error of the kernel.
    fn write_as(&mut self, priority: u32, lines: &[&str]) {
        let mut text = String::new();
        for line in lines {
            text += &format!(
                "{priority},{},{},-;{line}\n SUBSYSTEM=pci\n",
                self.next,
                self.next * 1000
            );
            self.next += 1;
        }
        let mut file = OpenOptions::new().append(true).open(self.path()).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    pub fn write(&mut self, lines: &[&str]) {
        self.write_as(3, lines);
    }

    /// Waits until the state file contains a text.
    pub fn wait_saved(&self, text: &str) {
        let path = self.state_dir().join("events");
        wait_until(&format!("{text} in the state file"), || {
            std::fs::read_to_string(&path).ok()?.contains(text).then_some(())
        });
    }

    pub fn start(&self, settings: &[&str]) -> Agent {
        let mut command = hm_agent();
        command.args(["-s", "usage.listen=127.0.0.1:0", "-s", "gpu.source=none"]);
        command.arg("-s").arg(format!("path.kmsg={}", self.path().display()));
        command.arg("-s").arg(format!("state_dir={}", self.state_dir().display()));
        for setting in settings {
            command.args(["-s", setting]);
        }
        Agent::spawn(command)
    }
}

impl KernelLog {
    /// Starts an agent in another boot than those with other numbers; below `root` is what the last one has left.
    pub fn start_in_boot(&self, number: u32) -> Agent {
        self.start_in_boot_with(number, &[])
    }

    pub fn start_in_boot_with(&self, number: u32, settings: &[&str]) -> Agent {
        let (proc, root) = (self.directory.0.join("proc"), self.directory.0.join("root"));
        std::fs::create_dir_all(proc.join("sys/kernel/random")).unwrap();
        let id = format!("{number:08x}-0000-4000-8000-000000000000");
        std::fs::write(proc.join("sys/kernel/random/boot_id"), format!("{id}\n")).unwrap();
        for name in ["stat", "meminfo"] {
            std::fs::copy(format!("/proc/{name}"), proc.join(name)).unwrap();
        }
        let paths = [("proc", &proc), ("root", &root)]
            .map(|(name, path)| format!("path.{name}={}", path.display()));
        let mut all = vec![paths[0].as_str(), paths[1].as_str()];
        all.extend(settings);
        let agent = self.start(&all);
        self.wait_saved(&id);
        agent
    }
}

pub fn page(agent: &Agent, query: &str) -> Value {
    let (status, answer) = agent.http(&format!("/events?{query}"), "");
    assert_eq!(status, 200, "{answer}");
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

pub fn events(agent: &Agent) -> Vec<Value> {
    page(agent, "after=0")["events"].as_array().unwrap().clone()
}

pub fn of_kind(agent: &Agent, kind: &str) -> Vec<Value> {
    events(agent).into_iter().filter(|event| event["kind"] == kind).collect()
}

pub fn wait_for(agent: &Agent, kind: &str, count: usize) -> Vec<Value> {
    wait_until(&format!("{count} events {kind}"), || {
        let found = of_kind(agent, kind);
        (found.len() >= count).then_some(found)
    })
}

fn metric(agent: &Agent, name: &str) -> f64 {
    let (_, text) = agent.http("/metrics", "");
    let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name}")).rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn serves_events_of_the_kernel_log() {
    let mut log = KernelLog::new();
    log.write(&[
        "Linux version 6.8.0",
        XID_79,
        "nvidia-nvswitch0: SXid (PCI:0000:a9:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
    ]);
    let agent = log.start(&["interval=1"]);
    wait_for(&agent, "xid", 1);
    log.write(&[
        XID_119,
        "nfs: server 10.0.0.3 not responding, timed out",
        "nfs: server 10.0.0.3 OK",
    ]);
    wait_for(&agent, "nfs", 2);
    let found = events(&agent);
    let shown: Vec<_> = found
        .iter()
        .map(|event| format!("{} {}", event["kind"], event["subject"]).replace('"', ""))
        .collect();
    assert_eq!(
        shown,
        [
            "agent null",
            "xid 0000:41:00.0",
            "sxid 0000:a9:00.0",
            "xid 0000:c1:00.0",
            "nfs 10.0.0.3",
            "nfs 10.0.0.3"
        ]
    );
    let xid = &found[1];
    assert_eq!(
        (&xid["code"], &xid["severity"], &xid["count"]),
        (&79.into(), &"critical".into(), &1.into())
    );
    assert_eq!(xid["text"], XID_79);
    // Behind an id, and since a time.
    let after = page(&agent, &format!("after={}", found[3]["id"]));
    assert_eq!((after["events"].as_array().unwrap().len(), &after["more"]), (2, &false.into()));
    assert_eq!(page(&agent, "since=99999999999")["events"].as_array().unwrap().len(), 0);
    assert_eq!(agent.http("/events?since=yesterday", "").0, 400);
    wait_until("metrics", || {
        (metric(&agent, "hm_agent_events_total{kind=\"xid\"}") == 2.0).then_some(())
    });
    assert_eq!(metric(&agent, "hm_agent_events_total{kind=\"oom_kill\"}"), 0.0);
    assert_eq!(metric(&agent, "hm_agent_kernel_log_readable"), 1.0);
    agent.stop();
}

#[test]
fn token_protects_events() {
    let log = KernelLog::new();
    let agent = log.start(&["usage.token=secret"]);
    assert_eq!(agent.http("/events", "").0, 401);
    assert_eq!(agent.http("/events", "Authorization: Bearer secret\r\n").0, 200);
    agent.stop();
}

#[test]
fn ignores_records_that_processes_write() {
    let mut log = KernelLog::new();
    // LOG_USER and LOG_DAEMON; the kernel replaces facility 0 by the first.
    log.write_as(8 + 3, &[XID_79]);
    log.write_as(24 + 3, &[XID_79]);
    log.write(&[
        "usb 1-1: Product: NVRM: Xid (PCI:0000:9b:00): 79, GPU has fallen off the bus.",
        XID_119,
    ]);
    let agent = log.start(&[]);
    let found = wait_for(&agent, "xid", 1);
    assert_eq!((found.len(), &found[0]["code"]), (1, &119.into()));
    agent.stop();
}

/// Where the test may write to `/dev/kmsg`, its messages get the facility of a process.
#[test]
fn ignores_forged_record_in_the_log_of_the_real_kernel() {
    let mark = format!("hm-agent test {}", std::process::id());
    let Ok(mut kernel) = OpenOptions::new().write(true).open("/dev/kmsg") else { return };
    let forged = format!("<3>NVRM: Xid (PCI:0000:fb:1f): 79, {mark}\n");
    if kernel.write_all(forged.as_bytes()).is_err() {
        return;
    }
    let agent = Agent::start(&["gpu.source=none", "interval=1"]);
    let has_read = || metric(&agent, "hm_agent_kernel_log_readable") == 1.0;
    wait_until("the kernel log", || has_read().then_some(()));
    kernel.write_all(forged.as_bytes()).unwrap();
    sleep_for(Duration::from_millis(500));
    let text = serde_json::to_string(&events(&agent)).unwrap();
    assert!(!text.contains(&mark), "{text}");
    agent.stop();
}

#[test]
fn counts_repetitions_of_a_flood_in_one_event() {
    let mut log = KernelLog::new();
    let agent = log.start(&["interval=1"]);
    wait_for(&agent, "agent", 1);
    let start = agent.cpu_seconds();
    let lines: Vec<String> = (0..100_000)
        .map(|number| {
            format!("NVRM: Xid (PCI:0000:41:00): 31, pid={number}, name=python, Ch {number:08x}")
        })
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    log.write(&lines);
    let counted =
        || of_kind(&agent, "xid").iter().map(|event| event["count"].as_u64().unwrap()).sum::<u64>();
    wait_until("all records", || (counted() == 100_000).then_some(()));
    assert_eq!(of_kind(&agent, "xid").len(), 1);
    let used = agent.cpu_seconds() - start;
    assert!(used < 20.0, "{used} s in a debug build");
    let size = std::fs::metadata(log.state_dir().join("events")).unwrap().len();
    assert!(size < 10_000, "{size}");
    agent.stop();
}

#[test]
fn counts_records_that_were_overwritten() {
    let mut log = KernelLog::new();
    log.write(&[XID_79]);
    let agent = log.start(&["interval=1"]);
    wait_for(&agent, "xid", 1);
    log.next += 5000;
    log.write(&[XID_119]);
    wait_for(&agent, "xid", 2);
    assert_eq!(of_kind(&agent, "kernel_log").len(), 1);
    wait_until("metric", || {
        (metric(&agent, "hm_agent_kernel_log_lost_total") == 5000.0).then_some(())
    });
    agent.stop();
}

#[test]
fn records_applications_settings_and_prints_them() {
    let log = KernelLog::new();
    let settings = log.directory.0.join("settings.toml");
    std::fs::write(&settings, "interval = 1\n").unwrap();
    let mut command = hm_agent();
    command.arg("-c").arg(&settings).args([
        "-s",
        "usage.listen=127.0.0.1:0",
        "-s",
        "gpu.source=none",
    ]);
    command.arg("-s").arg(format!("path.kmsg={}", log.path().display()));
    let agent = Agent::spawn(command);
    let mut client = std::net::TcpStream::connect(agent.heartbeat()).unwrap();
    client.write_all(b"POST /hb_init?100&appid=job-7 HTTP/1.0\r\n\r\n").unwrap();
    let states = wait_for(&agent, "heartbeat", 3);
    let texts: Vec<_> = states.iter().map(|event| event["text"].as_str().unwrap()).collect();
    assert!(texts[0].starts_with("application job-7 is late, overdue ratio 3."), "{texts:?}");
    assert!(texts[2].starts_with("application job-7 was dropped"), "{texts:?}");
    agent.signal("-HUP");
    assert_eq!(wait_for(&agent, "settings", 1)[0]["text"], "configuration reloaded");
    std::fs::write(&settings, "interval = 0\n").unwrap();
    agent.signal("-HUP");
    assert_eq!(wait_for(&agent, "settings", 2)[1]["severity"], "warning");
    let run = |arguments: &[&str]| {
        let address = format!("usage.listen={}", agent.address);
        let output =
            hm_agent().arg("events").args(["-s", &address]).args(arguments).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, text) = run(&[]);
    assert_eq!((code, text.lines().count()), (Some(0), 6), "{text}");
    assert!(
        text.lines()
            .nth(1)
            .unwrap()
            .contains(" warning  heartbeat        application job-7 is late"),
        "{text}"
    );
    let (_, json) = run(&["--json", "--since", "1h"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["events"].as_array().unwrap().len(), 6);
    assert_eq!(run(&["--since", "2100-01-01"]), (Some(0), String::new()));
    assert_eq!(run(&["--since", "soon"]).0, Some(2));
    agent.stop();
    let nothing = hm_agent().args(["events", "-s", "usage.listen=127.0.0.1:9"]).output().unwrap();
    assert_eq!(nothing.status.code(), Some(1));
}

#[test]
fn missing_kernel_log_is_logged_once_and_empty_path_is_silent() {
    let agent = Agent::start(&["path.kmsg=/nonexistent/kmsg", "gpu.source=none", "interval=1"]);
    agent.wait_log("the kernel log is not read: /nonexistent/kmsg: ");
    assert_eq!(metric(&agent, "hm_agent_kernel_log_readable"), 0.0);
    assert_eq!(agent.count_log("kernel log"), 1);
    agent.stop();
    let agent = Agent::start(&["path.kmsg=", "gpu.source=none"]);
    assert_eq!(of_kind(&agent, "agent").len(), 1);
    assert!(!agent.stop().iter().any(|line| line.contains("kernel log")));
}

/// A log without new records wakes no thread.
#[test]
fn reading_the_kernel_log_costs_nothing_while_it_is_idle() {
    let Ok(_) = std::fs::File::open("/dev/kmsg") else { return };
    let agent = Agent::start(&["gpu.source=none", "interval=3600"]);
    wait_for(&agent, "agent", 1);
    let thread = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap();
        let named = tasks.map(|task| task.unwrap().path());
        named
            .into_iter()
            .find(|task| {
                std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "kmsg")
            })
            .unwrap()
    };
    let task = thread();
    let switches = || {
        let status = std::fs::read_to_string(task.join("status")).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("voluntary_ctxt_switches"))
            .unwrap()
            .to_owned();
        line.rsplit('\t').next().unwrap().trim().parse::<u64>().unwrap()
    };
    sleep_for(Duration::from_secs(1));
    // The kernel of a busy test machine may log something meanwhile.
    let wakes = (0..5).map(|_| {
        let before = switches();
        sleep_for(Duration::from_secs(1));
        switches() - before
    });
    let wakes: Vec<u64> = wakes.collect();
    assert!(wakes.contains(&0), "{wakes:?}");
    agent.stop();
}
