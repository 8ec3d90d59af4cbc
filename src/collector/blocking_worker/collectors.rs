//! The collectors of the worker: which of them are due, and what they measured last.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::collector::blocking_worker::STUCK_TIMEOUT;
use crate::collector::host_files::HostFiles;
use crate::collector::node::{Collector, Pace};
use crate::model::node::Measurement;
use crate::util::logger::unix_seconds;

/// A collector with its files and its last result.
pub struct ScheduledCollector {
    name: &'static str,
    pace: Pace,
    /// `None` while a thread runs it.
    task: Option<Task>,
    is_due: bool,
    last_start: Option<Instant>,
    last_result: Option<CollectorResult>,
}

/// A collector that a thread runs.
pub struct Task {
    collector: Box<dyn Collector>,
    host: HostFiles,
}

/// What a collector measured.
#[derive(Debug, Clone)]
pub struct CollectorResult {
    pub name: &'static str,
    /// `None`: the host has nothing of the kind.
    pub measurement: Option<Arc<Measurement>>,
    /// Why the collector could not read everything.
    pub failure: Option<Arc<str>>,
    pub duration: Duration,
    pub unix_seconds: u64,
    ended_at: Instant,
}

impl ScheduledCollector {
    pub fn new(
        name: &'static str,
        pace: Pace,
        collector: Box<dyn Collector>,
        host: HostFiles,
    ) -> Self {
        let task = Some(Task { collector, host });
        Self { name, pace, task, is_due: false, last_start: None, last_result: None }
    }

    /// Makes it due if its pace demands that. It stays so until a thread takes it.
    pub fn start_round(&mut self, now: Instant) {
        self.is_due |= match (self.pace, self.last_start) {
            (Pace::EverySample, _) | (_, None) => true,
            (Pace::Interval(interval), Some(start)) => now.duration_since(start) >= interval,
            (Pace::Once, Some(_)) => false,
        };
    }

    pub fn is_due(&self) -> bool {
        self.is_due
    }

    pub fn is_in_every_sample(&self) -> bool {
        self.pace == Pace::EverySample
    }

    /// Takes what a thread needs to run it; `None` if another thread does.
    pub fn take_task(&mut self, now: Instant) -> Option<Task> {
        let task = self.task.take()?;
        (self.is_due, self.last_start) = (false, Some(now));
        Some(task)
    }

    pub fn finish(&mut self, task: Task, measured: Measured, now: Instant) {
        let (measurement, failure) = measured;
        let started = self.last_start.unwrap_or(now);
        self.task = Some(task);
        self.last_result = Some(CollectorResult {
            name: self.name,
            measurement: measurement.map(Arc::new),
            failure: failure.map(Into::into),
            duration: now.duration_since(started),
            unix_seconds: unix_seconds(),
            ended_at: now,
        });
    }

    /// Returns the last result, or a failure if that is too old: a collector that does not return has nothing to show. `None`
    /// before the first result. `interval` is the time between two samples.
    pub fn result(
        &self,
        now: Instant,
        interval: Duration,
        is_stuck: bool,
    ) -> Option<CollectorResult> {
        let max_age = match self.pace {
            Pace::EverySample => Some(interval + STUCK_TIMEOUT),
            // It may wait for a stuck filesystem before it runs.
            Pace::Interval(pace) => Some((interval + pace) * 2 + STUCK_TIMEOUT),
            Pace::Once => None,
        };
        let is_fresh = |result: &&CollectorResult| {
            max_age.is_none_or(|max| now.duration_since(result.ended_at) <= max)
        };
        if let Some(result) = self.last_result.as_ref().filter(is_fresh)
            && !is_stuck
        {
            return Some(result.clone());
        }
        let last_start = self.last_start?;
        (is_stuck || self.last_result.is_some()).then(|| CollectorResult {
            name: self.name,
            measurement: None,
            failure: Some("not responding".into()),
            duration: now.duration_since(last_start),
            unix_seconds: unix_seconds(),
            ended_at: now,
        })
    }
}

/// A measurement, and why it is incomplete.
pub type Measured = (Option<Measurement>, Option<String>);

impl Task {
    pub fn run(&mut self) -> Measured {
        let measurement = self.collector.collect(&mut self.host);
        (measurement, self.host.take_failure().map(|error| error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::file_reader::FileReader;
    use crate::config::Roots;
    use crate::model::node::conntrack::Conntrack;

    const SECOND: Duration = Duration::from_secs(1);

    fn scheduled(pace: Pace) -> ScheduledCollector {
        let roots = Roots { proc: "/none".into(), sys: "/none".into(), root: "/none".into() };
        let mut runs = 0;
        let collect = move |_: &mut HostFiles| {
            runs += 1;
            let conntrack = Conntrack { entries: runs, limit: None, stats: None };
            Some(Measurement::Conntrack(conntrack))
        };
        let host = HostFiles::new(roots, FileReader::default());
        ScheduledCollector::new("conntrack", pace, Box::new(collect), host)
    }

    fn run(collector: &mut ScheduledCollector, now: Instant) {
        let mut task = collector.take_task(now).unwrap();
        let measured = task.run();
        collector.finish(task, measured, now);
    }

    /// How many of ten rounds, a second apart, run the collector.
    fn runs(pace: Pace) -> usize {
        let (start, mut collector) = (Instant::now(), scheduled(pace));
        let is_run = |second: &u32| {
            let now = start + SECOND * *second;
            collector.start_round(now);
            let is_due = collector.is_due();
            if is_due {
                run(&mut collector, now);
            }
            is_due
        };
        (0..10).filter(is_run).count()
    }

    #[test]
    fn runs_at_its_pace() {
        assert_eq!(runs(Pace::EverySample), 10);
        assert_eq!(runs(Pace::Interval(SECOND * 4)), 3, "at 0, 4 and 8 s");
        assert_eq!(runs(Pace::Once), 1);
    }

    #[test]
    fn stays_due_until_it_runs() {
        let mut collector = scheduled(Pace::Once);
        let now = Instant::now();
        collector.start_round(now);
        collector.start_round(now + SECOND);
        assert!(collector.is_due());
        assert!(collector.take_task(now).is_some() && !collector.is_due());
        assert!(collector.take_task(now).is_none(), "it runs");
    }

    #[test]
    fn result_is_kept_until_it_is_too_old() {
        let start = Instant::now();
        for (pace, kept) in [
            (Pace::EverySample, STUCK_TIMEOUT + SECOND),
            (Pace::Interval(SECOND * 60), STUCK_TIMEOUT + SECOND * 122),
        ] {
            let mut collector = scheduled(pace);
            assert!(collector.result(start, SECOND, false).is_none(), "before the first run");
            collector.start_round(start);
            run(&mut collector, start);
            let result = |after, is_stuck| {
                let result = collector.result(start + after, SECOND, is_stuck).unwrap();
                (result.measurement.is_some(), result.failure.as_deref().map(str::to_owned))
            };
            let not_responding = (false, Some("not responding".to_owned()));
            assert_eq!(result(kept, false), (true, None));
            assert_eq!(result(kept + SECOND, false), not_responding);
            assert_eq!(result(SECOND, true), not_responding);
        }
        let mut collector = scheduled(Pace::Once);
        run(&mut collector, start);
        assert!(collector.result(start + SECOND * 1_000_000, SECOND, false).is_some());
    }
}
