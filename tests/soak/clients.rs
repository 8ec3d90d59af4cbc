//! Other clients: Prometheus and browsers, monitors of hosts over SSH, and Core with commands.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::TOKEN;
use super::fault_log::FaultLog;
use super::support::core::Core;
use super::support::heartbeat::lines_of;
use super::support::monitor::Monitor;
use super::support::rng::Rng;

/// Requests every document every few seconds.
pub fn scrape(monitor: &Monitor, log: &FaultLog) {
    let bearer = format!("Authorization: Bearer {TOKEN}\r\nConnection: close\r\n");
    let gzip = format!("{bearer}Accept-Encoding: gzip\r\n");
    let documents = [
        ("/metrics", bearer.as_str()),
        ("/metrics", gzip.as_str()),
        ("/snapshot", bearer.as_str()),
        ("/", "Connection: close\r\n"),
        ("/-/healthy", "Connection: close\r\n"),
    ];
    while !log.is_stopping() {
        for (target, headers) in documents {
            let (status, text) = monitor.agent.http(target, headers);
            log.count("scrapes and pages", 1);
            if status != 200 {
                log.fail(format!("{target}: {status}"));
            }
            let dropped =
                text.lines().find(|line| line.starts_with("hm_agent_upstream_dropped_total"));
            if dropped.is_some_and(|line| !line.ends_with(" 0")) {
                log.fail(format!("{dropped:?}"));
            }
        }
        log.pause(Duration::from_secs(3));
    }
}

/// Monitors some hosts for a while, again and again. Half of the connections end with a close frame.
pub fn monitor_hosts(monitor: &Monitor, hosts: &[Value], log: &FaultLog, mut rng: Rng) {
    while !log.is_stopping() {
        let mut watcher = monitor.connect();
        let mut hosts = hosts.to_vec();
        rng.shuffle(&mut hosts);
        hosts.truncate(1 + rng.below(hosts.len() as u64) as usize);
        match watcher.request("ssh.start_monitor", json!(hosts)) {
            Value::Null => log.count("hosts monitored", hosts.len() as u64),
            // A fault has just killed the host's sshd or an ssh, or prevents new processes.
            _ => log.count("hosts that failed to start", 1),
        }
        let end = Instant::now() + Duration::from_secs(3 + rng.below(12));
        while Instant::now() < end && !log.is_stopping() {
            log.count(
                "host events",
                watcher.collect_events(Duration::from_millis(500)).len() as u64,
            );
        }
        if rng.below(2) == 0 {
            let _ = watcher.socket.0.close(None);
            while watcher.socket.0.read().is_ok() {}
        }
    }
}

/// Commands of Core, by id: the text and when it was sent last.
#[derive(Default)]
pub struct Commands {
    sent: BTreeMap<String, (String, Instant)>,
    open: Vec<String>,
}

/// Without a result for this long, the command or its result was lost with a connection.
const RESEND_AFTER: Duration = Duration::from_secs(20);
/// With more at a time the agent rejects commands.
const MAX_OPEN: usize = 8;

impl Commands {
    pub fn run(&mut self, core: &Core, marks: &Path, log: &FaultLog, mut rng: Rng) {
        while !log.is_stopping() {
            self.resend(core);
            if self.open.len() < MAX_OPEN {
                let id = format!("c-{}", self.sent.len());
                let mark = format!("echo {id} >> {}", marks.display());
                let text = match rng.below(4) {
                    0 => format!("{mark}; setsid sleep 1000 > /dev/null 2>&1 & {mark}-b; exit 3"),
                    1 => format!("{mark}; head -c 300000 /dev/zero | tr '\\0' x"),
                    2 => format!("{mark}; sleep 3"),
                    _ => mark,
                };
                core.execute(&id, &text, 60);
                self.open.push(id.clone());
                self.sent.insert(id, (text, Instant::now()));
            }
            log.pause(Duration::from_millis(500 + rng.below(2000)));
        }
    }

    /// Sends commands without a result again. Returns whether there are any.
    pub fn resend(&mut self, core: &Core) -> bool {
        if self.open.is_empty() {
            return false;
        }
        let results = core.seen("command_result");
        self.open.retain(|id| !results.iter().any(|seen| seen.data["command_id"] == id.as_str()));
        for id in &self.open {
            let (text, at) = self.sent.get_mut(id).unwrap();
            if at.elapsed() > RESEND_AFTER {
                core.execute(id, text, 60);
                *at = Instant::now();
            }
        }
        !self.open.is_empty()
    }

    /// Each command ran once, and its result arrived.
    pub fn check_results(&self, core: &Core, marks: &Path, log: &FaultLog) {
        let mut ran = BTreeMap::<String, u64>::new();
        for line in lines_of(marks) {
            *ran.entry(line).or_default() += 1;
        }
        for (id, times) in ran.iter().filter(|(_, times)| **times > 1) {
            log.fail(format!("{id} ran {times} times"));
        }
        let results = core.seen("command_result");
        let mut rejected = 0u64;
        for id in self.sent.keys() {
            let result = results.iter().find(|seen| seen.data["command_id"] == id.as_str());
            let code = result.and_then(|seen| seen.data["exit_code"].as_i64());
            let stderr = result.and_then(|seen| seen.data["stderr"].as_str()).unwrap_or_default();
            match code {
                // The result says that the command could not be started.
                Some(126) if !ran.contains_key(id) && stderr.contains("file descriptors") => {
                    log.count("commands not started for lack of descriptors", 1);
                }
                Some(126) if !ran.contains_key(id) && stderr.contains("no space left") => {
                    rejected += 1;
                }
                Some(0 | 3) if ran.contains_key(id) => log.count("commands", 1),
                Some(137) => log.count("commands killed", 1),
                Some(125) => log.count("commands interrupted", 1),
                other => log.fail(format!("{id}: result {other:?}: {stderr}")),
            }
        }
        log.count("commands rejected on a full disk", rejected);
        // The disk is full for a small part of the time.
        if rejected * 3 > self.sent.len() as u64 {
            log.fail(format!("{rejected} of {} commands were rejected", self.sent.len()));
        }
    }
}
