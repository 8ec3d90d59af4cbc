//! What the agent takes, every two seconds.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::fault_log::Story;
use super::support::Agent;
use super::support::node::children;

const EVERY: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// Since the first one of its run.
    pub at: Duration,
    pub subscribers: u64,
    pub rss_kb: u64,
    /// Pages of its own: those of the program's file, of which more are touched with time, are not.
    pub own_kb: u64,
    /// Of these, those that nobody else has: while it starts a program, they are that one's, too.
    pub private_dirty_kb: u64,
    pub threads: u64,
    pub descriptors: u64,
    pub mappings: u64,
    pub children: u64,
    /// Of one processor, since the one before.
    pub cpu_percent: f64,
}

impl Sample {
    pub fn of(agent: &Agent) -> Self {
        let read = |file: &str| {
            fs::read_to_string(format!("/proc/{}/{file}", agent.pid())).unwrap_or_default()
        };
        let rollup = read("smaps_rollup");
        let kb = |name: &str| {
            let line = rollup.lines().find(|line| line.starts_with(name));
            let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
            number.unwrap_or_default()
        };
        Self {
            rss_kb: kb("Rss:"),
            own_kb: agent.status("RssAnon"),
            private_dirty_kb: kb("Private_Dirty:"),
            threads: agent.status("Threads"),
            descriptors: agent.descriptors() as u64,
            mappings: read("maps").lines().count() as u64,
            children: children(agent.pid()).len() as u64,
            ..Self::default()
        }
    }
}

/// A column of the report.
pub type Column = (&'static str, fn(&Sample) -> f64);

pub const COLUMNS: [Column; 9] = [
    ("subscribers", |sample| sample.subscribers as f64),
    ("RSS (KB)", |sample| sample.rss_kb as f64),
    ("of its own (KB)", |sample| sample.own_kb as f64),
    ("private dirty (KB)", |sample| sample.private_dirty_kb as f64),
    ("threads", |sample| sample.threads as f64),
    ("descriptors", |sample| sample.descriptors as f64),
    ("mappings", |sample| sample.mappings as f64),
    ("children", |sample| sample.children as f64),
    ("CPU (%)", |sample| sample.cpu_percent),
];

/// Until it is over.
pub fn measure(agent: &Agent, story: &Story) -> Vec<Sample> {
    let (start, mut samples) = (Instant::now(), Vec::new());
    let (mut cpu, mut before) = (agent.cpu_seconds(), start);
    while !story.is_over() {
        story.pass(EVERY);
        let now = Instant::now();
        let used = agent.cpu_seconds();
        let percent = 100.0 * (used - cpu) / (now - before).as_secs_f64();
        samples.push(Sample {
            at: now - start,
            subscribers: story.subscribers.load(Ordering::Relaxed),
            cpu_percent: percent,
            ..Sample::of(agent)
        });
        (cpu, before) = (used, now);
    }
    samples
}

/// Smallest, middle and largest.
pub fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let at = |at: usize| values.get(at).copied().unwrap_or(f64::NAN);
    [at(0), at(values.len() / 2), at(values.len().saturating_sub(1))]
}

/// Of each quarter of a run.
pub fn quarters(samples: &[Sample]) -> [Vec<Sample>; 4] {
    let whole =
        samples.last().map_or(Duration::ZERO, |sample| sample.at) + Duration::from_millis(1);
    let mut quarters = [const { Vec::new() }; 4];
    for sample in samples {
        quarters[(4.0 * sample.at.as_secs_f64() / whole.as_secs_f64()) as usize].push(*sample);
    }
    quarters
}
