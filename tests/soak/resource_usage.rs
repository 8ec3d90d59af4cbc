//! Memory, threads, descriptors and children of the agent over time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::fault_log::FaultLog;
use super::subscribers::SUBSCRIBERS;
use super::support::Agent;
use super::support::core_fixture::children;

const INTERVAL: Duration = Duration::from_secs(2);
/// Allowed growth at rest: musl returns whole pages only, and some pages keep a live allocation.
const REST_GROWTH_KB: f64 = 1024.0;
/// Allowed growth under the same load, besides 5 %: the mix of clients differs.
const LOAD_GROWTH: [f64; 3] = [50.0, 50.0, 1024.0];

/// Names of [`Usage::values`].
const NAMES: [&str; 3] = ["threads", "descriptors", "private memory (KB)"];

#[derive(Debug, Clone, Copy)]
pub struct Usage {
    subscribers: u64,
    pub values: [f64; 3],
    pub children: usize,
}

impl Usage {
    pub fn of(agent: &Agent, log: &FaultLog) -> Self {
        let values = [agent.status("Threads"), agent.descriptors() as u64, agent.status("RssAnon")];
        Self {
            subscribers: log.subscribers.load(Ordering::Relaxed),
            values: values.map(|value| value as f64),
            children: children(agent.pid()).len(),
        }
    }

    /// What must be equal at rest.
    pub fn held(&self) -> (f64, f64, usize) {
        (self.values[0], self.values[1], self.children)
    }
}

pub fn record(agent: &Agent, log: &FaultLog) -> Vec<Usage> {
    let mut usages = Vec::new();
    while !log.is_stopping() {
        log.pause(INTERVAL);
        usages.push(Usage::of(agent, log));
    }
    usages
}

/// Without clients the agent uses what it used before.
pub fn judge_rest(before: &Usage, after: &Usage, log: &FaultLog) {
    println!("at rest before: {before:?}\nat rest after: {after:?}");
    if before.held() != after.held() || after.values[2] > before.values[2] + REST_GROWTH_KB {
        log.fail(format!("at rest {before:?} before, {after:?} after"));
    }
}

/// The last quarter of a run uses no more than the second, while most subscribers are connected.
pub fn judge_trend(usages: &[Usage], log: &FaultLog) {
    let medians = |quarter: usize| {
        let range = quarter * usages.len() / 4..(quarter + 1) * usages.len() / 4;
        let is_full = |usage: &&Usage| usage.subscribers as usize > SUBSCRIBERS * 8 / 10;
        let full: Vec<&Usage> = usages[range].iter().filter(is_full).collect();
        (full.len() >= 5).then(|| [0, 1, 2].map(|at| median(full.iter().map(|one| one.values[at]))))
    };
    let (Some(early), Some(late)) = (medians(1), medians(3)) else {
        return log.fail("too few measurements with most subscribers connected".to_owned());
    };
    for at in 0..NAMES.len() {
        let text =
            format!("{}: {} in the second quarter, {} in the last", NAMES[at], early[at], late[at]);
        println!("{text}");
        if late[at] > early[at] * 1.05 + LOAD_GROWTH[at] {
            log.fail(text);
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
