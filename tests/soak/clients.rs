//! Who else comes: Prometheus and people with the page, watchers of hosts over SSH, Core with commands.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use super::TOKEN;
use super::fault_log::Story;
use super::support::core::Core;
use super::support::heartbeat::lines_of;
use super::support::monitor::Monitor;
use super::support::rng::Rng;
use serde_json::{Value, json};

/// Every few seconds all documents.
pub fn scrape(monitor: &Monitor, story: &Story) {
    let bearer = format!("Authorization: Bearer {TOKEN}\r\nConnection: close\r\n");
    let gzip = format!("{bearer}Accept-Encoding: gzip\r\n");
    let documents = [
        ("/metrics", bearer.as_str()),
        ("/metrics", gzip.as_str()),
        ("/snapshot", bearer.as_str()),
        ("/", "Connection: close\r\n"),
        ("/-/healthy", "Connection: close\r\n"),
    ];
    while !story.is_over() {
        for (target, headers) in documents {
            let (status, text) = monitor.agent.http(target, headers);
            story.count("scrapes and pages", 1);
            if status != 200 {
                story.wrong(format!("{target}: {status}"));
            }
            let dropped =
                text.lines().find(|line| line.starts_with("hm_agent_upstream_dropped_total"));
            if dropped.is_some_and(|line| !line.ends_with(" 0")) {
                story.wrong(format!("{dropped:?}"));
            }
        }
        story.pass(Duration::from_secs(3));
    }
}

/// Watches some hosts for a while, again and again; goes with a goodbye or without.
pub fn watch(monitor: &Monitor, hosts: &[Value], story: &Story, mut rng: Rng) {
    while !story.is_over() {
        let mut watcher = monitor.connect();
        let mut hosts = hosts.to_vec();
        rng.shuffle(&mut hosts);
        hosts.truncate(1 + rng.below(hosts.len() as u64) as usize);
        match watcher.ask("ssh.start_monitor", json!(hosts)) {
            Value::Null => story.count("hosts watched", hosts.len() as u64),
            // It was just killed, or ssh was, or nothing could be started.
            _ => story.count("hosts that could not be watched at once", 1),
        }
        let end = Instant::now() + Duration::from_secs(3 + rng.below(12));
        while Instant::now() < end && !story.is_over() {
            let events = watcher.gather(Duration::from_millis(500));
            story.count("events of hosts", events.len() as u64);
        }
        if rng.below(2) == 0 {
            // The agent ends it, too; what that looks like here does not matter.
            let _ = watcher.client.0.close(None);
            while watcher.client.0.read().is_ok() {}
        }
    }
}

/// What Core has wanted, and when it did last.
#[derive(Default)]
pub struct Commands {
    asked: BTreeMap<String, (String, Instant)>,
    number: u64,
    open: Vec<String>,
}

/// A command that has no result for so long did not reach the agent, or its result did not reach Core.
const AGAIN: Duration = Duration::from_secs(20);
/// More are not under way: Core would be told that it is too many.
const OPEN: usize = 8;

impl Commands {
    /// A command now and then, until it is over.
    pub fn give(&mut self, core: &Core, marks: &Path, story: &Story, mut rng: Rng) {
        while !story.is_over() {
            self.ask_again(core);
            if self.open.len() < OPEN {
                self.number += 1;
                let id = format!("c-{}", self.number);
                let mark = format!("echo {id} >> {}", marks.display());
                let text = match rng.below(4) {
                    0 => format!("{mark}; setsid sleep 1000 > /dev/null 2>&1 & {mark}-b; exit 3"),
                    1 => format!("{mark}; head -c 300000 /dev/zero | tr '\\0' x"),
                    2 => format!("{mark}; sleep 3"),
                    _ => mark,
                };
                self.ask(core, id, text);
            }
            story.pass(Duration::from_millis(500 + rng.below(2000)));
        }
    }

    fn ask(&mut self, core: &Core, id: String, text: String) {
        core.execute(&id, &text, 60);
        self.open.push(id.clone());
        self.asked.insert(id, (text, Instant::now()));
    }

    /// Whether something is still open.
    pub fn ask_again(&mut self, core: &Core) -> bool {
        if self.open.is_empty() {
            return false;
        }
        let done: Vec<Value> =
            core.seen("command_result").into_iter().map(|seen| seen.data).collect();
        self.open.retain(|id| !done.iter().any(|data| data["command_id"] == id.as_str()));
        for id in &self.open {
            if let Some((text, at)) = self.asked.get_mut(id)
                && at.elapsed() > AGAIN
            {
                core.execute(id, text, 60);
                *at = Instant::now();
            }
        }
        !self.open.is_empty()
    }

    /// Each has run once, and its result has come.
    pub fn judge(&self, core: &Core, marks: &Path, story: &Story) {
        let mut ran = BTreeMap::<String, u64>::new();
        for line in lines_of(marks) {
            *ran.entry(line).or_default() += 1;
        }
        for (id, times) in ran.iter().filter(|(_, times)| **times > 1) {
            story.wrong(format!("{id} ran {times} times"));
        }
        let results = core.seen("command_result");
        for id in self.asked.keys() {
            let mut own = results.iter().filter(|seen| seen.data["command_id"] == id.as_str());
            let result = own.next();
            let code = result.and_then(|seen| seen.data["exit_code"].as_i64());
            let why = result.and_then(|seen| seen.data["stderr"].as_str()).unwrap_or_default();
            match code {
                // Core is told so, and may ask again under another id.
                Some(126) if !ran.contains_key(id) && why.contains("file descriptors") => {
                    story.count("commands for which there were no descriptors", 1);
                }
                Some(0 | 3) if ran.contains_key(id) => {}
                Some(137) => story.count("commands that were killed", 1),
                Some(125) => story.count("commands that were interrupted", 1),
                other => story.wrong(format!("{id}: its result is {other:?}: {why}")),
            }
        }
        story.count("commands", self.asked.len() as u64);
        story.count("results, repeated ones too", results.len() as u64);
    }
}
