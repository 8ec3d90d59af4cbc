//! Success and duration of each collector, as part of the sample. A failing file is logged once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::collector::blocking_worker::CollectorResult;
use crate::model::status::CollectorStatus;
use crate::util::error::Error;

/// Collectors in the order in which they ran first.
#[derive(Default)]
pub(super) struct CollectorStatuses {
    entries: Vec<Entry>,
    /// Files and collectors that failed last time, with the error that was logged.
    failing: BTreeMap<&'static str, String>,
}

struct Entry {
    status: CollectorStatus,
    /// When it ran in this sample; `None`: it has not run yet.
    ran_at_unix_seconds: Option<u64>,
}

impl CollectorStatuses {
    /// Records the result of a collector, or of one of its files: each failure makes the collector fail, durations add up.
    pub(super) fn record(
        &mut self,
        name: &'static str,
        success: bool,
        duration: Duration,
        unix_seconds: u64,
    ) {
        let Entry { status, ran_at_unix_seconds } = self.entry(name);
        if ran_at_unix_seconds.replace(unix_seconds).is_some() {
            status.success &= success;
            status.duration += duration;
        } else {
            (status.success, status.duration) = (success, duration);
        }
    }

    /// Records the result of a read that began at `started`. Logs when a file begins to fail and when it recovers.
    pub(super) fn record_result<T>(
        &mut self,
        (collector, file): (&'static str, &'static str),
        result: Result<T, Error>,
        started: Instant,
        unix_seconds: u64,
    ) -> Option<T> {
        self.record(collector, result.is_ok(), started.elapsed(), unix_seconds);
        match result {
            Ok(value) => {
                if self.failing.remove(file).is_some() {
                    log::info!("{file} recovered");
                }
                Some(value)
            }
            Err(error) => {
                let message = error.to_string();
                if !self.failing.contains_key(file) {
                    log::warn!("{message}; its values are omitted until it recovers");
                    self.failing.insert(file, message);
                }
                None
            }
        }
    }

    /// Records the last result of a collector of the worker. Logs when it begins to fail and when it recovers.
    pub(super) fn record_collector(&mut self, result: &CollectorResult) {
        let CollectorResult { name, failure, duration, unix_seconds, .. } = result;
        self.record(name, failure.is_none(), *duration, *unix_seconds);
        let was_failing = self.failing.contains_key(name);
        match failure {
            None if was_failing => {
                self.failing.remove(name);
                log::info!("collector {name} recovered");
            }
            Some(message) if !was_failing => {
                log::warn!(
                    "collector {name}: {message}; what it cannot read is omitted until it recovers"
                );
                self.failing.insert(name, message.to_string());
            }
            _ => {}
        }
    }

    /// Ends a sample and returns the collectors that ran in it.
    pub(super) fn finish_sample(&mut self) -> Vec<CollectorStatus> {
        let ran = self.entries.iter_mut().filter_map(|Entry { status, ran_at_unix_seconds }| {
            let ran_at = ran_at_unix_seconds.take()?;
            if status.success {
                status.last_success_unix_seconds = Some(ran_at);
            }
            Some(status.clone())
        });
        ran.collect()
    }

    fn entry(&mut self, name: &'static str) -> &mut Entry {
        let index = self.entries.iter().position(|entry| entry.status.name == name);
        let index = index.unwrap_or_else(|| {
            let status = CollectorStatus {
                name,
                success: false,
                duration: Duration::ZERO,
                last_success_unix_seconds: None,
            };
            self.entries.push(Entry { status, ran_at_unix_seconds: None });
            self.entries.len() - 1
        });
        &mut self.entries[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collector_fails_when_one_of_its_files_fails() {
        let mut statuses = CollectorStatuses::default();
        let second = Duration::from_secs(1);
        let finish = |statuses: &mut CollectorStatuses| {
            let fields = |status: &CollectorStatus| {
                let seconds = status.duration.as_secs();
                (status.name, status.success, seconds, status.last_success_unix_seconds)
            };
            statuses.finish_sample().iter().map(fields).collect::<Vec<_>>()
        };
        statuses.record("pressure", true, second, 100);
        statuses.record("pressure", true, second, 100);
        statuses.record("stat", false, second, 100);
        assert_eq!(
            finish(&mut statuses),
            [("pressure", true, 2, Some(100)), ("stat", false, 1, None)]
        );
        statuses.record("pressure", false, second, 105);
        statuses.record("pressure", true, second, 105);
        assert_eq!(finish(&mut statuses), [("pressure", false, 2, Some(100))], "stat did not run");
        statuses.record("pressure", true, second, 107);
        statuses.record("pressure", false, second, 107);
        let expected = [("pressure", false, 2, Some(100))];
        assert_eq!(finish(&mut statuses), expected, "failed after a file that could be read");
        statuses.record("pressure", true, second, 110);
        assert_eq!(finish(&mut statuses), [("pressure", true, 1, Some(110))]);
    }
}
